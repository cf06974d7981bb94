"""Meta Networks' two meta learners, which turn gradients into fast weights, coordinate by coordinate."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metasum.baselines.meta_networks.gradients import preprocess

HIDDEN = 20
FIRST_SCALE = 0.1  # of the last layer's weights: fast weights start small beside He's slow ones


class ExampleLevel(nn.Module):
    """W*_i = m(Z, ∇_i): one three-layer perceptron for every coordinate of every example's gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), _last_layer()
        )

    def forward(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Fast weights `[M, *shape]` from gradients `[M, *shape]`, by name."""
        columns = torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1)
        return _parts(self.layers(preprocess(columns)).squeeze(-1), gradients)


class TaskLevel(nn.Module):
    """Q* = d(G, ∇_1 … ∇_T): one LSTM reads every coordinate's gradients, example by example; its last word counts."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, HIDDEN, batch_first=True)
        self.last = _last_layer()

    def forward(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Fast weights `[1, *shape]` from gradients `[T, *shape]` in sequence, by name."""
        columns = torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1)
        outputs, _ = self.lstm(preprocess(columns.T))
        return _parts(self.last(outputs[:, -1]).T, gradients)


def _last_layer() -> nn.Linear:
    layer = nn.Linear(HIDDEN, 1)
    with torch.no_grad():
        layer.weight.mul_(FIRST_SCALE)
        layer.bias.zero_()
    return layer


def _parts(rows: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rows `[M, coordinates]` cut into `[M, *shape]` by name."""
    pieces = torch.split(rows, [gradient[0].numel() for gradient in like.values()], dim=1)
    return {
        name: piece.reshape(len(rows), *gradient.shape[1:])
        for (name, gradient), piece in zip(like.items(), pieces, strict=True)
    }
