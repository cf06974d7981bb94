"""metasum sum and metasum evaluate: step 3, what it measures, what it refuses, what it exports."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file
from tiny import blob_arrays, write_npz

from metasum import SumRequest, load_network, settings, sum_runs, train
from metasum.baselines.registry import LEARNERS, register
from metasum.errors import ArchitectureError, CheckpointError, UsageError
from metasum.learners.joint import JointLearner
from metasum.merging import METHODS, memory
from metasum.merging.endpoints import Endpoint
from metasum.ownership import owning
from metasum.results.strangers import SumResult
from metasum.tasks import ImageTask, load_dataset, register_dataset

TINY = {"data_root": "data", "width": 0.04, "batch_size": 8, "steps": 6, "dropout": 0.1, "calibration_batches": 1}
TINY |= {"device": "cpu", "memory_format": "contiguous"}
PAIRS = {"rows": "lines", "lines": "rows"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with two finished runs, of `rows` and of `lines`, each with the other as support, and their data."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed, target in enumerate(PAIRS):
            write_npz(folder / "data" / f"{target}.npz", blob_arrays(seed))
        for target, support in PAIRS.items():
            train(settings(target=target, support=support, **TINY), report=False)
    return folder


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    """Copies of both runs, of their own to every test, which works in the folder that `data` and `runs` lie in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return [tmp_path / "runs" / f"{target}+{support}" / "metasum-seed0" for target, support in PAIRS.items()]


@pytest.fixture
def add(metasum, tmp_path):
    flags = ("--no-report", "--out", tmp_path / "runs", "--device", "cpu")
    return lambda *arguments: metasum("sum", *flags, *arguments)


def test_two_strangers_are_added_and_measured(add, runs, tmp_path):
    outcome = add(*runs, "--report", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    folder = tmp_path / "runs" / "sums" / "rows+lines-sum"
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["operator"] == "sum"
    assert [(folder / run["run"]).resolve() for run in result["runs"]] == runs
    assert set(result["accuracy"]) == {"rows", "lines", "union"}
    for name, run in zip(("rows", "lines"), runs, strict=True):
        own = json.loads((run / "result.json").read_text())["accuracy"]["target"]["before"]
        assert result["accuracy"][name]["alone"] == own
        assert set(result["accuracy"][name]) == {"alone", "alone_running", "sum", "sum_union_statistics"}
    assert set(result["by_operator"]) == {"sum", "average", "task-arithmetic"}
    assert result["by_operator"]["sum"]["rows"]["sum"] == result["accuracy"]["rows"]["sum"]
    (line,) = result["interpolation"]
    assert (line["from"], line["to"]) == ("lines", "rows")
    text = (folder / "report.html").read_text()
    assert text.count("<figure>") == 7
    assert "<script" not in text


def test_the_exported_network_is_the_one_that_was_measured(add, metasum, runs, data_root, tmp_path):
    file = tmp_path / "merged.safetensors"
    result = json.loads(add(*runs, "--operator", "average", "--export", file, "--json").out)
    names = ("--on", "rows", "--on", "lines")
    outcome = metasum("evaluate", file, *names, "--data-root", data_root, "--json", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)["accuracy"]
    for name in ("rows", "lines"):
        assert found[name] == result["accuracy"][name]["sum_union_statistics"]
    assert found["union"] == result["accuracy"]["union"]["sum_union_statistics"]
    network = load_network(file)
    first, second = (load_file(run / "target.safetensors")["classifier.7.weight"] for run in runs)
    torch.testing.assert_close(network.classifier[7].weight.detach(), (first + second) / 2)
    assert not network.training
    own = metasum("evaluate", runs[0] / "target.safetensors", "--on", "rows", "--data-root", data_root, "--json")
    assert json.loads(own.out)["accuracy"]["rows"] == result["accuracy"]["rows"]["alone_running"]
    settled = ("--data-root", data_root, "--statistics", "recalibrate", "--json")
    own = metasum("evaluate", runs[0] / "target.safetensors", "--on", "rows", *settled)
    assert json.loads(own.out)["accuracy"]["rows"] == result["accuracy"]["rows"]["alone"]
    again = metasum("evaluate", file, *names, "--data-root", data_root, "--statistics", "recalibrate")
    assert again.code == 0


OPERATORS = ["average", "ties", "dare", "slerp", "fisher", "regmean", "weight-matching", "merge-many", "c2m3"]


@pytest.mark.parametrize("operator", OPERATORS)
def test_any_merging_method_can_be_the_operator(add, metasum, runs, operator):
    outcome = add(*runs, "--operator", operator, "--export", "merged.safetensors", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert set(result["by_operator"]) == {operator, "sum", "average", "task-arithmetic"}
    own = [load_network(run / "target.safetensors") for run in runs]
    images = [list(ImageTask(load_dataset(name, root=Path("data"))).calibration(1)) for name in PAIRS]
    endpoints = [Endpoint(*pair) for pair in zip(own, images, strict=True)]
    start = load_file(runs[0] / "initial.safetensors")
    initial = {name: start[name] for name, _ in own[0].named_parameters()}
    merged = memory.merge(METHODS[operator](), endpoints, initial)
    exported = load_file("merged.safetensors")
    assert all(torch.equal(tensor, exported[name]) for name, tensor in merged.items())
    added = memory.merge(METHODS["sum"](), endpoints, {})
    assert any(not torch.equal(tensor, added[name]) for name, tensor in merged.items())
    on = ("--on", "rows", "--on", "lines", "--data-root", "data", "--statistics", "recalibrate", "--device", "cpu")
    again = json.loads(metasum("evaluate", "merged.safetensors", *on, "--json").out)["accuracy"]
    assert [result["accuracy"][name]["sum"] for name in PAIRS] == [again[name] for name in PAIRS]


def test_what_makes_a_network_for_each_task_is_no_operator(add, runs):
    refused(add(*runs, "--operator", "emr"), 2, "emr makes a network for each task, and no merged one")


def test_three_networks_and_other_datasets(add, metasum, tiny, runs, data_root):
    write_npz(data_root / "third.npz", blob_arrays(2))
    assert metasum("train", *tiny, "--target", "third").code == 0
    third = runs[0].parents[1] / "third+lines" / "metasum-seed0"
    result = json.loads(add(*runs, third, "--on", "rows", "--on", "third", "--json").out)
    assert set(result["accuracy"]) == {"rows", "third", "union"}
    assert len(result["interpolation"]) == 3
    foreign = json.loads(add(*runs, "--on", "third", "--name", "foreign", "--json").out)
    assert foreign["accuracy"]["third"]["alone"] is None
    assert "–" in add(*runs, "--on", "third", "--name", "again").out


def test_a_result_is_not_overwritten_unasked(add, runs):
    assert add(*runs).code == 0
    refused(add(*runs), 2, "holds a result", "--overwrite")
    assert add(*runs, "--overwrite").code == 0


def test_what_cannot_be_written_is_said_first(add, runs, tmp_path):
    refused(add(*runs, "--export", tmp_path / "nowhere" / "x.safetensors"), 2, "there is no folder")
    (tmp_path / "x.safetensors").write_text("mine")
    refused(add(*runs, "--export", tmp_path / "x.safetensors"), 2, "is there already")
    assert (tmp_path / "x.safetensors").read_text() == "mine"


def test_one_process_at_a_time_makes_a_sum(add, runs, tmp_path):
    folder = tmp_path / "runs" / "sums" / "rows+lines-sum"
    with owning(folder):
        refused(add(*runs), 1, "works in", str(folder))
    assert not folder.exists()
    (tmp_path / "file").write_text("")
    refused(add(*runs, "--out", tmp_path / "file"), 1, str(tmp_path / "file"))


def test_what_ends_in_an_error_leaves_no_folder(add, runs, tmp_path, monkeypatch):
    def broken(*_):
        raise ArchitectureError("broken")

    monkeypatch.setattr(METHODS["average"], "formula", broken)
    refused(add(*runs, "--export", "x.safetensors"), 1, "broken")
    assert not (tmp_path / "runs" / "sums" / "rows+lines-sum").exists()
    assert not (tmp_path / "x.safetensors").exists()


PLUGIN = """
import dataclasses
from metasum.baselines import register
from metasum.config import Checked, option
from metasum.merging.plain import Weighted

@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Checked):
    factor: float = option(1.0, "On every network.", above=0)

class Scaled(Weighted):
    "A multiple of the sum."
    name, summary, Config = "scaled", "A multiple of the sum.", Config

    def check(self, count, *, what="networks"):
        pass

    def formula(self, tensors):
        return lambda chunk: sum(chunk.values) * self.config.factor

register(Scaled)
"""


def test_a_plug_ins_method_and_its_setting(add, runs):
    Path("plugin.py").write_text(PLUGIN)
    flags = ("--plugin", "plugin.py", "--operator", "scaled", "--factor", 0.25, "--export", "x.safetensors", "--json")
    outcome = add(*runs, *flags)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["merging"] == {"scaling": 0.4, "factor": 0.25}
    (first, second) = (load_file(run / "target.safetensors")["classifier.7.bias"] for run in runs)
    torch.testing.assert_close(load_file("x.safetensors")["classifier.7.bias"], (first + second) / 4)


@pytest.mark.parametrize("density", [0.2, 0.5])
def test_a_setting_that_no_method_reads_is_refused_whatever_its_value(add, runs, density, tmp_path):
    refused(add(*runs, "--operator", "slerp", "--density", density), 2, "--density says nothing to --operator slerp")
    with pytest.raises(UsageError, match="unknown setting of a merging method 'densty'; did you mean 'density'"):
        sum_runs(runs, SumRequest(operator="ties", settings={"densty": density}))
    assert not (tmp_path / "runs" / "sums").exists()


def test_settings_reach_the_method_that_reads_them(add, runs):
    (first, second) = (load_file(run / "target.safetensors")["classifier.7.bias"] for run in runs)
    add(*runs, "--operator", "weighted", "--weights", "0.25,0.5", "--export", "w.safetensors")
    torch.testing.assert_close(load_file("w.safetensors")["classifier.7.bias"], first / 4 + second / 2)
    results = [json.loads(add(*runs, "--scaling", k, "--name", k, "--json").out) for k in (0.4, 0.9)]
    assert [result["merging"] for result in results] == [{"scaling": 0.4}, {"scaling": 0.9}]
    of_vectors = [result["by_operator"]["task-arithmetic"] for result in results]
    assert results[0]["by_operator"]["sum"] == results[1]["by_operator"]["sum"]
    assert of_vectors[0] != of_vectors[1]


def test_runs_of_different_initialisation_are_told_apart(add, metasum, tiny, runs):
    assert metasum("train", *tiny, "--init-seed", 5, "--name", "other").code == 0
    other = runs[0].parent / "other"
    refused(add(other, runs[1]), 2, "start from different initialisations", "--init-seed", "--any-init")
    refused(add(other, runs[1], "--any-init", "--operator", "ties"), 2, "differences from one initialisation")
    refused(add(other, runs[1], "--any-init", "--scaling", 0.4), 2, "--scaling says nothing to --operator sum")
    result = json.loads(add(other, runs[1], "--any-init", "--json").out)
    assert result["same_initialisation"] is False
    assert set(result["by_operator"]) == {"sum", "average"}


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ({"width": 0.05}, 1, ("--width is 0.05 in", "and 0.04 in")),
        ({"norm": "none"}, 1, ("--norm is none in", "and batch in")),
        ({"network": "resnet"}, 1, ("--network is resnet in", "and vgg16 in")),
        ({"num_classes": 9}, 2, ("has 9 classes", "has 4", "--num-classes 9")),
        ({"in_channels": 3}, 2, ("--in-channels is 3 in", "and 1 in")),
        ({"evaluate_on": "validation"}, 2, ("--evaluate-on is validation in", "and test in")),
    ],
)
def test_runs_that_do_not_fit_together_are_told_apart(add, runs, tmp_path, given, code, words):
    values = {name: value for name, value in TINY.items() if name != "dropout"} | given
    train(settings(target="rows", support="lines", **values), name="other", report=False)
    refused(add(runs[0].parent / "other", runs[1]), code, *words)
    assert not (tmp_path / "runs" / "sums").exists()


def test_what_is_no_finished_run_is_refused(add, runs, tmp_path):
    refused(add(runs[0]), 2, "at least two runs, not 1")
    refused(add(*runs, runs[0], "--operator", "slerp"), 2, "slerp takes 2 networks, not 3")
    refused(add(*runs, "--operator", "weighted", "--weights", "0.5"), 2, "weights")
    assert not (tmp_path / "runs" / "sums").exists()
    refused(add(runs[0], tmp_path / "nowhere"), 1, "is not a run folder")
    refused(add(*runs, "--operator", "summ"), 2, "did you mean 'sum'?")
    refused(add(*runs, "--name", "a/b"), 2, "--name 'a/b'")
    (runs[1] / "result.json").unlink()
    refused(add(*runs), 1, "has no result.json")


def test_a_moved_folder_of_runs_is_found_reported_and_summed(add, metasum, runs, tmp_path):
    own = [run.relative_to(tmp_path) for run in runs]
    written = sum_runs(own, SumRequest(device="cpu"), report=False)
    assert written.sum == "runs/sums/rows+lines-sum"
    elsewhere = sum_runs(own, SumRequest(device="cpu"), out="other", report=False)
    assert [run.run for run in elsewhere.runs] == [str(run) for run in runs], "absolute, where they lie elsewhere"
    (tmp_path / "runs").rename(tmp_path / "old")
    folder = tmp_path / "old" / "sums" / "rows+lines-sum"
    result = SumResult.read(folder / "result.json")
    assert result.sum == str(folder)
    for run in result.runs:
        assert (folder / run.run / "result.json").is_file()
    outcome = metasum("report", folder)
    assert outcome.code == 0, outcome.err
    assert "../../rows+lines/metasum-seed0" in (folder / "report.html").read_text()
    again = metasum("sum", *(f"old/{run.relative_to('runs')}" for run in own), "--out", "old", "--overwrite", "--json")
    assert json.loads(again.out)["accuracy"] == written.accuracy.plain()


@pytest.mark.parametrize("format_", [1, 2])
def test_a_run_of_a_plug_in_that_is_not_loaded_can_be_added(add, runs, format_):
    class Mine(JointLearner):
        name = "mine"

    register(Mine)
    train(settings(learner="mine", target="rows", support="lines", **TINY), report=False)
    run = runs[0].with_name("mine-seed0")
    expected = json.loads(add(run, runs[1], "--json").out)
    del LEARNERS.entries["mine"]
    if format_ == 1:
        old_format(run)
    outcome = add(run, runs[1], "--overwrite", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["runs"][0]["learner"] == "mine"
    assert found == expected


def old_format(run):
    """Makes a run's config.json one of format 1, with what this needs of it."""
    file = run / "config.json"
    description = json.loads(file.read_text())
    assert description.pop("format") == 2
    own = description["settings"].pop("own")
    description["settings"]["sum"] = {**own, **description["settings"].pop("evaluation")}
    file.write_text(json.dumps(description))


def test_another_dataset_of_the_same_name_is_refused(add, runs):
    write_npz(runs[0].parents[2] / "data" / "lines.npz", blob_arrays(9))
    refused(add(*runs), 2, "dataset 'lines'", "is not the one that", "checksum")


def test_an_evaluation_that_cannot_be(metasum, add, runs, data_root, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"")
    root = ("--data-root", data_root)
    refused(metasum("evaluate", tmp_path / "x.safetensors", "--on", "rows", *root), 1, "is damaged or is not")
    refused(metasum("evaluate", tmp_path / "y.safetensors", "--on", "rows", *root), 1, "there is no weights file")
    refused(metasum("evaluate", runs[0] / "target.safetensors", "--on", "digits"), 2, "has 10 classes")
    refused(metasum("evaluate", runs[0] / "target.safetensors", "--on", "rowz", *root), 2, "unknown dataset 'rowz'")


def test_a_weights_file_of_another_program(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="does not say of what architecture"):
        load_network(tmp_path / "other.safetensors")


@pytest.mark.parametrize("name", ["<script>alert(1)<", "a&b"])
def test_a_hostile_name_is_text(add, metasum, tiny, runs, name, tmp_path):
    register_dataset(name, blob_arrays)
    assert metasum("train", *tiny, "--target", name).code == 0
    run = tmp_path / "runs" / f"{name}+lines" / "metasum-seed0"
    assert add(run, runs[1], "--name", "hostile", "--report").code == 0
    text = (tmp_path / "runs" / "sums" / "hostile" / "report.html").read_text()
    assert "<script>alert" not in text


def test_a_run_that_has_seen_anothers_dataset_is_said_to_be_no_stranger(add, runs):
    outcome = add(*runs)
    assert outcome.code == 0, outcome.err
    told = " ".join(outcome.out.split())
    assert "rows+lines/metasum-seed0 was trained beside images of lines: its network is no stranger there." in told
    assert "lines+rows/metasum-seed0 was trained beside images of rows" in told
