"""What a step is given, for ever: a batch of the target and one of the support, or one of each of several datasets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from metasum.errors import CheckpointError, UsageError
from metasum.tasks.task import ImageTask
from metasum.types import Batch, Episode


class PairSampler(Iterator[Episode]):
    """Yields episodes of one (target, support) pair, or of pairs drawn evenly from several.

    Within a dataset every training image is seen once before any is seen twice; a batch may reach over the end of
    a pass. All randomness comes from `generator`, and `state_dict` holds all of it.

    Args:
        pairs: one or more (target, support) tasks.
        batch_size: images of each in an episode.
        generator: a CPU generator; the draws of each dataset are seeded from it.

    Example:
        >>> sampler = PairSampler([(mnist, cifar10)], batch_size=64, generator=torch.Generator().manual_seed(0))
        >>> target, support = next(sampler)
    """

    def __init__(
        self, pairs: Sequence[tuple[ImageTask, ImageTask]], *, batch_size: int, generator: torch.Generator
    ) -> None:
        if not pairs:
            raise UsageError("a sampler takes at least one pair of tasks.")
        self._generator = generator
        self._pairs = [
            (_Stream(target, batch_size, _child(generator)), _Stream(support, batch_size, _child(generator)))
            for target, support in pairs
        ]

    def __next__(self) -> Episode:
        which = 0
        if len(self._pairs) > 1:
            which = int(torch.randint(len(self._pairs), (1,), generator=self._generator))
        target, support = self._pairs[which]
        return Episode(target.next(), support.next())

    def state_dict(self) -> dict[str, Any]:
        """Where the sampler stands: tensors and numbers only."""
        streams = [stream.state_dict() for pair in self._pairs for stream in pair]
        return {"generator": self._generator.get_state(), "streams": streams}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from where another sampler of the same tasks stood.

        Raises:
            CheckpointError: the state is of other tasks.
        """
        streams = [stream for pair in self._pairs for stream in pair]
        if len(streams) != len(state["streams"]):
            raise CheckpointError("the checkpoint's sampler drew from other pairs.")
        self._generator.set_state(state["generator"])
        for stream, saved in zip(streams, state["streams"], strict=True):
            stream.load_state_dict(saved)


class JointSampler(Iterator[tuple[Batch, ...]]):
    """Yields a batch of every task, in their order; each task's images come as in `PairSampler`.

    Args:
        tasks: one or more.
        batch_sizes: images of each in a step.
        generator: a CPU generator, from which the draws of each task are seeded.
    """

    def __init__(self, tasks: Sequence[ImageTask], *, batch_sizes: Sequence[int], generator: torch.Generator) -> None:
        self._streams = [_Stream(task, n, _child(generator)) for task, n in zip(tasks, batch_sizes, strict=True)]

    def __next__(self) -> tuple[Batch, ...]:
        return tuple(stream.next() for stream in self._streams)

    def state_dict(self) -> dict[str, Any]:
        """Where the sampler stands: tensors only."""
        return {"streams": [stream.state_dict() for stream in self._streams]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from where another sampler of the same tasks stood; raises CheckpointError if it is of others."""
        if len(self._streams) != len(state["streams"]):
            raise CheckpointError("the checkpoint's sampler drew from other datasets.")
        for stream, saved in zip(self._streams, state["streams"], strict=True):
            stream.load_state_dict(saved)


class _Stream:
    """Shuffled passes over one task, in batches."""

    def __init__(self, task: ImageTask, batch_size: int, generator: torch.Generator) -> None:
        self._task, self._batch_size, self._generator = task, batch_size, generator
        self._waiting = torch.empty(0, dtype=torch.int64)

    def next(self) -> Batch:
        while len(self._waiting) < self._batch_size:
            self._waiting = torch.cat([self._waiting, torch.randperm(len(self._task), generator=self._generator)])
            self._expect()
        indices, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
        return self._task.training_batch(indices, self._generator)

    def _expect(self) -> None:
        size, count = self._batch_size, len(self._waiting) // self._batch_size
        self._task.expect(self._waiting[: count * size].view(count, size).unbind())

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"generator": self._generator.get_state(), "waiting": self._waiting.clone()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        if len(state["waiting"]) and int(state["waiting"].max()) >= len(self._task):
            raise CheckpointError("the checkpoint's sampler drew from a larger dataset.")
        self._generator.set_state(state["generator"])
        self._waiting = state["waiting"]
        self._expect()


def _child(generator: torch.Generator) -> torch.Generator:
    seed = int(torch.randint(2**62, (1,), generator=generator))
    return torch.Generator().manual_seed(seed)
