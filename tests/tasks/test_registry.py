"""Where a name leads, and how one is added."""

import gzip
import json
import struct

import numpy as np
import pytest
import torch
from tiny import blob_arrays, write_npz

from metasum.baselines import register
from metasum.baselines.independent import IndependentLearner
from metasum.errors import DatasetError, UsageError
from metasum.tasks import Recipe, TaskPair, load_dataset, register_dataset, register_pair
from metasum.tasks.embedded import TEST_FONTS, TRAIN_FONTS
from metasum.tasks.registry import pair_of
from metasum.tasks.vision import VISION

PLUGIN = """
import numpy as np
from metasum.baselines import register
from metasum.baselines.independent import IndependentLearner
from metasum.tasks import Recipe, TaskPair, register_dataset, register_pair

def stripes():
    x = np.zeros((64, 8, 8), np.uint8)
    y = np.arange(64) % 2
    x[y == 0, ::2] = 200
    x[y == 1, :, ::2] = 200
    return (x, y), (x, y)

register_dataset("stripes", stripes, summary="rows or columns")
register_pair(TaskPair("stripes", "rows", Recipe(steps=3, width=0.02, batch_size=4), "a toy"))

class Alone(IndependentLearner):
    name = "alone"
    summary = "The same again."

register(Alone)
"""


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    assert len(PLUGIN.strip().splitlines()) < 30
    return path


@pytest.mark.parametrize(
    ("command", "words"),
    [("tasks", ["stripes", "rows or columns", "a toy"]), ("learners", ["alone", "The same again."])],
)
@pytest.mark.parametrize("flags", [["--json"], []])
def test_what_a_plugin_file_registers_is_listed(metasum, plugin, command, words, flags, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    listed = metasum(command, "--plugin", plugin, *flags)
    assert all(word in listed.out for word in words)


def test_what_a_plugin_file_registers_can_be_trained(metasum, plugin, data_root, tmp_path):
    flags = ["--target", "stripes", "--support", "rows", "--learner", "alone", "--data-root", data_root]
    outcome = metasum("train", *flags, "--plugin", plugin, "--out", tmp_path / "runs", "--json", "--no-report")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert (result["learner"], result["steps"]) == ("alone", 3), "the pair's recipe is the default"


class EntryPoint:
    name, value = "theirs", "their_package:register"

    def __init__(self, function):
        self.function = function

    def load(self):
        return self.function


@pytest.mark.parametrize("group", ["metasum.tasks", "metasum.baselines"])
def test_an_entry_point_s_function_is_called(metasum, monkeypatch, group):
    def theirs():
        register_dataset("theirs", blob_arrays, source="their_package")
        register(type("Theirs", (IndependentLearner,), {"name": "their-way"}), source="their_package")

    points = {group: [EntryPoint(theirs)]}
    monkeypatch.setattr("metasum.plugins.entry_points", lambda group: points.get(group, []))
    assert "their_package" in metasum("tasks", "--json").out


def test_an_entry_point_that_fails_is_named(metasum, monkeypatch):
    def failing():
        raise RuntimeError("no luck")

    monkeypatch.setattr("metasum.plugins.entry_points", lambda group: [EntryPoint(failing)])
    outcome = metasum("learners")
    assert outcome.code == 2
    assert "the entry point 'theirs' (their_package:register) failed" in outcome.err


def test_names_lead_to_registered_then_npz_then_torchvision(tmp_path):
    write_npz(tmp_path / "digits.npz")
    assert load_dataset("digits", root=tmp_path).source == "embedded"
    write_npz(tmp_path / "mnist.npz")
    assert load_dataset("mnist", root=tmp_path).source.endswith("mnist.npz")
    register_dataset("mnist", blob_arrays, source="Python")
    assert load_dataset("mnist", root=tmp_path).source == "Python"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a\\b"])
def test_a_name_that_cannot_be_part_of_a_folder_is_refused(name):
    with pytest.raises(UsageError, match="becomes part of a folder's name"):
        register_dataset(name, blob_arrays)


def test_taken_names_are_refused():
    with pytest.raises(UsageError, match="there is a pair 'mnist\\+cifar10' already"):
        register_pair(TaskPair("mnist", "cifar10"))
    with pytest.raises(UsageError, match="there is a learner 'metasum' already"):
        register(type("Mine", (IndependentLearner,), {"name": "metasum"}))


def test_a_pair_nobody_registered_has_the_default_recipe():
    assert pair_of("x", "y").recipe == Recipe()


def test_the_digits_are_those_that_the_results_were_made_with(tmp_path):
    """They come from a file beside the code; the other two are drawn in the fonts of the installed matplotlib."""
    assert load_dataset("digits", root=tmp_path).checksum == "0a62ffba49d560e5"


@pytest.mark.parametrize("name", ["digits", "letters", "printed-digits"])
def test_embedded_datasets_are_the_same_every_time(name, tmp_path):
    one, again = (load_dataset(name, root=tmp_path) for _ in range(2))
    assert one.checksum == again.checksum
    assert one.num_classes == 10
    assert one.train.images.shape[1] == (3 if name == "printed-digits" else 1)
    for split in (one.train, one.test):
        counts = torch.bincount(split.labels, minlength=10)
        assert counts.min() >= 0.09 * len(split), "every class is there, in about equal number"
    training = {image.numpy().tobytes() for image in one.train.images}
    assert not any(image.numpy().tobytes() in training for image in one.test.images)


def test_test_images_are_drawn_in_fonts_that_training_never_saw():
    assert not set(TRAIN_FONTS) & set(TEST_FONTS)


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())
    with gzip.open(f"{path}.gz", "wb") as file:
        file.write(header + array.astype(np.uint8).tobytes())


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("kmnist", "KMNIST"), ("fashionmnist", "FashionMNIST")]
)
def test_torchvision_folders_are_read_where_they_are(tmp_path, name, folder):
    (x_train, y_train), (x_test, y_test) = blob_arrays(size=28)
    for kind, x, y in (("train", x_train, y_train), ("t10k", x_test, y_test)):
        write_idx(tmp_path / folder / "raw" / f"{kind}-images-idx3-ubyte", x)
        write_idx(tmp_path / folder / "raw" / f"{kind}-labels-idx1-ubyte", y)
    dataset = load_dataset(name, root=tmp_path)
    assert dataset.source == "torchvision"
    assert np.array_equal(dataset.train.images[:, 0].numpy(), x_train)
    assert dataset.test.labels.tolist() == y_test.tolist()


def test_emnist_letters_stand_upright_and_count_from_zero(tmp_path):
    (x_train, y_train), (x_test, y_test) = blob_arrays(size=28)
    for kind, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        write_idx(tmp_path / "EMNIST" / "raw" / f"emnist-letters-{kind}-images-idx3-ubyte", x.transpose(0, 2, 1))
        write_idx(tmp_path / "EMNIST" / "raw" / f"emnist-letters-{kind}-labels-idx1-ubyte", y + 1)
    dataset = load_dataset("emnist", root=tmp_path)
    assert np.array_equal(dataset.train.images[:, 0].numpy(), x_train)
    assert dataset.train.labels.tolist() == y_train.tolist()


@pytest.mark.parametrize("name", VISION)
def test_every_torchvision_dataset_that_is_not_there_says_so_without_a_download(name, tmp_path):
    with pytest.raises(DatasetError, match=rf"'{name}' is not in .*--download"):
        load_dataset(name, root=tmp_path)


@pytest.mark.parametrize(
    ("name", "kind", "labels", "data"),
    [
        ("usps", "USPS", lambda y: {"targets": y.tolist()}, lambda x: x),
        ("cifar10", "CIFAR10", lambda y: {"targets": y.tolist()}, lambda x: np.stack([x, x // 2, x // 3], -1)),
        ("cifar100", "CIFAR100", lambda y: {"targets": y.tolist()}, lambda x: np.stack([x, x // 2, x // 3], -1)),
        ("svhn", "SVHN", lambda y: {"labels": y}, lambda x: np.stack([x, x // 2, x // 3], 1)),
    ],
)
def test_other_torchvision_layouts(tmp_path, monkeypatch, name, kind, labels, data):
    import torchvision.datasets

    splits = blob_arrays(size=16)

    def fake(root, download, train=None, split=None):
        assert root == str(tmp_path)
        assert not download
        x, y = splits[0 if train or split == "train" else 1]
        return type("Fake", (), {"data": data(x), **labels(y)})()

    monkeypatch.setattr(torchvision.datasets, kind, fake)
    dataset = load_dataset(name, root=tmp_path)
    assert np.array_equal(dataset.train.images[:, 0].numpy(), splits[0][0])
    assert dataset.test.labels.tolist() == splits[1][1].tolist()
    if name != "usps":
        assert np.array_equal(dataset.train.images[:, 2].numpy(), splits[0][0] // 3)


def test_the_download_flag_reaches_torchvision(metasum, tiny, monkeypatch):
    import torchvision.datasets

    asked = []

    def fake(root, download, split):
        asked.append(download)
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "SVHN", fake)
    assert metasum("train", *tiny, "--target", "svhn").code == 1
    outcome = metasum("train", *tiny, "--target", "svhn", "--download")
    assert outcome.code == 1
    assert "could not be downloaded" in outcome.err
    assert asked == [False, True]


def test_a_download_that_fails_says_so(tmp_path, monkeypatch):
    import torchvision.datasets

    def unreachable(root, download, **_):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", unreachable)
    with pytest.raises(DatasetError, match=r"could not be downloaded to .*no route to host"):
        load_dataset("cifar10", root=tmp_path, download=True)
