"""Every way of merging finished networks by name: one dictionary to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from metasum.config import MergingConfig
from metasum.errors import unknown
from metasum.weights.composition import OPERATORS

if TYPE_CHECKING:
    from torch import Tensor

    from metasum.baselines.merging import Endpoint, Merger
    from metasum.types import Parameters


@dataclass(frozen=True)
class MergerEntry:
    """A way of merging."""

    make: Callable[[MergingConfig, int], Merger]
    """From the settings and a seed to the method."""
    summary: str
    settings: tuple[str, ...] = ()
    """Names of the merging settings that it reads."""
    needs_initial: bool = False
    """Whether it works on differences from the initialisation, which must then be shared."""
    needs_images: bool = False
    """Whether it looks at the networks' training images."""
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Candidates that a comparison chooses from on validation images."""


def _plain(name: str) -> Callable[[MergingConfig, int], Merger]:
    def merge(endpoints: Sequence[Endpoint], initial: Parameters) -> dict[str, Tensor]:
        return OPERATORS[name]([endpoint.parameters for endpoint in endpoints])

    return lambda config, seed: merge


def _task_arithmetic(config: MergingConfig, seed: int) -> Merger:
    from metasum.baselines.task_arithmetic import task_arithmetic_merger

    return task_arithmetic_merger(scaling=config.scaling)


def _ties(config: MergingConfig, seed: int) -> Merger:
    from metasum.baselines.ties import ties_merger

    return ties_merger(density=config.density, scaling=config.scaling)


def _dare(config: MergingConfig, seed: int) -> Merger:
    from metasum.baselines.dare import dare_merger

    density = config.density if config.dare_then == "ties" else None
    return dare_merger(drop_rate=config.drop_rate, scaling=config.scaling, ties_density=density, seed=seed)


def _slerp(config: MergingConfig, seed: int) -> Merger:
    from metasum.baselines.slerp import slerp_merger

    return slerp_merger(position=config.position)


def _fisher(config: MergingConfig, seed: int) -> Merger:
    from metasum.baselines.fisher import fisher_merger

    return fisher_merger(images=config.merging_images, seed=seed)


def _regmean(config: MergingConfig, seed: int) -> Merger:
    from metasum.baselines.regmean import regmean_merger

    return regmean_merger(shrinkage=config.shrinkage, images=config.merging_images)


def _weight_matching(config: MergingConfig, seed: int) -> Merger:
    from metasum.baselines.weight_matching import weight_matching_merger

    return weight_matching_merger(seed=seed)


SCALINGS = (0.3, 0.5, 0.7, 1.0)
MERGERS: dict[str, MergerEntry] = {
    "sum": MergerEntry(_plain("sum"), "The plain sum."),
    "average": MergerEntry(_plain("average"), "The plain average of independently trained networks."),
    "task-arithmetic": MergerEntry(
        _task_arithmetic,
        "The initialisation plus λ times the sum of differences from it.",
        ("scaling",),
        needs_initial=True,
        grid={"scaling": SCALINGS},
    ),
    "ties": MergerEntry(
        _ties,
        "Task arithmetic on trimmed differences that agree in sign.",
        ("density", "scaling"),
        needs_initial=True,
        grid={"density": (0.2, 0.5), "scaling": SCALINGS},
    ),
    "dare": MergerEntry(
        _dare,
        "Task arithmetic or TIES on randomly thinned differences.",
        ("drop_rate", "scaling", "dare_then", "density"),
        needs_initial=True,
        grid={"drop_rate": (0.5, 0.9), "scaling": SCALINGS},
    ),
    "slerp": MergerEntry(
        _slerp, "Interpolates on the sphere, tensor by tensor.", ("position",), grid={"position": (0.3, 0.5, 0.7)}
    ),
    "fisher": MergerEntry(
        _fisher, "An average weighted by Fisher information.", ("merging_images",), needs_images=True
    ),
    "regmean": MergerEntry(
        _regmean,
        "Solves each layer for the answers that both networks give.",
        ("merging_images", "shrinkage"),
        needs_images=True,
        grid={"shrinkage": (0.5, 0.9, 1.0)},
    ),
    "weight-matching": MergerEntry(_weight_matching, "Permutes the second network's channels to match the first's."),
}


def merger_named(name: str) -> MergerEntry:
    """The entry of `name`; raises UsageError, with the nearest name, where there is none."""
    if name not in MERGERS:
        raise unknown("operator", name, MERGERS)
    return MERGERS[name]
