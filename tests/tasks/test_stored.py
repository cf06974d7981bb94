"""Data that need not fit into memory: folders of images and torch Datasets, decoded batch by batch."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from refusal import nothing_written, refused
from tiny import blob_arrays, write_npz

from metasum.errors import DatasetError
from metasum.tasks import register_dataset, stored
from metasum.tasks.few_shot import load_few_shot
from metasum.tasks.folders import dataset_from_torch
from metasum.tasks.loading import load_dataset
from metasum.tasks.registry import known_datasets
from metasum.tasks.sampler import PairSampler
from metasum.tasks.task import ImageTask


def write_folder(root, name="pictures", arrays=None):
    """The arrays as PNG files by class."""
    for split, (images, labels) in zip(("train", "test"), arrays or blob_arrays(0, size=32), strict=True):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = root / name / split / f"class-{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number:04}.png")
    return root


class Items(torch.utils.data.Dataset):
    """Items (uint8 tensor [1, H, W], label); it counts what is decoded in this process."""

    def __init__(self, images, labels):
        self.images, self.targets, self.decoded = images, labels.tolist(), 0

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        self.decoded += 1
        return torch.from_numpy(self.images[index][None]), self.targets[index]


def both(size=32, **given):
    """The same images in memory and item by item."""
    arrays = blob_arrays(0, size=size, **given)
    return arrays, dataset_from_torch("items", tuple(Items(*split) for split in arrays), source="test")


def tasks(**given):
    arrays, items = both()
    write = {"in_channels": 1, **given}
    from metasum.tasks.arrays import dataset_from_arrays

    return ImageTask(dataset_from_arrays("items", arrays, source="test"), **write), ImageTask(items, **write)


def batches(task, count, state=None):
    sampler = PairSampler([(task, task)], batch_size=10, generator=torch.Generator().manual_seed(3))
    if state is not None:
        sampler.load_state_dict(state)
    return [next(sampler) for _ in range(count)], sampler.state_dict()


@pytest.mark.parametrize("evaluate_on", ["test", "validation"])
@pytest.mark.parametrize("workers", [False, True])
def test_it_is_the_data_that_it_would_be_in_memory(monkeypatch, evaluate_on, workers):
    """Batches over the ends of passes, augmented; held-out and calibration images; with processes and without."""
    monkeypatch.setattr(stored, "FEW", 4 if workers else 10**9)
    monkeypatch.setattr(stored, "usable_cores", lambda: 2)
    memory, apart = tasks(evaluate_on=evaluate_on, augmentation="shift")
    for one, other in zip(batches(memory, 14)[0], batches(apart, 14)[0], strict=True):
        for mine, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(memory.evaluation(30), apart.evaluation(30), strict=True):
        torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(memory.calibration(2), apart.calibration(2), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_sampler_goes_on_where_it_stood():
    _, apart = tasks()
    every, _ = batches(apart, 15)
    _, state = batches(apart, 7)
    rest, _ = batches(apart, 8, state)
    for mine, theirs in zip(every[7:], rest, strict=True):
        torch.testing.assert_close(mine.target, theirs.target)


@pytest.mark.parametrize("workers", [False, True])
def test_decoding_moves_no_random_state(monkeypatch, workers):
    """Dropout draws from it: a run that goes on would not be the run that it goes on with."""
    monkeypatch.setattr(stored, "FEW", 4 if workers else 10**9)
    before = torch.random.get_rng_state()
    _, apart = tasks()
    batches(apart, 12)
    list(apart.evaluation())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_nothing_is_decoded_before_it_is_asked_for():
    _, items = both()
    source = items.train.images._source
    before = source.decoded
    view = items.train.images[torch.arange(50)][10:20].to("cpu").sized(16)
    assert view.shape == (10, 1, 16, 16)
    assert source.decoded == before
    assert view.read().shape == (10, 1, 16, 16)
    assert source.decoded == before + 10


def test_other_images_have_another_checksum(tmp_path):
    write_folder(tmp_path, "a")
    write_folder(tmp_path, "b")
    first = load_dataset("a", root=tmp_path).checksum
    assert load_dataset("b", root=tmp_path).checksum == first
    (tmp_path / "b" / "train" / "class-0" / "more.png").write_bytes(b"x")
    assert load_dataset("b", root=tmp_path).checksum != first
    arrays, items = both()
    changed = [images.copy() for images, _ in arrays]
    changed[0][0] += 1
    other = dataset_from_torch("items", (Items(changed[0], arrays[0][1]), Items(*arrays[1])), source="test")
    assert other.checksum != items.checksum


def test_a_folder_of_images_is_trained_on(metasum, tiny, tmp_path):
    write_folder(tmp_path / "data")
    assert known_datasets(tmp_path / "data")["pictures"][0] == "images in folders by class"
    flags = ["pictures" if flag == "rows" else flag for flag in tiny]
    for given in (["--image-size", 16], ["--in-channels", 3, "--name", "colour"]):
        outcome = metasum("train", *flags, *given)
        assert outcome.code == 0, outcome.err
    config = json.loads((tmp_path / "runs" / "pictures+lines" / "colour" / "config.json").read_text())
    assert config["data"]["target"]["source"] == str(tmp_path / "data" / "pictures")
    weights = tmp_path / "runs" / "pictures+lines" / "colour" / "target.safetensors"
    outcome = metasum("evaluate", weights, "--on", "pictures", "--data-root", tmp_path / "data")
    assert outcome.code == 0, outcome.err


def test_a_plugins_torch_dataset_is_trained_on(metasum, tiny, tmp_path):
    arrays = blob_arrays(0, size=20)
    register_dataset("items", lambda: tuple(Items(*split) for split in arrays))
    outcome = metasum("train", *["items" if flag == "rows" else flag for flag in tiny])
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "runs" / "items+lines").is_dir()


def test_images_of_any_shape_become_square(tmp_path):
    arrays = blob_arrays(0)
    wide = tuple((np.zeros((len(x), 10, 30), np.uint8) + 7, y) for x, y in arrays)
    root = write_folder(tmp_path, arrays=wide)
    assert load_dataset("pictures", root=root).train.images.sized(24).read().shape == (96, 3, 24, 24)


def test_what_is_wrong_is_said_before_anything_is_written(metasum, tiny, tmp_path):
    root = tmp_path / "data"
    write_folder(root)
    flags = ["pictures" if flag == "rows" else flag for flag in tiny]
    refused(metasum("train", *flags, "--in-channels", 2), 1, "3 channels", "--in-channels 3")
    (root / "pictures" / "train" / "other").mkdir()
    refused(metasum("train", *flags), 1, "pictures/train is no folder of images", "other")
    Image.new("RGB", (4, 4)).save(root / "pictures" / "train" / "other" / "a.png")
    refused(metasum("train", *flags), 1, "other classes; one lacks 'other'")
    assert nothing_written(tmp_path)
    with pytest.raises(DatasetError, match="few-shot"):
        load_few_shot("pictures2", root=write_folder(root, "pictures2"))


@pytest.mark.parametrize("workers", [False, True])
def test_a_damaged_image_is_named(monkeypatch, tmp_path, workers):
    monkeypatch.setattr(stored, "FEW", 4 if workers else 10**9)
    write_folder(tmp_path)
    damaged = tmp_path / "pictures" / "train" / "class-1" / "0005.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    images = load_dataset("pictures", root=tmp_path).train.images
    with pytest.raises(DatasetError, match=r"class-1/0005.png cannot be read") as caught:
        list(images.pieces(16))
    assert len(str(caught.value).splitlines()) == 1


WRONG = {
    "labels": (lambda x, y: (x, y + 0.5), "labels must be whole numbers"),
    "floats": (lambda x, y: (x / 255, y), "float64"),
    "gaps": (lambda x, y: (x, y * 2), "no 1, 3"),
    "empty": (lambda x, y: (x[:0], y[:0]), "split is empty"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_torch_dataset_that_is_none_of_classes(kind):
    change, words = WRONG[kind]
    with pytest.raises(DatasetError, match=words):
        dataset_from_torch("items", tuple(Items(*change(*split)) for split in blob_arrays(0)), source="test")


def test_files_in_the_keras_layout_come_first(tmp_path):
    write_folder(tmp_path, "rows")
    write_npz(tmp_path / "rows.npz")
    assert isinstance(load_dataset("rows", root=tmp_path).train.images, torch.Tensor)
