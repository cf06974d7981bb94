"""Loss terms between two lines of the log."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from metasum.errors import DivergenceError
from metasum.training.processes import Processes


class LossLog:
    """Gathers each step's terms where they are computed, and reads them once a log line: reading waits for the device.

    Args:
        together: the processes, whose terms are averaged.
    """

    def __init__(self, together: Processes) -> None:
        self._together, self._unread = together, list[Mapping[str, Tensor]]()
        self.means: dict[str, float] = {}
        """Of the steps that were read last, in nats per image."""

    @property
    def unread(self) -> bool:
        """Whether there are steps that have not been read."""
        return bool(self._unread)

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """One step's terms: scalars, detached."""
        self._unread.append(terms)

    def read(self, step: int) -> None:
        """Puts means over the steps since the last call into `means`.

        A term that only some of these steps had (of a learner with phases) is the mean over those.

        Args:
            step: the number of the last of them.

        Raises:
            DivergenceError: one is NaN or infinite; its sentence is the beginning of what there is to say.
        """
        rows = self._together.means([{name: float(term) for name, term in own.items()} for own in self._unread])
        columns: dict[str, list[float]] = {}
        for number, row in enumerate(rows, start=step - len(rows) + 1):
            for name, value in row.items():
                if not math.isfinite(value):
                    raise DivergenceError(f"the {name} loss became {value} in step {number}")
                columns.setdefault(name, []).append(value)
        self.means = {name: sum(values) / len(values) for name, values in columns.items()}
        self._unread = []
