"""What measuring accuracy costs, beside the passes that it consists of."""

from __future__ import annotations

import torch

from metasum.baselines.independent import IndependentLearner
from metasum.benchmark.conditions import Conditions
from metasum.benchmark.racing import race
from metasum.benchmark.steps import random_pair
from metasum.config.sections import EvaluationConfig
from metasum.learners.networks import MetaSum
from metasum.learners.settings import OperatorConfig
from metasum.results.benchmark import EvaluationRow
from metasum.tasks.task import EVALUATION_BATCH, ImageTask
from metasum.training.evaluation import Evaluator


def evaluation_rows(conditions: Conditions) -> list[EvaluationRow]:
    """An evaluation of both networks and their sum, all recalibrated on the dataset at hand, of random images.

    Returns:
        One row: "images", how many pass through a network in one evaluation; "ratio" to as many plain forward passes
        of batches that lie ready, without gradients.
    """
    learner = IndependentLearner(MetaSum(conditions.network()), OperatorConfig())
    tasks = [ImageTask(dataset, device=conditions.device) for dataset in random_pair()]
    settings, autocast = EvaluationConfig(), conditions.fabric.autocast
    evaluator = Evaluator(*tasks, settings=settings, autocast=autocast)
    ready = [batch.images for task in tasks for batch in task.evaluation()]
    ready += [images for task in tasks for images in task.calibration(settings.calibration_batches)]
    ready *= 2  # for the network alone, and for the sum

    def plain() -> None:
        network = learner.networks.target.eval()
        with torch.no_grad(), autocast():
            for images in ready:
                network(images)

    work = {"plain": plain, "evaluation": lambda: evaluator.on_the_way(learner)}
    time = race(work, repeats=conditions.repeats, device=conditions.device)["evaluation"]
    images = sum(len(images) for images in ready)
    return [EvaluationRow(conditions.setting, *time.in_figures(), images=images, batch_of=EVALUATION_BATCH)]
