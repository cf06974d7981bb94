"""compare-baselines and experiment --heads own: the same networks, measured each with its own head."""

import dataclasses
import json
import shutil

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file
from tiny import blob_arrays, write_npz

from metasum import SumRequest, load_network, settings, sum_runs
from metasum.results.comparison import ComparisonResult
from metasum.results.experiment import ExperimentResult
from metasum.results.run import RunResult
from metasum.study.comparing import compare
from metasum.study.experimenting import experiment
from metasum.study.request import StudyRequest
from metasum.tasks import ImageTask, load_dataset
from metasum.training.confusion import accuracy
from metasum.types import Sides

TINY = {"width": 0.04, "steps": 6, "batch_size": 8, "evaluate_every": 3, "checkpoint_every": 2, "log_every": 2}
TINY |= {"device": "cpu", "calibration_batches": 1, "dropout": 0.1, "memory_format": "contiguous"}
TARGETS = ("rows", "third")


def asked(folder, **given):
    request = settings(support="lines", data_root=str(folder / "data"), **TINY, **given)
    learners = ("independent", "metasum", "slerp")
    return StudyRequest(request=request, learners=learners, seeds=1, tuned=False, report=False, out=folder / "runs")


@pytest.fixture(scope="module")
def done_once(tmp_path_factory):
    """A folder in which the experiment was made with summed heads, and then with own ones."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("heads")
    for seed, name in enumerate(("rows", "lines", "third")):
        write_npz(folder / "data" / f"{name}.npz", blob_arrays(seed))
    experiment(asked(folder), TARGETS)
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*.*") if path.is_file()}
    experiment(asked(folder, heads="own"), TARGETS)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what is of summed heads is left alone"
    return folder


@pytest.fixture
def done(done_once, tmp_path):
    shutil.copytree(done_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


def results(folder, ending):
    return ExperimentResult.read(folder / "runs" / "experiments" / f"rows+third+lines{ending}" / "results.json")


def test_trainings_are_shared_and_numbers_are_of_their_own(done):
    summed, own = (results(done, ending) for ending in ("", "-own-heads"))
    assert (summed.heads, own.heads) == ("summed", "own")
    for one, other in zip(summed.rows, own.rows, strict=True):
        assert (one.learner, one.seconds) == (other.learner, other.seconds)
        assert [one.accuracy[name].before for name in TARGETS] == [other.accuracy[name].before for name in TARGETS]
    assert all(row.opinions is None and row.accuracy["rows"].ensemble is None for row in own.rows)
    for name in ("independent", "metasum", "slerp"):
        folder = done / "runs" / "rows+lines" / f"{name}-seed0-own-heads"
        result = RunResult.read(folder / "result.json")
        assert (result.heads, result.endpoints) == ("own", f"{'independent' if name == 'slerp' else name}-seed0")
        target, support = (
            load_file(folder.parent / result.endpoints / f"{side}.safetensors") for side in Sides._fields
        )
        network = load_network(folder / "summed.safetensors")  # as it was measured on the target
        for layer in ("weight", "bias"):
            assert torch.equal(network.classifier[7].get_parameter(layer), target[f"classifier.7.{layer}"])
        if name != "slerp":
            first = "block_1.0.weight"
            torch.testing.assert_close(network.block_1[0].weight, target[first] + support[first])
        task = ImageTask(load_dataset("rows", root=done / "data"))
        assert result.accuracy.target.after == accuracy(network, task.evaluation())


def test_the_stranger_column_is_what_metasum_sum_says(done):
    for row in results(done, "-own-heads").rows:
        runs = [done / "runs" / f"{target}+lines" / f"{row.learner}-seed0-own-heads" for target in TARGETS]
        operator = "slerp" if row.learner == "slerp" else "sum"
        request = SumRequest(operator=operator, heads="own", device="cpu")
        found = sum_runs(runs, request, out=done / "sums", name=row.learner, report=False).accuracy
        for name in TARGETS:
            assert row.accuracy[name].stranger == found.datasets[name].sum
            assert row.accuracy[name].stranger_union_statistics == found.datasets[name].sum_union_statistics
        assert row.union == found.union


def test_a_measurement_of_other_heads_is_not_taken_for_this_one(done):
    place = done / "runs" / "experiments"
    foreign = place / "rows+third+lines" / "independent-seed0.json"
    own = place / "rows+third+lines-own-heads" / "independent-seed0.json"
    before = results(done, "-own-heads").rows[0]
    shutil.copy(foreign, own)
    assert experiment(asked(done, heads="own"), TARGETS).rows[0] == before
    assert json.loads(own.read_text())["identity"]["heads"] == "own"
    assert "heads" not in json.loads(foreign.read_text())["identity"], "as earlier versions wrote it"


def test_the_comparison_has_a_folder_of_its_own_and_says_what_it_is_of(done, metasum):
    request = asked(done, heads="own")
    request = dataclasses.replace(request, request=request.request.having(target="rows"), report=True)
    result = compare(dataclasses.replace(request, learners=("independent", "slerp")))
    folder = done / "runs" / "rows+lines" / "comparison-own-heads"
    assert ComparisonResult.read(folder / "results.json").rows == result.rows
    assert ComparisonResult.read(folder / "results.json").heads == result.heads == "own"
    header, *lines = (folder / "results.csv").read_text().splitlines()
    column = header.split(",").index("heads")
    assert {line.split(",")[column] for line in lines} == {"own"}
    assert "Own heads:" in (folder / "report.html").read_text()
    assert "heads own" in (folder / "report.html").read_text()
    outcome = metasum("report", folder)
    assert outcome.code == 0, outcome.err


def test_learners_without_heads_of_their_own_are_left_out_or_refused(done, metasum, monkeypatch):
    from metasum.baselines.registry import LEARNERS
    from metasum.study.experimenting import refusal

    request = settings(heads="own")
    without = {name for name in LEARNERS if refusal(name, 2, request) and not refusal(name, 2, settings())}
    assert without == {"slots", "blocks", "side-by-side", "multi-input", "meta-networks"}
    flags = ("--support", "lines", "--data-root", done / "data", "--out", done / "runs", "--heads", "own", "--seeds", 1)
    outcome = metasum("experiment", "--targets", "rows,third", *flags, "--learners", "slots")
    refused(outcome, 2, "--heads own: learner 'slots' gives each network channels of its own")
    refused(metasum("compare-baselines", "--target", "rows", *flags, "--learners", "multi-input"), 2, "has one head")


def test_a_run_goes_on_with_the_heads_that_it_began_with(done, metasum):
    flags = [word for name, value in TINY.items() for word in ("--" + name.replace("_", "-"), value)]
    flags += ["--target", "rows", "--support", "lines", "--data-root", done / "data", "--out", done / "runs"]
    outcome = metasum("train", *flags, "--heads", "own", "--resume", "--no-report")
    refused(outcome, 2, "cannot resume", "heads was summed, now own")
    config = done / "runs" / "rows+lines" / "metasum-seed0" / "config.json"
    old = json.loads(config.read_text())
    del old["settings"]["evaluation"]["heads"]  # of an earlier version
    config.write_text(json.dumps(old))
    refused(metasum("train", *flags, "--heads", "own", "--resume"), 2, "heads was summed, now own")
    assert metasum("train", *flags, "--heads", "summed", "--resume", "--no-report").code == 0


def test_results_of_earlier_versions_are_of_summed_heads(done):
    for kind, path in (
        (RunResult, "rows+lines/metasum-seed0/result.json"),
        (ExperimentResult, "experiments/rows+third+lines/results.json"),
    ):
        plain = json.loads((done / "runs" / path).read_text())
        assert plain.pop("heads") == "summed"
        assert kind.from_json(plain) == kind.read(done / "runs" / path)
