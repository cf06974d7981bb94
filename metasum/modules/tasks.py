"""Networks of several tasks, of which each answers for its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Self

from torch import Tensor, nn

from metasum.arguments import checked
from metasum.errors import UsageError


class MergedTasks(nn.Module):
    """A network for each task; what was merged of them is in memory once, and trained, moved or saved as one.

    Args:
        networks: one for each task, which may have tensors in common.

    Example:
        >>> merged = metasum.merge([digits, letters], keep="head.*", images=[digit_loader, letter_loader])
        >>> logits = merged.for_task(1)(images)

    Running statistics of the merged part are in common as well: recalibrate a `copy.deepcopy` of `for_task(i)` for
    those of one task alone.
    """

    @checked
    def __init__(self, networks: Sequence[nn.Module]) -> None:
        if not networks:
            raise UsageError("networks= takes at least one network.")
        super().__init__()
        self.tasks = nn.ModuleList(networks)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """`.to`, `.float` and the like, behind which buffers in common are still in common, as parameters are."""
        places = defaultdict[int, list[tuple[nn.Module, str]]](list)
        for module in self.modules():
            for name, buffer in module._buffers.items():
                places[id(buffer)].append((module, name))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for (first, own), *others in places.values():
            for module, name in others:
                module._buffers[name] = first._buffers[own]
        return self

    @checked
    def for_task(self, index: int) -> nn.Module:
        """The network of a task, counted from 0 as the networks were given: no copy, the common tensors are all tasks'.

        Raises:
            UsageError: there is no such task.
        """
        if not 0 <= index < len(self.tasks):
            raise UsageError(f"there is no task {index}: {len(self.tasks)} networks were merged, counted from 0.")
        return self.tasks[index]

    def forward(self, *inputs: Any, task: int, **named: Any) -> Any:
        """What the network of that task answers."""
        return self.for_task(task)(*inputs, **named)
