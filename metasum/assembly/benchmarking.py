"""`metasum benchmark`: settings and learners by name, each measured in turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from metasum.assembly.bench import Bench
from metasum.baselines.registry import LEARNERS, learner_named
from metasum.config import BenchmarkConfig
from metasum.errors import UsageError
from metasum.results.benchmark import BenchmarkResult, Setting
from metasum.study.benchmark.racing import Work, race
from metasum.study.benchmark.steps import PlainPasses, optimisation
from metasum.training.optimisation import make_fabric

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Say = Callable[[str], None]


def run_benchmark(config: BenchmarkConfig, *, say: Say = lambda _: None) -> BenchmarkResult:
    """Everything that `config` asks for.

    Args:
        config: what to measure, in which settings.
        say: is told what comes next.

    Returns:
        What was asked for, with `peak_bytes` of the process, in which everything that is compared is in memory.

    Raises:
        UsageError: an unknown learner; a setting that says nothing to it; a device that is not there.
    """
    names = _learners(config.learner)
    _check(config, names)
    # all of them now: what the device cannot do is refused before anything is measured
    fabrics = {setting: _fabric(config, setting) for setting in config.settings()}
    found: dict[str, Any] = {"rows": [], "settings": [], "optimizer": [], "input": [], "memory": [], "evaluation": []}
    found |= {
        "measured": list(config.measurements()),
        "device": str(next(iter(fabrics.values())).device),
        "threads": torch.get_num_threads(),
        "repeats": config.repeats,
    }
    for setting, fabric in fabrics.items():
        bench = Bench(config, setting, fabric)
        for name in names if "step" in config.measurements() else ():
            say(f"{name}: {setting}")
            found["rows"] += bench.step_rows(name)
        for measurement, rows in (
            ("optimizer", bench.optimiser_rows),
            ("input", bench.input_rows),
            ("memory", bench.memory_rows),
            ("evaluation", bench.evaluation_rows),
        ):
            if measurement in config.measurements():
                say(f"{measurement}: {setting}")
                found[measurement] += [{**dataclasses.asdict(setting), **row} for row in rows()]
    if "step" in config.measurements() and len(fabrics) > 1:
        say(f"{len(fabrics)} settings beside one another")
        found["settings"] = _compare_settings(config, fabrics)
    return BenchmarkResult.parse(found, where="the benchmark")


def _learners(text: str) -> list[str]:
    """Names of learners that have a training step of their own; raises UsageError."""
    own = [name for name, entry in LEARNERS.items() if entry.endpoints is None and not entry.two_initialisations]
    if text == "all":
        return own
    names = list(dict.fromkeys(word.strip() for word in text.split(",")))
    for name in names:
        taken = learner_named(name).endpoints
        if taken is not None:
            raise UsageError(f"learner {name!r} trains as {taken!r} does; time that one.")
    return names


def _check(config: BenchmarkConfig, names: list[str]) -> None:
    """Raises UsageError where something is asked for that nobody would heed."""
    given, default = dataclasses.asdict(config), dataclasses.asdict(BenchmarkConfig())
    asked = {name for name in given if given[name] != default[name]}
    settings = config.settings()
    several, compiled = any(each.networks > 2 for each in settings), any(each.compiled for each in settings)
    readers = {
        "learner": set(LEARNERS),
        "inner_steps": {"metasum-meta"},
        "usual_shapes": {"metasum", "metasum-meta"},
        "backends": {name for name, entry in LEARNERS.items() if "backend" in entry.settings},
    }
    for setting, own in readers.items():
        flag = "--no-usual-shapes" if setting == "usual_shapes" else f"--{setting.replace('_', '-')}"
        if setting in asked and "step" not in config.measurements():
            raise UsageError(f"{flag} is for --measure step.")
        if setting in asked and not own & set(names):
            raise UsageError(f"{flag} says nothing to learner {names[0]!r}, only to {' and '.join(sorted(own))}.")
    if compiled and "torch" not in config.backend_names():
        raise UsageError("--compile is for backend torch, which --backends leaves out.")
    others = [f"learner {name!r}" for name in names if name != "metasum"]
    for flag, wanted, deaf in (
        ("--networks", several, {"evaluation"}),
        ("--compile", compiled, {"optimizer", "evaluation"}),
    ):
        to = [*others, *(f"--measure {name}" for name in config.measurements() if name in deaf)]
        if wanted and to:
            raise UsageError(f"{flag} says nothing to {to[0]}, only to joint MetaSum.")


def _fabric(config: BenchmarkConfig, setting: Setting) -> Fabric:
    return make_fabric(optimisation(setting, device=config.device))


def _compare_settings(config: BenchmarkConfig, fabrics: dict[Setting, Fabric]) -> list[dict[str, Any]]:
    """The plain pass and joint MetaSum's step in every setting, in the same rounds; ratios are to the first setting."""
    plain, joint = dict[str, Work](), dict[str, Work]()
    for setting, fabric in fabrics.items():
        bench = Bench(config, setting, fabric)
        plain[str(setting)] = PlainPasses(bench.network(), bench.batches[0], 1, fabric)
        joint[str(setting)] = bench.joint_step("torch")[1]
    device = next(iter(fabrics.values())).device
    return [
        {**dataclasses.asdict(setting), "what": what, **time.in_figures()}
        for what, work in (("plain pass", plain), ("metasum", joint))
        for setting, time in zip(fabrics, race(work, repeats=config.repeats, device=device).values(), strict=True)
    ]
