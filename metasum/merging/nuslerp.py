"""NuSLERP (as mergekit's `nuslerp`): SLERP by weights that are divided by their sum, of tensors, rows or columns."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from metasum.config import option
from metasum.merging.slerp import on_the_arc
from metasum.merging.tensors import Chunk, Formula, TensorMethod, Tensors
from metasum.merging.weights import SharesConfig, check_weights, shares

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class NuSLERPConfig(SharesConfig):
    """Settings of `nuslerp`."""

    vectors: Literal["tensor", "rows", "columns"] = option(
        "tensor", "What NuSLERP interpolates by itself: each tensor, or each vector along its last or first dimension."
    )


class NuSLERP(TensorMethod):
    """SLERP at w_2 / (w_1 + w_2), of whole tensors, or of each vector along the last or the first dimension.

    In float64. With a base, of the differences from it. On whole tensors without a base it is `slerp`, which says what
    becomes of tensors without an angle.
    """

    name = "nuslerp"
    summary = "SLERP by weights, of tensors, rows or columns, or of differences from a base."
    paper = "mergekit"
    Config = NuSLERPConfig
    exactly = 2
    takes_base = True
    whole_tensors = True
    layered = "weights"
    compared = False  # learner `slerp` is

    def check(self, count: int, *, what: str = "networks") -> None:
        super().check(count, what=what)
        check_weights(self, count, what=what)

    def formula(self, tensors: Tensors) -> Formula:
        def merge(chunk: Chunk) -> Tensor:
            first, second = chunk.values if chunk.base is None else chunk.differences()
            _, position = shares(self.setting(chunk.part.name), 2)
            if self.config.vectors == "tensor":
                _on_arc_(first, second, position)
            else:
                one, other = (self._laid_out(vector.double(), chunk.part.shape) for vector in (first, second))
                merged = _on_arcs(one, other, position)
                first.copy_((merged.t() if self.config.vectors == "columns" else merged).reshape(-1))
            return first if chunk.base is None else first.add_(chunk.base)

        return merge

    def _laid_out(self, vector: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The vectors that are interpolated, one a row."""
        ends = (shape or (1,))[0], (shape or (1,))[-1]
        return vector.view(ends[0], -1).t() if self.config.vectors == "columns" else vector.view(-1, ends[1])


def _on_arc_(first: Tensor, second: Tensor, position: float) -> None:
    """The whole of one vector, `[n]`, in the first one's place; what is computed with at once stays in a cache."""
    from metasum.merging.sums import BLOCK, exact, whole_sum

    starts = range(0, len(first), BLOCK)
    pairs = [(first[start : start + BLOCK], second[start : start + BLOCK]) for start in starts]
    sums: list[list[float]] = [[], [], []]
    for one, other in ((one.double(), other.double()) for one, other in pairs):
        for all_sums, product in zip(sums, (one * other, one * one, other * other), strict=True):
            all_sums.append(whole_sum(product))
    factors = on_the_arc(*map(exact, sums), position=position)
    for one, other in pairs:
        one.copy_(one.double().mul_(factors[0]).add_(other.double().mul_(factors[1])))


def _on_arcs(first: Tensor, second: Tensor, position: float) -> Tensor:
    """Row by row, `[m, n]`; writes into both."""
    sums = [product.sum(1).tolist() for product in (first * second, first * first, second * second)]
    factors = [on_the_arc(*own, position=position) for own in zip(*sums, strict=True)]
    one, other = (first.new_tensor(own)[:, None] for own in zip(*factors, strict=True))
    return first.mul_(one).add_(second.mul_(other))
