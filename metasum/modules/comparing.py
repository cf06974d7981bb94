"""Finished networks compared: alone, merged by each method, and as an ensemble."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from metasum.arguments import checked
from metasum.errors import MetaSumError, UsageError, worded
from metasum.merging import METHODS
from metasum.merging.method import Method
from metasum.modules.comparison_rows import Compared, label_of, lines_of, row_merged, rows_alone, rows_of_ensemble
from metasum.modules.given import check_alike, kept_names, loaders_of, method_of, networks_of
from metasum.modules.measuring import Metric
from metasum.plugins import load_entry_points
from metasum.results.networks import NetworksResult
from metasum.weights.batches import Forward, device_of
from metasum.weights.randomness import same_randomness
from metasum.weights.statistics import normalisers


@checked
def compare(
    networks: Sequence[nn.Module] | Mapping[str, nn.Module],
    data: Any,
    *,
    methods: Sequence[str | Method] | None = None,
    images: Sequence[Any] | None = None,
    base: nn.Module | Mapping[str, Any] | None = None,
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
        rows, left_out = rows_alone(asked), {}
        for method in _methods(methods, seed):
            try:
                rows.append(row_merged(asked, method, images=images, base=base))
            except MetaSumError as error:
                left_out[label_of(method)] = str(error)
        if methods and all(row.what == "alone" for row in rows):
            raise UsageError(f"there is nothing to compare, for no method merges these networks: {_reasons(left_out)}")
        rows += rows_of_ensemble(asked)
        lines = lines_of(asked, images)
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
