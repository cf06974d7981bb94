"""`metasum benchmark`: settings and learners by name, each measured in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from metasum.benchmark.conditions import Conditions
from metasum.benchmark.evaluation import evaluation_rows
from metasum.benchmark.input import input_rows
from metasum.benchmark.memory import memory_rows
from metasum.benchmark.optimisers import optimiser_rows
from metasum.benchmark.plan import plan_benchmark
from metasum.benchmark.step_rows import setting_rows, step_rows
from metasum.results.benchmark import BenchmarkResult
from metasum.training.optimisation import make_fabric

AROUND: dict[str, Callable[[Conditions], list[Any]]] = {
    "optimizer": optimiser_rows,
    "input": input_rows,
    "memory": memory_rows,
    "evaluation": evaluation_rows,
}
"""What is measured around a step, by the words of `--measure`."""


def run_benchmark(given: Mapping[str, Any], *, say: Callable[[str], None] = lambda _: None) -> BenchmarkResult:
    """Everything that was asked for.

    Args:
        given: settings of the benchmark, and of the learners whose steps are timed, by their names.
        say: is told what comes next.

    Returns:
        Rows, with `peak_bytes` of the process, in which everything that is compared is in memory.

    Raises:
        UsageError: an unknown learner; a setting that says nothing to what is measured; a device that is not there.
    """
    plan = plan_benchmark(given)
    config = plan.config
    # all of them now: what the device cannot do is refused before anything is measured
    fabrics = {setting: make_fabric(config.device, setting.precision) for setting in config.settings()}
    rows: dict[str, list[Any]] = {name: [] for name in ("rows", "settings", *AROUND)}
    for setting, fabric in fabrics.items():
        conditions = Conditions(setting, fabric, repeats=config.repeats)
        for timed in plan.timed:
            say(f"{timed.plan.learner}: {setting}")
            usual_shapes = config.usual_shapes and timed.kind.has_usual(setting, timed.given)
            steps = timed.kind(timed.plan, conditions)
            rows["rows"] += step_rows(steps, config.backends, usual_shapes=usual_shapes)
        for measurement in (name for name in AROUND if name in config.measurements()):
            say(f"{measurement}: {setting}")
            rows[measurement] += AROUND[measurement](conditions)
    if plan.timed and len(fabrics) > 1:
        say(f"{len(fabrics)} settings beside one another")
        every = (Conditions(setting, fabric, repeats=config.repeats) for setting, fabric in fabrics.items())
        rows["settings"] = setting_rows(every)
    return BenchmarkResult(
        **{name: tuple(found) for name, found in rows.items()},
        measured=config.measurements(),
        device=str(next(iter(fabrics.values())).device),
        threads=torch.get_num_threads(),
        repeats=config.repeats,
    )
