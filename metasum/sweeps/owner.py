"""Which process owns a trial, and whether that process is still there."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
from pathlib import Path

from metasum.sweeps.clock import Clock


class Watch:
    """What one process knows of the others that share its sweep.

    Args:
        grace: seconds without a new sign of life after which a process on another machine is taken for dead.
        clock: tells how long ago a sign was.
    """

    def __init__(self, grace: float, clock: Clock) -> None:
        self.own = f"{_here()}:{os.getpid()}:{_started(os.getpid())}"
        self._grace, self._clock = grace, clock
        self._seen: dict[int, tuple[float, float]] = {}  # by trial: the last sign, and when it was first seen

    def is_dead(self, owner: str, trial: int, sign: float) -> bool:
        """Whether the process that runs a trial is gone: not on this machine any more, or silent for too long.

        Args:
            owner: what `own` was to that process.
            trial: its trial's number.
            sign: the last sign of life that it wrote there; a new one differs from those before.
        """
        if owner == self.own:
            return False
        now = self._clock.monotonic()
        if trial not in self._seen or self._seen[trial][0] != sign:
            self._seen[trial] = sign, now
        where, process, started = owner.rsplit(":", 2)
        gone = where == _here() and _started(int(process)) != started
        return gone or now - self._seen[trial][1] > self._grace


def _here() -> str:
    """Where process numbers mean what they mean to this process: a machine since it was started, or a container."""
    found = [socket.gethostname()]
    with contextlib.suppress(OSError):
        found += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return "/".join(found).replace(":", "")


def _started(process: int) -> str:
    """When a process began, so that its number can be told from a later one's; "" where it is gone.

    On Linux in the kernel's own ticks: a clock that is put right does not move them.
    """
    if platform.system() == "Linux":
        try:
            state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()  # see proc(5)
        except OSError:
            return ""
        return "" if state == "Z" else fields[18]  # dead, though nobody has asked for its exit code
    import psutil

    try:
        return str(int(psutil.Process(process).create_time()))
    except psutil.NoSuchProcess:
        return ""
