"""One trial's run: a process of its own, a folder of its own, and what it says of itself while it works."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from metasum.errors import CheckpointError
from metasum.files import make_folder
from metasum.results.kinds import read_result
from metasum.results.meta import MetaResult
from metasum.results.run import RunResult
from metasum.sweeps.sweep_file import RUN_FOLDERS
from metasum.training.run_folder import read_metrics
from metasum.training.tracking import scalars

METASUM = (sys.executable, "-m", "metasum")
OUTPUT = "output.txt"


def launch(
    arguments: Sequence[str], output: Path, threads: int, *, program: Sequence[str] = METASUM
) -> subprocess.Popen[bytes]:
    """Starts a program; its output is appended to a file. OMP_NUM_THREADS, where it is set, precedes `threads`."""
    with output.open("ab") as file:
        return subprocess.Popen(
            [*program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={"OMP_NUM_THREADS": str(threads)} | os.environ,
            start_new_session=True,  # Ctrl-C is ours to hand on
            preexec_fn=_die_with_parent() if sys.platform.startswith("linux") else None,
        )


class TrialProcess:
    """`metasum COMMAND …`, started; a run that an earlier process began in its folder is continued."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        threads: int,
        *,
        launch: Callable[[Sequence[str], Path, int], subprocess.Popen[bytes]] = launch,
    ) -> None:
        self.folder, self.peak_bytes = folder, 0
        self._pattern = RUN_FOLDERS[arguments[0]]
        self._told, self._looked_at = -1, (0, 0)  # the last step that was told; time and size of the file then
        make_folder(folder)
        resume = ["--resume"] if self._run_file("config.json") is not None else []
        self._process = launch([*arguments, "--out", str(folder), *resume], folder / OUTPUT, threads)

    def ended(self) -> int | None:
        """The exit code; None while it works."""
        return self._process.poll()

    def interrupt(self) -> None:
        """Asks it to save its state and end."""
        if self.ended() is None:
            self._process.send_signal(signal.SIGINT)

    def stop(self, *, patience: float = 60) -> None:
        """Asks it likewise, once, and makes it end."""
        self.interrupt()
        self.wait(patience=patience)

    def wait(self, *, patience: float = 60) -> None:
        """Until it has ended, by itself or, when patience is over, with all that it started."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def measure(self) -> None:
        """Looks how much memory it holds."""
        import psutil

        with contextlib.suppress(psutil.Error):
            self.peak_bytes = max(self.peak_bytes, psutil.Process(self._process.pid).memory_info().rss)

    def news(self, metric: str) -> list[float]:
        """The metric's values in the evaluations since the last call; a step that was told is not told again."""
        path, values = self._run_file("metrics.jsonl"), list[float]()
        if path is None:
            return values
        now = path.stat()
        if (now.st_mtime_ns, now.st_size) == self._looked_at:
            return values
        self._looked_at = (now.st_mtime_ns, now.st_size)
        with contextlib.suppress(CheckpointError):  # whoever continues that run will say so
            for record in read_metrics(path, torn=True):
                if record["kind"] == "evaluation" and record["step"] > self._told:
                    self._told = record["step"]
                    values += [value for name, value in scalars(record).items() if name == metric]
        return values

    def result(self) -> RunResult | MetaResult:
        """result.json, with where it is now as its `run`.

        Raises:
            CheckpointError: it is damaged, or of neither kind.
            FileNotFoundError: it is not there.
        """
        path = self._run_file("result.json")
        if path is None:
            raise FileNotFoundError(f"{self.folder} holds no result.json")
        found = read_result(path)
        if not isinstance(found, RunResult | MetaResult):
            raise CheckpointError(f"{path} holds no result of a training.")
        return dataclasses.replace(found, run=str(path.parent))

    def complaint(self) -> str:
        """The last line that it wrote."""
        lines = (self.folder / OUTPUT).read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return said[-1].removeprefix("metasum: ") if said else "it said nothing"

    def _run_file(self, name: str) -> Path | None:
        return next(iter(sorted(self.folder.glob(f"{self._pattern}/{name}"))), None)


def numbers_of(result: RunResult | MetaResult) -> dict[str, float]:
    """A result's numbers under the names that a sweep's metric can have."""
    plain = result.plain()
    numbers: dict[str, float] = {name: value for name, value in plain.items() if isinstance(value, int | float)}
    return numbers | scalars({"kind": "evaluation", "accuracy": plain["accuracy"]})


def _die_with_parent() -> Callable[[], None]:
    """For the child to call: SIGTERM when its parent is gone, killed or not (prctl(2))."""
    library = ctypes.CDLL(None)  # loaded here: a forked process should load nothing
    return lambda: library.prctl(1, signal.SIGTERM)
