"""Joint training in an experiment: one network on all targets, an anchor beside the sums."""

import csv
import dataclasses
import pickle

import pytest
import torch
from tiny import blob_arrays, small_network, write_npz
from torch.nn.functional import cross_entropy

from metasum import load_network, settings
from metasum.baselines.joint_training import JointTraining
from metasum.errors import UsageError
from metasum.files import read_json
from metasum.results.experiment import ExperimentResult
from metasum.results.joint_training import JointTrainingResult
from metasum.results.kinds import read_result
from metasum.run.plan import resolve
from metasum.strangers import joint_training
from metasum.strangers.joint_training import joint_batches, train_jointly
from metasum.study.comparing import compare
from metasum.study.engine.processes import Processes
from metasum.study.experimenting import experiment, experiment_study
from metasum.study.joint_training import joint_training_cells
from metasum.study.request import StudyRequest
from metasum.tasks import ImageTask, load_dataset
from metasum.tasks.task import UnionTask
from metasum.training import layout, layout_trial
from metasum.training.confusion import accuracy
from metasum.training.progress import SilentDisplay
from metasum.types import Batch, Sides
from metasum.weights.parameters import parameters_of
from metasum.weights.statistics import recalibrate

TINY = {"width": 0.04, "steps": 6, "batch_size": 8, "evaluate_every": 3, "checkpoint_every": 2, "log_every": 2}
TINY |= {"device": "cpu", "calibration_batches": 1, "dropout": 0.1, "memory_format": "contiguous"}
TARGETS = ("rows", "third")


@pytest.fixture
def asked(tmp_path):
    for seed, name in enumerate(("rows", "lines", "third")):
        write_npz(tmp_path / "data" / f"{name}.npz", blob_arrays(seed))

    def ask(*learners, report=False, **given):
        request = settings(support="lines", data_root=str(tmp_path / "data"), **TINY | given)
        shared = {"seeds": 1, "tuned": False, "report": report, "out": tmp_path / "runs"}
        return StudyRequest(request=request, learners=learners, **shared)

    return ask


def joint_run(asked):
    return asked.out / "experiments" / f"rows+third+lines{'-own-heads' * (asked.request['heads'] == 'own')}"


def test_the_plan_has_a_cell_for_each_seed_beside_those_of_the_learners(asked):
    study = experiment_study(asked("independent", "joint-training", seed=3), TARGETS)
    assert (study.learners, study.anchors) == (("independent",), ("joint-training",))
    (cell,) = joint_training_cells(study)
    assert (cell.name, cell.needs, cell.after) == ("experiments/rows+third+lines/joint-training-seed3", (), ())
    requests = cell.work.requests
    assert {target: own["target"] for target, own in requests.items()} == {"rows": "rows", "third": "third"}
    assert {own["learner"] for own in requests.values()} == {"independent"}
    assert {own["seed"] for own in requests.values()} == {3}
    assert pickle.loads(pickle.dumps(cell)) == cell, "--jobs sends it"


@pytest.mark.parametrize("heads", ["summed", "own"])
def test_its_row_says_what_its_saved_network_does_on_each_target_and_on_all(asked, heads):
    wanted = asked("independent", "joint-training", heads=heads, report=heads == "summed")
    result = experiment(wanted, TARGETS)
    alone, row = result.rows
    assert (alone.learner, row.learner) == ("independent", "joint-training")
    assert (alone.no_merge, row.no_merge) == (None, "joint training")
    place = joint_run(wanted)
    names = {name: f"network-{name}" if heads == "own" else "network" for name in TARGETS}
    root = place.parents[2] / "data"
    tasks = {name: ImageTask(load_dataset(name, root=root)) for name in TARGETS}
    for name, task in tasks.items():
        network = load_network(place / "joint-training-seed0" / f"{names[name]}.safetensors")
        found = row.accuracy[name]
        assert found.stranger_union_statistics == accuracy(network, task.evaluation()), "those that it was saved with"
        recalibrate(network, UnionTask(list(tasks.values())).calibration(1))
        assert found.stranger_union_statistics == accuracy(network, task.evaluation())
        recalibrate(network, task.calibration(1))
        assert found.stranger == accuracy(network, task.evaluation())
        assert (found.before, found.after, found.retention, found.ensemble) == (None, None, None, None)
    if heads == "own":
        one, other = (load_network(place / "joint-training-seed0" / f"{own}.safetensors") for own in names.values())
        apart = [n for n, own in parameters_of(one).items() if not torch.equal(own, parameters_of(other)[n])]
        assert apart == ["classifier.7.weight", "classifier.7.bias"]
    assert ExperimentResult.read(place / "results.json").rows == result.rows
    lines = list(csv.DictReader((place / "results.csv").read_text().splitlines()))
    assert [line["accuracy.rows.before"] == "" for line in lines] == [False, True]
    assert lines[1]["no_merge"] == "joint training"
    page = place / "report.html"
    assert page.exists() == (heads == "summed")
    assert heads == "own" or "is trained on all the data together" in page.read_text()


def test_it_sees_as_many_images_as_all_the_networks_and_is_taken_as_it_is_when_finished(asked):
    wanted = asked("joint-training")
    (row,) = experiment(wanted, TARGETS).rows
    folder = joint_run(wanted) / "joint-training-seed0"
    run = read_result(folder / "result.json")
    assert isinstance(run, JointTrainingResult)
    assert (run.steps, run.batch_sizes) == (12, (4, 4)), "two networks took six steps of eight images each"
    assert read_json(folder / "config.json")["settings"]["learner"] == "joint-training"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert experiment(wanted, TARGETS).rows == (row,)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    failed = experiment(asked("joint-training", learning_rate=0.1), TARGETS).failed
    assert [str(own) for own in failed] == [f"failed: joint-training-seed0: {own.error}" for own in failed]
    assert "learning_rate was" in failed[0].error


def plans(asked, **steps):
    requests = {t: asked().request.having(target=t, learner="independent", steps=steps.get(t, 6)) for t in TARGETS}
    datasets = {name: load_dataset(name, root=asked().out.parent / "data") for name in (*TARGETS, "lines")}
    made = {t: resolve(own, Sides(datasets[t], datasets["lines"])) for t, own in requests.items()}
    return made, {name: datasets[name] for name in TARGETS}


class Stopping(SilentDisplay):
    """Fails at a step, as a bug or a full disk would."""

    def stepped(self, step, **more):
        if step == 5:
            raise OSError("full")


def test_a_run_that_was_stopped_goes_on_to_the_same_network(asked, tmp_path):
    made, datasets = plans(asked)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    asking = {"kind": JointTraining}
    first = train_jointly(whole, made, datasets, display=SilentDisplay(), **asking)
    with pytest.raises(OSError, match="full"):
        train_jointly(stopped, made, datasets, display=Stopping(), **asking)
    assert not (stopped / "result.json").exists()
    second = train_jointly(stopped, made, datasets, display=SilentDisplay(), **asking)
    assert second.accuracy == first.accuracy
    one, other = (load_network(folder / "network.safetensors").state_dict() for folder in (whole, stopped))
    assert all(torch.equal(own, other[name]) for name, own in one.items())


def test_a_run_that_was_stopped_goes_on_in_the_layout_that_it_began_with(asked, tmp_path, monkeypatch):
    made, datasets = plans(asked)
    made = {name: plan.having(memory_format="auto") for name, plan in made.items()}
    laid, place = [], joint_training.place
    monkeypatch.setattr(layout, "ask_probe", lambda request: (None, True))
    monkeypatch.setattr(
        joint_training, "place", lambda module, device, how: (laid.append(how), place(module, device, how))
    )
    monkeypatch.setattr(layout_trial, "_quicker", lambda network, where: layout.CONTIGUOUS)
    with pytest.raises(OSError, match="full"):
        train_jointly(tmp_path / "run", made, datasets, kind=JointTraining, display=Stopping())
    assert read_json(tmp_path / "run" / "config.json")["layout"] == layout.CONTIGUOUS
    monkeypatch.setattr(layout_trial, "_quicker", lambda network, where: layout.CHANNELS_LAST)
    train_jointly(tmp_path / "run", made, datasets, kind=JointTraining, display=SilentDisplay())
    assert laid == [layout.CONTIGUOUS] * 2


def test_runs_of_other_lengths_are_equalled_in_images(asked):
    made, _ = plans(asked, rows=6, third=10)
    assert joint_batches(list(made.values())) == ([4, 4], 16)
    assert joint_batches([*made.values(), made["rows"]]) == ([3, 3, 2], 22)
    assert joint_batches([made["rows"]] * 9) == ([1] * 9, 48), "an image of each at least"


@pytest.mark.slow
def test_a_process_of_its_own_trains_the_same(asked, tmp_path):
    wanted = asked("joint-training")
    (row,) = experiment(wanted, TARGETS).rows
    elsewhere = dataclasses.replace(wanted, out=tmp_path / "apart")
    (apart,) = experiment(elsewhere, TARGETS, engine=Processes(2)).rows
    assert apart.accuracy == row.accuracy


def test_a_pair_has_anchors_of_its_own(asked):
    with pytest.raises(UsageError, match="trained on all targets of `metasum experiment`"):
        compare(asked("joint-training"))


@pytest.mark.parametrize("head", [frozenset(), frozenset({"7.weight", "7.bias"})])
def test_a_step_has_the_gradient_of_the_mean_of_all_losses(head):
    def batch(seed):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(6, 1, 8, 8, generator=generator, dtype=torch.float64)
        return Batch(images, torch.randint(4, (6,), generator=generator))

    batches = [batch(seed) for seed in range(3)]
    joint = JointTraining(small_network(0, norm=False), ["a", "b", "c"], head=head)
    terms = joint.training_step(*batches)
    networks = [small_network(0, norm=False) for _ in batches]
    for name, network, own in zip("abc", networks, batches, strict=True):
        loss = cross_entropy(network(own.images), own.labels)
        (loss / 3).backward()
        assert terms[name].item() == pytest.approx(loss.item())
    trunk = [parameters[0].grad for parameters in [list(network.parameters()) for network in networks]]
    assert torch.allclose(next(joint.parameters()).grad, sum(trunk))
    heads = [joint.for_dataset(name)[7].bias.grad for name in "abc"]
    apart = [network[7].bias.grad for network in networks]
    for found, expected in zip(heads, apart if head else [sum(apart)] * 3, strict=True):
        assert torch.allclose(found, expected)
