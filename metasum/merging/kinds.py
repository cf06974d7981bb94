"""Tensors that are no weights by themselves: told by their names, and by what stands beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from metasum.errors import ArchitectureError
from metasum.weights.tensor_files.dtypes import FLOATS, TensorInfo

STATISTIC = re.compile(r"(.*\.)?(running|moving)_(mean|var|variance|std)")
MOMENT = re.compile(r"(?P<module>.*\.|)(mean|var|variance)")
SCALES = ("weight", "gamma", "scale")  # what a normalisation's factor is called
LORA = re.compile(r".*(lora[._]?(embedding_)?(a|b|up|down)\b|lora_magnitude|hada_w|lokr_w).*", re.IGNORECASE)
SHORT = ("F8_E4M3", "F8_E5M2", "I8", "U8", "I16", "U16", "I32", "U32")  # what quantised weights are kept in
QUANTISATION = re.compile(r"scale|zero|absmax|quant|g_idx|scb", re.IGNORECASE)


def statistics_among(shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Names of the running means and variances of normalisations, which describe activations and are no weights.

    A tensor is one by its name (`bn.running_var`), or where `mean` or `var` is a vector beside a `weight` of its shape.

    Args:
        shapes: of all floating-point tensors of a network, by name.
    """
    found = set()
    for name, shape in shapes.items():
        moment = MOMENT.fullmatch(name)
        beside = {shapes.get(moment["module"] + scale) for scale in SCALES} if moment else set()
        if STATISTIC.fullmatch(name) or (len(shape) == 1 and shape in beside):
            found.add(name)
    return found


def must_be_alike(name: str, info: TensorInfo) -> bool:
    """Whether files can be merged only where they agree on this tensor: integers, but for counters."""
    return info.code not in FLOATS and (info.entries > 1 or QUANTISATION.search(name.rpartition(".")[2]) is not None)


def check_apart(infos: Mapping[str, TensorInfo], taken: Callable[[str], bool]) -> None:
    """Raises where a tensor would be merged that means something only together with another one.

    Args:
        infos: of all tensors of the first file.
        taken: whether a tensor of that name is to be merged.

    Raises:
        ArchitectureError: LoRA's factors, float8 with a scale beside it, or the scale of integers that are left out:
            one is named, and what to do is said.
    """
    for name, info in infos.items():
        if taken(name) and LORA.fullmatch(name):
            raise ArchitectureError(
                f"{name!r} is a factor of a low-rank update, and a mean of factors is not the factor of a mean; merge "
                "each LoRA into its base model first, or leave the factors out with --skip."
            )
        scales = _scales_of(name, infos) if info.code in SHORT and info.entries > 1 else []
        at_stake = [scale for scale in scales if taken(scale)]
        if (info.code in FLOATS and scales and taken(name)) or (at_stake and not taken(name)):
            raise ArchitectureError(
                f"{name!r}, {info}, means something only together with {(at_stake or scales)[0]!r}; write the files "
                "dequantised, for instance in bfloat16, or leave both out with --skip."
            )


def _scales_of(name: str, infos: Mapping[str, TensorInfo]) -> list[str]:
    """Floating-point tensors that say what a quantised one stands for: `scales` beside `qweight`, `weight.absmax`."""
    module = name.rpartition(".")[0]
    beside = [other for other, info in infos.items() if info.code in FLOATS and other != name]
    return [
        other
        for other in beside
        if other.rpartition(".")[0] in (module, name) and QUANTISATION.search(other.rpartition(".")[2])
    ]
