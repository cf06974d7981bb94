"""Everything a run leaves behind, in one folder."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from metasum.errors import CheckpointError, StorageError, UsageError, reason
from metasum.files import json_text, read_json, replacing, write_json, write_text
from metasum.ownership import LOCK
from metasum.results.run import RunResult
from metasum.results.value import Result
from metasum.weights.storage import load_weights, save_weights

R = TypeVar("R", bound=Result)

CHECKPOINT_FORMAT = "metasum checkpoint 2"
CHECKPOINT_KEYS = {"format", "step", "learner", "optimizer", "updates", "precision", "sampler", "random"}
CHECKPOINT_KEYS |= {"images", "seconds", "evaluation_seconds"}
RECORDS = {"step": "losses", "evaluation": "accuracy"}
"""What records there are, and under which name they hold their numbers."""


class RunFolder:
    """Reads and writes the files of one run; each appears whole or not at all (metrics.jsonl grows by lines)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logged = 0
        """Lines that this process knows of in metrics.jsonl."""

    @classmethod
    def create(cls, path: Path, description: Mapping[str, Any], *, overwrite: bool = False) -> RunFolder:
        """Makes the folder and writes config.json.

        Args:
            path: where; what is there already belongs to this process (`owning`).
            description: what config.json will hold.
            overwrite: delete a run that is there.

        Raises:
            UsageError: there is something already.
            StorageError: the folder cannot be made.
        """
        run = cls(path)
        try:
            if path.exists():
                run._make_way(overwrite)
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the run folder {path}: {error.strerror or error}.") from error
        write_json(path / "config.json", description)
        return run

    def _make_way(self, overwrite: bool) -> None:
        there = [file for file in self.path.iterdir() if file.name != LOCK]
        if not (self.path / "config.json").is_file():
            if all(file.suffix == ".partial" for file in there):
                return  # empty, but for what a killed process left half-written
            raise UsageError(f"{self.path} exists and is not a run folder; choose another --name or --out.")
        if not overwrite:
            state = "a finished run" if self.finished else "an unfinished run (--resume continues it)"
            raise UsageError(f"{self.path} holds {state}; use --overwrite to replace it, or another --name or --seed.")
        for file in sorted(there, key=lambda file: file.name == "config.json"):  # last: it makes the folder a run's
            shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """A run folder that is there, to read from; nothing in it changes.

        Raises:
            CheckpointError: it is not a run folder.
        """
        if not (path / "config.json").is_file():
            raise CheckpointError(f"{path} is not a run folder (it has no config.json).")
        return cls(path)

    @property
    def finished(self) -> bool:
        return (self.path / "result.json").is_file()

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object of the run: "config.json" or "result.json".

        Raises:
            CheckpointError: it is missing or damaged.
        """
        if not (self.path / name).is_file():
            raise CheckpointError(f"{self.path} has no {name}: the run is not finished (--resume continues it).")
        return read_json(self.path / name)

    def result(self, kind: type[R]) -> R:
        """What result.json holds.

        Raises:
            CheckpointError: the run is not finished, or the file is damaged, of a newer version, or of another kind.
        """
        return kind.from_json(self.read_json("result.json"), where=str(self.path / "result.json"))

    def networks_folder(self, result: RunResult) -> Path:
        """Where the run's target and support network lie: a run that only merges keeps no copies of its endpoints."""
        return self.path if result.endpoints is None else self.path.parent / result.endpoints

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Adds a line to metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json_text(record) + "\n")
            self.logged += 1
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}.") from error

    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl; raises CheckpointError where one is damaged."""
        return read_metrics(self.path / "metrics.jsonl")

    def forget_metrics_after(self, step: int, *, logged: int | None = None) -> None:
        """Drops what was logged after `step`, and a last line that a killed process was writing.

        Args:
            step: of the checkpoint.
            logged: lines that there were when it was saved; None where it does not say.

        Raises:
            CheckpointError: another line is damaged, or lines from before the checkpoint are gone; the file stays as
                it is.
        """
        records = read_metrics(self.path / "metrics.jsonl", torn=True)
        kept = [json_text(record) + "\n" for record in records if record["step"] <= step]
        if isinstance(logged, int) and len(kept) < logged:
            raise CheckpointError(
                f"{self.path / 'metrics.jsonl'} is damaged: of the {logged} lines from before step {step}, where "
                f"last.ckpt goes on, {len(kept)} are there."
            )
        self.logged = len(kept)
        write_text(self.path / "metrics.jsonl", "".join(kept))

    def save_weights(self, name: str, tensors: Mapping[str, Tensor], **metadata: str) -> None:
        """Writes `<name>.safetensors`."""
        save_weights(self.path / f"{name}.safetensors", tensors, metadata=metadata)

    def weights(self, name: str) -> dict[str, Tensor]:
        """Reads `<name>.safetensors`; raises CheckpointError where it is missing or damaged."""
        return load_weights(self.path / f"{name}.safetensors")

    def check_weights(self) -> None:
        """Raises CheckpointError where a weights file of the run is damaged."""
        for path in sorted(self.path.glob("*.safetensors")):
            load_weights(path)

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replaces last.ckpt.

        Raises:
            StorageError: it could not be written; the last one is untouched.
        """
        path = self.path / "last.ckpt"
        with replacing(path) as partial, partial.open("wb") as file:
            try:
                torch.save({"format": CHECKPOINT_FORMAT, **state}, file)
            except RuntimeError as error:  # PyTorch's zip writer raises it over the file's own error
                cause = error.__context__ if isinstance(error.__context__, OSError) else error
                raise StorageError(f"cannot write {path}: {reason(cause)}.") from error

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The state in last.ckpt, on the CPU; None where there is none yet.

        Raises:
            CheckpointError: it is damaged, or not a metasum checkpoint. Nothing in it is executed.
        """
        path = self.path / "last.ckpt"
        if not path.is_file():
            return None
        try:
            with zipfile.ZipFile(path) as archive:
                torn = archive.testzip()  # PyTorch itself does not compare the checksums it writes
            if torn is not None:
                raise ValueError(f"the checksum of {torn} is wrong")
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a torn pickle raises whatever its next byte happens to mean
            raise CheckpointError(f"{path} is damaged or is not a checkpoint ({reason(error)}).") from error
        if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT or not set(state) >= CHECKPOINT_KEYS:
            raise CheckpointError(f"{path} is not a checkpoint of metasum.")
        return state


def read_metrics(path: Path, *, torn: bool = False) -> list[dict[str, Any]]:
    """The records in a file; none where there is no file.

    Args:
        path: of metrics.jsonl.
        torn: leave out a last line that has no end: its process was killed while writing it.

    Raises:
        CheckpointError: any other line is not a record.
    """
    try:
        lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}.") from error
    *whole, rest = lines  # where the last line has its end, nothing follows it
    records = []
    for number, line in enumerate([*whole, rest] if rest else whole, start=1):
        record = _record(line)
        if record is not None:
            records.append(record)
        elif not torn or number <= len(whole):
            raise CheckpointError(f"{path} is damaged in line {number}.")
    return records


def _record(line: bytes) -> dict[str, Any] | None:
    """The record in a line; None where it holds none."""
    try:
        record = json.loads(line)
        good = isinstance(record["step"], int) and isinstance(record[RECORDS[record["kind"]]], dict)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return record if good else None
