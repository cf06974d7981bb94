"""Entries of a YAML file of mergekit's: models and slices, each checked by itself; the key is named in errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metasum.errors import UsageError, unknown
from metasum.merging.mergekit.methods import RECIPES, Recipe
from metasum.merging.mergekit.parameters import Settings

TOKENIZER = "tokenizers are not merged here; leave it out, and the base model's tokenizer files are copied"
LORA = "LoRA adapters are not applied here; merge the adapter into its base model first"
MOE = "mixtures of experts are not made here"
REFUSED = {
    "tokenizer_source": TOKENIZER,
    "tokenizer": TOKENIZER,
    "chat_template": TOKENIZER,
    "modules": "models of several modules are not taken apart here; write models or slices",
    "adapter": LORA,
    "lora": LORA,
    "experts": MOE,
    "gate_mode": MOE,
    "shared_experts": MOE,
    "residual_weight": "it says nothing to mergekit either; leave it out",
}
"""Keys that mergekit knows, and why they are not taken."""
SLICE_KEYS = ("sources", "base_model", "parameters")


@dataclasses.dataclass(frozen=True)
class Source:
    """A model, or some of its layers."""

    model: Path
    parameters: Settings
    layers: tuple[int, int] | None = None
    """From the first on, up to but without the second; None: all."""

    @property
    def depth(self) -> int:
        """How many layers."""
        first, end = self.layers or (0, 0)
        return end - first


@dataclasses.dataclass(frozen=True)
class Slice:
    """Neighbouring layers of the result, and what they are merged from."""

    sources: tuple[Source, ...]
    base: Path | None
    parameters: Settings
    place: str
    """What to call it in errors."""


def slices_in(value: Mapping[str, Any], place: str, base: Path | None, recipe: Recipe) -> Iterator[Slice]:
    """The slices of a file's content, one where it names whole models; raises UsageError for one that is none.

    Args:
        value: the content.
        place: the file's name.
        base: the base model of slices that name none.
        recipe: of the method.
    """
    if "models" in value:
        sources = [_source(entry, f"{place}, model {number}") for number, entry in _entries(value, "models", place)]
        if base is not None and base not in [source.model for source in sources]:
            sources.append(Source(base, {}))
        yield _checked(Slice(tuple(sources), base, {}, place), recipe)
        return
    for number, entry in _entries(value, "slices", place):
        here = f"{place}, slice {number}"
        if not isinstance(entry, dict):
            raise UsageError(f"{here} is a mapping with sources, not {entry!r}.")
        check_keys(entry, SLICE_KEYS, here)
        own = model_at(entry["base_model"], here) if entry.get("base_model") is not None else base
        every = _entries(entry, "sources", here)
        sources = [_source(source, f"{here}, source {index}", layers=True) for index, source in every]
        if len({source.depth for source in sources}) > 1:
            depths = " and ".join(str(source.depth) for source in sources)
            raise UsageError(f"{here} has sources of {depths} layers; they have to be alike.")
        yield _checked(Slice(tuple(sources), own, parameters_in(entry, here), here), recipe)


def _checked(part: Slice, recipe: Recipe) -> Slice:
    """The slice; raises UsageError where the method cannot merge it."""
    models = [source.model for source in part.sources]
    if len(set(models)) < len(models):
        twice = next(model for model in models if models.count(model) > 1)
        raise UsageError(f"{part.place} names {twice} twice in one merge.")
    if recipe.base == "ordinary":
        beside = len(models)
    elif part.base is None and recipe.base == "needed":
        raise UsageError(f"{part.place}: this merge_method needs a base_model.")
    elif part.base is not None and part.base not in models:
        raise UsageError(f"{part.place} has no source of its base_model {part.base}; add one.")
    else:
        beside = len(models) - (part.base is not None)
    if beside < recipe.fewest or (recipe.most is not None and beside > recipe.most):
        wanted = f"exactly {recipe.fewest}" if recipe.fewest == recipe.most else f"at least {recipe.fewest}"
        what = "model(s)" if recipe.base == "ordinary" else "model(s) beside the base_model"
        raise UsageError(f"{part.place}: this merge_method takes {wanted} {what}, not {beside}.")
    return part


def _entries(value: Mapping[str, Any], key: str, place: str) -> list[tuple[int, Any]]:
    entries = value.get(key)
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{place}: {key} is a list with at least one entry, not {entries!r}.")
    return list(enumerate(entries, 1))


def _source(entry: Any, place: str, *, layers: bool = False) -> Source:
    if not isinstance(entry, dict):
        raise UsageError(f"{place} is a mapping with model, not {entry!r}.")
    check_keys(entry, ("model", "parameters", *(["layer_range"] if layers else [])), place)
    if "model" not in entry:
        raise UsageError(f"{place} says no model.")
    span = None
    if layers:
        span = entry.get("layer_range")
        numbers = span if isinstance(span, list) and all(type(end) is int for end in span) else []
        if len(numbers) != 2 or not 0 <= numbers[0] < numbers[1]:
            raise UsageError(f"{place}: layer_range is [first, end], without the end, not {span!r}.")
    return Source(model_at(entry["model"], place), parameters_in(entry, place), tuple(span) if span else None)


def model_at(given: Any, place: str) -> Path:
    """The folder or file of a model; raises UsageError where there is none."""
    if not isinstance(given, str) or not given:
        raise UsageError(f"{place}: a model is named by its folder or file, not {given!r}.")
    path = Path(given)
    if path.exists():
        return path
    before, plus, _ = given.partition("+")
    if plus and before:
        raise UsageError(f"{place}: {given!r} is not taken: {LORA}.")
    raise UsageError(
        f"{place}: there is no folder or file {given!r}; nothing is downloaded here, so fetch the model first and "
        "name its folder."
    )


def parameters_in(value: Mapping[str, Any], place: str) -> Settings:
    """What an entry says under `parameters`; raises UsageError for a name that no method reads."""
    found = value.get("parameters")
    found = {} if found is None else found
    if not isinstance(found, dict):
        raise UsageError(f"{place}: parameters is a mapping, not {found!r}.")
    known = {parameter.name for recipe in RECIPES.values() for parameter in recipe.parameters}
    for name in found:
        if name not in known:
            raise unknown(f"parameter in {place}", str(name), known)
    return found


def check_keys(value: Mapping[Any, Any], known: tuple[str, ...], place: str) -> None:
    """Raises UsageError for a key that is not known, or that is known and not taken."""
    for key in value:
        if key in REFUSED:
            raise UsageError(f"{place}: {key} is not taken: {REFUSED[key]}.")
        if key not in known:
            raise unknown(f"key in {place}", str(key), known)
