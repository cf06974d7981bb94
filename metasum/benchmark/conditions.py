"""One setting of a benchmark, on its device: what every measurement in it starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from metasum.benchmark.steps import CLASSES, random_batch
from metasum.config.sections import NetworkConfig
from metasum.networks.build import build_network
from metasum.results.benchmark import Setting
from metasum.training.layout import checked_layout
from metasum.training.optimisation import place

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Conditions:
    """What a measurement is made in.

    Args:
        setting: width, batch size and the like.
        fabric: the setting's device and precision.
        repeats: timed rounds.

    Attributes:
        batches: one of random images for each of the setting's networks, on the device.
    """

    def __init__(self, setting: Setting, fabric: Fabric, *, repeats: int) -> None:
        self.setting, self.fabric, self.repeats = setting, fabric, repeats
        generator = torch.Generator().manual_seed(0)
        self.batches = [random_batch(setting.batch_size, generator, self.device) for _ in range(setting.networks)]

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    def network(self, norm: Literal["batch", "group", "none"] = "batch") -> nn.Module:
        """VGG16 at its start, on the device, in the setting's layout, compiled where the setting says so."""
        shape = NetworkConfig(width=self.setting.width, num_classes=CLASSES, norm=norm)
        network = build_network(shape, in_channels=1, seed=0)
        self.place(network)
        if self.setting.compiled:
            network.compile()
        return network

    def place(self, module: nn.Module, *networks: nn.Module, second_order: bool = False) -> None:
        """Moves the module to the device and lays it out, in place.

        Args:
            module: a network, or a learner.
            networks: those in it that images go through [default: the module].
            second_order: whether gradients of gradients are taken.

        Raises:
            UsageError: the setting's layout is not safe on this machine (`metasum.training.layout`).
        """
        layout, _ = checked_layout(
            self.setting.memory_format,
            networks or (module,),
            self.batches[0].images.shape,
            self.device,
            precision=self.setting.precision,
            second_order=second_order,
        )
        place(module, self.device, layout)
