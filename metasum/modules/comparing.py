"""Finished networks compared: alone, merged by each method, and as an ensemble."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metasum.errors import MetaSumError, UsageError, worded
from metasum.merging import METHODS
from metasum.merging.method import Method
from metasum.modules.given import check_alike, kept_names, loaders_of, method_of, networks_of
from metasum.modules.lines import line
from metasum.modules.measuring import Metric, evaluate_on, measured
from metasum.modules.merging import merge_by
from metasum.modules.tasks import MergedTasks
from metasum.plugins import load_entry_points
from metasum.results.modules import LineBetweenModules, Measured
from metasum.results.networks import NetworksResult, NetworksRow
from metasum.types import Parameters
from metasum.weights.batches import Asked, Batches, Forward, Together, device_of
from metasum.weights.calling import answer_and_labels
from metasum.weights.modes import in_eval_mode
from metasum.weights.randomness import same_randomness
from metasum.weights.statistics import normalisers


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


def compare(
    networks: Sequence[nn.Module] | Mapping[str, nn.Module],
    data: Any,
    *,
    methods: Sequence[str | Method] | None = None,
    images: Sequence[Any] | None = None,
    base: nn.Module | Parameters | None = None,
    forward: Forward | None = None,
    metric: Metric | None = None,
    keep: Sequence[str] | str = (),
    seed: int = 0,
) -> NetworksResult:
    """Accuracies of networks alone, of what each method makes of them, and of their ensemble, whose logits are added.

    Two networks without heads of their own are measured along the line between them, too.

    Args:
        networks: of one architecture, in a list or by name; they are left as they are.
        data: labelled, as `evaluate` takes it: a loader for each network in a list, or there a pair of a name and a
            loader; any loaders by name, or one loader. Each is read once for each row. Methods that have to know the
            task are asked where there is one for each network.
        methods: names or objects [default: every method with its default settings, as far as it merges such networks].
        images: a loader for each network, of the data that it was trained on, as `merge` takes them.
        base: the network, or its state dict, from which all were trained.
        forward: (network, batch) to logits, where a network is not called as usual: see `metasum.weights.batches`.
        metric: instead of accuracy and loss, as `evaluate` takes it.
        keep: patterns of what each network keeps for itself, as `merge` takes them; `data` is then a loader for each
            network, on which its own head answers.
        seed: of what methods draw.

    Returns:
        Rows by network, method and ensemble, and by name the methods that do not apply, each with the reason; with
        `table`, `to_json()` and `page(path)`.

    Example:
        >>> found = metasum.compare([net_a, net_b], [test_a, test_b], images=[train_a, train_b])
        >>> found.page("networks.html")

    Raises:
        UsageError: data or images that do not fit the networks, an unknown method, or no method of those named that
            merges such networks; of each the reason is told.
        DivergenceError: a network alone answers with NaN.
        ArchitectureError: the networks differ; the first difference is named.
    """
    asked = _compared(networks, data, keep, metric=metric, forward=forward)
    loaders_of(images, len(asked.networks), what="images", forward=None, device=None)
    _check_read_again(images or (), "images")
    with same_randomness(device_of(next(iter(asked.networks.values())))):
        rows, left_out = _alone(asked), {}
        for method in _methods(methods, seed):
            try:
                rows.append(_merged(asked, method, images=images, base=base))
            except MetaSumError as error:
                left_out[_label(method)] = str(error)
        if methods and all(row.what == "alone" for row in rows):
            raise UsageError(f"there is nothing to compare, for no method merges these networks: {_reasons(left_out)}")
        rows += _ensemble(asked)
        lines = _lines(asked, images)
    whose = "recomputed on all images" if images is not None else "the mean of the networks' own, for want of images"
    return NetworksResult(
        networks=tuple(asked.networks),
        datasets=tuple(asked.data),
        rows=tuple(rows),
        left_out=left_out,
        kept=asked.keep,
        statistics=whose if any(map(normalisers, asked.networks.values())) else None,
        seed=seed,
        lines=lines,
    )


def _compared(
    networks: Any, data: Any, keep: Sequence[str] | str, *, metric: Metric | None, forward: Forward | None
) -> Compared:
    names = tuple(map(str, networks)) if isinstance(networks, Mapping) else ()
    found = networks_of(networks.values() if isinstance(networks, Mapping) else networks)
    names = names or tuple(f"network {number}" for number in range(1, len(found) + 1))
    patterns = (keep,) if isinstance(keep, str) else tuple(keep)
    check_alike(found, kept_names(found, patterns))
    loaders, own = _datasets(data, names)
    if patterns and len(loaders) != len(found):
        count = len(found)
        raise UsageError(
            worded(
                f"with keep= each network has a head of its own: data= takes a loader for each of {count} networks.",
                f"with --keep each network has a head of its own: --on takes a file for each of {count} checkpoints.",
            )
        )
    _check_read_again(loaders.values(), "data")
    return Compared(dict(zip(names, found, strict=True)), loaders, patterns, own or bool(patterns), metric, forward)


def _datasets(data: Any, networks: Sequence[str]) -> tuple[dict[str, Any], bool]:
    """Loaders by name, and whether they are one for each network."""
    if isinstance(data, Mapping) and not any(isinstance(value, Tensor) for value in data.values()):
        return {str(name): loader for name, loader in data.items()}, False
    if isinstance(data, list | tuple):
        if len(data) != len(networks):
            raise UsageError(
                f"data= takes a loader for each of the {len(networks)} networks in a list, not {len(data)}; or loaders "
                "by name, or one loader."
            )
        pairs = [
            own if isinstance(own, tuple) and len(own) == 2 and isinstance(own[0], str) else (f"data of {name}", own)
            for name, own in zip(networks, data, strict=True)
        ]
        return dict(pairs), True
    return {"data": data}, False


def _check_read_again(loaders: Iterable[Any], what: str) -> None:
    for loader in loaders:
        if isinstance(loader, Iterator):
            raise UsageError(
                f"{what}= holds an iterator, which is empty after one reading; each loader is read once for every row: "
                "give a DataLoader or a list of batches."
            )


def _methods(methods: Sequence[str | Method] | None, seed: int) -> list[Method]:
    """Those asked for, or all; what a method with its default settings lacks is seen when it merges."""
    load_entry_points()
    return [method_of(method, {}, seed=seed) for method in (METHODS if methods is None else methods)]


def _reasons(left_out: Mapping[str, str]) -> str:
    return " ".join(reason if reason.startswith(name) else f"{name}: {reason}" for name, reason in left_out.items())


def _label(method: Method) -> str:
    """Its name, with the settings that are not its default's."""
    settings = {
        field.name: getattr(method.config, field.name)
        for field in dataclasses.fields(method.config)
        if getattr(method.config, field.name) != field.default
    }
    told = ", ".join(f"{name}={value}" for name, value in settings.items())
    return f"{method.name} ({told})" if told else method.name


def _alone(asked: Compared) -> list[NetworksRow]:
    rows = []
    for index, (name, network) in enumerate(asked.networks.items()):
        own = [network if number == index or not asked.keep else None for number in range(len(asked.data))]
        rows.append(NetworksRow(name, "alone", asked.measure(own)))
    if not asked.own:
        return rows
    each = {name: row.on[name] for name, row in zip(asked.data, rows, strict=True)}
    together = NetworksRow("each alone, on its own data", "alone", each)
    return [together] if asked.keep else [*rows, together]


def _merged(asked: Compared, method: Method, *, images: Any, base: Any) -> NetworksRow:
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
    return NetworksRow(_label(method), what, asked.measure(list(tasks)), seconds)


def _ensemble(asked: Compared) -> list[NetworksRow]:
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


def _lines(asked: Compared, images: Sequence[Any] | None) -> dict[str, LineBetweenModules]:
    if asked.keep or len(asked.networks) != 2:
        return {}
    first, second = asked.networks.values()
    together = None if images is None else Together(images)
    return {
        name: line(first, second, loader, images=together, metric=asked.metric, forward=asked.forward)
        for name, loader in asked.data.items()
    }
