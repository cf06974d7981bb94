"""Which tensor of the result is merged from which, by which method: slices become sections of one file.

Layers are counted anew: those of the first slice first. What stands before the layers (embeddings) is merged as the
first slice says, what stands behind them (the last norm, the head) as the last one does.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metasum.errors import ArchitectureError, UsageError
from metasum.merging.disk.checkpoint import Checkpoint
from metasum.merging.disk.config import MergeConfig
from metasum.merging.disk.plan import plan
from metasum.merging.disk.sections import Section
from metasum.merging.mergekit.config import Asked
from metasum.merging.mergekit.entries import Slice, Source
from metasum.merging.mergekit.layers import depths, is_beginning, layer_of, moved
from metasum.weights.tensor_files.dtypes import FLOATS


class Input(NamedTuple):
    """A source of a slice, its tensors named as the result's."""

    source: Source
    checkpoint: Checkpoint
    names: Mapping[str, str]
    """From the result's names to the model's own."""


def sections_of(
    asked: Asked, checkpoints: Mapping[Path, Checkpoint], settings: MergeConfig, *, seed: int
) -> list[Section]:
    """All sections, one for each slice and setting.

    Args:
        asked: what the file asks for.
        checkpoints: its models.
        settings: the dtype that is written.
        seed: of what random methods draw.

    Raises:
        UsageError: a parameter is missing or makes no sense, or a slice asks for layers that are not there.
        ArchitectureError: the models do not fit together; the first such tensor is named.
    """
    found, offset = [], 0
    for part in asked.slices:
        first, last = part is asked.slices[0], part is asked.slices[-1]
        inputs = [
            _renamed(source, checkpoints[source.model], offset, first=first, last=last, place=part.place)
            for source in part.sources
        ]
        _check_dtypes(inputs, settings, part.place)
        found += list(_sections(asked, part, inputs, settings, seed=seed, offset=offset))
        offset += part.sources[0].depth
    return found


def _renamed(source: Source, checkpoint: Checkpoint, offset: int, *, first: bool, last: bool, place: str) -> Input:
    """The tensors of a model that a slice takes; `offset`: how many layers there are before it."""
    if source.layers is None:
        return Input(source, checkpoint, {name: name for name in checkpoint.places})
    every = depths(checkpoint.places)
    if len(every) != 1:
        lists = ", ".join(sorted(every)[:3]) or "none"
        raise UsageError(
            f"{place}: {source.model} has {len(every)} lists of layers ({lists}), and layer_range means one, as "
            "model.layers is."
        )
    (depth,) = every.values()
    start, end = source.layers
    if end > depth:
        raise UsageError(f"{place}: {source.model} has {depth} layers, and layer_range {[start, end]} goes beyond.")
    names = {}
    for name in checkpoint.places:
        layer = layer_of(name)
        if layer is None:
            if first if is_beginning(name) else last:
                names[name] = name
        elif start <= layer.number < end:
            names[moved(name, layer.number - start + offset)] = name
    return Input(source, checkpoint._replace(places={new: checkpoint.places[own] for new, own in names.items()}), names)


def _check_dtypes(inputs: Sequence[Input], settings: MergeConfig, place: str) -> None:
    """Raises ArchitectureError where models of several dtypes are merged and nobody says which is written."""
    first, *others = inputs
    for name in first.names if settings.dtype == "keep" else ():
        for other in others:
            infos = [each.checkpoint.places[name].info for each in (first, other) if name in each.names]
            codes = {info.code for info in infos}
            if len(codes) > 1 and codes <= FLOATS.keys():
                raise ArchitectureError(
                    f"{place}: {name!r} is {infos[0]} in {first.source.model} and {infos[1]} in {other.source.model}; "
                    "dtype or out_dtype says what to write then."
                )


def _sections(
    asked: Asked, part: Slice, inputs: Sequence[Input], settings: MergeConfig, *, seed: int, offset: int
) -> Iterator[Section]:
    recipe = asked.recipe
    beside = [own for own in inputs if recipe.base == "ordinary" or own.source.model != part.base]
    base = next((own for own in inputs if own not in beside), None)
    networks = [base, *beside] if base and recipe.base_first else beside
    files = [own.checkpoint for own in networks]
    start = base.checkpoint if base and not recipe.base_first else None
    every = depths(inputs[0].names) if part.sources[0].layers is None else {}
    groups: dict[Hashable, list[Any]] = {}
    values: dict[Hashable, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for planned in plan(files, start, settings):
        name = planned.part.name
        layer = layer_of(name)
        depth = part.sources[0].depth or (every[layer.stack] if layer else 0)
        t = 0.0 if layer is None else (layer.number - offset) / (depth - 1) if depth > 1 else 1.0
        shared, each = _parameters(asked, part, beside, name, t)
        key: Hashable = (tuple(shared.items()), tuple(tuple(own.items()) for own in each))
        values[key] = shared, each
        groups.setdefault(key, []).append(planned)
    for key, group in groups.items():
        try:
            method = recipe.make(*values[key], seed)
            method.check(len(files), what="models")
        except UsageError as error:
            raise UsageError(f"{part.place}, {group[0].part.name!r}: {error}") from error
        yield Section(method, files, start, group)


def _parameters(
    asked: Asked, part: Slice, networks: Sequence[Input], name: str, t: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The parameters of one tensor of the result: those that all share, and those of each network."""
    shared: dict[str, Any] = {}
    each: list[dict[str, Any]] = [{} for _ in networks]
    common = (part.parameters, asked.parameters)
    for parameter in asked.recipe.parameters:
        if not parameter.each:
            shared[parameter.name] = parameter.of_tensor(common, tensor=name, t=t, place=part.place)
        for own, network in zip(each, networks, strict=True) if parameter.each else ():
            scopes = (network.source.parameters, *common)
            tensor, place = network.names.get(name, name), f"{part.place}, {network.source.model}"
            own[parameter.name] = parameter.of_tensor(scopes, tensor=tensor, t=t, place=place)
    return shared, each
