"""metasum sum and metasum evaluate: step 3, what it measures, what it refuses, what it exports."""

import json

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file
from tiny import blob_arrays, images, small_network, write_npz

from metasum import load_network, recalibrate
from metasum.errors import CheckpointError
from metasum.study.sums import Ground
from metasum.tasks import ImageTask, load_dataset, register_dataset
from metasum.tasks.union import UnionTask
from metasum.training.analysis import interpolate, mistakes
from metasum.training.evaluation import accuracy
from metasum.types import Batch


@pytest.fixture
def runs(metasum, tiny, tmp_path):
    """Two finished runs, of `rows` and of `lines`, each with the other as support."""
    swapped = [{"rows": "lines", "lines": "rows"}.get(flag, flag) for flag in tiny]
    assert metasum("train", *tiny).code == 0
    assert metasum("train", *swapped).code == 0
    return [tmp_path / "runs" / pair / "metasum-seed0" for pair in ("rows+lines", "lines+rows")]


@pytest.fixture
def add(metasum, tmp_path):
    return lambda *arguments: metasum("sum", *arguments, "--out", tmp_path / "runs", "--device", "cpu")


def test_two_strangers_are_added_and_measured(add, runs, tmp_path):
    outcome = add(*runs, "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    folder = tmp_path / "runs" / "sums" / "rows+lines-sum"
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["operator"] == "sum"
    assert [run["run"] for run in result["runs"]] == [str(run) for run in runs]
    assert set(result["accuracy"]) == {"rows", "lines", "union"}
    for name, run in zip(("rows", "lines"), runs, strict=True):
        own = json.loads((run / "result.json").read_text())["accuracy"]["target"]["before"]
        assert result["accuracy"][name]["alone"] == own
        assert set(result["accuracy"][name]) == {"alone", "sum", "sum_union_statistics"}
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
    assert json.loads(own.out)["accuracy"]["rows"] == result["accuracy"]["rows"]["alone"]
    again = metasum("evaluate", file, *names, "--data-root", data_root, "--statistics", "recalibrate")
    assert again.code == 0


@pytest.mark.parametrize("operator", ["average", "ties", "dare", "slerp", "fisher", "regmean", "weight-matching"])
def test_any_merging_method_can_be_the_operator(add, runs, operator):
    outcome = add(*runs, "--operator", operator, "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert set(result["by_operator"]) == {operator, "sum", "average", "task-arithmetic"}
    assert result["accuracy"]["rows"]["sum"] == result["by_operator"][operator]["rows"]["sum"]


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
    refused(add(*runs, "--operator", "slerp", "--density", 0.5), 2, "--density says nothing to --operator slerp")


def test_runs_of_different_initialisation_are_told_apart(add, metasum, tiny, runs):
    assert metasum("train", *tiny, "--init-seed", 5, "--name", "other").code == 0
    other = runs[0].parent / "other"
    refused(add(other, runs[1]), 2, "start from different initialisations", "--init-seed", "--any-init")
    refused(add(other, runs[1], "--any-init", "--operator", "ties"), 2, "differences from one initialisation")
    result = json.loads(add(other, runs[1], "--any-init", "--json").out)
    assert result["same_initialisation"] is False
    assert set(result["by_operator"]) == {"sum", "average"}


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--width", 0.05), 1, ("--width is 0.05 in", "and 0.04 in")),
        (("--norm", "none"), 1, ("--norm is none in", "and batch in")),
        (("--network", "resnet", "--dropout", 0.25), 1, ("--network is resnet in", "and vgg16 in")),
        (("--num-classes", 9), 2, ("has 9 classes", "has 4", "--num-classes 9")),
        (("--in-channels", 3), 2, ("--in-channels is 3 in", "and 1 in")),
        (("--evaluate-on", "validation"), 2, ("--evaluate-on is validation in", "and test in")),
    ],
)
def test_runs_that_do_not_fit_together_are_told_apart(add, metasum, tiny, runs, tmp_path, flags, code, words):
    assert metasum("train", *tiny, *flags, "--name", "other").code == 0
    refused(add(runs[0].parent / "other", runs[1]), code, *words)
    assert not (tmp_path / "runs" / "sums").exists()


def test_what_is_no_finished_run_is_refused(add, runs, tmp_path):
    refused(add(runs[0]), 2, "at least two runs, not 1")
    refused(add(runs[0], tmp_path / "nowhere"), 1, "is not a run folder")
    refused(add(*runs, "--operator", "summ"), 2, "did you mean 'sum'?")
    refused(add(*runs, "--name", "a/b"), 2, "--name 'a/b'")
    (runs[1] / "result.json").unlink()
    refused(add(*runs), 1, "has no result.json")


def test_another_dataset_of_the_same_name_is_refused(add, runs, data_root):
    write_npz(data_root / "lines.npz", blob_arrays(9))
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
    assert add(run, runs[1], "--name", "hostile").code == 0
    text = (tmp_path / "runs" / "sums" / "hostile" / "report.html").read_text()
    assert "<script>alert" not in text


def tasks(data_root):
    return {name: ImageTask(load_dataset(name, root=data_root)) for name in ("rows", "lines")}


def test_a_union_calibrates_on_equal_parts(data_root):
    small = write_npz(data_root / "small.npz", blob_arrays(3, train=20, test=8))
    assert small.is_file()
    own = {name: ImageTask(load_dataset(name, root=data_root)) for name in ("rows", "small")}
    union = UnionTask(list(own.values()))
    (batch,) = union.calibration(4)
    rows, few = (next(iter(task.calibration(4))) for task in own.values())
    assert torch.equal(batch, torch.cat([rows[:20], few]))
    assert sum(len(labels) for _, labels in union.evaluation()) == 48 + 8
    assert sum(len(labels) for _, labels in union.evaluation(5)) == 10


class Twisted:
    """A task on given images."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def evaluation(self, limit=None):
        yield Batch(self.x[:limit], self.y[:limit])

    def calibration(self, batches):
        yield self.x


def test_a_ground_measures_with_each_datasets_statistics_and_with_the_unions():
    network = small_network(3)
    first, second = (
        Twisted(images(30, seed=1), torch.zeros(30).long()),
        Twisted(images(10, seed=2) * 5 + 3, torch.ones(10).long()),
    )
    union = UnionTask([first, second])
    found = Ground({"a": first, "b": second}, union, 4).measure(network).accuracy
    for name, task in (("a", first), ("b", second)):
        assert found[name]["sum"] == accuracy(recalibrate(small_network(3), [task.x]), task.evaluation())
    deployed = recalibrate(small_network(3), [torch.cat([first.x[:10], second.x])])
    shares = [accuracy(deployed, task.evaluation()) for task in (first, second)]
    assert [found[name]["sum_union_statistics"] for name in ("a", "b")] == shares
    assert found["union"]["mean_of_datasets"] == pytest.approx(sum(shares) / 2)
    assert found["union"]["sum_union_statistics"] == pytest.approx((30 * shares[0] + 10 * shares[1]) / 40)
    assert torch.equal(network[1].running_mean, deployed[1].running_mean), "it is left with the union's statistics"


def test_the_line_ends_at_the_networks():
    first, second = small_network(1), small_network(2)
    task = Twisted(images(40), torch.randint(4, (40,), generator=torch.Generator().manual_seed(0)))
    line = interpolate(first, second, {"a": task})
    assert line.alphas[0] == 0
    assert line.alphas[-1] == 1
    ends = [accuracy(recalibrate(small_network(seed), [task.x]), task.evaluation()) for seed in (2, 1)]
    assert [line.accuracy["a"][0], line.accuracy["a"][-1]] == ends
    assert torch.equal(first[1].running_mean, small_network(1)[1].running_mean), "the ends are copies"


def test_mistakes_are_what_the_sum_gets_wrong_and_first_what_was_right():
    before, after = small_network(1).eval(), small_network(2).eval()
    x = images(60)
    guesses = before(x).argmax(1), after(x).argmax(1)
    found = mistakes(before, after, Twisted(x, guesses[0].clone()))
    assert len(found) == min(12, int((guesses[0] != guesses[1]).sum()))
    assert all(item.label == item.before != item.after for item in found)
    wrong = mistakes(before, after, Twisted(x, (guesses[1] + 1) % 4))
    rights = [item.label == item.before for item in wrong]
    assert rights == sorted(rights, reverse=True)
