"""N-way K-shot episodes, drawn by learn2learn, and the meta-batches that training is given."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from metasum import third_party
from metasum.tasks.few_shot import FewShotDataset, check_episodes
from metasum.tasks.images import prepare
from metasum.types import Batch, FewShotEpisode


class Episodes:
    """The N-way K-shot episodes of one part of a dataset: `episodes[17]` is always the same one.

    Args:
        dataset: images of many classes.
        part: "train", "validation" or "test": whose classes are drawn.
        ways: N, classes in an episode.
        shots: K, adaptation images of each.
        queries: evaluation images of each.
        in_channels: 1 or 3: what the network takes. Images are normalised by the moments of the "train" part.
        device: where batches are made.
        seed: of the draws.

    Raises:
        UsageError: the part has too few classes, or a class too few images.
    """

    def __init__(
        self,
        dataset: FewShotDataset,
        part: str,
        *,
        ways: int,
        shots: int,
        queries: int,
        in_channels: int = 1,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        check_episodes(dataset, part, ways=ways, images=shots + queries)
        self.ways, self._shots, self._name = ways, shots, f"{part}/{seed}"
        self._mean, self._deviation = (found.to(device) for found in dataset.moments(in_channels))
        self._images, self._labels = dataset.images.to(device), dataset.labels
        data = third_party.learn2learn().data
        own = dataset.of_part(part).nonzero().squeeze(1)
        self._classes = dataset.classes[part]
        self._pool = data.MetaDataset(_Positions(own, dataset.labels[own]))
        self._any = data.transforms.NWays(self._pool, ways)
        self._transforms = [
            data.transforms.KShots(self._pool, shots + queries),
            data.transforms.LoadData(self._pool),
            data.transforms.RemapLabels(self._pool),
        ]

    def __getitem__(self, number: int) -> FewShotEpisode:
        return self.draw(number)

    def draw(self, number: int, *, among: Sequence[int] | None = None) -> FewShotEpisode:
        """Episode `number`; its classes are drawn from `among`, at least `ways` class numbers [default: all]."""
        data = third_party.learn2learn().data
        with _drawing(f"{self._name}/{number}"):
            if among is None:
                first = self._any
            else:  # NWays after FilterLabels fails from Python 3.11 on (learn2learn 0.2.0)
                first = data.transforms.FilterLabels(self._pool, random.sample(list(among), self.ways))
            positions, labels = data.Taskset(self._pool, [first, *self._transforms])[0]
        (adapt, adapt_labels), (judge, judge_labels) = data.partition_task(positions, labels, shots=self._shots)
        classes = torch.empty(self.ways, dtype=torch.int64)
        classes[adapt_labels] = self._labels[adapt]
        return FewShotEpisode(self._batch(adapt, adapt_labels), self._batch(judge, judge_labels), classes)

    def others(self, number: int, classes: Sequence[int], count: int) -> list[int]:
        """`count` random classes of the part that are not among `classes`."""
        rest = sorted(set(self._classes) - set(classes))
        with _drawing(f"{self._name}/{number}/others"):
            return random.sample(rest, count)

    def _batch(self, positions: Tensor, labels: Tensor) -> Batch:
        pixels = self._images[positions.to(self._images.device)]
        return Batch(prepare(pixels, self._mean, self._deviation), labels.to(pixels.device))


class _Positions(TorchDataset[tuple[int, int]]):
    """Where each image lies in the whole dataset, with its class: learn2learn then moves numbers, not images."""

    def __init__(self, positions: Tensor, labels: Tensor) -> None:
        self._items = list(zip(positions.tolist(), labels.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[int, int]:
        return self._items[index]


@contextmanager
def _drawing(seed: str) -> Iterator[None]:
    """learn2learn draws with Python's own generator: seeded here, and given back as it was."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


class EpisodeSampler(Iterator[tuple[FewShotEpisode, ...]]):
    """Meta-batches of episodes, for ever.

    With `hard`, the class that each task of a meta-batch failed worst on is kept, and half of the next meta-batch's
    tasks (rounded down; of single tasks every second one) are made of those classes, filled up with others at random
    (Sun et al. 2019, arXiv:1812.02391, section 4.3).

    Args:
        episodes: where they are drawn from.
        tasks: episodes in a meta-batch.
        hard: whether to draw hard tasks; `remember` must then be told after each meta-batch.
    """

    def __init__(self, episodes: Episodes, *, tasks: int, hard: bool = False) -> None:
        self._episodes, self._tasks, self._hard = episodes, tasks, hard
        self._number = 0
        self._failed: list[int] = []
        self._drawn: list[FewShotEpisode] = []

    def __next__(self) -> tuple[FewShotEpisode, ...]:
        failed, self._failed, self._drawn = self._failed, [], []
        easy = self._tasks - self._tasks // 2 if self._tasks > 1 else self._number % 2
        for task in range(self._tasks):
            among = self._hard_classes(failed) if failed and task >= easy else None
            self._drawn.append(self._episodes.draw(self._number, among=among))
            self._number += 1
        return tuple(self._drawn)

    def _hard_classes(self, failed: Sequence[int]) -> list[int]:
        missing = max(0, self._episodes.ways - len(failed))
        return [*failed, *self._episodes.others(self._number, failed, missing)]

    def remember(self, worst: Sequence[int]) -> None:
        """Takes the label that each task of the last meta-batch failed worst on."""
        if self._hard:
            failed = {int(episode.classes[label]) for episode, label in zip(self._drawn, worst, strict=True)}
            self._failed = sorted(failed)

    def state_dict(self) -> dict[str, Any]:
        """Where the sampler stands."""
        return {"number": self._number, "failed": torch.tensor(self._failed, dtype=torch.int64)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from where another one of the same episodes stood."""
        self._number, self._failed = int(state["number"]), state["failed"].tolist()


class ClassBatches(Iterator[tuple[Batch]]):
    """Batches for plain classification of one part's classes, numbered from 0, for ever.

    Args:
        dataset: images of many classes.
        part: "train", "validation" or "test".
        batch_size: images in a batch, drawn with replacement.
        generator: a CPU generator.
        in_channels: 1 or 3. Images are normalised by the moments of the "train" part.
        device: where batches are made.
    """

    def __init__(
        self,
        dataset: FewShotDataset,
        part: str,
        *,
        batch_size: int,
        generator: torch.Generator,
        in_channels: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        classes, own = torch.tensor(sorted(dataset.classes[part])), dataset.of_part(part)
        self._images = dataset.images[own].to(device)
        self._labels = torch.searchsorted(classes, dataset.labels[own]).to(device)
        self._mean, self._deviation = (found.to(device) for found in dataset.moments(in_channels))
        self._batch_size, self._generator = batch_size, generator

    def __next__(self) -> tuple[Batch]:
        drawn = torch.randint(len(self._labels), (self._batch_size,), generator=self._generator)
        drawn = drawn.to(self._labels.device)
        return (Batch(prepare(self._images[drawn], self._mean, self._deviation), self._labels[drawn]),)

    def state_dict(self) -> dict[str, Any]:
        """Where the draws stand."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from where other batches of the same part stood."""
        self._generator.set_state(state["generator"])
