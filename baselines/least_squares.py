"""Layers found by least squares: what each output of a layer sees, and the weights that answer best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metasum.errors import DivergenceError

if TYPE_CHECKING:
    from torch import Tensor, nn

RIDGE = 1e-6  # of the mean diagonal, ten times more at each attempt


def is_solvable(module: nn.Module) -> bool:
    """Whether it is a linear layer, or a two-dimensional convolution that is not grouped."""
    from torch import nn

    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def seen_by(module: nn.Module, inputs: Tensor) -> Tensor:
    """What each output of the layer sees: `[outputs, K]`, K the inputs, or channels times kernel positions."""
    from torch import nn
    from torch.nn.functional import pad, unfold

    if isinstance(module, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1])
    assert isinstance(module, nn.Conv2d)
    left = module._reversed_padding_repeated_twice
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = pad(inputs, left, mode=mode)
    patches = unfold(padded, module.kernel_size, dilation=module.dilation, stride=module.stride)
    return patches.transpose(1, 2).flatten(0, 1)


class Products:
    """The sum of AᵀA over the rows of A, and of AᵀB, that come chunk by chunk.

    A product is as large for a few rows as for many: rows wait until there are as many as columns. Products are of the
    rows' dtype, and summed in float64.
    """

    def __init__(self) -> None:
        self._count, self._sums = 0, list["Tensor"]()
        self._waiting: list[tuple[Tensor, ...]] = []

    def add(self, *chunk: Tensor) -> None:
        """Rows `[n, K]` of A, and `[n, outputs]` of B where there is one; copies of those that wait are kept."""
        enough = len(chunk[0]) + sum(len(own[0]) for own in self._waiting) >= chunk[0].shape[1]
        self._waiting.append(chunk if enough else tuple(own.clone() for own in chunk))
        if enough:
            self._multiply()

    def means(self) -> list[Tensor]:
        """AᵀA, and AᵀB where there is one, divided by the number of rows, float64."""
        self._multiply()
        return [own / self._count for own in self._sums]

    def _multiply(self) -> None:
        import torch

        if not self._waiting:
            return
        rows, *others = (torch.cat(own) if len(own) > 1 else own[0] for own in zip(*self._waiting, strict=True))
        self._waiting = []
        new = [(rows.T @ own).double() for own in (rows, *others)]
        self._sums = [total.add_(own) for total, own in zip(self._sums, new, strict=True)] if self._count else new
        self._count += len(rows)


def solution(total: Tensor, wanted: Tensor, towards: Tensor, *, ridge: float = 0.0, what: str) -> Tensor:
    """The X of least ‖A X - B‖², given AᵀA and AᵀB, with a ridge towards `towards`.

    Args:
        total: AᵀA, float64 `[K, K]`.
        wanted: AᵀB, float64 `[K, outputs]`.
        towards: float64 `[K, outputs]`.
        ridge: how much is added to the diagonal, of its mean; more where AᵀA is singular.
        what: the method, for an error.

    Raises:
        DivergenceError: something is NaN or infinite.
    """
    import torch

    if not (total.isfinite().all() and wanted.isfinite().all()):
        raise DivergenceError(f"{what}: a network's inner values, or its weights, are NaN or infinite.")
    scale = float(total.diagonal().mean()) or 1.0
    while True:
        shift = ridge * scale
        factor, failed = torch.linalg.cholesky_ex(
            total + shift * torch.eye(len(total), dtype=total.dtype, device=total.device)
        )
        if not failed:
            return torch.cholesky_solve(wanted + shift * towards, factor)
        ridge = max(RIDGE, 10 * ridge)
