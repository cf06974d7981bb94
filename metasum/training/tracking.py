"""Runs in Weights & Biases and TensorBoard: what metrics.jsonl is told, told there too. A tracker never stops a run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from metasum.config import TrackingConfig
from metasum.errors import UsageError, reason
from metasum.files import read_json, write_json
from metasum.training.run_folder import RunFolder

PATIENCE = 20  # seconds that W&B is given to answer, at the start and at the end


class Tracker(Protocol):
    """Hears what a run writes down."""

    def record(self, record: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        ...

    def finish(self, run: RunFolder) -> None:
        """The run is finished; its folder holds result.json and, perhaps, analysis.json."""
        ...

    def close(self, *, failed: bool) -> None:
        """Nothing more will come."""
        ...


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """A line of metrics.jsonl as flat names and numbers: "loss/sum", "learning_rate", "target_after", …

    Accuracies have one name over all of a run, `<side>_before` and `<side>_after`, so that a sweep's metric and a run's
    summary can point at them; "mean_after" is the mean of both sides.
    """
    if record["kind"] == "step":
        losses = {f"loss/{name}": value for name, value in record["losses"].items()}
        rest = {name: record[name] for name in ("learning_rate", "images_per_second", "peak_bytes") if name in record}
        return losses | rest
    found: dict[str, float] = {}
    for name, value in record["accuracy"].items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        found |= {f"{name}_{when}".rstrip("_"): share for when, share in parts}
    if {"target_after", "support_after"} <= set(found):
        found["mean_after"] = (found["target_after"] + found["support_after"]) / 2
    return found


def check_tracking(config: TrackingConfig) -> None:
    """Raises UsageError where a tracker that is asked for is not installed."""
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs the package tensorboard: pip install 'metasum[tensorboard]'.")


@contextmanager
def tracked(config: TrackingConfig, run: RunFolder, note: Callable[[str], None]) -> Iterator[Tracker]:
    """The run's trackers, closed in the end; whatever one of them dies of is said once, and the run goes on.

    Args:
        config: which.
        run: the folder, which holds config.json.
        note: says a line.
    """
    trackers: list[Tracker] = []
    if config.tensorboard:
        trackers.append(_Guarded("TensorBoard", note, lambda: TensorBoardTracker(run)))
    mode = wandb_mode(config)
    if mode != "disabled":
        trackers.append(_Guarded("W&B", note, lambda: WandbTracker(config, run, mode, note)))
    several = _Several(trackers)
    try:
        yield several
    except BaseException:
        several.close(failed=True)
        raise
    several.close(failed=False)


def wandb_mode(config: TrackingConfig) -> str:
    """As asked for; otherwise disabled, but under a sweep's agent online, or what WANDB_MODE says."""
    if config.wandb is not None:
        return config.wandb
    return os.environ.get("WANDB_MODE", "online") if os.environ.get("WANDB_SWEEP_ID") else "disabled"


class WandbTracker:
    """One W&B run for a run folder; resuming the one resumes the other.

    Without a key, or where no server answers in time, it is written into the run folder (`wandb sync` sends it later).
    """

    def __init__(self, config: TrackingConfig, run: RunFolder, mode: Any, note: Callable[[str], None]) -> None:
        import wandb

        self._wandb, self._send_network = wandb, config.wandb_network
        if mode == "online" and not _has_key(wandb):
            note(f"W&B has no API key (`wandb login`): tracking offline, in {run.path / 'wandb'}.")
            mode = "offline"
        tags = [word.strip() for word in (config.wandb_tags or "").split(",") if word.strip()]
        arguments: dict[str, Any] = {
            "project": config.wandb_project,
            "entity": config.wandb_entity,
            "group": config.wandb_group,
            "name": config.wandb_name or f"{run.path.parent.name}/{run.path.name}",
            "tags": tags or None,
            "dir": str(run.path),
            "config": run.read_json("config.json"),
            "resume": "allow",
            "settings": wandb.Settings(silent=True, console="off", init_timeout=PATIENCE, login_timeout=PATIENCE),
        }
        if not os.environ.get("WANDB_SWEEP_ID"):  # an agent has chosen the id already
            arguments["id"] = _run_id(run)
        try:
            self._run = wandb.init(mode=mode, **arguments)
        except wandb.errors.CommError as error:
            note(f"W&B does not answer ({reason(error)}): tracking offline, in {run.path / 'wandb'}.")
            wandb.teardown()  # its service holds on to the run's id
            self._run = wandb.init(mode="offline", **arguments)

    def record(self, record: Mapping[str, Any]) -> None:
        self._run.log(scalars(record), step=record["step"])

    def finish(self, run: RunFolder) -> None:
        result, wandb = run.read_json("result.json"), self._wandb
        kept = ("steps", "seconds", "images_per_second", "peak_bytes", "evaluation_seconds", "sum_seconds")
        accuracies = scalars({"kind": "evaluation", "accuracy": result["accuracy"]})
        self._run.summary.update({name: result[name] for name in kept if name in result} | accuracies)
        if (run.path / "analysis.json").is_file():
            self._run.log(_charts(wandb, run.read_json("analysis.json")))
        if self._send_network and (run.path / "summed.safetensors").is_file():
            artifact = wandb.Artifact(f"summed-{self._run.id}", type="model", metadata=result["accuracy"])
            artifact.add_file(str(run.path / "summed.safetensors"))
            self._run.log_artifact(artifact)

    def close(self, *, failed: bool) -> None:
        try:
            self._run.finish(exit_code=1 if failed else 0)
        except Exception:
            with contextlib.suppress(Exception):
                self._wandb.teardown()  # its service has died: the next run is to have another
            raise


class TensorBoardTracker:
    """Event files in the run folder's `tensorboard`; what a stopped run wrote after its checkpoint is taken back."""

    def __init__(self, run: RunFolder) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter
        self._folder, self._make = str(run.path / "tensorboard"), SummaryWriter
        self._writer: Any = None

    def record(self, record: Mapping[str, Any]) -> None:
        if self._writer is None:
            self._writer = self._make(self._folder, purge_step=record["step"])
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def finish(self, run: RunFolder) -> None:
        if self._writer is None:
            self._writer = self._make(self._folder)
        self._writer.add_text("result", (run.path / "result.json").read_text(encoding="utf-8"))

    def close(self, *, failed: bool) -> None:
        if self._writer is not None:
            self._writer.close()


class _Guarded:
    """A tracker whose first failure is said and its last: afterwards it hears nothing."""

    def __init__(self, name: str, note: Callable[[str], None], make: Callable[[], Tracker]) -> None:
        self._name, self._note = name, note
        self._tracker: Tracker | None = None
        with self._surviving():
            self._tracker = make()

    def record(self, record: Mapping[str, Any]) -> None:
        with self._surviving():
            if self._tracker is not None:
                self._tracker.record(record)

    def finish(self, run: RunFolder) -> None:
        with self._surviving():
            if self._tracker is not None:
                self._tracker.finish(run)

    def close(self, *, failed: bool) -> None:
        with self._surviving():
            if self._tracker is not None:
                self._tracker.close(failed=failed)

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 (whatever a tracker dies of, the run goes on)
            tracker, self._tracker = self._tracker, None
            with contextlib.suppress(Exception):
                if tracker is not None:
                    tracker.close(failed=True)
            self._note(f"{self._name} failed ({reason(error)}): this run goes on without it.")


class _Several:
    def __init__(self, trackers: list[Tracker]) -> None:
        self._trackers = trackers

    def record(self, record: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.record(record)

    def finish(self, run: RunFolder) -> None:
        for tracker in self._trackers:
            tracker.finish(run)

    def close(self, *, failed: bool) -> None:
        for tracker in self._trackers:
            tracker.close(failed=failed)


def _has_key(wandb: Any) -> bool:
    with contextlib.suppress(Exception):
        return bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)
    return False


def _run_id(run: RunFolder) -> str:
    """The id of the run folder's W&B run, made once."""
    path = run.path / "tracking.json"
    if not path.is_file():
        write_json(path, {"wandb_id": secrets.token_hex(4)})
    return str(read_json(path)["wandb_id"])


def _charts(wandb: Any, analysis: Mapping[str, Any]) -> dict[str, Any]:
    """The line between the networks, and confusion matrices before and after, as W&B charts."""
    line = analysis["interpolation"]
    charts = {
        "interpolation": wandb.plot.line_series(
            xs=line["alphas"],
            ys=list(line["accuracy"].values()),
            keys=list(line["accuracy"]),
            title="Accuracy along the line from the support (0) to the target (1)",
            xname="alpha",
        )
    }
    for side, matrices in analysis["confusion"].items():
        for when, matrix in matrices.items():
            truth = [row for row, counts in enumerate(matrix) for count in counts for _ in range(count)]
            taken = [column for counts in matrix for column, count in enumerate(counts) for _ in range(count)]
            charts[f"confusion_{side}_{when}"] = wandb.plot.confusion_matrix(
                y_true=truth, preds=taken, class_names=[str(label) for label in range(len(matrix))]
            )
    return charts
