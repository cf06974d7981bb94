"""One setting of a benchmark, with the networks, steps and data that are measured in it."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from metasum.assembly.benchmark_data import evaluation_row, input_rows
from metasum.assembly.parts import make_networks, resolve, settings_for
from metasum.baselines.independent import IndependentLearner
from metasum.baselines.registry import learner_named
from metasum.config import BenchmarkConfig, NetworkConfig, TrainConfig, settings
from metasum.learners.joint import JointLearner
from metasum.learners.meta import MetaLearner
from metasum.learners.networks import MetaSum
from metasum.learners.protocol import Trainable
from metasum.networks.build import build_network
from metasum.results.benchmark import Setting
from metasum.study.benchmark.many import ManyNetworks
from metasum.study.benchmark.memory import memory_row
from metasum.study.benchmark.meta_steps import INNER_LR, USUAL_LOOPS, parts_of
from metasum.study.benchmark.optimisers import optimiser_rows
from metasum.study.benchmark.racing import MatrixProduct, Work, race
from metasum.study.benchmark.shapes import USUAL_SHAPES, joint_loss
from metasum.study.benchmark.steps import CLASSES, PlainPasses, Step, Written, operations, random_batch
from metasum.training.layout import checked_layout
from metasum.training.memory import peak_bytes, reset_peak
from metasum.training.optimisation import place
from metasum.types import Dataset, Sides, Split

if TYPE_CHECKING:
    from lightning_fabric import Fabric


_MINIMUM, _PRODUCT = "plain passes", "matrix product"
_DTYPES = {"32": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Bench:
    """One setting, with everything that is measured in it.

    Args:
        config: backends, number of networks, inner steps, repeats.
        setting: the rest.
        fabric: device and precision.
    """

    def __init__(self, config: BenchmarkConfig, setting: Setting, fabric: Fabric) -> None:
        self._config, self._setting, self._fabric = config, setting, fabric
        generator = torch.Generator().manual_seed(0)
        self.batches = [random_batch(setting.batch_size, generator, fabric.device) for _ in range(setting.networks)]

    def step_rows(self, learner: str) -> list[dict[str, Any]]:
        """The learner's step, in each of its backends and beside its usual shapes, against plain passes."""
        reset_peak(self._fabric.device)
        if learner == "metasum-meta":
            plain, steps = self._meta_steps()
        elif learner == "metasum":
            plain, steps = self._joint_steps()
        else:
            plain, steps = self._other_steps(learner)
        first = next(iter(steps.values()))
        first()  # whatever differs in a first step is behind it: of learners with phases the last one is timed
        done = operations(first)
        passes = done / operations(PlainPasses(plain, self.batches[0], 1, self._fabric))
        minimum = PlainPasses(plain, self.batches[0], max(1, round(passes)), self._fabric)
        product = MatrixProduct(_DTYPES[self._setting.precision], self._fabric.device)
        work: dict[str, Work] = {_MINIMUM: minimum, _PRODUCT: product, **steps}
        times = race(work, repeats=self._config.repeats, device=self._fabric.device)
        images = self._setting.batch_size * len(self.batches)
        if learner == "metasum-meta":  # a batch for each inner step, and one to be judged by
            images *= self._config.inner_steps + 1
        scale, rate = minimum.count / passes, product.operations / times[_PRODUCT].seconds
        return [
            {
                "learner": learner,
                "backend": name,
                **self._words(),
                "passes": round(passes, 4),
                "step_seconds": time.seconds,
                "minimum_seconds": times[_MINIMUM].seconds / scale,
                "ratio": time.ratio * scale,
                "ratio_range": [value * scale for value in time.ratio_range],
                "to_first": time.against(times[next(iter(steps))]),
                "images_per_second": images / time.seconds,
                "operations_per_second": done / time.seconds,
                "of_matrix_rate": done / time.seconds / rate,
                "peak_bytes": peak_bytes(self._fabric.device),
            }
            for name, time in times.items()
            if name in steps
        ]

    def _words(self) -> dict[str, Any]:
        words = dataclasses.asdict(self._setting)
        return {"batch": words.pop("batch_size"), **words}

    def network(self, norm: str = "batch") -> nn.Module:
        """VGG16 at its start, in this setting's layout."""
        shape = NetworkConfig(width=self._setting.width, num_classes=CLASSES, norm=norm)
        network = build_network(shape, in_channels=1, seed=0)
        self._place(network)
        if self._setting.compiled:
            network.compile()
        return network

    def _place(self, module: nn.Module, network: nn.Module | None = None) -> None:
        """In the setting's layout; raises UsageError where that is not safe for `network` [default: the module]."""
        layout, _ = checked_layout(
            self._setting.memory_format,
            (network or module,),
            self.batches[0].images.shape,
            self._fabric.device,
            precision=self._setting.precision,
        )
        place(module, self._fabric.device, layout)

    def joint_step(self, backend: str = "learn2learn") -> tuple[MetaSum, Step]:
        """Joint MetaSum's, of as many networks as the setting has, and the first two of them."""
        networks = MetaSum(self.network(), backend="torch" if self._setting.compiled else backend)
        every = [networks.target, networks.support]
        learner: Trainable = JointLearner(networks, TrainConfig().objective)
        if self._setting.networks > 2:
            learner = many = ManyNetworks(networks, self._setting.networks)
            every = many.every()
        for network in every if self._setting.compiled else ():
            network.compile()
        return networks, Step(learner, self.batches, self._setting, self._fabric)

    def _joint_steps(self) -> tuple[nn.Module, dict[str, Work]]:
        backends = ("torch",) if self._setting.compiled else self._config.backend_names()
        steps: dict[str, Work] = {backend: self.joint_step(backend)[1] for backend in backends}
        if self._config.usual_shapes and self._setting.networks == 2 and not self._setting.compiled:
            for name, shape in USUAL_SHAPES.items():
                target, support = self.network(), self.network()
                loss = functools.partial(joint_loss, target, support, shape(target, support), self.batches)
                steps[name] = Written(loss, [target, support], self._fabric)
        return self.network(), steps

    def _meta_steps(self) -> tuple[nn.Module, dict[str, Work]]:
        """Two clones of one network, `batch_size` images in each of their passes."""
        inner = self._config.inner_steps
        model, device = self.network(), self._fabric.device
        generator = torch.Generator().manual_seed(0)
        pair = [random_batch((inner + 1) * self._setting.batch_size, generator, device) for _ in range(2)]
        steps: dict[str, Work] = {}
        for backend in self._config.backend_names():
            networks = MetaSum(model, shared=True, inner_lr=INNER_LR, backend=backend)
            learner = MetaLearner(networks, TrainConfig().objective, inner_steps=inner)
            steps[backend] = Step(learner, pair, self._setting, self._fabric)
        parts = parts_of(pair, inner_steps=inner)
        for name, loss in USUAL_LOOPS.items() if self._config.usual_shapes else ():
            steps[name] = Written(functools.partial(loss, model, parts), [model], self._fabric)
        return self.network(), steps

    def _other_steps(self, name: str) -> tuple[nn.Module, dict[str, Work]]:
        """Any other learner's, in each backend where it reads `--backend`."""
        steps: dict[str, Work] = {}
        for backend in self._config.backend_names() if "backend" in learner_named(name).settings else ("learn2learn",):
            own = {"width": self._setting.width, "steps": 2, "learning_rate": 1e-3, "num_classes": CLASSES}
            config = resolve(settings_for(name, settings(**own, backend=backend)), random_pair())
            networks = make_networks(config)
            self._place(networks, networks.target)
            learner = learner_named(name).factory(networks, config)
            steps[backend] = Step(learner, self.batches[:2], self._setting, self._fabric)
        whole = self.network(config.network.norm)  # a slot's network is the same kind, thinner
        return copy.deepcopy(networks.target) if type(networks.target) is type(whole) else whole, steps

    def optimiser_rows(self) -> list[dict[str, Any]]:
        every = [self.network() for _ in range(self._setting.networks)]
        return optimiser_rows(every, repeats=self._config.repeats, device=self._fabric.device)

    def input_rows(self) -> list[dict[str, Any]]:
        _, step = self.joint_step()
        size = self._setting.batch_size
        return input_rows(step, random_dataset(max(20_000, size)), size, self._fabric, self._config.repeats)

    def memory_rows(self) -> list[dict[str, Any]]:
        return [memory_row(*self.joint_step(), self._fabric)]

    def evaluation_rows(self) -> list[dict[str, Any]]:
        learner = IndependentLearner(MetaSum(self.network()))
        return [evaluation_row(learner, random_pair(), self._fabric, self._config.repeats)]


def random_dataset(count: int) -> Dataset:
    """Grey 28x28 images without any meaning."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(count) % CLASSES)
    return Dataset("random", split, split, CLASSES, "random numbers")


def random_pair() -> Sides[Dataset]:
    return Sides(random_dataset(2000), random_dataset(2000))
