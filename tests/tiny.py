"""Tiny networks and datasets for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn


def small_network(seed: int = 0, *, classes: int = 4) -> nn.Module:
    """A convolution, batch norm and two linear layers on `[N, 1, 8, 8]`, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(48, 5),
            nn.Tanh(),
            nn.Linear(5, classes),
        )
        return network.double()


def images(count: int = 6, *, seed: int = 0) -> torch.Tensor:
    """`[count, 1, 8, 8]`, float64."""
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(count: int = 6, *, classes: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def blob_arrays(seed: int = 0, *, train: int = 96, test: int = 48, size: int = 8, classes: int = 4):
    """A dataset that a tiny network learns in a few steps: class k is bright in row k."""
    rng = np.random.default_rng(seed)

    def split(count: int):
        y = np.arange(count) % classes
        x = rng.integers(0, 80, (count, size, size), dtype=np.uint8)
        x[np.arange(count), y + seed % 3] += 150
        return x, y

    return split(train), split(test)


def write_npz(path: Path, arrays=None, **changed) -> Path:
    """A .npz file in the Keras layout; keywords replace arrays, None drops one."""
    (x_train, y_train), (x_test, y_test) = arrays or blob_arrays()
    parts = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test, **changed}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: array for name, array in parts.items() if array is not None})
    return path
