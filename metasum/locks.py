"""Locks on open files, which end with the process that holds them, however it ends.

They are flock(2)'s: on a network folder (NFS), every machine that mounts it sees them. The package filelock was tried:
several of its releases empty the file that they wait for, and with it the name of who holds it; and where a file system
has no flock, it takes the mere existence of a file for a lock, which outlives a killed process.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

WITHOUT = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # what a file system without locks answers
TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}


def lock(handle: int, *, wait: bool = False, shared: bool = False) -> bool | None:
    """Takes the lock on an open file, until the file is closed or this process ends.

    Args:
        handle: of the file, open for writing.
        wait: until whoever holds it lets go.
        shared: together with others who want it shared.

    Returns:
        Whether it is ours now; None where this system, or the file system, has no locks.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in TAKEN:
            return False
        if error.errno in WITHOUT:
            return None
        raise
    return True


def is_at(handle: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`, and not one that was removed or replaced meanwhile."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    own = os.fstat(handle)
    return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)
