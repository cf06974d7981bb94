"""Rows of a comparison of finished networks: alone, merged by a method, their ensemble; and the line between two."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metasum.errors import UsageError, worded
from metasum.merging.method import Method
from metasum.modules.lines import line
from metasum.modules.measuring import Metric, evaluate_on, measured
from metasum.modules.merging import merge_by
from metasum.modules.tasks import MergedTasks
from metasum.results.modules import LineBetweenModules, Measured
from metasum.results.networks import NetworksRow
from metasum.weights.batches import Asked, Batches, Forward, Together, device_of
from metasum.weights.calling import answer_and_labels
from metasum.weights.modes import in_eval_mode


class Compared(NamedTuple):
    """What is compared, on what, and how networks are asked."""

    networks: dict[str, nn.Module]
    data: dict[str, Any]
    """Loaders by dataset; the networks' own in their order where networks keep heads."""
    keep: tuple[str, ...]
    own: bool
    """Whether there is a dataset for each network, in their order."""
    metric: Metric | None
    forward: Forward | None

    def batches(self, name: str, loader: Any, network: nn.Module) -> Batches:
        return Batches(loader, what=name, forward=self.forward, device=device_of(network))

    def measure(self, networks: Sequence[nn.Module | None]) -> dict[str, Measured]:
        """What a network for each dataset does on it; there may be none for one."""
        return {
            name: evaluate_on(network, self.batches(name, loader, network), self.metric, self.forward)
            for network, (name, loader) in zip(networks, self.data.items(), strict=True)
            if network is not None
        }


def label_of(method: Method) -> str:
    """Its name, with the settings that are not its default's."""
    settings = {
        field.name: getattr(method.config, field.name)
        for field in dataclasses.fields(method.config)
        if getattr(method.config, field.name) != field.default
    }
    told = ", ".join(f"{name}={value}" for name, value in settings.items())
    return f"{method.name} ({told})" if told else method.name


def rows_alone(asked: Compared) -> list[NetworksRow]:
    """Of each network alone, on every dataset or, with heads of their own, on its own; and of each on its own data."""
    rows = []
    for index, (name, network) in enumerate(asked.networks.items()):
        own = [network if number == index or not asked.keep else None for number in range(len(asked.data))]
        rows.append(NetworksRow(name, "alone", asked.measure(own)))
    if not asked.own:
        return rows
    each = {name: row.on[name] for name, row in zip(asked.data, rows, strict=True)}
    together = NetworksRow("each alone, on its own data", "alone", each)
    return [together] if asked.keep else [*rows, together]


def row_merged(asked: Compared, method: Method, *, images: Any, base: Any) -> NetworksRow:
    """Of what a method makes of the networks.

    Raises:
        UsageError: the method has to know the task, and data is not the networks' own; or it cannot merge these.
    """
    if method.knows_task and not asked.own:
        raise UsageError(
            f"{method.name} has to know which network's data an input is of: give "
            + worded(
                "data= a loader for each, in a list.",
                "--on a file for each checkpoint, in their order, and --images, too, or files of the Keras layout.",
            )
        )
    started = time.perf_counter()
    networks, count = list(asked.networks.values()), len(asked.data)
    found = merge_by(method, networks, images=images, base=base, forward=asked.forward, keep=asked.keep)
    seconds = round(time.perf_counter() - started, 3)
    tasks = map(found.for_task, range(count)) if isinstance(found, MergedTasks) else [found] * count
    what: Any = method.no_merge() or "merged"
    return NetworksRow(label_of(method), what, asked.measure(list(tasks)), seconds)


def rows_of_ensemble(asked: Compared) -> list[NetworksRow]:
    """All networks' logits, added up; none where their heads are of different tasks."""
    networks = list(asked.networks.values())
    if asked.keep:
        return []
    on = {}

    def answer(batch: Asked) -> tuple[Tensor, Any]:
        pairs = [answer_and_labels(network, batch, asked.forward) for network in networks]
        return torch.stack([logits for logits, _ in pairs]).sum(dim=0), pairs[0][1]

    with in_eval_mode(*networks):
        for name, loader in asked.data.items():
            on[name] = measured(answer, asked.batches(name, loader, networks[0]), asked.metric)
    return [NetworksRow("ensemble", "ensemble", on)]


def lines_of(asked: Compared, images: Sequence[Any] | None) -> dict[str, LineBetweenModules]:
    """On each dataset, between two networks whose heads are of one task; of others none."""
    if asked.keep or len(asked.networks) != 2:
        return {}
    first, second = asked.networks.values()
    together = None if images is None else Together(images)
    return {
        name: line(first, second, loader, images=together, metric=asked.metric, forward=asked.forward)
        for name, loader in asked.data.items()
    }
