"""Tensors that are not weights: told by their names, and by what stands beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping

STATISTIC = re.compile(r"(.*\.)?(running|moving)_(mean|var|variance|std)")
MOMENT = re.compile(r"(?P<module>.*\.|)(mean|var|variance)")
SCALES = ("weight", "gamma", "scale")  # what a normalisation's factor is called


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
