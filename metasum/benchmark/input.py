"""The way of images to the device: metasum's own, and torchvision's transforms in a DataLoader."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from metasum.benchmark.conditions import Conditions
from metasum.benchmark.joint_steps import joint_steps
from metasum.benchmark.racing import Work, race
from metasum.benchmark.steps import Step, random_dataset
from metasum.config.words import Augmentation
from metasum.results.benchmark import InputRow
from metasum.tasks.sampler import PairSampler
from metasum.tasks.task import ImageTask
from metasum.types import Dataset, Sides

BATCHES = 20  # of either dataset in a timed round: one batch alone would be too short


def input_rows(conditions: Conditions) -> list[InputRow]:
    """Images a second from a dataset to the device, nothing else being done.

    Returns:
        For each way how many times metasum's own the way's time is ("ratio", with "ratio_range"), and how many times
        faster than joint MetaSum's step consumes images, a batch for each network ("of_step").
    """
    dataset = random_dataset(max(20_000, conditions.setting.batch_size))
    return rows_against(joint_steps(conditions).step(), dataset, conditions)


def rows_against(step: Step, dataset: Dataset, conditions: Conditions) -> list[InputRow]:
    """The same for images of any dataset `[N, 1, 28, 28]` with at least a batch, against any step."""
    batch_size, repeats, device = conditions.setting.batch_size, conditions.repeats, conditions.device
    sampler = {kind: _sampler(dataset, batch_size, kind, device) for kind in ("none", "shift-flip")}
    with contextlib.ExitStack() as stack:
        work: dict[str, Work] = {
            "metasum": lambda: [next(sampler["none"]) for _ in range(BATCHES // 2)],
            "metasum, shift-flip": lambda: [next(sampler["shift-flip"]) for _ in range(BATCHES // 2)],
        }
        for workers in (0, 2):
            loader = _loader(dataset, batch_size, workers)
            endless = stack.enter_context(contextlib.closing(_endless(loader)))
            work[f"DataLoader, {workers} workers"] = functools.partial(_fetch, endless, device)
        times = race(work, repeats=repeats, device=device)
        consumed = race({"step": step}, repeats=repeats, device=device)["step"].seconds
    images, need = BATCHES * batch_size, len(step.batches) * batch_size / consumed
    rates = {name: images / time.seconds for name, time in times.items()}
    return [
        InputRow(conditions.setting, name, rates[name], time.ratio, time.ratio_range, of_step=rates[name] / need)
        for name, time in times.items()
    ]


def _sampler(dataset: Dataset, batch_size: int, augmentation: Augmentation, device: torch.device) -> PairSampler:
    tasks = [ImageTask(dataset, device=device, augmentation=augmentation) for _ in range(2)]
    return PairSampler([Sides(*tasks)], batch_size=batch_size, generator=torch.Generator().manual_seed(0))


class _Images(TorchDataset[Any]):
    """As torchvision's own examples read MNIST: an image of PIL at a time, through transforms."""

    def __init__(self, dataset: Dataset) -> None:
        from torchvision import transforms

        self._pixels, self._labels = dataset.train.images[:, 0].numpy(), dataset.train.labels
        steps = [transforms.Pad(2), transforms.ToTensor(), transforms.Normalize((0.5,), (0.3,))]
        self._change = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        return self._change(Image.fromarray(self._pixels[index])), int(self._labels[index])


def _loader(dataset: Dataset, batch_size: int, workers: int) -> DataLoader[Any]:
    keep = workers > 0
    return DataLoader(
        _Images(dataset), batch_size, shuffle=True, num_workers=workers, persistent_workers=keep, drop_last=True
    )


def _fetch(endless: Iterator[list[torch.Tensor]], device: torch.device) -> None:
    for _ in range(BATCHES):
        for part in next(endless):
            part.to(device)


def _endless(loader: DataLoader[Any]) -> Generator[list[torch.Tensor]]:
    while True:
        yield from loader
