"""The layout of a run's kernels: as asked for, as the run began, else the quicker one in a short trial.

Channels last is nearly always quicker on CPUs, and not for every network and processor. Layouts differ in rounding. So
that equal commands give equal numbers, what a trial found is remembered for machine and shape in the user's cache
folder, channels last is left only where contiguous kernels are clearly quicker, and a run that goes on does so in the
layout that it began with.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from metasum.training.layout import CHANNELS_LAST, CONTIGUOUS, checked_layout, convolutions_of
from metasum.training.layout_memory import digest, settled, what_it_holds_for

AUTO = "auto"
LARGEST = 8 * 10**9  # operations of a pass; eight of these take a core about a second
BUDGET = 1.0  # seconds of the processor for all rounds
ROUNDS = range(3, 7)  # at least, and at most where the budget lasts
CLEARLY = 0.9  # of the time in channels last: contiguous kernels that need more are not taken

_FORMATS = {CHANNELS_LAST: torch.channels_last, CONTIGUOUS: torch.contiguous_format}


class Surroundings(NamedTuple):
    """What a run's networks will be trained in."""

    images: tuple[int, ...]
    """Shape of a batch, `[N, C, H, W]`."""
    device: torch.device
    precision: str
    """As `--precision` takes it."""


def chosen_layout(
    asked: str, networks: Sequence[nn.Module], where: Surroundings, *, before: str | None = None
) -> tuple[str, str | None]:
    """The layout that a run's kernels and activations are to have, and, where something is wrong with one, what.

    Args:
        asked: as `--memory-format` takes it.
        networks: those that are trained; they are left alone. The first of them is tried.
        where: their batches, device and precision.
        before: the layout that the run began with, where it goes on.

    Returns:
        "channels-last" or "contiguous"; and None, or the sentence of `checked_layout`.

    Raises:
        UsageError: channels last was asked for, and is not right here.
    """
    if asked == AUTO and before == CONTIGUOUS:
        asked = CONTIGUOUS
    wanted = None if asked == AUTO else asked
    layout, fault = checked_layout(wanted, networks, where.images, where.device, precision=where.precision)
    if asked == AUTO and before is None and layout == CHANNELS_LAST and where.device.type == "cpu":
        layout = _quicker(networks[0], where)
    return layout, fault


def _quicker(network: nn.Module, where: Surroundings) -> str:
    """The remembered outcome of a trial, or of one made now."""
    dtype = "bfloat16" if where.precision == "bf16-mixed" else "float32"
    convolutions = convolutions_of(network, where.images, dtype)
    if not convolutions or _operations(network, where) > LARGEST:
        return CHANNELS_LAST
    what = [
        [[name, type(module).__qualname__] for name, module in network.named_modules()],
        [[name, list(tensor.shape)] for name, tensor in network.state_dict().items()],
        sorted(convolutions),
    ]
    return settled({**what_it_holds_for(), "trial": True}, digest(what), lambda: tried(network, where))


def _operations(network: nn.Module, where: Surroundings) -> int:
    """Of a forward and backward pass, roughly; nothing is computed."""
    from torch.utils.flop_counter import FlopCounterMode

    shapes = copy.deepcopy(network).to("meta").eval()  # tensors without numbers
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes(torch.empty(where.images, device="meta"))
    return 3 * int(counter.get_total_flops())


def tried(network: nn.Module, where: Surroundings) -> str:
    """The layout in which a forward and backward pass takes less of the processor's time; channels last in doubt.

    Args:
        network: left alone, and so is the random state; copies of it are run, in train mode.
        where: the batch's shape and the precision.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            passes = {layout: _pass(network, layout, where) for layout in _FORMATS}
            for each in passes.values():
                each()  # whatever a first pass sets up
            ratios = list[float]()
            started = time.process_time()
            while len(ratios) < ROUNDS.start or (
                len(ratios) < ROUNDS.stop and (time.process_time() - started) * (1 + 1 / len(ratios)) < BUDGET
            ):
                seconds = {layout: _seconds(passes[layout]) for layout in passes}
                ratios.append(seconds[CONTIGUOUS] / max(seconds[CHANNELS_LAST], 1e-9))
        except Exception:  # noqa: BLE001 (networks may answer anything, and refuse noise)
            return CHANNELS_LAST
    return CONTIGUOUS if statistics.median(ratios) < CLEARLY else CHANNELS_LAST


def _pass(network: nn.Module, layout: str, where: Surroundings) -> Callable[[], None]:
    """A forward and backward pass of a copy of the network, through the mean square of what it answers to noise."""
    own: Any = copy.deepcopy(network).train().to(memory_format=_FORMATS[layout])
    images, narrow = torch.randn(where.images), where.precision == "bf16-mixed"

    def forward_and_backward() -> None:
        own.zero_grad(set_to_none=True)
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = own(images).float().square().mean()
        loss.backward()

    return forward_and_backward


def _seconds(work: Callable[[], None]) -> float:
    """That the processor spends on it, in all threads: other processes hardly disturb that."""
    started = time.process_time()
    work()
    return time.process_time() - started
