"""TIES (Yadav et al. 2023, arXiv:2306.01708, algorithm 1): trim, elect signs, merge what agrees.

A task vector is trimmed as one long vector, over all layers at once, as in the paper; `trim="per-tensor"` trims each
tensor by itself, as mergekit does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from metasum.config import option
from metasum.merging.task_arithmetic import SCALINGS, TaskArithmeticConfig
from metasum.merging.tensors import Chunk, Formula, Part, TensorMethod, Tensors

if TYPE_CHECKING:
    from torch import Tensor

Kept: TypeAlias = Callable[[int], "int | Sequence[int]"]
TOGETHER = 8  # tensors that are looked at in one reading where each is trimmed by itself; half a MiB each a network


@dataclasses.dataclass(frozen=True, kw_only=True)
class TIESConfig(TaskArithmeticConfig):
    """Settings of `ties`."""

    density: float = option(0.2, "Share of each task vector that is kept.", above=0, maximum=1)
    trim: Literal["whole", "per-tensor"] = option(
        "whole", "What TIES trims at once: all parameters as one long vector, or each tensor by itself."
    )


class TIES(TensorMethod):
    """θ_0 + λ · (mean of those trimmed differences that agree in sign)."""

    name = "ties"
    summary = "Task arithmetic on trimmed differences that agree in sign."
    paper = "Yadav et al. 2023, arXiv:2306.01708"
    Config = TIESConfig
    candidates = {"density": (0.2, 0.5), "scaling": SCALINGS}
    fewest = 1
    needs_base = True
    layered = "scaling"

    def formula(self, tensors: Tensors) -> Formula:
        return elected(self, tensors, Chunk.differences)

    def readings(self, parts: Sequence[Part]) -> int:
        return 1 + trimmings(self.config, parts)


def trimmings(config: TIESConfig, parts: Sequence[Part]) -> int:
    """How often everything is read to find out what is trimmed."""
    from metasum.merging.selection import DIGITS, widest

    return len(DIGITS[widest(parts)]) if config.density < 1 else 0


def elected(method: TensorMethod, tensors: Tensors, vectors: Callable[[Chunk], list[Tensor]]) -> Formula:
    """Trims, elects and merges.

    Args:
        method: whose settings hold `density`, `trim` and the layered `scaling`.
        tensors: of the networks.
        vectors: from a chunk to each network's difference from the base, in its values' place.
    """
    trimmed = trimmed_differences(method.config, tensors, vectors)

    def merge(chunk: Chunk) -> Tensor:
        return fused_(trimmed(chunk), chunk.start_values, method.setting(chunk.part.name), elect=True)

    return merge


def trimmed_differences(
    config: TIESConfig, tensors: Tensors, vectors: Callable[[Chunk], list[Tensor]]
) -> Callable[[Chunk], list[Tensor]]:
    """From a chunk to each network's difference with 0 in place of what is not kept; see `elected`."""
    import torch

    bounds = {part.name: [-1.0] * tensors.count for part in tensors.parts}  # nothing is trimmed
    if config.density < 1:
        together = config.trim == "whole"
        bounds |= trim_bounds(
            tensors, vectors, kept=lambda entries: max(1, int(config.density * entries)), together=together
        )

    def trimmed(chunk: Chunk) -> list[Tensor]:
        own = vectors(chunk)
        for vector, bound in zip(own, bounds[chunk.part.name], strict=True):
            torch.ops.aten.hardshrink.out(
                vector, bound, out=vector
            )  # 0 in place of every entry of at most this magnitude
        return own

    return trimmed


def fused_(vectors: Sequence[Tensor], start: Tensor, scaling: float, *, elect: bool) -> Tensor:
    """θ_0 plus λ times the vectors' sum, or with `elect` the mean of those that agree in sign; writes into them."""
    from metasum.weights.composition import added_

    return disjoint_mean_(vectors).mul_(scaling).add_(start) if elect else added_(vectors, start, scaling)


def trim_bounds(
    tensors: Tensors, vectors: Callable[[Chunk], list[Tensor]], *, kept: Kept, together: bool
) -> dict[str, list[float]]:
    """For each part, each network's largest magnitude that is *not* kept; those as large as the last one kept stay.

    The arguments are those of `last_kept`; where none is kept, the bound is infinite.
    """
    import math

    from metasum.merging.selection import just_below

    dtypes = {part.name: part.dtype for part in tensors.parts}
    return {
        name: [math.inf if value is None else just_below(value, dtypes[name]) for value in values]
        for name, values in last_kept(tensors, vectors, kept=kept, together=together).items()
    }


def last_kept(
    tensors: Tensors, vectors: Callable[[Chunk], list[Tensor]], *, kept: Kept, together: bool
) -> dict[str, list[float | None]]:
    """For each part, each network's smallest magnitude among the largest so many; None where that is none.

    Args:
        tensors: of the networks.
        vectors: from a chunk to each network's difference from the base.
        kept: how many of a vector of so many entries are kept, of all networks alike or of each.
        together: a network's parts are one long vector; else each is one by itself.
    """
    from metasum.merging.selection import DIGITS, Selection, widest

    parts = [part for part in tensors.parts if part.entries]
    dtype, size = widest(parts), max(1, len(parts)) if together else 1
    found: dict[str, list[float | None]] = {}
    for first in range(0, len(parts), size * TOGETHER):
        some = parts[first : first + size * TOGETHER]
        groups = [some[start : start + size] for start in range(0, len(some), size)]
        counts = [_each(kept(sum(part.entries for part in group)), tensors.count) for group in groups]
        selections = [Selection([max(1, own) for own in count], dtype) for count in counts]
        whose = {part.name: own for own, group in zip(selections, groups, strict=True) for part in group}
        wanted = {part.name: count for count, group in zip(counts, groups, strict=True) for part in group}

        def see(chunk: Chunk, whose: dict[str, Selection] = whose) -> None:
            for number, vector in enumerate(vectors(chunk)):
                whose[chunk.part.name].count(number, vector.abs_())

        for _ in DIGITS[dtype]:
            tensors.show(see, some)
            for selection in selections:
                selection.narrow()
        for part in some:
            pairs = zip(wanted[part.name], whose[part.name].values, strict=True)
            found[part.name] = [value if count else None for count, value in pairs]
    return found


def _each(kept: int | Sequence[int], networks: int) -> Sequence[int]:
    return [kept] * networks if isinstance(kept, int) else kept


def disjoint_mean_(vectors: Sequence[Tensor], weights: Sequence[float] | None = None, *, even: float = 0) -> Tensor:
    """Mean of the entries whose sign is that of their sum, 0 where there are none; writes into the vectors.

    Args:
        vectors: `[n]` each; they elect the signs alike.
        weights: of the vectors in the mean, 0 or more [default: alike].
        even: the sign that is elected where they add up to 0: 1, or 0 for none.
    """
    from metasum.weights.composition import total_

    sign = agreeing_(vectors, even=even)
    count = wanting(vectors, weights or [1.0] * len(vectors))
    for vector, weight in zip(vectors, weights or (), strict=False):
        vector.mul_(weight)
    return total_(vectors).div_(count.masked_fill_(count == 0, 1)).mul_(sign)


def agreeing_(vectors: Sequence[Tensor], *, even: float = 0) -> Tensor:
    """The sign of the vectors' sum, `[n]`; of them only the magnitudes of entries of that sign are left, else 0.

    `even` is the sign where they add up to 0.
    """
    from metasum.weights.composition import total

    sign = total(vectors).sign_()
    if even:
        sign.masked_fill_(sign == 0, even)
    for vector in vectors:
        vector.mul_(sign).clamp_(min=0)
    return sign


def wanting(magnitudes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum of the weights of those vectors that have an entry above 0, `[n]`, with a dtype of theirs."""
    import torch

    count, above = torch.zeros_like(magnitudes[0]), torch.empty_like(magnitudes[0])
    for own, weight in zip(magnitudes, weights, strict=True):
        count.add_(torch.gt(own, 0, out=above), alpha=weight)
    return count
