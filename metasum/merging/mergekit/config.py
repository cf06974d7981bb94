"""What a YAML file of mergekit's asks for, checked: models, layers of them, a method and its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from metasum.errors import UsageError, unknown
from metasum.merging.disk.config import MergeConfig
from metasum.merging.mergekit.entries import Slice, check_keys, model_at, parameters_in, slices_in
from metasum.merging.mergekit.methods import RECIPES, Recipe
from metasum.merging.mergekit.parameters import Settings
from metasum.merging.mergekit.reading import read_yaml

KEYS = ("merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype")
MOST_LAYERS = 10_000
DTYPES = tuple(dtype for dtype in get_args(get_type_hints(MergeConfig)["dtype"]) if dtype != "keep")


@dataclasses.dataclass(frozen=True)
class Asked:
    """All that a file asks for."""

    place: str
    text: str
    method: str
    slices: tuple[Slice, ...]
    """One where the file names whole models."""
    parameters: Settings
    dtype: str
    """That is written; "keep": the models' own."""
    notes: tuple[str, ...]
    """A sentence for each parameter that says nothing to the method."""

    @property
    def recipe(self) -> Recipe:
        """The method's."""
        return RECIPES[self.method]

    @property
    def models(self) -> tuple[Path, ...]:
        """Every model once, in their order."""
        return tuple(dict.fromkeys(source.model for part in self.slices for source in part.sources))

    @property
    def donor(self) -> Path:
        """The model whose configuration and tokenizer the result has: the base, or else the first."""
        return self.slices[0].base or self.models[0]


def read_config(path: Path) -> Asked:
    """Reads and checks a file.

    Raises:
        UsageError: it cannot be read, or asks for what cannot be done here; the key is named.
    """
    text, value = read_yaml(path)
    place = path.name
    check_keys(value, KEYS, place)
    method = value.get("merge_method")
    if method is None:
        raise UsageError(f"{place} says no merge_method.")
    if not isinstance(method, str) or method not in RECIPES:
        raise unknown(f"merge_method in {place}", str(method), RECIPES)
    if ("models" in value) == ("slices" in value):
        said = "both models and slices" if "models" in value else "neither models nor slices"
        raise UsageError(f"{place} says {said}; say one.")
    base = model_at(value["base_model"], place) if value.get("base_model") is not None else None
    parameters = parameters_in(value, place)
    slices = tuple(slices_in(value, place, base, RECIPES[method]))
    depth = sum(part.sources[0].depth for part in slices)
    if depth > MOST_LAYERS:
        raise UsageError(f"{place} asks for {depth} layers, and no more than {MOST_LAYERS} are made.")
    return Asked(
        place=place,
        text=text,
        method=method,
        slices=slices,
        parameters=parameters,
        dtype=_dtype(value, place),
        notes=tuple(dict.fromkeys(_unheard(method, slices, parameters, place))),
    )


def _unheard(method: str, slices: tuple[Slice, ...], parameters: Settings, place: str) -> Iterator[str]:
    """A sentence for each parameter that the method does not read where it stands."""
    own = {parameter.name: parameter for parameter in RECIPES[method].parameters}
    for scope in (parameters, *(part.parameters for part in slices)):
        yield from (f"{place}: {name} says nothing to {method}." for name in scope if name not in own)
    for source in (source for part in slices for source in part.sources):
        for name in source.parameters:
            if name not in own:
                yield f"{place}: {name} says nothing to {method}."
            elif not own[name].each:
                yield f"{place}: {name} is one for all models, and says nothing below {source.model}."


def _dtype(value: Mapping[str, Any], place: str) -> str:
    for key in ("dtype", "out_dtype"):
        if value.get(key) is not None and value[key] not in DTYPES:
            raise unknown(f"{key} in {place}", str(value[key]), DTYPES)
    return value.get("out_dtype") or value.get("dtype") or "keep"
