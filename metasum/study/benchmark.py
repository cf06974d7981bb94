"""Step time against the arithmetic minimum, as a ratio in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from metasum.config import BenchmarkConfig, NetworkConfig, ObjectiveConfig, OptimisationConfig
from metasum.errors import UsageError
from metasum.learners.joint import JointLearner
from metasum.learners.networks import MetaSum
from metasum.networks.build import build_network
from metasum.training.memory import peak_bytes
from metasum.training.optimisation import Updater, make_fabric
from metasum.types import Batch

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def run_benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Times joint MetaSum's gradients against three plain forward-backward passes of the same network.

    In every round the plain passes and each backend's step run one after another on the same random images; a
    ratio is that of one round, and the median over rounds is reported with the least and greatest. The optimiser's
    update is timed apart.

    Returns:
        "rows", one for each backend: "learner", "backend", "width", "batch", "precision", "step_seconds" and
        "minimum_seconds" (medians), "ratio", "ratio_range", "peak_bytes" (of the process, with every backend's
        networks in memory); and what they have in common, with "optimizer_seconds" for one update of both networks.

    Raises:
        UsageError: an unknown backend; a device that is not there.
    """
    if config.inner_steps != BenchmarkConfig.inner_steps:
        raise UsageError("--inner-steps says nothing to learner 'metasum'; add --learner metasum-meta.")
    names = [name.strip() for name in config.backends.split(",")]
    fabric = make_fabric(OptimisationConfig(device=config.device, precision=config.precision))
    contenders = {name: _Contender(config, name, fabric) for name in names}
    steps = {name: contender.step for name, contender in contenders.items()}
    rows = race(contenders[names[0]].plain_passes, steps, config, fabric.device, learner="metasum")
    first, updates = contenders[names[0]], list[float]()
    for _ in range(config.repeats + 1):
        first.step()  # an update without gradients would be timed as nothing
        updates.append(timed(first.updater.update, fabric.device))
    return {
        "rows": rows,
        "learner": "metasum",
        "passes": 3,
        "width": config.width,
        "batch": config.batch_size,
        "precision": config.precision,
        "device": str(fabric.device),
        "threads": torch.get_num_threads(),
        "repeats": config.repeats,
        "optimizer_seconds": statistics.median(updates[1:]),
    }


def race(
    plain: Callable[[], None],
    steps: Mapping[str, Callable[[], None]],
    config: BenchmarkConfig,
    device: torch.device,
    *,
    learner: str,
) -> list[dict[str, Any]]:
    """Times each of `steps` against `plain`, the least that they have to do, round by round; a row for each."""
    seconds = {name: list[float]() for name in steps}
    minimum = list[float]()
    work = [(minimum, plain), *((seconds[name], step) for name, step in steps.items())]
    for _ in range(config.repeats + 1):
        for times, run in work:
            times.append(timed(run, device))
        work.reverse()  # nobody always comes first
    peak = peak_bytes(device)
    rows = []
    for name, times in seconds.items():
        ratios = [step / plain for step, plain in zip(times, minimum, strict=True)][1:]  # the first warms up
        rows.append(
            {
                "learner": learner,
                "backend": name,
                "width": config.width,
                "batch": config.batch_size,
                "precision": config.precision,
                "step_seconds": statistics.median(times[1:]),
                "minimum_seconds": statistics.median(minimum[1:]),
                "ratio": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "peak_bytes": peak,
            }
        )
    return rows


class _Contender:
    """One backend's joint learner on fixed random images, and the plain passes it is measured against."""

    def __init__(self, config: BenchmarkConfig, backend: str, fabric: Fabric) -> None:
        model = build_network(NetworkConfig(width=config.width, num_classes=10), in_channels=1, seed=0)
        self.networks = MetaSum(model, backend=backend).to(fabric.device)
        self.learner = JointLearner(self.networks, ObjectiveConfig())
        settings = OptimisationConfig(steps=1, learning_rate=1e-3, device=config.device, precision=config.precision)
        self.updater = Updater(self.learner, settings, fabric)
        generator = torch.Generator().manual_seed(0)
        self.target, self.support = (random_batch(config.batch_size, generator, fabric.device) for _ in range(2))
        self.autocast = fabric.autocast

    def plain_passes(self) -> None:
        """Target, support and target once more: each forward and backward, with nothing added."""
        self.learner.zero_grad(set_to_none=True)
        passes = [(self.networks.target, self.target), (self.networks.support, self.support)]
        for network, batch in [*passes, passes[0]]:
            with self.autocast():
                loss = cross_entropy(network(batch.images), batch.labels)
            self.updater.backward(loss)

    def step(self) -> None:
        """Everything of a training step but the optimiser's update."""
        self.learner.zero_grad(set_to_none=True)
        with self.autocast():
            self.learner.training_step(self.target, self.support, backward=self.updater.backward)


def random_batch(size: int, generator: torch.Generator, device: torch.device) -> Batch:
    images = torch.randn(size, 1, 32, 32, generator=generator)
    return Batch(images.to(device), torch.randint(10, (size,), generator=generator).to(device))


def timed(work: Callable[[], None], device: torch.device) -> float:
    """Seconds that `work` takes, its kernels included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
