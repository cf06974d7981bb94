"""metasum sum --heads own: only trunks are added, each dataset has the head of its own run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file
from tiny import blob_arrays, write_npz

from metasum import SumRequest, load_network, recalibrate, settings, sum_runs, train
from metasum.errors import ArchitectureError, UsageError
from metasum.networks.heads import head_of, with_trunk
from metasum.results.strangers import SumResult
from metasum.strangers.datasets import union_of
from metasum.strangers.runs import open_run
from metasum.tasks import ImageTask, load_dataset
from metasum.training.confusion import accuracy
from metasum.weights.parameters import parameters_of
from metasum.weights.storage import read_metadata, save_weights

TINY = {"data_root": "data", "width": 0.04, "batch_size": 8, "steps": 6, "dropout": 0.1, "calibration_batches": 1}
TINY |= {"device": "cpu", "memory_format": "contiguous"}
HEAD = {"classifier.7.weight", "classifier.7.bias"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with finished runs of `rows` and of `lines`, and their data."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed, target in enumerate(("rows", "lines")):
            write_npz(folder / "data" / f"{target}.npz", blob_arrays(seed))
        for target, support in (("rows", "lines"), ("lines", "rows")):
            train(settings(target=target, support=support, **TINY), report=False)
    return folder


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    """Copies of both, in the folder that the test works in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return [Path("runs/rows+lines/metasum-seed0"), Path("runs/lines+rows/metasum-seed0")]


def own_heads(runs, **more):
    return sum_runs(runs, SumRequest(heads="own", device="cpu", **more), report=False, overwrite=True)


def tasks():
    return {name: ImageTask(load_dataset(name, root=Path("data"))) for name in ("rows", "lines")}


def test_networks_of_one_trunk_are_what_they_are_alone(runs):
    """It would fail were heads averaged, too."""
    first, second = (load_file(run / "target.safetensors") for run in runs)
    mixed = {name: second[name] if name in HEAD else first[name] for name in first}
    save_weights(runs[1] / "target.safetensors", mixed, metadata=read_metadata(runs[1] / "target.safetensors"))
    found = own_heads(runs, operator="average").accuracy.datasets
    assert [own.sum for own in found.values()] == [own.alone for own in found.values()]
    summed = sum_runs(runs, SumRequest(operator="average", device="cpu"), report=False).accuracy.datasets
    assert [own.sum for own in summed.values()] != [own.alone for own in summed.values()]


def test_each_dataset_has_its_own_head_and_the_union_has_one_trunk(runs):
    result = own_heads(runs, on=("lines", "rows"))
    networks = dict(zip(("rows", "lines"), (load_network(run / "target.safetensors") for run in runs), strict=True))
    sets = [parameters_of(own) for own in networks.values()]
    trunk = {name: sets[0][name] + sets[1][name] for name in sets[0] if name not in HEAD}
    union = list(union_of(tasks()).calibration(1))
    for name, task in tasks().items():
        network = with_trunk(networks[name], trunk)
        found = result.accuracy.datasets[name]
        assert found.sum == accuracy(recalibrate(network, task.calibration(1)), task.evaluation())
        assert found.sum_union_statistics == accuracy(recalibrate(network, union), task.evaluation())
    both = [found.sum_union_statistics for found in result.accuracy.datasets.values()]
    assert result.accuracy.union.sum_union_statistics == pytest.approx(sum(both) / 2, abs=1e-6)
    assert list(result.accuracy.datasets) == ["lines", "rows"]
    assert (result.heads, result.opinions) == ("own", None)
    assert result.sum == "runs/sums/rows+lines-sum-own-heads"
    (line,) = result.interpolation
    assert line.accuracy["rows"][-1] == pytest.approx(result.accuracy.datasets["rows"].alone)
    assert line.accuracy["lines"][0] == pytest.approx(result.accuracy.datasets["lines"].alone)
    assert {layer.name for layer in result.geometry[0].weights}.isdisjoint({"classifier.7"})


@pytest.mark.parametrize("operator", ["ties", "regmean", "weight-matching"])
def test_any_method_that_leaves_the_architecture_merges_trunks(metasum, runs, operator):
    flags = ("--heads", "own", "--operator", operator, "--device", "cpu", "--json")
    outcome = metasum("sum", *runs, *flags)
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert set(result["by_operator"]) == {operator, "sum", "average", "task-arithmetic"}
    assert result["heads"] == "own"
    assert SumResult.from_json(result).heads == "own"
    text = Path(result["sum"], "report.html").read_text()
    assert "Own heads:" in text
    assert f"{operator}, own heads, statistics of the dataset" in text


def test_a_file_is_written_for_each_head(metasum, runs):
    flags = ("--heads", "own", "--device", "cpu", "--no-report")
    outcome = metasum("sum", *runs, *flags, "--export", "both.safetensors", "--json")
    assert "exported: both-rows.safetensors\nexported: both-lines.safetensors" in outcome.err.replace("\r", "")
    result = json.loads(outcome.out)
    assert not Path("both.safetensors").exists()
    networks = {name: load_network(f"both-{name}.safetensors") for name in ("rows", "lines")}
    first, second = (dict(own.named_parameters()) for own in networks.values())
    assert {name for name in first if not torch.equal(first[name], second[name])} == HEAD
    for (name, network), run in zip(networks.items(), runs, strict=True):
        assert read_metadata(Path(f"both-{name}.safetensors"))["head"] == name
        assert torch.equal(network.classifier[7].weight, load_file(run / "target.safetensors")["classifier.7.weight"])
        found = metasum("evaluate", f"both-{name}.safetensors", "--on", name, "--data-root", "data", "--json")
        assert json.loads(found.out)["accuracy"][name] == result["accuracy"][name]["sum_union_statistics"]
    outcome = metasum("sum", *runs, *flags, "--export", "both.safetensors", "--name", "again")
    refused(outcome, 2, "both-rows.safetensors is there already")


def test_heads_may_have_other_classes_where_they_are_not_summed(metasum, runs):
    train(settings(target="lines", support="rows", num_classes=9, **TINY), name="nine", report=False)
    nine = runs[1].parent / "nine"
    with pytest.raises(UsageError, match=r"9 classes and .* has 4"):
        sum_runs([nine, runs[0]], SumRequest(any_init=True, device="cpu"))
    result = own_heads([nine, runs[0]], any_init=True)
    assert result.accuracy.datasets.keys() == {"lines", "rows"}
    assert len(result.confusion["lines"].sum) == 9
    assert len(result.confusion["rows"].sum) == 4


def test_what_has_no_head_of_its_own_is_refused(metasum, runs, tmp_path):
    def refusal(*more):
        return metasum("sum", *more, "--heads", "own", "--device", "cpu")

    write_npz(Path("data/third.npz"), blob_arrays(2))
    refused(refusal(*runs, "--on", "third"), 2, "no run was trained on 'third'")
    shutil.copytree(runs[0], runs[0].parent / "other")
    refused(refusal(*runs, runs[0].parent / "other"), 2, "were all trained on 'rows'")
    refused(refusal(*runs, "--operator", "side-by-side"), 2, "side-by-side makes a network of another architecture")
    train(settings(target="rows", support="lines", learner="slots", **TINY), report=False)
    refused(refusal(runs[0].parent / "slots-seed0", runs[1]), 2, "learner 'slots'", "channels of its own")
    with pytest.raises(UsageError, match="heads= takes 'summed' or 'own', not 'mine'"):
        SumRequest(heads="mine")
    assert not Path("runs/sums").exists()


NETWORK = """
import torch

class Net(torch.nn.Module):
    def __init__(self, ending):
        super().__init__()
        self.body, self.head, self.ending = torch.nn.Linear(1024, 6), torch.nn.Linear(6, 4), ending

    def forward(self, images):
        logits = self.head(self.body(images.flatten(1)).relu())
        return logits.log_softmax(1) if self.ending else logits

def plain():
    return Net(False)

def ended():
    return Net(True)

def says():
    network = Net(True)
    network.head_layer = "head"
    return network
"""


@pytest.mark.parametrize(("function", "known"), [("plain", True), ("ended", False), ("says", True)])
def test_a_network_of_ones_own_shows_or_says_what_its_head_is(runs, function, known):
    Path("net.py").write_text(NETWORK)
    own = {name: value for name, value in TINY.items() if name not in ("width", "dropout")}
    request = settings(target="rows", support="lines", network=f"net.py:{function}", heads="own", **own)
    if not known:
        with pytest.raises(ArchitectureError, match=r'--heads own: .* network Net is its head.*head_layer = "fc"'):
            train(request, name="mine", report=False)
        return
    result = train(request, name="mine", report=False)
    assert result.heads == "own"
    run = open_run(Path(result.run), heads="own")
    assert run.kept == {"head.weight", "head.bias"} == head_of(run.network)


def test_results_of_earlier_versions_are_of_summed_heads(runs):
    result = sum_runs(runs, SumRequest(device="cpu"), report=False).to_json()
    assert result.pop("heads") == "summed"
    assert SumResult.from_json(result).heads == "summed"
