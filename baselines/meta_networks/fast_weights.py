"""Meta Networks' two meta learners, which turn gradients into fast weights, coordinate by coordinate."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metasum.baselines.meta_networks.gradients import as_scalar, from_scalar, preprocess

HIDDEN = 20
REACH, POINTS = 4.0, 4097  # of the grid; 4 stands for a gradient of e^14
FIRST_SCALE = 0.1  # of the last layer's weights: fast weights start small beside He's slow ones


class ExampleLevel(nn.Module):
    """W*_i = m(Z, ∇_i): one three-layer perceptron for every coordinate of every example's gradient.

    A coordinate's two numbers depend on one, and so does its fast weight. The perceptron is asked on a grid of that
    one, and coordinates are read off by linear interpolation: several times faster, and within 1e-4 of asking for each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), _last_layer()
        )

    def forward(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Fast weights `[M, *shape]` from gradients `[M, *shape]`, by name."""
        columns = torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1)
        ticks = torch.linspace(-REACH, REACH, POINTS, dtype=columns.dtype, device=columns.device)
        with torch.autocast(columns.device.type, enabled=False):
            answers = self.layers(from_scalar(ticks)).squeeze(-1)
        place = (as_scalar(columns).clamp(-REACH, REACH) + REACH) * ((POINTS - 1) / (2 * REACH))
        left = place.long().clamp(0, POINTS - 2)
        below, above = (answers.index_select(0, (left + up).flatten()).view_as(place) for up in (0, 1))
        rows = torch.lerp(below, above, place - left)
        return _parts(rows, gradients)


class TaskLevel(nn.Module):
    """Q* = d(G, ∇_1 … ∇_T): one LSTM reads every coordinate's gradients, example by example; its last word counts."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, HIDDEN, batch_first=True)
        self.last = _last_layer()

    def forward(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Fast weights `[1, *shape]` from gradients `[T, *shape]` in sequence, by name."""
        columns = torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1)
        with torch.autocast(columns.device.type, enabled=False):
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
