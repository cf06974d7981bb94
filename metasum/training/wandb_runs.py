"""Weights & Biases: how a folder's run is opened without ever standing in the way, and its charts."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metasum.config.sections import TrackingConfig
from metasum.errors import reason
from metasum.files import read_json, reading, write_json
from metasum.results.pictures import Analysis

PATIENCE = 20  # seconds that W&B is given to answer, at the start and at the end


@dataclass
class TrackerTroubles:
    """What has gone wrong with trackers so far, for the runs of one study."""

    offline: bool = False
    """W&B is out of reach: it is not waited for again."""
    said: set[str] = field(default_factory=set)
    """Sentences that need not be said again."""


def wandb_mode(config: TrackingConfig) -> str:
    """As asked for; otherwise disabled, but under a sweep's agent online, or what WANDB_MODE says."""
    if config.wandb is not None:
        return config.wandb
    return os.environ.get("WANDB_MODE", "online") if under_agent() else "disabled"


def under_agent() -> bool:
    """Whether a sweep's agent started this process, and chose its W&B run's id."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def wandb_label(folder: Path) -> str:
    """What W&B calls a folder's run: the names of the folder above it and of its own."""
    return f"{folder.parent.name}/{folder.name}"


def open_wandb(
    config: TrackingConfig,
    folder: Path,
    *,
    settings: Mapping[str, Any],
    job_type: str,
    note: Callable[[str], None],
    troubles: TrackerTroubles,
) -> Any:
    """The W&B run of a folder, the same one every time: its id is kept there, in tracking.json.

    Without a key, or where no server answers in time, it is written into the folder (`wandb sync` sends it later).

    Args:
        config: the flags; they do not disable W&B.
        folder: a run's, or a study's.
        settings: what W&B shows as the run's config.
        job_type: what W&B tells kinds of runs apart by.
        note: says a line.
        troubles: whether W&B has been out of reach before.
    """
    import wandb
    from wandb.errors import CommError

    mode: Any = "offline" if troubles.offline and wandb_mode(config) == "online" else wandb_mode(config)
    if mode == "online" and not _has_key(wandb):
        note(f"W&B has no API key (`wandb login`): tracking offline, in {folder / 'wandb'}.")
        mode, troubles.offline = "offline", True
    arguments: dict[str, Any] = {
        "project": config.wandb_project,
        "entity": config.wandb_entity,
        "group": config.wandb_group,
        "job_type": job_type,
        "name": config.wandb_name or wandb_label(folder),
        "tags": config.wandb_tags or None,
        "dir": str(folder),
        "config": dict(settings),
        "resume": "allow",
        "settings": wandb.Settings(silent=True, console="off", init_timeout=PATIENCE, login_timeout=PATIENCE),
    }
    if not under_agent():
        arguments["id"] = _run_id(folder)
    try:
        return wandb.init(mode=mode, **arguments)
    except CommError as error:
        note(f"W&B does not answer ({reason(error)}): tracking offline, in {folder / 'wandb'}.")
        troubles.offline = True
        wandb.teardown()  # its service holds on to the run's id
        return wandb.init(mode="offline", **arguments)


@contextmanager
def finishing(run: Any) -> Iterator[Any]:
    """Finishes a W&B run in the end, as failed where the block raises (W&B's own manager would print a traceback)."""
    try:
        yield run
    except BaseException:
        with contextlib.suppress(Exception):
            run.finish(exit_code=1)
        raise
    run.finish()


def forget_service() -> None:
    """Lets go of W&B's process, which may be dead: the next run gets a new one, and nobody asks for it at exit."""
    with contextlib.suppress(Exception):
        import wandb

        wandb.teardown()


def _has_key(wandb: Any) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):  # it tells where it looked
        try:
            return bool(wandb.login(prompt=False, verify=False))
        except TypeError:  # older W&B has no such question
            return bool(wandb.api.api_key)
    return False


def _run_id(folder: Path) -> str:
    """The id of the folder's W&B run, made once."""
    path = folder / "tracking.json"
    if not path.is_file():
        write_json(path, {"wandb_id": secrets.token_hex(4)})
    with reading(path):
        return str(read_json(path)["wandb_id"])


def charts(wandb: Any, analysis: Analysis) -> dict[str, Any]:
    """The line between the networks, and confusion matrices before and after, as W&B charts."""
    line = analysis.interpolation
    found = {
        "interpolation": wandb.plot.line_series(
            xs=list(line.alphas),
            ys=[list(curve) for curve in line.accuracy.values()],
            keys=list(line.accuracy),
            title="Accuracy along the line from the support (0) to the target (1)",
            xname="alpha",
        )
    }
    for side, matrices in analysis.confusion.items():
        for when, matrix in (("before", matrices.before), ("after", matrices.after)):
            truth = [row for row, counts in enumerate(matrix) for count in counts for _ in range(count)]
            taken = [column for counts in matrix for column, count in enumerate(counts) for _ in range(count)]
            found[f"confusion_{side}_{when}"] = wandb.plot.confusion_matrix(
                y_true=truth, preds=taken, class_names=[str(label) for label in range(len(matrix))]
            )
    return found
