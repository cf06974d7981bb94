"""Studies are plans of cells: which runs there are, what each needs, where it lies. Nothing is trained here."""

import dataclasses
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from metasum import settings
from metasum.baselines.independent import IndependentLearner
from metasum.baselines.registry import register
from metasum.config import option
from metasum.learners.learner import Start
from metasum.learners.settings import OperatorConfig
from metasum.results.surroundings import Tried, Tuned
from metasum.study.checks import study_of
from metasum.study.choosing import Choose, chosen
from metasum.study.engine.cell import Failure, ordered
from metasum.study.request import StudyRequest
from metasum.study.strangers import operator_of, strangers_cells
from metasum.study.training import training_cells


def study(learners, targets=("rows",), *, seeds=1, tuned=False, report=True, **given):
    """A study of datasets that are nowhere, in the folder `runs`."""
    asked = StudyRequest(request=settings(support="lines", **given), seeds=seeds, tuned=tuned, report=report)
    return study_of(asked, learners=learners, targets=targets, place=Path("runs/place"))


def by_name(cells):
    assert ordered(cells), "they are a plan"
    return {cell.name: cell for cell in cells}


def test_a_run_for_each_learner_and_seed():
    cells = by_name(training_cells(study(["metasum", "independent"], seeds=2, seed=3)))
    assert list(cells) == [f"rows+lines/{name}-seed{seed}" for seed in (3, 4) for name in ("metasum", "independent")]
    for name, cell in cells.items():
        work = cell.work
        assert (cell.needs, cell.after, work.choice) == ((), (), None)
        assert work.where.path == Path("runs") / name
        assert (work.where.out, work.where.resume, work.where.keep_weights) == (Path("runs"), None, True)
        assert name == f"rows+lines/{work.request['learner']}-seed{work.request['seed']}"
        assert (work.request["target"], work.request["support"]) == ("rows", "lines")


def test_methods_of_merging_need_the_networks_of_their_endpoints_which_are_trained_once():
    cells = by_name(training_cells(study(["ties", "average", "average-two-inits"])))
    assert list(cells) == [
        "rows+lines/independent-seed0",
        *("rows+lines/ties-seed0", "rows+lines/average-seed0"),
        *("rows+lines/independent-two-inits-seed0", "rows+lines/average-two-inits-seed0"),
    ]
    for name in ("ties", "average"):
        cell = cells[f"rows+lines/{name}-seed0"]
        assert cell.needs == ("rows+lines/independent-seed0",)
        assert cell.work.where.endpoints == Path("runs/rows+lines/independent-seed0")
    assert cells["rows+lines/average-two-inits-seed0"].needs == ("rows+lines/independent-two-inits-seed0",)


def test_open_settings_are_tried_on_validation_images_and_then_chosen():
    cells = by_name(training_cells(study(["slerp"], seeds=2, tuned=True)))
    tried = [f"rows+lines/validation/slerp-seed0-position={position}" for position in (0.3, 0.5, 0.7)]
    choice, endpoints = "rows+lines: settings of slerp", "rows+lines/validation/independent-seed0"
    runs = [f"rows+lines/{name}-seed{seed}" for seed in (0, 1) for name in ("independent", "slerp")]
    assert list(cells) == [endpoints, *tried, choice, *runs]
    for name, position in zip(tried, (0.3, 0.5, 0.7), strict=True):
        work = cells[name].work
        assert cells[name].needs == (endpoints,)
        assert (work.request["evaluate_on"], work.request["evaluate_every"]) == ("validation", 0)
        assert work.request.given["position"] == position
        assert work.where.endpoints == Path("runs") / endpoints
        assert (work.where.keep_weights, work.where.report) == (False, False)
    assert cells[endpoints].work.where.keep_weights
    assert cells[endpoints].work.request["evaluate_on"] == "validation"
    assert (cells[choice].needs, cells[choice].after) == ((), tuple(tried))
    for seed in (0, 1):
        cell = cells[f"rows+lines/slerp-seed{seed}"]
        assert (cell.needs, cell.after) == ((f"rows+lines/independent-seed{seed}",), (choice,))
        assert cell.work.choice == choice


@pytest.mark.parametrize("position", [0.2, 0.5])
def test_a_setting_that_was_given_is_never_chosen_even_where_it_equals_its_default(position):
    own = study(["slerp"], tuned=True, position=position)
    assert not any("validation" in cell.name for cell in training_cells(own))
    assert not any("validation" in cell.name for cell in strangers_cells(own))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialsConfig(OperatorConfig):
    warmth: float = option(1.0, "How warm.")
    light: float = option(1.0, "How light.")


class Dials(IndependentLearner):
    name, summary, Config = "dials", "With two settings.", DialsConfig
    candidates = {"warmth": (1.0, 2.0), "light": (0.5, 1.0, 1.5)}


def test_all_combinations_are_tried_of_what_is_open():
    register(Dials)
    assert len(study(["dials"], tuned=True).candidates("dials")) == 6
    assert study(["dials"], tuned=True, warmth=2.0).candidates("dials") == [{"light": v} for v in (0.5, 1.0, 1.5)]
    assert study(["dials"], warmth=2.0).candidates("dials") == []
    (name, *_) = [cell.name for cell in training_cells(study(["dials"], tuned=True))]
    assert name == "rows+lines/validation/dials-seed0-warmth=1.0,light=0.5"


def test_the_best_of_what_could_be_tried_is_chosen():
    works = Choose({"a": {"position": 0.3}, "b": {"position": 0.5}, "c": {"position": 0.7}})
    half = SimpleNamespace(accuracy=SimpleNamespace(mean_after=0.5))
    tuned = works({"a": half, "b": Failure("b", "no luck"), "c": half}, None)
    assert tuned == Tuned({"position": 0.3}, (Tried({"position": 0.3}, 0.5), Tried({"position": 0.7}, 0.5)))
    assert chosen({"x": tuned}, "x") == {"position": 0.3}
    nothing = works(dict.fromkeys("abc", Failure("a", "no luck")), None)
    assert chosen({"x": nothing}, "x") == chosen({}, None) == {}


def test_a_start_that_is_to_be_learnt_is_learnt_once_for_all():
    cells = by_name(training_cells(study(["metasum-meta", "independent"], ["rows", "third"], seeds=2)))
    start = "meta: initialisation of metasum-meta"
    assert [name for name in cells if "meta:" in name] == [start]
    for target in ("rows", "third"):
        for seed in (0, 1):
            assert cells[f"{target}+lines/metasum-meta-seed{seed}"].needs == (start,)
            assert cells[f"{target}+lines/independent-seed{seed}"].needs == ()
    given = by_name(training_cells(study(["metasum-meta"], init="start.safetensors")))
    assert list(given) == ["rows+lines/metasum-meta-seed0"]


def test_each_learner_is_asked_for_what_it_reads():
    cells = by_name(training_cells(study(["metasum", "proximity"], proximity=0.3, symmetric=True, steps=7)))
    given = {name: set(cell.work.request.given) for name, cell in cells.items()}
    assert given["rows+lines/metasum-seed0"] == {"learner", "target", "support", "seed", "steps", "symmetric"}
    assert given["rows+lines/proximity-seed0"] == {"learner", "target", "support", "seed", "steps", "proximity"}


def test_only_the_first_seeds_own_networks_are_looked_into():
    names = ["metasum", "ties", "independent"]
    cells = training_cells(study(names, seeds=2, tuned=True, seed=1))
    looked = {cell.name for cell in cells if hasattr(cell.work, "where") and cell.work.where.report}
    assert looked == {"rows+lines/metasum-seed1", "rows+lines/independent-seed1"}
    lines = {cell.name for cell in strangers_cells(study(names, ["a", "b"], seeds=2)) if cell.work.line}
    assert lines == {"place/metasum-seed0", "place/independent-seed0"}
    for cell in (*training_cells(study(names, report=False)), *strangers_cells(study(names, ["a", "b"], report=False))):
        assert not cell.work.where.report if hasattr(cell.work, "where") else not cell.work.line


def test_targets_are_numbered_for_learners_that_must_know():
    cells = by_name(training_cells(study(["slots"], ["rows", "third"], tuned=True)))
    assert "rows+lines/slots-seed0" in cells
    assert cells["third+lines/slots-seed0-slot1"].work.request.given["slot"] == 1
    assert cells["third+lines/validation/slots-seed0-learning_rate=0.002-slot1"].work.request.given["slot"] == 1


def test_strangers_need_the_runs_of_all_targets():
    own = study(["independent", "slerp"], ["rows", "third"], seeds=2)
    cells = by_name([*training_cells(own), *strangers_cells(own)])
    for learner in ("independent", "slerp"):
        for seed in (0, 1):
            cell = cells[f"place/{learner}-seed{seed}"]
            assert cell.needs == tuple(f"{target}+lines/{learner}-seed{seed}" for target in ("rows", "third"))
            assert cell.after == ()
            assert cell.work.runs == tuple(Path("runs") / name for name in cell.needs)
            assert cell.work.file == Path(f"runs/place/{learner}-seed{seed}.json")
            assert cell.work.operator == {"independent": "sum"}.get(learner, learner)


def test_how_strangers_are_merged_is_chosen_on_networks_that_never_saw_the_validation_images():
    own = study(["slerp", "independent"], ["rows", "third"], tuned=True, seed=5)
    cells = by_name([*training_cells(own), *strangers_cells(own)])
    endpoints = tuple(f"{target}+lines/validation/independent-seed5" for target in ("rows", "third"))
    trials = [f"place/validation-slerp-position={position}" for position in (0.3, 0.5, 0.7)]
    for name in trials:
        assert cells[name].needs == endpoints
        assert cells[name].work.runs == tuple(Path("runs") / run for run in endpoints)
    assert cells["place: settings of slerp"].after == tuple(trials)
    assert cells["place/slerp-seed5"].after == ("place: settings of slerp",)
    assert cells["place/slerp-seed5"].work.settings == {}
    assert cells["place/independent-seed5"].after == ()


def test_strangers_are_added_as_was_asked_for_or_by_the_learners_own_method():
    assert operator_of(study(["metasum"]), "metasum") == "sum"
    own = study(["metasum", "two-head", "ties"], ["a", "b"], operator="task-arithmetic", scaling=0.3)
    works = {cell.work.runs[0].name: cell.work for cell in strangers_cells(own)}
    assert (works["metasum-seed0"].operator, works["metasum-seed0"].settings) == ("task-arithmetic", {"scaling": 0.3})
    assert works["two-head-seed0"].operator == "task-arithmetic"
    assert (works["ties-seed0"].operator, works["ties-seed0"].settings) == ("ties", {"scaling": 0.3})

    class Averaging(IndependentLearner):
        name, summary, preset = "averaging", "Averages.", {"operator": "average"}

    register(Averaging)
    assert operator_of(study(["averaging"], operator="sum"), "averaging") == "average"


def test_runs_tell_wandb_their_folder_in_the_studys_group(monkeypatch):
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    (cell,) = training_cells(study(["metasum"], wandb="offline", wandb_name="ours"))
    assert cell.work.request["wandb_name"] == "rows+lines/metasum-seed0"
    assert cell.work.request["wandb_group"] == "runs/place"
    (cell,) = training_cells(study(["metasum"]))
    assert not {"wandb_name", "wandb_group"} & set(cell.work.request.given)


def test_works_can_be_sent_to_other_processes():
    own = study(["slerp", "metasum-meta", "slots"], ["rows", "third"], tuned=True)
    cells = [*training_cells(own), *strangers_cells(own)]
    assert pickle.loads(pickle.dumps(cells)) == cells


def test_a_learner_that_is_learnt_and_merges_needs_both():
    class Both(IndependentLearner):
        name, summary, start, endpoints = "both", "Needs much.", Start.LEARNT, "independent"

    register(Both)
    cell = by_name(training_cells(study(["both"])))["rows+lines/both-seed0"]
    assert cell.needs == ("rows+lines/independent-seed0", "meta: initialisation of both")


def test_with_own_heads_the_networks_of_summed_heads_are_measured_anew_and_nothing_is_trained_twice():
    plain, own = (study(["metasum", "ties", "two-head"], heads=heads) for heads in ("summed", "own"))
    summed, cells = by_name(training_cells(plain)), by_name(training_cells(own))
    trained = [f"rows+lines/{name}-seed0" for name in ("metasum", "independent", "two-head")]
    measured = [f"rows+lines/{name}-seed0-own-heads" for name in ("metasum", "ties", "two-head")]
    assert set(cells) == {*trained, *measured}
    for name in trained:
        assert cells[name].work.request["heads"] == "summed"
        assert cells[name].work.where == summed[name].work.where
        assert cells[name].work.request.having(heads="summed") == summed[name].work.request
    for name, source in zip(measured, trained, strict=True):
        assert cells[name].work.request["heads"] == "own"
        assert cells[name].needs == (source,)
        assert cells[name].work.where.path == Path("runs") / name
        assert cells[name].work.where.endpoints == Path("runs") / source


def test_with_own_heads_what_is_chosen_is_chosen_by_them_and_trained_in_folders_of_its_own():
    own = study(["anchored", "ties", "meta-transfer"], ("rows", "third"), tuned=True, heads="own")
    cells = by_name([*training_cells(own), *strangers_cells(own)])
    run = cells["rows+lines/anchored-seed0-own-heads"]
    assert run.work.where.endpoints is None, "its settings may be others than with summed heads"
    assert run.after == ("rows+lines: settings of anchored",)
    assert "rows+lines/anchored-seed0" not in cells
    trial = cells["rows+lines/validation/anchored-seed0-anchor=0.1-own-heads"]
    assert (trial.work.where.endpoints, trial.work.request["heads"]) == (None, "own")
    assert cells["rows+lines/meta-transfer-seed0-own-heads"].work.where.endpoints is None, "its networks are not all"
    merge = next(cell for name, cell in cells.items() if name.startswith("place/validation-ties"))
    assert merge.needs == tuple(f"{target}+lines/validation/independent-seed0" for target in ("rows", "third"))
    assert set(merge.needs) <= set(cells)
    assert merge.work.request["heads"] == "own"


def test_learned_coefficients_are_in_no_file_of_networks():
    cells = by_name(training_cells(study(["metasum"], operator="learned", heads="own")))
    assert list(cells) == ["rows+lines/metasum-seed0-own-heads"]
