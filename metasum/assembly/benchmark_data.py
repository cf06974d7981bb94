"""What surrounds a step: the way of images to the device, and measuring accuracy."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from metasum.config import SumConfig
from metasum.learners.protocol import PairLearner
from metasum.study.benchmark.racing import Work, race
from metasum.study.benchmark.steps import Step
from metasum.tasks.sampler import PairSampler
from metasum.tasks.task import EVALUATION_BATCH, ImageTask
from metasum.training.evaluation import Evaluator
from metasum.types import Dataset, Sides, Task

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BATCHES = 20  # of either dataset in a timed round: one batch alone would be too short


def input_rows(step: Step, dataset: Dataset, batch_size: int, fabric: Fabric, repeats: int) -> list[dict[str, Any]]:
    """Images a second from the dataset to the device, nothing else being done.

    Args:
        step: joint MetaSum's, which consumes a batch for each network.
        dataset: of `[N, 1, 28, 28]`, at least a batch.
        batch_size: images in a batch.
        fabric: the device.
        repeats: rounds.

    Returns:
        For each way "images_per_second", "ratio": how many times metasum's own the way's time is (with "ratio_range"),
        and "of_step": how many times faster than the step consumes images.
    """
    sampler = {kind: _sampler(dataset, batch_size, kind, fabric.device) for kind in ("none", "shift-flip")}
    with contextlib.ExitStack() as stack:
        work: dict[str, Work] = {
            "metasum": lambda: [next(sampler["none"]) for _ in range(BATCHES // 2)],
            "metasum, shift-flip": lambda: [next(sampler["shift-flip"]) for _ in range(BATCHES // 2)],
        }
        for workers in (0, 2):
            loader = _loader(dataset, batch_size, workers)
            endless = stack.enter_context(contextlib.closing(_endless(loader)))
            work[f"DataLoader, {workers} workers"] = functools.partial(_fetch, endless, fabric.device)
        times = race(work, repeats=repeats, device=fabric.device)
        consumed = race({"step": step}, repeats=repeats, device=fabric.device)["step"].seconds
    images, need = BATCHES * batch_size, len(step.batches) * batch_size / consumed
    rates = {name: images / time.seconds for name, time in times.items()}
    return [
        {
            "way": name,
            "images_per_second": rates[name],
            "ratio": time.ratio,
            "ratio_range": time.ratio_range,
            "of_step": rates[name] / need,
        }
        for name, time in times.items()
    ]


def _sampler(dataset: Dataset, batch_size: int, augmentation: str, device: torch.device) -> PairSampler:
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


def evaluation_row(learner: PairLearner, datasets: Sides[Dataset], fabric: Fabric, repeats: int) -> dict[str, Any]:
    """An evaluation of both networks and their sum, recalibrated on either dataset, against the passes it consists of.

    Args:
        learner: whose networks are measured.
        datasets: of random images.
        fabric: device and precision.
        repeats: rounds.

    Returns:
        "images", how many pass through a network in one evaluation; "seconds"; "ratio" to as many plain forward passes
        of batches that lie ready, without gradients, "ratio_range".
    """
    tasks: Sides[Task] = Sides(*(ImageTask(dataset, device=fabric.device) for dataset in datasets))
    config = SumConfig()
    evaluator = Evaluator(*tasks, settings=config, autocast=fabric.autocast)
    ready = [batch.images for task in tasks for batch in task.evaluation()] * 2
    ready += [images for task in tasks for images in task.calibration(config.calibration_batches)]

    def plain() -> None:
        network = learner.networks.target.eval()
        with torch.no_grad(), fabric.autocast():
            for images in ready:
                network(images)

    times = race(
        {"plain": plain, "evaluation": lambda: evaluator.on_the_way(learner)}, repeats=repeats, device=fabric.device
    )
    time = times["evaluation"]
    return {"images": sum(len(images) for images in ready), "batch_of": EVALUATION_BATCH, **time.in_figures()}
