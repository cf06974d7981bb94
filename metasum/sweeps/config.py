"""Every setting of `metasum sweep`."""

from __future__ import annotations

import dataclasses

from metasum.config import Checked, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig(Checked):
    """How a sweep file is run here; what is searched stands in the file.

    Example:
        >>> config = SweepConfig(count=10)
        >>> result = sweep("wandb_sweeps/sum_weight.yaml", config)

    Raises:
        UsageError: a value is of the wrong type or outside its range.
    """

    count: int | None = option(
        None,
        "Trials in all, whoever runs them; a grid's size and the file's run_cap are never exceeded "
        "[default: as many as these say].",
        minimum=1,
    )
    jobs: int = option(1, "Trials at a time; fewer where cores or memory do not suffice.", minimum=1)
    storage: str | None = option(
        None,
        "Where trials are written down, for any number of machines to share: a journal file's path, sqlite:///FILE or "
        "postgresql://USER@HOST/NAME [default: journal.log in the sweep's folder].",
    )
    name: str | None = option(None, "Of the sweep and its folder [default: the file's name].")
    seed: int = option(0, "Seed of random search and bayes.", minimum=0, below=2**62)
    grace: float = option(
        120.0,
        "Silence after which another machine's process is taken for dead, and its trial is run again.",
        unit="seconds",
        above=0,
    )
    report: bool = option(True, "Draw report.html when the sweep ends.")
