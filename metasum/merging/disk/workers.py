"""Threads that share out work; the first error, or a wish to stop, ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from types import TracebackType
from typing import TypeVar

import torch

from metasum.errors import Cancelled

T = TypeVar("T")


class Workers:
    """Threads for the time of a block; PyTorch's own threads rest meanwhile.

    Args:
        threads: how many.
        cancelled: asked ten times a second whether to stop.
        progress: told as often how many bytes are done.
    """

    def __init__(
        self, threads: int, *, cancelled: Callable[[], bool] | None, progress: Callable[[int], None] | None
    ) -> None:
        self._threads, self._cancelled, self._progress = threads, cancelled, progress
        self._stop, self._turn, self._done = threading.Event(), threading.Lock(), 0

    def __enter__(self) -> Workers:
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(
            self._threads,
            thread_name_prefix="metasum-merge",
            initializer=torch.set_num_threads,  # a new thread has OpenMP's own number, which linear algebra reads
            initargs=(1,),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._pool.shutdown()
        torch.set_num_threads(self._before)

    def advance(self, count: int) -> None:
        """Counts bytes as done; raises Cancelled where the work is to stop. Called by the threads."""
        if self._stop.is_set():
            raise Cancelled
        with self._turn:
            self._done += count

    def spread(self, work: Callable[[T], None], items: Iterable[T]) -> None:
        """Calls `work` on each item, in order, a thread at a time for each; raises the first error.

        Raises:
            Cancelled: `cancelled` said so.
        """
        queue, turn = iter(items), threading.Lock()

        def take_turns() -> None:
            try:
                while not self._stop.is_set():
                    with turn:
                        item = next(queue, queue)
                    if item is queue:
                        return
                    work(item)  # type: ignore[arg-type]  # the queue itself marks its end
            except BaseException:
                self._stop.set()
                raise

        left = {self._pool.submit(take_turns) for _ in range(self._threads)}
        all_of_them = set(left)
        while left:
            left = wait(left, timeout=0.1).not_done
            if self._progress:
                self._progress(self._done)
            if self._cancelled and self._cancelled():
                self._stop.set()
        errors = [error for future in all_of_them if (error := future.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, Cancelled)):
            raise error
        if self._stop.is_set():
            raise Cancelled
