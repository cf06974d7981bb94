"""The plan of a meta-training: datasets, settings of its own loop, and the distribution of its tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import torch

from metasum.config.sections import OF_A_PAIR
from metasum.errors import UsageError
from metasum.learners.meta import MetaLearntLearner
from metasum.run.plan import Plan, check_read, fill, planned
from metasum.run.request import Request
from metasum.tasks.distribution import TaskDistribution, Variations
from metasum.tasks.pairs import Recipe
from metasum.tasks.task import ImageTask, validation_split
from metasum.types import Dataset
from metasum.weights.statistics_policy import RECALIBRATE

EVALUATION_SEED = 2**62  # of the tasks of an evaluation: none that a --meta-seed is likely to have


def meta_datasets(request: Request, held_out: Collection[str] = ()) -> tuple[str, ...]:
    """Names of the datasets that meta-training reads: `meta_datasets`, or else the support.

    Raises:
        UsageError: one of them is to be held out, or is named twice.
    """
    asked = request.given.get("meta_datasets", ())
    names: tuple[str, ...] = asked or (request["support"],)
    flag = "--meta-datasets" if asked else "--support"
    if len(set(names)) < len(names):
        raise UsageError(f"{flag} takes different datasets, not {', '.join(names)}.")
    seen = next((name for name in names if name in held_out), None)
    if seen is not None:
        raise UsageError(f"{flag}: meta-training on {seen!r}, a target, would leave nothing that it has never seen.")
    return names


def meta_plan(request: Request, datasets: tuple[str, ...]) -> Plan:
    """The plan of meta-training's own loop; what a pair decides is at its default, so that all pairs share it.

    Raises:
        UsageError: a setting that meta-training does not read.
    """
    check_read(request, MetaLearntLearner)
    given = {name: value for name, value in request.given.items() if name not in OF_A_PAIR}
    values = fill(MetaLearntLearner, {"width": Recipe().width, "num_classes": 10, **given, "meta_datasets": datasets})
    values |= {
        "seed": values["meta_seed"],
        "steps": values["meta_steps"],
        "learning_rate": values["meta_learning_rate"],
        "batch_size": values["meta_batch_size"],
        "statistics": RECALIBRATE,  # it reads none; earlier versions wrote this word down
    }
    return planned(MetaLearntLearner, values, given=frozenset(given))


def task_distribution(
    plan: Plan, datasets: Mapping[str, Dataset], device: torch.device, *, held_out: bool
) -> TaskDistribution:
    """Tasks of nine tenths of the datasets' training images, or of the tenth that is kept for evaluation."""
    own = plan.own
    tasks = {}
    for name, dataset in datasets.items():
        rest, kept = validation_split(dataset.train)
        drawn = dataclasses.replace(dataset, train=kept if held_out else rest)
        channels, size = plan.data.in_channels, plan.network.image_size
        tasks[name] = ImageTask(drawn, in_channels=channels, device=device, image_size=size)
    return TaskDistribution(
        tasks,
        images=(own.inner_steps + 1) * own.meta_batch_size,
        outputs=plan.network.num_classes,
        variations=Variations(own.permute_labels, own.rotate, own.invert, own.task_classes),
        partners=(2, own.partners),
        generator=torch.Generator().manual_seed(EVALUATION_SEED if held_out else own.meta_seed),
    )
