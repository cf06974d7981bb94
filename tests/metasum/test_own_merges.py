"""`metasum merge` and `evaluate` on networks of the user's own: a function, checkpoints, images in .npz files."""

import json

import numpy as np
import pytest
import torch
from apart import network
from refusal import refused
from safetensors.torch import load_file
from tiny import blob_arrays, write_npz
from torch import nn

from metasum.errors import DatasetError
from metasum.networks.checkpoints import load_checkpoint
from metasum.networks.functions import make_network
from metasum.run.array_files import ArrayFile
from metasum.run.own_networks import OwnNetwork
from metasum.weights.batches import LABELS, Together, asked
from metasum.weights.statistics import recalibrate

MODEL = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
                         nn.Linear(192, 5), nn.ReLU(), nn.Linear(5, 4))

def vector():
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(2, 3), nn.Linear(3, 3)

    def forward(self, left, right):
        return self.left(left) + self.right(right)

def raises():
    raise ValueError("not today")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: the function, two checkpoints as people have them, data in two layouts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(MODEL)
    torch.save({"model": {f"module.{name}": t for name, t in network(1).state_dict().items()}}, "a.pt")
    torch.save(network(2).state_dict(), "b.pt")
    (x_train, y_train), (x_test, y_test) = blob_arrays(0)
    write_npz(tmp_path / "keras.npz", ((x_train, y_train), (x_test, y_test)))
    np.savez(tmp_path / "plain.npz", images=x_train, labels=y_train)
    return tmp_path


PAIR = ("a.pt", "b.pt")
OWN = ("--model", "my_model.py:make", "--device", "cpu")
IMAGES = ("--images", "keras.npz,plain.npz")
OUT = ("-o", "m.safetensors")


@pytest.mark.parametrize("method", ["average", "ties", "fisher", "regmean-plus-plus", "weight-matching"])
def test_checkpoints_are_merged_and_measured(metasum, folder, method):
    based = ["--base", "b.pt"] if method == "ties" else []
    outcome = metasum("merge", method, *PAIR, *OUT, *OWN, *IMAGES, *based, "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["method"] == method
    assert result["files"] == list(PAIR)
    assert outcome.err.splitlines() == result["notes"]
    assert "a.pt: the tensors under 'model' are taken; 'module.' is left off every name." in outcome.err
    merged = network(0)
    assert load_checkpoint(merged, "m.safetensors") == []
    assert not torch.equal(merged.get_parameter("4.weight"), network(1).get_parameter("4.weight"))
    outcome = metasum("evaluate", "m.safetensors", *OWN, "--on", "keras.npz,plain.npz", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert set(found["accuracy"]) == {"keras.npz", "plain.npz", "union"}
    x = torch.from_numpy(blob_arrays(0)[1][0]).unsqueeze(1) / 255
    right = merged.eval()(x).argmax(1) == torch.from_numpy(blob_arrays(0)[1][1])
    assert found["accuracy"]["keras.npz"] == pytest.approx(right.float().mean().item(), abs=1e-6)
    expected = (48 * found["accuracy"]["keras.npz"] + 96 * found["accuracy"]["plain.npz"]) / 144
    assert found["accuracy"]["union"] == pytest.approx(expected, abs=1e-5)
    assert "loss" in metasum("evaluate", "m.safetensors", *OWN, "--on", "keras.npz").out
    assert sorted(file.name for file in folder.glob("*.partial")) == []


def test_statistics_are_recomputed_on_the_images(metasum, folder):
    """Of the merged network where --images are given; before it is measured where --recalibrate-on is."""
    assert metasum("merge", "average", *PAIR, *OUT, *OWN).code == 0
    mean = load_file("m.safetensors")["1.running_mean"]
    assert torch.equal(mean, torch.zeros(3)), "the mean of the two"
    stored = json.loads(metasum("evaluate", "m.safetensors", *OWN, "--on", "keras.npz", "--json").out)
    asked = ("evaluate", "m.safetensors", *OWN, "--on", "keras.npz", "--recalibrate-on", "plain.npz", "--json")
    again = json.loads(metasum(*asked).out)
    assert again["loss"]["keras.npz"] != stored["loss"]["keras.npz"]
    assert again["statistics"] == "recalibrated on plain.npz"
    assert metasum("merge", "average", *PAIR, *OUT, *OWN, "--images", "plain.npz,plain.npz", "--overwrite").code == 0
    here = json.loads(metasum("evaluate", "m.safetensors", *OWN, "--on", "keras.npz", "--json").out)
    assert here["loss"]["keras.npz"] == pytest.approx(again["loss"]["keras.npz"], rel=1e-4)


def test_patterns_and_dtype_hold_for_networks_as_for_files(metasum, folder):
    flags = ("--skip", "6.*", "--dtype", "float16")
    assert metasum("merge", "regmean", *PAIR, *OUT, *OWN, *IMAGES, *flags).code == 0
    merged = load_file("m.safetensors")
    assert torch.equal(merged["6.weight"], network(1).state_dict()["6.weight"].half())
    assert merged["4.weight"].dtype == torch.float16
    assert not torch.equal(merged["4.weight"], network(1).state_dict()["4.weight"].half())
    load_checkpoint(network(0), "m.safetensors")
    outcome = metasum("merge", "regmean", *PAIR, "-o", "n.safetensors", *OWN, *IMAGES, "--only", "seven.*")
    refused(outcome, 2, "--only seven.*: no parameter is called so")


def test_quiet_says_nothing_of_what_was_left_off(metasum, folder):
    outcome = metasum("merge", "average", *PAIR, *OUT, *OWN, "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    outcome = metasum("merge", "average", *PAIR, *OUT, "--quiet", "--overwrite")
    assert (outcome.code, outcome.err) == (0, "")


MERGES = {
    "no function": (["average", *PAIR, "--model", "my_model.py:mak"], 2, ["has no function 'mak'", "make"]),
    "it raises": (["average", *PAIR, "--model", "my_model.py:raises"], 2, ["failed in line", "not today"]),
    "no data": (["regmean", *PAIR, *OWN], 2, ["regmean looks at data: give --images"]),
    "one of two": (["regmean", *PAIR, *OWN, "--images", "plain.npz"], 2, ["each of the 2 checkpoints, not 1"]),
    "data is not there": (["regmean", *PAIR, *OWN, "--images", "plain.npz,x.npz"], 1, ["there is no file x.npz"]),
    "data of another network": (["regmean", *PAIR, *OWN, "--images", "v.npz,v.npz"], 2, ["cannot be run on a batch"]),
    "no base": (["ties", *PAIR, *OWN], 2, ["ties needs --base FILE"]),
    "a base": (["average", *PAIR, *OWN, "--base", "a.pt"], 2, ["average takes no --base"]),
    "other network": (["average", *PAIR, "--model", "my_model.py:vector"], 1, ["a.pt does not fit the network"]),
    "no checkpoint": (["average", "a.pt", "c.pt", *OWN], 1, ["there is no checkpoint c.pt"]),
    "another architecture": (["side-by-side", *PAIR, *OWN], 2, ["another architecture"]),
    "threads": (["average", *PAIR, *OWN, "--threads", 2], 2, ["--threads says nothing with --model"]),
    "no model": (["average", *PAIR, "--images", "plain.npz,plain.npz"], 2, ["--images is for networks of your own"]),
    "heads, no model": (["average", *PAIR, "--keep", "6.*"], 2, ["--keep is for networks of your own"]),
    "two models": (["average", *PAIR, "a.pt", "--model", "my_model.py:make,my_model.py:make"], 2, ["each of the 3"]),
    "nothing kept": (["average", *PAIR, *OWN, "--keep", "7.*"], 2, ["--keep 7.*: no parameter is called so"]),
    "all kept": (["average", *PAIR, *OWN, "--keep", "*"], 2, ["--keep keeps every parameter"]),
    "a network for each task": (["emr", *PAIR, *OWN, "--base", "a.pt"], 2, ["emr makes a network for each task"]),
    "the same of files": (["tall-masks", *PAIR, "--base", "a.pt"], 2, ["tall-masks makes a network for each task"]),
    "a method with data": (["regmean", *PAIR], 2, ["add --model FILE.py:FUNCTION"]),
    "moments": (["regmean", *PAIR, *OWN, *IMAGES, "--mean", "0.5"], 2, ["--mean and --std go together"]),
    "words": (["regmean", *PAIR, *OWN, *IMAGES, "--mean", "half", "--std", "1"], 2, ["--mean takes numbers"]),
    "itself": (["average", *PAIR, *OWN, "-o", "in.safetensors", "--overwrite"], 2, ["one of the files"]),
}


@pytest.mark.parametrize("kind", MERGES)
def test_a_merge_that_makes_no_sense(metasum, folder, kind):
    arguments, code, words = MERGES[kind]
    np.savez("v.npz", x=np.ones((8, 6), np.float32))
    if kind == "itself":
        assert metasum("merge", "average", *PAIR, "-o", "in.safetensors").code == 0
        arguments = ["average", "in.safetensors", *arguments[2:]]
    before = sorted(file.name for file in folder.iterdir() if file.name != "__pycache__")
    given = [] if "-o" in arguments else OUT
    refused(metasum("merge", *arguments, *given), code, *words)
    assert sorted(file.name for file in folder.iterdir() if file.name != "__pycache__") == before


EVALUATIONS = {
    "no labels": ([*OWN, "--on", "unlabelled.npz"], 1, ["unlabelled.npz has no labels to measure on"]),
    "a dataset's name": ([*OWN, "--on", "digits"], 1, ["there is no file digits"]),
    "statistics": ([*OWN, "--on", "keras.npz", "--statistics", "recalibrate"], 2, ["--recalibrate-on"]),
    "nothing to recalibrate": (
        ["--model", "my_model.py:vector", "--on", "v.npz", "--recalibrate-on", "v.npz"],
        2,
        ["keeps no running statistics"],
    ),
    "too many classes": ([*OWN, "--on", "classes.npz"], 2, ["a label is 7", "4 classes"]),
    "not ours": (["--on", "digits"], 1, ["b.pt", "add --model FILE.py:FUNCTION"]),
    "no model": (["--on", "rows", "--recalibrate-on", "x.npz"], 2, ["--recalibrate-on is for networks of your own"]),
}


@pytest.mark.parametrize("kind", EVALUATIONS)
def test_an_evaluation_that_makes_no_sense(metasum, folder, kind):
    arguments, code, words = EVALUATIONS[kind]
    np.savez("unlabelled.npz", x=np.ones((8, 8, 8), np.uint8))
    np.savez("classes.npz", x=np.ones((8, 8, 8), np.uint8), y=np.full(8, 7))
    np.savez("v.npz", x=np.ones((8, 6), np.float32), y=np.zeros(8, np.int64))
    with torch.random.fork_rng():
        torch.save(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).state_dict(), "vector.pt")
    file = "vector.pt" if "vector" in str(arguments) else "b.pt"
    refused(metasum("evaluate", file, *arguments), code, *words)


def test_inputs_by_name_and_vectors(metasum, folder):
    """A network of two inputs, and one of vectors, in float64 files."""
    rng = np.random.default_rng(0)
    np.savez("two.npz", left=rng.normal(size=(9, 2)), right=rng.normal(size=(9, 3)), labels=np.arange(9) % 3)
    np.savez("v.npz", x=rng.normal(size=(9, 6)), y=np.arange(9) % 3)
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("own", folder / "my_model.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    for function, data in (("Two", "two.npz"), ("vector", "v.npz")):
        with torch.random.fork_rng():
            torch.save(getattr(module, function)().state_dict(), "own.pt")
        own = ("--model", f"my_model.py:{function}")
        outcome = metasum("evaluate", "own.pt", *own, "--on", data, "--json")
        assert outcome.code == 0, outcome.err
        flags = ("--images", f"{data},{data}", "-o", f"{function}.safetensors")
        assert metasum("merge", "fisher", "own.pt", "own.pt", *own, *flags).code == 0


def test_images_become_what_a_network_takes(tmp_path):
    x = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    np.savez(tmp_path / "a.npz", x=x)
    ((images,),) = ArrayFile(tmp_path / "a.npz", "train")
    assert torch.equal(images, torch.from_numpy(x).permute(0, 3, 1, 2) / 255)
    ((images,),) = ArrayFile(tmp_path / "a.npz", "train", mean=(0.5, 0, 0), std=(0.5, 1, 2))
    assert images[0, :, 0, 0].tolist() == pytest.approx([-1, 1 / 255, 1 / 255])
    for name, arrays in {
        "rows": {"x": x, "y": np.zeros(3, np.int64)},
        "half": {"x_test": x, "y_test": np.zeros(2, np.int64)},
        "text": {"x": np.array(["a", "b"])},
        "floats": {"x": x, "y": np.zeros(2)},
        "objects": {"x": np.array([{}] * 2, dtype=object)},
        "nothing": {"y": np.zeros(2, np.int64)},
    }.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(DatasetError, match=f"{name}.npz"):
            ArrayFile(tmp_path / f"{name}.npz", "train")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    with pytest.raises(DatasetError, match="damaged"):
        ArrayFile(tmp_path / "cut.npz", "train")


def test_statistics_are_those_of_the_network_that_is_written(metasum, folder):
    outcome = metasum("merge", "average", *PAIR, *OUT, *OWN, *IMAGES, "--skip", "0.*")
    assert outcome.code == 0, outcome.err
    merged = network(0)
    load_checkpoint(merged, "m.safetensors")
    torch.testing.assert_close(merged.get_parameter("0.weight"), network(1).get_parameter("0.weight"))
    written = merged.get_buffer("1.running_mean").clone()
    own = OwnNetwork(("my_model.py:make",), device=torch.device("cpu"))
    recalibrate(merged, Together([own.data(path, "train", merged) for path in ("keras.npz", "plain.npz")]))
    torch.testing.assert_close(written, merged.get_buffer("1.running_mean"))


def test_statistics_that_are_left_out_stay_the_first_files(metasum, folder):
    outcome = metasum("merge", "average", *PAIR, *OUT, *OWN, *IMAGES, "--skip", "1.*")
    assert outcome.code == 0, outcome.err
    assert torch.equal(load_file("m.safetensors")["1.running_mean"], network(1).get_buffer("1.running_mean"))


@pytest.mark.parametrize("command", ["average", "fisher", "weight-matching"])
def test_weights_that_are_nan_are_refused(metasum, folder, command):
    state = network(2).state_dict()
    state["4.weight"][0, 0] = torch.nan
    torch.save(state, "b.pt")
    outcome = metasum("merge", command, *PAIR, *OUT, *OWN, *IMAGES)
    refused(outcome, 2, "b.pt: '4.weight' holds NaN")
    assert not (folder / "m.safetensors").exists()
    refused(metasum("evaluate", "b.pt", *OWN, "--on", "keras.npz"), 2, "b.pt: '4.weight' holds NaN")


HEADS = """
from torch import nn

class Trunk(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(192, classes)

    def forward(self, images):
        return self.head(self.trunk(images))

def four():
    return Trunk(4)

def six():
    return Trunk(6)

def seven():
    return Trunk(7)
"""
MODELS = ("--model", "heads.py:four,heads.py:six", "--device", "cpu")


@pytest.fixture
def heads(folder):
    """The current folder, with networks of one trunk and heads of four, six and seven classes."""
    (folder / "heads.py").write_text(HEADS)
    with torch.random.fork_rng():
        for seed, (name, function) in enumerate({"four": "four", "six": "six", "start": "seven"}.items()):
            torch.manual_seed(seed)
            torch.save(make_network(f"heads.py:{function}").state_dict(), f"{name}.pt")
    return folder


def test_heads_of_different_sizes_are_kept_in_a_file_for_each(metasum, heads):
    given = ("four.pt", "six.pt", *MODELS, "--keep", "head.*", *IMAGES)
    outcome = metasum("merge", "ties", *given, *OUT, "--base", "start.pt", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["outputs"] == ["m-1.safetensors", "m-2.safetensors"]
    assert result["output"] == "m-1.safetensors"
    assert "m-2.safetensors is the network of six.pt" in outcome.err
    first, second = (load_file(name) for name in result["outputs"])
    assert torch.equal(first["trunk.0.weight"], second["trunk.0.weight"])
    assert torch.equal(first["trunk.1.running_mean"], second["trunk.1.running_mean"])
    for name, merged in (("four", first), ("six", second)):
        own = torch.load(f"{name}.pt", weights_only=True)
        assert torch.equal(merged["head.weight"], own["head.weight"])
        assert not torch.equal(merged["trunk.0.weight"], own["trunk.0.weight"])
    refused(metasum("merge", "average", *given, *OUT), 2, "m-1.safetensors is there already")
    outcome = metasum("evaluate", "m-2.safetensors", "--model", "heads.py:six", "--on", "keras.npz", "--json")
    assert outcome.code == 0, outcome.err


def test_whoever_has_heads_of_different_sizes_is_told_what_to_write(metasum, heads):
    pair = ("merge", "average", "four.pt", "six.pt", *OUT)
    refused(metasum(*pair, *MODELS), 1, "'head.weight' is [4, 192]", "say with --keep what each network keeps")
    one = ("--model", "heads.py:four", "--keep", "head.*")
    refused(metasum(*pair, *one), 1, "six.pt does not fit", "--model takes a function for each checkpoint")


def test_images_in_wide_integers_are_refused_with_what_to_do(metasum, folder):
    np.savez("wide.npz", x=np.ones((8, 1, 8, 8), np.int64), y=np.zeros(8, np.int64))
    outcome = metasum("evaluate", "b.pt", *OWN, "--on", "wide.npz")
    refused(outcome, 2, "wide.npz: the network cannot be run on a batch of int64", "Store images as uint8")


def test_heads_of_different_sizes_are_compared(metasum, heads):
    flags = ("--on", "keras.npz,plain.npz", "--methods", "ties,regmean", "--base", "start.pt", "--keep", "head.*")
    images = ("--images", "plain.npz,plain.npz")
    outcome = metasum("compare-networks", "four.pt", "six.pt", *MODELS, *flags, *images, "--json")
    assert outcome.code == 0, outcome.err
    rows = {row["name"]: row for row in json.loads(outcome.out)["rows"]}
    assert {*rows} == {"each alone, on its own data", "ties", "regmean"}
    measured = metasum("evaluate", "six.pt", "--model", "heads.py:six", "--on", "plain.npz", "--json")
    alone = rows["each alone, on its own data"]["on"]["plain.npz"]["accuracy"]
    assert alone == json.loads(measured.out)["accuracy"]["plain.npz"]


def test_without_images_it_is_said_whose_statistics_the_result_has(metasum, folder):
    told = "batch-norm statistics are the mean of the checkpoints' own"
    assert told in metasum("merge", "average", *PAIR, *OUT, *OWN).err
    assert told not in metasum("merge", "average", *PAIR, *OUT, *OWN, *IMAGES, "--overwrite").err


def test_data_that_make_nan_are_an_error_that_names_the_file(metasum, folder):
    """And leave nothing, where a network or its statistics would have been NaN."""
    x, y = blob_arrays(0)[1]
    x = x[:, None].astype(np.float32) / 255
    x[3] = np.nan
    np.savez("nan.npz", x=x, y=y)
    refused(metasum("evaluate", "b.pt", *OWN, "--on", "keras.npz,nan.npz"), 1, "nan.npz: ", "answers with NaN")
    again = ("--on", "keras.npz", "--recalibrate-on", "nan.npz")
    refused(metasum("evaluate", "b.pt", *OWN, *again), 1, "nan.npz: running_mean of a batch norm becomes NaN")
    for method in ("average", "fisher", "regmean", "weight-matching"):
        outcome = metasum("merge", method, *PAIR, *OUT, *OWN, "--images", "keras.npz,nan.npz")
        assert (outcome.code, outcome.out) == (1, ""), outcome.err
        assert "NaN" in outcome.err.splitlines()[-1]
        assert not (folder / "m.safetensors").exists()
    outcome = metasum("compare-networks", *PAIR, *OWN, "--on", "keras.npz,nan.npz", "--quiet")
    refused(outcome, 1, "nan.npz: ", "answers with NaN")


def test_a_file_that_the_network_does_not_take_is_named(metasum, folder):
    np.savez("v.npz", x=np.ones((8, 6), np.float32), y=np.zeros(8, np.int64))
    np.savez("classes.npz", x=np.ones((8, 8, 8), np.uint8), y=np.full(8, 7))
    for method in ("average", "regmean"):
        outcome = metasum("merge", method, *PAIR, *OUT, *OWN, "--images", "keras.npz,v.npz", "--quiet")
        refused(outcome, 2, "v.npz: the network cannot be run on a batch")
        assert "forward=" not in outcome.err
    refused(metasum("evaluate", "b.pt", *OWN, "--on", "keras.npz,classes.npz"), 2, "classes.npz: a label is 7")
    outcome = metasum("compare-networks", *PAIR, *OWN, "--on", "keras.npz,classes.npz", "--quiet")
    refused(outcome, 2, "classes.npz: a label is 7")


@pytest.mark.parametrize("name", LABELS)
def test_labels_have_the_names_that_batches_have(tmp_path, name):
    x, y = np.ones((3, 2), np.float32), np.arange(3)
    np.savez(tmp_path / "a.npz", x=x, **{name: y})
    ((_, labels),) = ArrayFile(tmp_path / "a.npz", "test", labelled=True)
    assert torch.equal(labels, asked({"x": torch.from_numpy(x), name: torch.from_numpy(y)}).labels)


def test_images_in_uint8_in_either_layout_or_flat(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    for name, array in {"first": x, "last": x.transpose(0, 2, 3, 1)}.items():
        np.savez(tmp_path / f"{name}.npz", images=array)
        ((images,),) = ArrayFile(tmp_path / f"{name}.npz", "train", mean=(0.5, 0.4, 0.3), std=(1, 1, 2))
        assert images.shape == (5, 3, 8, 8)
        assert images[0, 2, 1, 1].item() == pytest.approx((x[0, 2, 1, 1] / 255 - 0.3) / 2, abs=1e-6)
    np.savez(tmp_path / "flat.npz", x_train=x[:, 0].reshape(5, 64))
    ((images,),) = ArrayFile(tmp_path / "flat.npz", "train", mean=(0.5,), std=(0.5,))
    assert torch.allclose(images, torch.from_numpy(x[:, 0].reshape(5, 64)) / 127.5 - 1)
    np.savez(tmp_path / "ids.npz", input_ids=x[:, 0, 0])
    ((ids,),) = ArrayFile(tmp_path / "ids.npz", "train")
    assert ids.dtype == torch.uint8, "taken as they are"
    np.savez(tmp_path / "many.npz", x=x.reshape(5, 8, 3, 8))
    with pytest.raises(DatasetError, match=r"many.npz: 'x' is uint8 \[5, 8, 3, 8\]; images in uint8 are"):
        ArrayFile(tmp_path / "many.npz", "train")
