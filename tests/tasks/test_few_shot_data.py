"""Glyphs, class splits and episodes."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from metasum.errors import DatasetError, UsageError
from metasum.tasks import few_shot as few_shot_data
from metasum.tasks.episodes import ClassBatches, Episodes, EpisodeSampler
from metasum.tasks.few_shot import FewShotDataset, load_few_shot
from metasum.tasks.glyphs import CHARACTERS, DRAWINGS, glyphs
from metasum.tasks.images import moments


@pytest.fixture(scope="module")
def rendered():
    return glyphs()


def test_glyphs_are_many_classes_of_twenty_different_drawings(rendered):
    (x_train, y_train), (x_test, y_test) = rendered
    assert len(set(CHARACTERS)) == len(CHARACTERS) >= 200
    images, labels = np.concatenate([x_train, x_test]), np.concatenate([y_train, y_test])
    assert (np.bincount(labels) == DRAWINGS).all()
    assert DRAWINGS == 20
    assert images.shape[1:] == (32, 32)
    assert images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == len(images)
    assert (images.reshape(len(images), -1).max(axis=1) > 100).all()  # every font has every character


def test_glyphs_come_out_the_same_again(rendered):
    again = glyphs()
    assert all(
        (mine == theirs).all() for a, b in zip(rendered, again, strict=True) for mine, theirs in zip(a, b, strict=True)
    )


def toy(classes=12, images=6):
    labels = torch.arange(classes).repeat_interleave(images)
    pixels = torch.arange(len(labels)).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).to(torch.uint8).contiguous()
    parts = {"train": tuple(range(6)), "validation": tuple(range(6, 8)), "test": tuple(range(8, classes))}
    return FewShotDataset("toy", pixels, labels, parts, "a test")


def test_an_episode_holds_its_classes_once_to_adapt_and_once_to_judge():
    episodes = Episodes(toy(), "train", ways=3, shots=2, queries=4)
    for number in range(20):
        adaptation, evaluation, classes = episodes[number]
        assert sorted(adaptation.labels.tolist()) == [0, 0, 1, 1, 2, 2]
        assert evaluation.labels.bincount().tolist() == [4, 4, 4]
        assert set(classes.tolist()) <= set(range(6))
        assert len(set(classes.tolist())) == 3
        seen = [float(image[0, 16, 16]) for image in torch.cat([adaptation.images, evaluation.images])]
        assert len(set(seen)) == 18  # no image twice


def test_labels_stand_for_the_classes_that_the_episode_names():
    data = toy()
    episodes = Episodes(data, "test", ways=3, shots=1, queries=2, seed=4)
    value = {float(v): int(label) for v, label in zip(_normalised(data), data.labels, strict=True)}
    for number in range(10):
        adaptation, evaluation, classes = episodes[number]
        for batch in (adaptation, evaluation):
            for image, label in zip(batch.images, batch.labels, strict=True):
                assert value[float(image[0, 16, 16])] == int(classes[label])


def _normalised(data):
    batches = Episodes(data, "train", ways=2, shots=1, queries=1)
    return (data.images[:, 0, 0, 0] / 255 - batches._mean) / batches._deviation


def test_an_episode_is_the_same_whenever_it_is_drawn_and_python_s_own_draws_are_left_alone():
    episodes, other = (Episodes(toy(), "train", ways=3, shots=1, queries=1, seed=seed) for seed in (0, 1))
    random.seed(7)
    expected = random.random()
    random.seed(7)
    first = episodes[5]
    assert random.random() == expected
    again = episodes[5]
    assert torch.equal(first.evaluation.images, again.evaluation.images)
    assert torch.equal(first.classes, again.classes)
    drawn = [tuple(episodes[n].classes.tolist()) for n in range(10)]
    assert len(set(drawn)) > 5
    assert drawn != [tuple(other[n].classes.tolist()) for n in range(10)]


def test_parts_share_no_class():
    data = toy()
    for part in ("train", "validation", "test"):
        drawn = {int(c) for n in range(30) for c in Episodes(data, part, ways=2, shots=1, queries=1)[n].classes}
        assert drawn == set(data.classes[part])


@pytest.mark.parametrize(
    ("part", "ways", "shots", "words"),
    [("validation", 3, 1, "2 classes to validate on"), ("train", 2, 6, "takes 7 images"), ("test", 5, 1, "--ways 5")],
)
def test_what_a_dataset_cannot_give_is_refused(part, ways, shots, words):
    with pytest.raises(UsageError, match=words):
        Episodes(toy(), part, ways=ways, shots=shots, queries=1)


def test_hard_tasks_are_drawn_from_the_classes_that_failed():
    sampler = EpisodeSampler(Episodes(toy(), "train", ways=2, shots=1, queries=1), tasks=4, hard=True)
    next(sampler)
    drawn = [episode.classes.tolist() for episode in sampler._drawn]
    sampler.remember([1, 0, 1, 0])
    failed = {drawn[0][1], drawn[1][0], drawn[2][1], drawn[3][0]}
    next(sampler)
    hard = sampler._drawn[2:]
    if len(failed) >= 2:
        assert all(set(episode.classes.tolist()) <= failed for episode in hard)
    sampler.remember([0, 0, 0, 0])
    next(sampler)
    assert len(sampler._drawn) == 4


def test_one_failed_class_is_in_every_hard_task():
    sampler = EpisodeSampler(Episodes(toy(), "train", ways=3, shots=1, queries=1), tasks=2, hard=True)
    sampler.load_state_dict({"number": 10, "failed": torch.tensor([4])})
    next(sampler)
    assert 4 in sampler._drawn[1].classes.tolist()


def test_samplers_go_on_where_they_stopped():
    def made():
        return EpisodeSampler(Episodes(toy(), "train", ways=2, shots=1, queries=1), tasks=2, hard=True)

    straight, stopped = made(), made()
    for sampler in (straight, stopped):
        next(sampler)
        sampler.remember([0, 1])
    resumed = made()
    resumed.load_state_dict(stopped.state_dict())
    for mine, theirs in zip(next(resumed), next(straight), strict=True):
        assert torch.equal(mine.adaptation.images, theirs.adaptation.images)
        assert torch.equal(mine.evaluation.images, theirs.evaluation.images)


def test_moments_are_computed_once_for_all_that_draw_from_a_dataset(monkeypatch):
    calls = []
    monkeypatch.setattr(few_shot_data, "moments", lambda *_, **asked: calls.append(asked) or moments(*_, **asked))
    data = toy()
    Episodes(data, "train", ways=2, shots=1, queries=1)
    Episodes(data, "test", ways=2, shots=1, queries=1)
    ClassBatches(data, "train", batch_size=4, generator=torch.Generator())
    assert calls == [{"in_channels": 1}]


def test_class_batches_number_a_parts_classes_from_nothing():
    def made():
        return ClassBatches(toy(), "test", batch_size=40, generator=torch.Generator().manual_seed(0))

    batches = made()
    (batch,) = next(batches)
    assert set(batch.labels.tolist()) == {0, 1, 2, 3}
    other = made()
    other.load_state_dict(batches.state_dict())
    assert torch.equal(next(other)[0].labels, next(batches)[0].labels)


def test_a_registered_dataset_is_divided_by_classes(tmp_path):
    data = load_few_shot("letters", root=tmp_path)
    assert [len(data.classes[part]) for part in ("train", "validation", "test")] == [6, 2, 2]
    assert sorted(c for part in data.classes.values() for c in part) == list(range(10))
    assert len(data.images) == 5000
    assert data.checksum == load_few_shot("letters", root=tmp_path).checksum


@pytest.mark.parametrize("name", ["omniglot", "cifar-fs"])
def test_a_published_set_that_is_not_there_is_said_to_be_missing(name, tmp_path):
    with pytest.raises(DatasetError, match=f"{name}.*--download"):
        load_few_shot(name, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cifar_fs_is_read_from_learn2learns_folder_with_its_own_split(tmp_path):
    for part, classes in (("train", "abc"), ("val", "de"), ("test", "fg")):
        for name in classes:
            folder = tmp_path / "cifarfs" / "processed" / part / name
            folder.mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (32, 32), (ord(name), number, 0)).save(folder / f"{number}.png")
    data = load_few_shot("cifar-fs", root=tmp_path)
    assert data.classes == {"train": (0, 1, 2), "validation": (3, 4), "test": (5, 6)}
    assert data.images.shape == (14, 3, 32, 32)
    assert data.images[data.labels == 4][0, 0, 0, 0] == ord("e")


def test_omniglot_is_read_from_torchvisions_folders(tmp_path, monkeypatch):
    from torchvision.datasets import Omniglot

    monkeypatch.setattr(Omniglot, "_check_integrity", lambda self: True)
    for background, characters in (("images_background", 900), ("images_evaluation", 400)):
        for number in range(characters):
            folder = tmp_path / "omniglot-py" / background / "Alphabet" / f"character{number:04}"
            folder.mkdir(parents=True)
            Image.new("1", (105, 105), number % 2).save(folder / f"{number:04}_01.png")
    data = load_few_shot("omniglot", root=tmp_path)
    assert [len(data.classes[part]) for part in ("train", "validation", "test")] == [1100, 100, 100]
    assert data.images.shape == (1300, 1, 28, 28)
    assert data.images[data.labels == 0].min() == 255 - 0
    assert data.images[data.labels == 1].max() == 0
