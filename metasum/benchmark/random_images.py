"""Datasets without any meaning, for measurements that read one."""

from __future__ import annotations

import torch

from metasum.benchmark.steps import CLASSES
from metasum.types import Dataset, Sides, Split


def random_dataset(count: int) -> Dataset:
    """`count` grey images of noise, `[count, 1, 28, 28]`; those to train on are those to measure on."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(count) % CLASSES)
    return Dataset("random", split, split, CLASSES, "random numbers")


def random_pair() -> Sides[Dataset]:
    """Two of them, of 2,000 images each."""
    return Sides(random_dataset(2000), random_dataset(2000))
