"""Which process owns a trial, told so that another one can know whether it is still there."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
from pathlib import Path


def this_process() -> str:
    """The owner of a trial that runs here."""
    return f"{_here()}:{os.getpid()}:{_started(os.getpid())}"


def is_dead(owner: str) -> bool:
    """Whether an owner is a process of this machine that is not there any more; False where nobody can know."""
    where, process, started = owner.rsplit(":", 2)
    return where == _here() and _started(int(process)) != started


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
