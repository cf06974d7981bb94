"""`metasum few-shot` on a toy of twelve classes: runs, resuming, further questions, refusals."""

import json
import pickle

import numpy as np
import pytest
import torch
from refusal import refused
from tiny import write_npz

from metasum.baselines.maml import Maml, MamlConfig
from metasum.baselines.prototypical import Prototypical
from metasum.baselines.registry import FEW_SHOT
from metasum.config import NoSettings
from metasum.errors import Interrupted, MetaSumError, UsageError
from metasum.few_shot.measuring import differences, episode_shares, mean_of
from metasum.few_shot.request import FewShotRequest
from metasum.few_shot.run import few_shot
from metasum.few_shot.study import plan_study
from metasum.learners.few_shot import FewShotTask
from metasum.study.engine.cell import ordered
from metasum.study.engine.display import SilentStudy
from metasum.training.progress import SilentDisplay
from metasum.types import Batch, FewShotEpisode


def toy_arrays(classes=15):
    """Class k is bright in column k."""
    rng = np.random.default_rng(0)

    def split(images):
        y = np.arange(classes).repeat(images)
        x = rng.integers(0, 60, (len(y), 16, 16), dtype=np.uint8)
        x[np.arange(len(y)), :, y] += 180
        return x, y

    return split(6), split(3)


@pytest.fixture
def data(tmp_path):
    write_npz(tmp_path / "data" / "columns.npz", toy_arrays())
    write_npz(tmp_path / "data" / "others.npz", toy_arrays(12))
    return tmp_path / "data"


@pytest.fixture
def asked(data):
    """Tiny settings that every learner reads, and which of them only those that train, and those that pretrain."""

    def of(**more):
        return FewShotRequest({
            "dataset": "columns", "data_root": str(data), "ways": 2, "queries": 3, "filters": 4, "episodes": 4,
            "validation_episodes": 2, "device": "cpu",
            **more,
        })  # fmt: skip

    return of


@pytest.fixture
def common(data, tmp_path):
    """Flags that every learner reads."""
    return [
        *("--dataset", "columns", "--data-root", data, "--out", tmp_path / "runs", "--ways", 2, "--queries", 3),
        *("--filters", 4, "--episodes", 6, "--device", "cpu", "--validation-episodes", 3, "--no-report"),
    ]


@pytest.fixture
def flags(common):
    """The same and those that all read that meta-train."""
    return [*common, *("--steps", 4, "--evaluate-every", 2, "--checkpoint-every", 2, "--log-every", 1)]


def folder(tmp_path, ways=2, shots=1):
    return tmp_path / "runs" / "few-shot" / f"columns-{ways}way-{shots}shot"


def test_all_learners_run_side_by_side_with_everything_asked_of_them(metasum, flags, tmp_path):
    more = ("--test-ways", "3", "--base-filters", "2,6", "--then", "others", "--then-steps", 2, "--json", "--report")
    flags += ["--pretraining-steps", 4]
    outcome = metasum("few-shot", *flags, *more)
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert [row["learner"] for row in result["rows"]] == list(FEW_SHOT)
    for row in result["rows"]:
        assert 0 <= row["accuracy"]["mean"] <= 1
        assert row["accuracy"]["episodes"] == 6
        assert row["steps"] == (4 if FEW_SHOT[row["learner"]].meta_trains else 0)
    assert {row["learner"] for row in result["asked"]} == set(FEW_SHOT) - {"maml", "meta-transfer"}
    assert [row["filters"] for row in result["reparameterised"]] == [2, 6]
    assert {row["learner"] for row in result["then"]} == {"meta-networks", "meta-transfer", "maml", "prototypical"}
    means = {row["learner"]: row["accuracy"]["mean"] for row in result["rows"]}
    found = result["differences"]["maml"]["prototypical"]
    assert found["mean"] == pytest.approx(means["maml"] - means["prototypical"], abs=1e-5)
    assert result["differences"]["prototypical"]["maml"]["mean"] == -found["mean"]
    assert json.loads((folder(tmp_path) / "results.json").read_text()) == result
    page = (folder(tmp_path) / "report.html").read_text()
    assert all(name in page for name in (*FEW_SHOT, "Gone on with others", "untrained base network"))
    again = metasum("few-shot", *flags, *more)
    assert json.loads(again.out)["rows"] == result["rows"]
    assert "step" not in again.err  # everything was there
    assert metasum("report", folder(tmp_path)).code == 0


def test_the_table_shows_accuracy_with_its_interval(metasum, flags):
    outcome = metasum("few-shot", *flags, "--learner", "prototypical", "--shots", 2, "--seeds", 2)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("prototypical") == 2
    assert "±" in outcome.out
    assert "2-way 2-shot on columns" in outcome.out


class Stopping(SilentStudy, SilentDisplay):
    """Stops every training after its second step."""

    def started(self, cell):
        return self

    def begin(self, *_, **__): ...

    def stepped(self, step, **_):
        if step == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("learner", "more"), [("meta-networks", {}), ("meta-transfer", {"pretraining_steps": 3}), ("maml", {})]
)
def test_a_stopped_run_goes_on_bit_for_bit(asked, tmp_path, learner, more):
    request = asked(steps=4, evaluate_every=0, checkpoint_every=1, **more)
    straight = few_shot(request, learners=[learner], out=tmp_path / "a", report=False)
    with pytest.raises(Interrupted):
        few_shot(request, learners=[learner], out=tmp_path / "b", report=False, display=Stopping())
    assert list((tmp_path / "b" / "few-shot").rglob("last.ckpt"))
    resumed = few_shot(request, learners=[learner], out=tmp_path / "b", report=False)
    assert resumed.rows[0].accuracy == straight.rows[0].accuracy
    weights = [
        (tmp_path / run / "few-shot" / "columns-2way-1shot" / f"{learner}-seed0" / "learner.safetensors").read_bytes()
        for run in "ab"
    ]
    assert weights[0] == weights[1]


def test_the_plan_has_a_trunk_for_each_seed_that_its_learners_share(asked):
    request = asked(test_ways=(3,), base_filters=(2,), then="others")
    names = ["fine-tuning", "maml", "meta-transfer", "meta-networks"]
    cells = {cell.name: cell.needs for cell in ordered(plan_study(request, names, seeds=2).cells())}
    of_one_seed = {
        "pretrained-seed1": (),
        "fine-tuning-seed1": ("pretrained-seed1",),
        "fine-tuning-seed1-asked": ("fine-tuning-seed1",),
        "maml-seed1": (),
        "maml-seed1-then-others": ("maml-seed1",),
        "meta-transfer-seed1": ("pretrained-seed1",),
        "meta-transfer-seed1-then-others": ("meta-transfer-seed1",),
        "meta-networks-seed1": (),
        "meta-networks-seed1-asked": ("meta-networks-seed1",),
        "meta-networks-seed1-then-others": ("meta-networks-seed1",),
    }
    assert {name: needs for name, needs in cells.items() if "seed1" in name} == of_one_seed
    assert len(cells) == 2 * len(of_one_seed)


def test_cells_give_the_same_in_processes_of_their_own(asked, tmp_path):
    """Each is pickled and sent; engines are tested in test_engine.py."""

    class Pickling:
        def run(self, cells, *, display):
            done = {}
            for cell in ordered(cells):
                work = pickle.loads(pickle.dumps(cell.work))
                done[cell.name] = pickle.loads(pickle.dumps(work(done, SilentDisplay())))
            return done

    request = asked(steps=2, evaluate_every=0, pretraining_steps=2, test_ways=(3,), then="others", then_steps=1)
    names = ["prototypical", "meta-transfer"]
    here = few_shot(request, learners=names, out=tmp_path / "a", report=False)
    there = few_shot(request, learners=names, out=tmp_path / "b", report=False, engine=Pickling())
    assert [row.accuracy for row in here.rows] == [row.accuracy for row in there.rows]
    assert here.asked == there.asked
    assert here.then == there.then
    for file in (tmp_path / "a").rglob("learner.safetensors"):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()


@pytest.mark.slow
def test_two_cells_run_at_a_time_a_plug_ins_too(metasum, flags, tmp_path):
    plugin = tmp_path / "nearest.py"
    plugin.write_text(PLUGIN.format(setting="sharpness"))
    more = ("--learner", "prototypical,nearest", "--plugin", plugin, "--sharpness", 3)
    outcome = metasum("few-shot", *flags, *more, "--jobs", 2, "--json")
    assert outcome.code == 0, outcome.err
    assert [row["learner"] for row in json.loads(outcome.out)["rows"]] == ["prototypical", "nearest"]


def test_a_moved_study_goes_on_and_trains_nothing_again(asked, tmp_path):
    request = asked(steps=1, evaluate_every=0, then="others", then_steps=1)
    first = few_shot(request, learners=["prototypical"], out=tmp_path / "runs")
    assert [row.run for row in (*first.rows, *first.then)] == ["prototypical-seed0", "prototypical-seed0-then-others"]
    (tmp_path / "runs").rename(tmp_path / "old")

    class NoTraining(Stopping):
        def begin(self, title, **_):
            raise AssertionError(title)

        def started(self, cell):
            display = SilentDisplay()
            display.begin = self.begin
            return display

    study = SilentStudy()
    study.started = NoTraining().started
    again = few_shot(request, learners=["prototypical"], out=tmp_path / "old", display=study)
    assert again.rows == first.rows
    assert again.then == first.then


def test_a_run_of_the_first_format_is_taken_as_it_is(asked, tmp_path):
    """Its config.json says no format, its result.json a path from where it was made."""
    request = asked(steps=1, evaluate_every=0)
    first = few_shot(request, learners=["prototypical"], out=tmp_path / "runs", report=False)
    run = folder(tmp_path) / "prototypical-seed0"
    for name in ("config.json", "result.json"):
        told = json.loads((run / name).read_text())
        told = {key: value for key, value in told.items() if key not in ("format", "kind")}
        told |= {"run": "/elsewhere/prototypical-seed0"} if name == "result.json" else {}
        (run / name).write_text(json.dumps(told))
    weights = (run / "learner.safetensors").stat().st_mtime_ns
    again = few_shot(request, learners=["prototypical"], out=tmp_path / "runs", report=False)
    assert again.rows == first.rows
    assert (run / "learner.safetensors").stat().st_mtime_ns == weights


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--learner", "mamml"), "did you mean 'maml'? Known: classifier-tuning, fine-tuning, from-scratch, maml"),
        (("--learner", "maml,maml"), "different learners"),
        (("--ways", 4), "2 classes to validate on"),
        (("--shots", 7), "takes 10 images"),
        (("--test-ways", "3,x"), "--test-ways"),
        (("--test-ways", "3", "--learner", "maml"), "--test-ways says nothing to learner 'maml'"),
        (("--test-ways", "3", "--learner", "maml,meta-transfer"), "says nothing to any of the learners maml, meta-"),
        (("--test-ways", "4"), "3 classes to test on"),
        (("--base-filters", "8", "--learner", "maml"), "--base-filters"),
        (("--then", "columns"), "--then columns"),
        (("--then", "others", "--learner", "fine-tuning"), "--then"),
        (("--then-steps", 500), "--then-steps says nothing without --then"),
        (("--learner", "prototypical,maml", "--inner-lr", 0), "--inner-lr must be greater than 0"),
        (("--inner-lr", 0.4), "--inner-lr says nothing to learner 'prototypical'"),
        (("--pretraining-steps", 2000), "--pretraining-steps says nothing"),
        (("--learner", "from-scratch", "--steps", 1000), "--steps says nothing"),
        (("--learner", "from-scratch", "--clip", 10), "--clip says nothing"),
        (("--dataset", "kolumns"), "columns"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(metasum, common, tmp_path, more, words):
    refused(metasum("few-shot", *common, "--learner", "prototypical", *more), 2, words)
    assert not (tmp_path / "runs").exists()


def test_a_run_of_other_settings_is_not_gone_on_with_and_that_is_known_before_anything_is_trained(
    metasum, flags, tmp_path
):
    assert metasum("few-shot", *flags, "--learner", "prototypical").code == 0
    refused(metasum("few-shot", *flags, "--learner", "maml,prototypical", "--filters", 5), 2, "filters was 4, now 5")
    assert not (folder(tmp_path) / "maml-seed0").exists()


def test_a_setting_that_a_run_does_not_read_may_change(metasum, flags, common):
    learners = ("--learner", "classifier-tuning,prototypical,maml")
    flags = [*flags, "--pretraining-steps", 2]
    assert metasum("few-shot", *flags, *learners).code == 0
    refused(metasum("few-shot", *flags, *learners, "--inner-lr", 0.1), 2, "inner_lr was 0.4, now 0.1")
    learners = ("--learner", "classifier-tuning,prototypical")
    refused(metasum("few-shot", *flags, *learners, "--base-lr", 0.1), 2, "base_lr was")  # the trunk is as it was


def test_a_failure_is_told_and_the_others_go_on(metasum, flags, tmp_path):
    (tmp_path / "runs" / "few-shot" / "columns-2way-1shot").mkdir(parents=True)
    in_the_way = folder(tmp_path) / "pretrained-seed0"
    in_the_way.mkdir()
    (in_the_way / "diary.txt").write_text("mine")
    more = ("--pretraining-steps", 2, "--learner", "fine-tuning,prototypical", "--test-ways", 3, "--report")
    outcome = metasum("few-shot", *flags, *more)
    assert outcome.code == 1
    assert f"a run failed, fine-tuning-seed0: it needs pretrained-seed0, which failed: {in_the_way}" in outcome.err
    result = json.loads((folder(tmp_path) / "results.json").read_text())
    assert [row["learner"] for row in result["rows"]] == ["prototypical"]
    assert [row["learner"] for row in result["failed"]] == ["fine-tuning"]
    assert "which failed" in (folder(tmp_path) / "report.html").read_text()


def test_where_nothing_comes_out_the_first_failure_is_the_error(asked, tmp_path):
    run = folder(tmp_path) / "prototypical-seed0"
    run.mkdir(parents=True)
    (run / "diary.txt").write_text("mine")
    with pytest.raises(MetaSumError, match=r"prototypical-seed0 failed: .*not a run folder"):
        few_shot(asked(steps=1), learners=["prototypical"], out=tmp_path / "runs")
    assert not (folder(tmp_path) / "results.json").exists()


PLUGIN = """
import dataclasses
import torch
from metasum.baselines import register
from metasum.config import Checked, option
from metasum.learners.few_shot import FewShotLearner

@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Checked):
    {setting}: float = option(1.0, "Factor on the distances.", above=0)

class Nearest(FewShotLearner):
    name, summary, Config, meta_trains = "nearest", "The nearest image.", Config, False

    def logits(self, adaptation, images):
        distances = torch.cdist(images.flatten(1), adaptation.images.flatten(1)) * self.config.{setting}
        return torch.stack([-distances[:, adaptation.labels == k].amin(1) for k in adaptation.labels.unique()], 1)

register(Nearest, source="here")
"""


def test_a_plug_in_adds_a_learner_with_settings_that_are_flags(metasum, common, tmp_path):
    plugin = tmp_path / "nearest.py"
    plugin.write_text(PLUGIN.format(setting="sharpness"))
    more = ("--plugin", plugin, "--learner", "nearest", "--sharpness", 2, "--json")
    outcome = metasum("few-shot", *common, *more)
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["settings"]["nearest"] == {"sharpness": 2.0}
    assert result["rows"][0]["accuracy"]["mean"] > 0.6


def test_a_plug_ins_setting_is_not_called_as_one_of_all_learners(metasum, common, tmp_path):
    plugin = tmp_path / "nearest.py"
    plugin.write_text(PLUGIN.format(setting="ways"))
    refused(metasum("few-shot", *common, "--plugin", plugin, "--learner", "nearest"), 2, "'nearest': --ways is a")


def test_an_unknown_setting_is_refused_by_name():
    with pytest.raises(UsageError, match="did you mean 'filters'"):
        FewShotRequest({"filter": 3})


def test_the_interval_is_students(monkeypatch):
    class Fixed:
        def eval(self):
            return self

        def logits(self, adaptation, images):
            return images

    episodes = [
        FewShotEpisode(None, Batch(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, wrong])), None)
        for wrong in (0, 1, 1)
    ]
    import contextlib

    found = mean_of(episode_shares(Fixed(), episodes, autocast=contextlib.nullcontext))
    assert found.mean == pytest.approx(2 / 3, abs=1e-6)
    assert found.interval == pytest.approx(4.302653 * 0.2886751 / 3**0.5, abs=1e-5)


def test_references_learn_the_toy(asked, tmp_path):
    """They tell columns apart after a few steps; chance is one in two."""
    request = asked(filters=8, steps=25, episodes=20, evaluate_every=0, learning_rate=0.01)
    result = few_shot(request, learners=["prototypical", "maml"], out=tmp_path / "runs", report=False)
    assert all(row.accuracy.mean > 0.7 for row in result.rows)


def test_maml_adapts_a_clone_and_prototypical_needs_no_number_of_ways():
    torch.manual_seed(0)
    task = FewShotTask(ways=3, shots=1, filters=4)
    batch = Batch(torch.randn(3, 1, 32, 32), torch.arange(3))
    maml = Maml(task, MamlConfig(inner_steps=2))
    before = [p.clone() for p in maml.parameters()]
    answers = maml.eval().logits(batch, batch.images)
    assert answers.shape == (3, 3)
    assert all(torch.equal(a, b) for a, b in zip(before, maml.parameters(), strict=True))
    five = Batch(torch.randn(5, 1, 32, 32), torch.arange(5))
    assert Prototypical(task, NoSettings()).asked(5).logits(five, batch.images).shape == (3, 5)


def test_pairing_episodes_makes_the_interval_that_of_the_difference():
    hard = np.random.default_rng(0).uniform(0.2, 0.9, 200)  # episodes differ much more than learners do
    shares = {"first": [list(hard), list(hard + 0.02)], "second": [list(hard - 0.01), list(hard - 0.01)]}
    found = differences(shares)["first"]["second"]
    assert found.mean == pytest.approx(0.02)
    assert found.interval == pytest.approx(0, abs=1e-6)
    assert mean_of(shares["first"][0]).interval > 0.02
