"""What was given is known, never guessed: a value that equals a default counts; the rest is refused or filled in."""

import dataclasses
import json

import pytest
from refusal import nothing_written, refused
from tiny import blob_arrays

from metasum import settings
from metasum.baselines.registry import LEARNERS, register
from metasum.config import Checked, option, options_of
from metasum.errors import CheckpointError, UsageError
from metasum.learners.alone import TangentLearner
from metasum.run.meta_training import meta_plan
from metasum.run.plan import Plan, resolve
from metasum.run.request import COMMON, Request
from metasum.tasks.arrays import dataset_from_arrays
from metasum.types import Sides

DATASETS = Sides(*(dataset_from_arrays(name, blob_arrays(), source="here") for name in ("a", "b")))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--learner", "metasum-symmetric", "--no-symmetric"], ["--symmetric is True", "'metasum-symmetric'"]),
        (["--learner", "tangent", "--norm", "batch"], ["--norm is none", "'tangent'"]),
        (["--learner", "tangent", "--no-tangent"], ["--tangent is True", "'tangent'"]),
        (["--init", "x.safetensors", "--init-seed", "0"], ["--init and --init-seed"]),
        (["--momentum", "0.9"], ["--momentum says nothing to optimizer 'adam'"]),
        (["--learner", "independent", "--sum-weight", "1"], ["--sum-weight says nothing to learner 'independent'"]),
        (["--learner", "independent", "--reading", "cross-entropy"], ["--reading says nothing"]),
        (["--learner", "ties", "--operator", "sum"], ["--operator says nothing to learner 'ties'"]),
    ],
    ids=lambda value: "_".join(value).replace("--", "") if value[0].startswith("--") else "",
)
def test_a_given_flag_that_equals_a_default_is_seen(metasum, tiny, tmp_path, flags, words):
    refused(metasum("train", *tiny, *flags), 2, *words)
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--learner", "slots", "--operator", "task-arithmetic"], ["--operator", "'task-arithmetic'", "average, sum"]),
        (["--learner", "meta-transfer", "--operator", "learned"], ["--operator", "'learned'", "average, sum"]),
        (["--learner", "independent-two-inits", "--operator", "task-arithmetic"], ["--operator", "average, sum"]),
        (["--learner", "independent", "--operator", "learned"], ["does not run the sum in training"]),
        (["--operator", "task-arithmetic", "--support-init-seed", "3"], ["the support has its own"]),
        (["--wandb", "offline", "--wandb-tags", f"short,{'x' * 65}"], ["--wandb-tags", "1 to 64 characters"]),
        (["--learner", "proximity", "--proximity-weights", "1,2"], ["--proximity-weights takes a number for each"]),
        (["--learner", "two-head", "--shared-until", "blok"], ["unknown module", "block_1"]),
        (["--learner", "slots", "--slots", "50"], ["channels"]),
    ],
    ids=lambda value: "_".join(value).replace("--", "")[:40] if value[0].startswith("--") else "",
)
def test_what_can_be_known_before_the_first_step_is(metasum, tiny, tmp_path, flags, words):
    outcome = metasum("train", *tiny, *flags)
    refused(outcome, outcome.code or 2, *words)
    assert nothing_written(tmp_path)


def test_a_plan_is_whole_and_a_number_means_what_it_is_equal_to():
    assert settings(width=1) == settings(width=1.0)
    plans = [resolve(settings(width=width), DATASETS) for width in (1, 1.0)]
    assert json.dumps(plans[0].to_json(), sort_keys=True) == json.dumps(plans[1].to_json(), sort_keys=True)
    metas = [meta_plan(settings(width=width, meta_learning_rate=rate), ("a",)) for width, rate in ((1, 1), (1.0, 1.0))]
    assert json.dumps(metas[0].to_json()) == json.dumps(metas[1].to_json())
    for leaf in (*COMMON.values(), *options_of(LEARNERS["metasum"].Config)):
        assert leaf.optional or plans[0].flat()[leaf.name] is not None, leaf.name


@pytest.mark.parametrize("learner", sorted(LEARNERS))
def test_every_learners_plan_survives_json(learner):
    plan = resolve(settings(learner=learner), DATASETS)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain | {"objective": {}},
        lambda plain: plain | {"own": plain["own"] | {"widht": 3}},
        lambda plain: plain | {"data": plain["data"] | {"batch_size": "many"}},
        lambda plain: {name: section for name, section in plain.items() if name != "network"},
        lambda plain: plain | {"learner": "nobody's"},
        lambda plain: plain | {"network": 3},
    ],
    ids=["section", "setting", "value", "missing", "learner", "number"],
)
def test_settings_of_something_else_are_refused(change):
    plain = resolve(settings(), DATASETS).to_json()
    with pytest.raises(CheckpointError, match="not the settings of a metasum run"):
        Plan.from_json(change(plain))


def test_a_request_for_one_of_several_learners_leaves_out_what_it_does_not_read():
    request = settings(symmetric=False, norm="batch", proximity=2.0, width=0.5)
    assert dict(request.for_learner("tangent").given) == {"width": 0.5, "learner": "tangent"}
    assert dict(request.for_learner("proximity").given) == {
        "norm": "batch",
        "proximity": 2.0,
        "width": 0.5,
        "learner": "proximity",
    }
    assert resolve(request.for_learner("metasum-symmetric"), DATASETS).own.symmetric is True
    assert resolve(Request({"learner": "tangent", "norm": "none"}), DATASETS).network.tangent is True


def test_settings_of_a_meta_training_go_where_they_are_read():
    plan = meta_plan(settings(permute_labels=False, meta_steps=7, steps=3, learning_rate=0.5), ("glyphs",))
    assert plan.own.permute_labels is False
    assert (plan.optimisation.steps, plan.own.meta_datasets) == (7, ("glyphs",))


def test_a_setting_of_another_kind_than_its_namesake_is_refused():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Taken(Checked):
        proximity: str = option("a", "A word.")

    with pytest.raises(UsageError, match="another --proximity takes values of another kind"):
        register(type("Other", (TangentLearner,), {"name": "other", "Config": Taken}))


def test_slots_multiply_the_recipes_learning_rate_and_leave_a_given_one_alone():
    def rate(**values):
        return resolve(settings(**values), DATASETS).optimisation.learning_rate

    recipe = rate()
    assert [rate(learner="slots"), rate(learner="slots", slots=8)] == [2 * recipe, 8 * recipe]
    assert rate(learner="slots", slots=8, learning_rate=recipe) == recipe


def test_a_start_from_a_file_is_as_wide_as_that_file(finished):
    init = str(finished / "initial.safetensors")
    assert resolve(settings(target="a", support="b", init=init), DATASETS).network.width == 0.04
    assert resolve(settings(target="a", support="b", init=init, width=0.5), DATASETS).network.width == 0.5
    assert resolve(settings(target="a", support="b", init="missing.safetensors"), DATASETS).network.width == 0.25
