"""Several processes that train as one: batches are divided, gradients averaged, and the first one writes.

Every process holds the whole learner (with FSDP, a piece of it) and draws the same batches, of which it works on its
share; the mean of the shares' gradients is the batch's. So the number of processes changes rounding and dropout's draws
(and, where it is not synchronised, batch normalisation), and a run may be continued by another number of them.

Gradients are averaged by hand, not by DistributedDataParallel: a step runs several networks with weights that are
sums, and sends several backward passes into them. Networks in pieces (FSDP) do it by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from metasum.errors import MetaSumError, UsageError, reason
from metasum.types import Batch, FewShotEpisode
from metasum.weights.pieces import in_pieces

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")


class Processes:
    """The processes of one run, as one of them sees them; a single process talks to nobody."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = self.fabric = fabric
        self.count, self.rank = fabric.world_size, fabric.global_rank

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.count > 1

    def share(self, parts: Sequence[Batch | FewShotEpisode]) -> Sequence[Batch | FewShotEpisode]:
        """The images of each batch that this process works on.

        Raises:
            UsageError: a batch cannot be divided evenly, or it is a few-shot episode, which is not divided.
        """
        if not self.several:
            return parts
        batches = [part for part in parts if isinstance(part, Batch)]
        if len(batches) < len(parts):
            raise UsageError("few-shot episodes cannot be divided among processes; take --devices 1.")
        for batch in batches:
            self.check_batch(batch.size)
        return [Batch(*(part[self.rank :: self.count] for part in batch)) for batch in batches]

    def check_batch(self, size: int) -> None:
        """Raises UsageError where a batch of so many images cannot be divided evenly."""
        if size % self.count:
            raise UsageError(f"--batch-size {size} cannot be divided among {self.count} processes.")

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gives every parameter the mean of the processes' gradients; one that has none anywhere keeps none.

        One in pieces has a piece of the mean already.
        """
        if self.several:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            self._average([gradient for gradient in gradients if not in_pieces(gradient)])

    def average_buffers(self, buffers: Iterable[Tensor]) -> None:
        """Gives running statistics the mean of the processes'; counters are equal anyway."""
        if self.several:
            self._average([buffer for buffer in buffers if buffer.is_floating_point()])

    def _average(self, tensors: list[Tensor]) -> None:
        """In place, as one message of each type."""
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):  # in an order that all processes share
            own = [tensor for tensor in tensors if tensor.dtype == dtype]
            total = self._fabric.all_reduce(torch.cat([tensor.flatten() for tensor in own]), reduce_op="mean")
            assert isinstance(total, Tensor)
            for tensor, mean in zip(own, torch.split(total, [tensor.numel() for tensor in own]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def means(self, rows: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
        """Of every number the mean over the processes, which have the same names in the same rows."""
        if not self.several or not rows:
            return [dict(row) for row in rows]
        numbers = torch.tensor([value for row in rows for value in row.values()], dtype=torch.float64)
        total = self._fabric.all_reduce(numbers, reduce_op="mean")
        assert isinstance(total, Tensor)
        found = iter(total.tolist())
        return [{name: next(found) for name in row} for row in rows]

    def any(self, flag: bool) -> bool:
        """Whether it is so in one of them."""
        if not self.several:
            return flag
        return bool(self._fabric.all_reduce(torch.tensor(float(flag)), reduce_op="sum"))

    def agreed(self, make: Callable[[], T]) -> T:
        """What the first one makes, told to all; what it fails with, all fail with."""
        if not self.several:
            return make()
        found: tuple[Any, MetaSumError | None] = (None, None)
        failure: BaseException | None = None
        if self.first:
            try:
                found = make(), None
            except BaseException as error:  # noqa: BLE001 (whatever it is, the others are not to wait for ever)
                failure = error
                told = error if isinstance(error, MetaSumError) else MetaSumError(f"the first process: {reason(error)}")
                found = None, told
        found = self._fabric.broadcast(found)
        if failure is not None:
            raise failure
        if found[1] is not None:
            raise found[1]
        return found[0]  # type: ignore[no-any-return]  # what `make` makes
