"""Runs in Weights & Biases and TensorBoard: what metrics.jsonl is told, told there too. A tracker never stops a run."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from metasum.config.sections import TrackingConfig
from metasum.errors import UsageError, reason
from metasum.results.kinds import read_result
from metasum.results.pictures import Analysis
from metasum.training.run_folder import RunFolder
from metasum.training.wandb_runs import TrackerTroubles, charts, forget_service, open_wandb, wandb_mode


class Tracker(Protocol):
    """Hears what a run writes down."""

    def record(self, record: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""

    def finish(self, run: RunFolder) -> None:
        """The run is finished; its folder holds result.json and, perhaps, analysis.json."""

    def close(self, *, failed: bool) -> None:
        """Nothing more will come."""


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """A line of metrics.jsonl as flat names and numbers: "loss/sum", "learning_rate", "target_after", …

    Accuracies have one name over all of a run, `<side>_before` and `<side>_after`, so that a sweep's metric and a run's
    summary can point at them; "mean_after" is the mean of both sides. The last evaluation has `<side>_before_running`,
    too, where there is such a number.
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
def tracked(
    config: TrackingConfig,
    run: RunFolder,
    note: Callable[[str], None],
    *,
    job_type: str = "train",
    troubles: TrackerTroubles | None = None,
) -> Iterator[Tracker]:
    """The run's trackers, closed in the end; whatever one of them dies of is said once, and the run goes on.

    Args:
        config: which.
        run: the folder, which holds config.json.
        note: says a line.
        job_type: what W&B tells kinds of runs apart by.
        troubles: of the study that the run belongs to; what went wrong in an earlier run is not said again.
    """
    troubles = troubles or TrackerTroubles()
    makers: dict[str, Callable[[], Tracker]] = {}
    if config.tensorboard:
        makers["TensorBoard"] = lambda: TensorBoardTracker(run)
    if wandb_mode(config) != "disabled":
        makers["W&B"] = lambda: WandbTracker(config, run, job_type=job_type, note=note, troubles=troubles)
    trackers = _Trackers(makers, note, troubles)
    try:
        yield trackers
    except BaseException:
        trackers.close(failed=True)
        raise
    trackers.close(failed=False)


@contextmanager
def surviving(
    name: str, note: Callable[[str], None], troubles: TrackerTroubles, abandon: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Whatever the tracker called `name` dies of in this block is said, unless it was said before.

    Args:
        name: of the tracker.
        note: says a line.
        troubles: what was said before.
        abandon: closes what is left of the tracker.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 (whatever a tracker dies of, the work goes on)
        with contextlib.suppress(Exception):
            abandon()
        if name == "W&B":
            forget_service()
        sentence = f"{name} failed ({reason(error)}): this run goes on without it."
        if sentence not in troubles.said:
            troubles.said.add(sentence)
            note(sentence)


class WandbTracker:
    """One W&B run for a run folder; resuming the one resumes the other. Arguments as `open_wandb` takes them."""

    def __init__(
        self,
        config: TrackingConfig,
        run: RunFolder,
        *,
        job_type: str,
        note: Callable[[str], None],
        troubles: TrackerTroubles,
    ) -> None:
        self._send_network, settings = config.wandb_network, run.read_json("config.json")
        self._run = open_wandb(config, run.path, settings=settings, job_type=job_type, note=note, troubles=troubles)

    def record(self, record: Mapping[str, Any]) -> None:
        self._run.log(scalars(record), step=record["step"])

    def finish(self, run: RunFolder) -> None:
        import wandb

        result = read_result(run.path / "result.json").plain()
        kept = ("steps", "seconds", "images_per_second", "peak_bytes", "evaluation_seconds", "sum_seconds")
        accuracies = scalars({"kind": "evaluation", "accuracy": result["accuracy"]})
        self._run.summary.update({name: result[name] for name in kept if name in result} | accuracies)
        if (run.path / "analysis.json").is_file():
            self._run.log(charts(wandb, Analysis.of(run.path)))
        if self._send_network and (run.path / "summed.safetensors").is_file():
            artifact = wandb.Artifact(f"summed-{self._run.id}", type="model", metadata=result["accuracy"])
            artifact.add_file(str(run.path / "summed.safetensors"))
            self._run.log_artifact(artifact)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)


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


class _Trackers:
    """All of a run's trackers; one that fails is said to, and hears nothing more."""

    def __init__(
        self, makers: Mapping[str, Callable[[], Tracker]], note: Callable[[str], None], troubles: TrackerTroubles
    ) -> None:
        self._note, self._troubles = note, troubles
        self._trackers: dict[str, Tracker] = {}
        for name, make in makers.items():
            with self._surviving(name):
                self._trackers[name] = make()

    def record(self, record: Mapping[str, Any]) -> None:
        self._tell(lambda tracker: tracker.record(record))

    def finish(self, run: RunFolder) -> None:
        self._tell(lambda tracker: tracker.finish(run))

    def close(self, *, failed: bool) -> None:
        self._tell(lambda tracker: tracker.close(failed=failed))

    def _tell(self, say: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            with self._surviving(name):
                say(tracker)

    def _surviving(self, name: str) -> AbstractContextManager[None]:
        return surviving(name, self._note, self._troubles, lambda: self._abandon(name))

    def _abandon(self, name: str) -> None:
        if (tracker := self._trackers.pop(name, None)) is not None:
            tracker.close(failed=True)
