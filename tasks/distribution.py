"""A distribution of tasks to meta-train on: datasets, and what can be made of one by relabelling and turning it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from metasum.arguments import check_between, checked
from metasum.config import Checked, option
from metasum.errors import UsageError
from metasum.tasks.task import ImageTask
from metasum.types import Batch


@dataclass(frozen=True)
class Variations(Checked):
    """What is drawn anew for each task; all of it is the same for adaptation and evaluation images."""

    permute_labels: bool = option(
        True,
        "Which output stands for which class; else a class's output is its own number, or its place among those drawn.",
    )
    rotate: bool = option(True, "A turn by 0, 90, 180 or 270 degrees.")
    invert: bool = option(True, "Whether dark and bright change places.")
    classes: int | None = option(
        None, "How many of a dataset's classes a task has [default: all that there are outputs for].", minimum=2
    )


class TaskDistribution(Iterator[tuple[Batch, ...]]):
    """Yields tuples of batches, one for each of the networks that are to be added: the target, the support, others.

    Partners are of different datasets where there are enough; those that share one have no class in common, so that an
    image belongs to one of them. Only training images are read, and only of `tasks`. All randomness comes from
    `generator`, and `state_dict` holds all of it.

    Args:
        tasks: by name, one or more.
        images: of each task, for adaptation and evaluation together.
        outputs: of the network; a dataset with more classes is cut down to a part of them.
        variations: what is drawn for each task.
        partners: how many networks are added, at least and at most.
        generator: a CPU generator.

    Raises:
        UsageError: no task; fewer than two partners; classes that cannot be had.

    Example:
        >>> draws = TaskDistribution({"letters": task}, images=192, outputs=10, generator=torch.Generator())
        >>> target, support = next(draws)
    """

    @checked
    def __init__(
        self,
        tasks: Mapping[str, ImageTask],
        *,
        images: int,
        outputs: int,
        generator: torch.Generator,
        variations: Variations | None = None,
        partners: tuple[int, int] = (2, 2),
    ) -> None:
        check_between("images", images, 1)
        check_between("outputs", outputs, 2)
        self._tasks, self._images, self._outputs = dict(tasks), images, outputs
        self._variations, self._partners, self._generator = variations or Variations(), partners, generator
        if not tasks:
            raise UsageError("a distribution of tasks takes at least one dataset.")
        if not 2 <= partners[0] <= partners[1]:
            raise UsageError(f"a sum takes at least two partners, not {partners[0]} to {partners[1]}.")
        for name, task in tasks.items():
            sharing = -(-partners[1] // len(tasks))  # as many partners as may have this dataset
            if task.num_classes // sharing < 2:
                raise UsageError(
                    f"{partners[1]} partners cannot share {len(tasks)} datasets: {name!r} has {task.num_classes} "
                    "classes, and each needs two of its own."
                )
            most = min(task.num_classes // sharing, outputs)
            if not 2 <= (self._variations.classes or most) <= most:
                raise UsageError(f"a task of {name!r} can have 2 to {most} classes, not {self._variations.classes}.")

    def __next__(self) -> tuple[Batch, ...]:
        least, most = self._partners
        count = least if least == most else self._below(most + 1 - least) + least
        names = list(self._tasks)
        order = torch.cat([self._shuffled(len(names)) for _ in range(-(-count // len(names)))])[:count].tolist()
        drawn: dict[str, list[torch.Tensor]] = {}
        for index in dict.fromkeys(order):
            task, sharing = self._tasks[names[index]], order.count(index)
            parts = self._shuffled(task.num_classes).tensor_split(sharing)
            drawn[names[index]] = [part[: self._variations.classes or self._outputs] for part in parts]
        return tuple(self._draw(self._tasks[names[index]], drawn[names[index]].pop()) for index in order)

    def _draw(self, task: ImageTask, classes: torch.Tensor) -> Batch:
        """Images of these classes `[K]`, all varied alike."""
        vary = self._variations
        candidates = torch.isin(task.labels, classes).nonzero().squeeze(1)
        chosen = candidates[torch.randint(len(candidates), (self._images,), generator=self._generator)]
        images, labels = task.training_batch(chosen, self._generator)
        if vary.permute_labels or int(classes.max()) >= self._outputs:
            stands_for = torch.zeros(task.num_classes, dtype=torch.int64)
            if vary.permute_labels:
                stands_for[classes] = self._shuffled(self._outputs)[: len(classes)]
            else:  # in the dataset's own order, from 0
                stands_for[classes.sort().values] = torch.arange(len(classes))
            labels = stands_for.to(labels.device)[labels]
        if vary.rotate:
            images = images.rot90(self._below(4), dims=(2, 3))
        if vary.invert and self._below(2):
            images = -images  # normalised: the mean stays where it is
        return Batch(images.contiguous(), labels)

    def _below(self, limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=self._generator))

    def _shuffled(self, count: int) -> torch.Tensor:
        return torch.randperm(count, generator=self._generator)

    def state_dict(self) -> dict[str, Any]:
        """Where the distribution stands."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from where another one of the same tasks stood."""
        self._generator.set_state(state["generator"])
