"""Several datasets as one: what a network that was added from all of them is deployed on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from metasum.types import Batch, Task


class UnionTask:
    """The union of several tasks' held-out images; every calibration batch holds as many images of each.

    A small dataset's calibration images come round again, so that statistics on the union belong to all datasets
    alike, however many images each has. Every dataset keeps its own normalisation.

    Args:
        tasks: one or more.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = list(tasks)

    def evaluation(self, limit: int | None = None) -> Iterator[Batch]:
        """Held-out images of the first task, then of the next; at most `limit` of each."""
        return itertools.chain.from_iterable(task.evaluation(limit) for task in self._tasks)

    def calibration(self, batches: int) -> Iterator[Tensor]:
        """At most `batches` batches, each a mixture of all tasks in equal parts."""
        own = [list(task.calibration(batches)) for task in self._tasks]
        for index in range(max(len(images) for images in own)):
            drawn = [images[index % len(images)] for images in own]
            share = min(len(images) for images in drawn)
            yield torch.cat([images[:share] for images in drawn])
