"""Methods whose arithmetic is on one layer's differences as matrices, and the linear algebra that they share."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from metasum.errors import MetaSumError
from metasum.merging.tensors import Chunk, Formula, TensorMethod, Tensors

if TYPE_CHECKING:
    from torch import Tensor

OVERLAP = 1e-6  # singular values of vectors of norm 1, side by side, up to which they are taken to coincide


class MatrixMethod(TensorMethod):
    """θ_0 + λ δ: for each matrix, δ is what the method makes of all the δ_i; for each vector, their mean.

    A tensor of more than two dimensions is a matrix with a row for each of its first (a convolution's output channels).
    The authors' code, made for transformers, takes the mean of those.
    """

    needs_base = True
    fewest = 1
    whole_tensors = True
    layered = "scaling"

    @abstractmethod
    def joined(self, matrices: list[Tensor]) -> Tensor:
        """δ, `[m, n]`, of differences, `[m, n]` each, float32 or float64, all finite; they are left alone."""

    def formula(self, tensors: Tensors) -> Formula:
        from metasum.weights.composition import average_

        def merge(chunk: Chunk) -> Tensor:
            vectors, shape = chunk.differences(), chunk.part.shape
            if len(shape) < 2:
                joined = average_(vectors)
            elif not all(bool(vector.isfinite().all()) for vector in vectors):
                raise MetaSumError(
                    f"{chunk.part.name!r} holds values that are no finite numbers; leave it out (--skip)."
                )
            else:
                joined = vectors[0].copy_(self.joined([v.view(shape[0], -1) for v in vectors]).reshape(-1))
            return joined.mul_(self.setting(chunk.part.name)).add_(chunk.start_values)

        return merge


class Triples(NamedTuple):
    """Singular triples of a matrix `[m, n]`, the largest values first."""

    left: Tensor
    """`[m, k]`"""
    values: Tensor
    """`[k]`"""
    right: Tensor
    """`[k, n]`"""


def triples(matrix: Tensor, most: int | None = None, *, size: float | None = None) -> Triples:
    """The singular triples of a matrix, `most` at most, in float64.

    Those whose value is 0 (`digits_of`) are left out: their vectors are the platform's choice. Of a float32 matrix they
    are the eigenvectors of its float64 Gram matrix, which is as exact and quicker.

    Args:
        matrix: `[m, n]`.
        most: how many, from the largest [default: all].
        size: what a value is 0 beside [default: the largest value].
    """
    import torch

    digits = digits_of(matrix)
    if matrix.dtype != torch.float64:
        wide = matrix.double()
        if wide.shape[0] > wide.shape[1]:
            right, values = _by_gram(wide.mT, most, digits, size)
            return Triples((wide @ right) / values, values, right.mT)
        left, values = _by_gram(wide, most, digits, size)
        return Triples(left, values, (left.mT @ wide) / values[:, None])
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = _count(values, most, digits, size)
    return Triples(left[:, :kept], values[:kept], right[:kept])


def digits_of(matrix: Tensor) -> float:
    """The share of the largest singular value up to which one is taken to be 0.

    What is left of a float64 matrix's directions is the rounding of their arithmetic, at most ε · max(m, n). A float32
    matrix is computed with in float64, so that it is the rounding of its own entries, which is no direction's: ε times
    the root.
    """
    import torch

    worst = float(max(matrix.shape))
    return float(torch.finfo(matrix.dtype).eps) * (worst if matrix.dtype == torch.float64 else worst**0.5)


def isotropic(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The singular values of a matrix `[m, n]`, those that are 0 left out, and U Vᵀ of its triples, float64."""
    import torch

    if matrix.dtype != torch.float64:
        return _polar(matrix.double(), digits_of(matrix), None)
    left, values, right = triples(matrix)
    return values, left @ right


def _by_gram(matrix: Tensor, most: int | None, digits: float, size: float | None) -> tuple[Tensor, Tensor]:
    """Left singular vectors and values of a wide float64 matrix, from A Aᵀ; `digits` well above 1e-8."""
    import torch

    squares, left = torch.linalg.eigh(matrix @ matrix.mT)
    values = squares.clamp(min=0).sqrt().flip(0)
    kept = _count(values, most, digits, size)
    return left.flip(1)[:, :kept], values[:kept]


def _polar(matrix: Tensor, digits: float, size: float | None) -> tuple[Tensor, Tensor]:
    """Singular values, and U Vᵀ = (A Aᵀ)^(-1/2) A: the triples' right vectors are not needed."""
    if matrix.shape[0] > matrix.shape[1]:
        values, turned = _polar(matrix.mT, digits, size)
        return values, turned.mT
    left, values = _by_gram(matrix, None, digits, size)
    return values, ((left / values) @ left.mT) @ matrix


def _count(values: Tensor, most: int | None, digits: float, size: float | None) -> int:
    """How many of the falling values are kept."""
    kept = int((values > digits * (float(values[:1].sum()) if size is None else size)).sum())
    return kept if most is None else min(kept, most)


def orthogonal(vectors: Tensor) -> Tensor:
    """The nearest matrix whose rows or columns are orthonormal (Procrustes), `[m, n]` float64: U Vᵀ of its SVD.

    Args:
        vectors: of norm 1, float64, the rows or the columns; where some coincide, they share one direction.
    """
    return _polar(vectors, OVERLAP, 1.0)[1]


def side_by_side(some: list[Triples]) -> Triples:
    """All the triples, no longer orthogonal to one another."""
    import torch

    left, values, right = zip(*some, strict=True)
    return Triples(torch.cat(left, dim=1), torch.cat(values), torch.cat(right))
