"""Channels last where it is known to be right: its gradients were compared with contiguous ones, on this machine.

PyTorch's convolutions on the CPU are oneDNN's, which are quicker in channels last, and not right on every processor:
without AVX-512 the backward pass of a 1x1 convolution of stride 2 with fewer than 8 channels writes past its memory
(oneDNN issue 6035). That crashes, hangs, or gives wrong gradients and says nothing. So every convolution of a network
is tried first, by its shape, in a process of its own (layout_probe.py), and the verdict is remembered in the user's
cache folder. Elsewhere than on the CPU convolutions are others' (cuDNN's, Metal's), and nothing is tried.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import metasum
from metasum.errors import UsageError
from metasum.training.layout_memory import digest, recall, remember, what_it_holds_for
from metasum.training.layout_probe import Convolution, convolution_of

CHANNELS_LAST, CONTIGUOUS = "channels-last", "contiguous"
PROBE = [sys.executable, "-m", "metasum.training.layout_probe"]
SECONDS = 20.0  # of every core, that a check may take beside its arithmetic, of which a core does 5 billion in a second
PATIENCE = 10  # times as long by the clock: other processes want the cores, too
_CRASHES = {"SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP"}


def checked_layout(
    asked: str | None,
    networks: Iterable[nn.Module],
    images: Sequence[int],
    device: torch.device,
    *,
    precision: str = "32",
    second_order: bool = False,
) -> tuple[str, str | None]:
    """The layout for a network's kernels and activations, and, where it is not the usual one, why.

    On the CPU channels last is given only where all convolutions of the networks passed the check described above, of
    a batch of `images` and of two images at least. On CUDA it is given unchecked, on other devices only where it was
    asked for. The first check of a shape takes what `import torch` does and a few passes; later ones read a small file.

    Args:
        asked: as `--memory-format` takes it; None for channels last where that is right.
        networks: any modules that take images; they are left alone.
        images: shape of a batch in training, `[N, C, H, W]`.
        device: where they will run.
        precision: as `--precision` takes it.
        second_order: whether training takes gradients of gradients.

    Returns:
        "channels-last" and None, or "contiguous" and None or a sentence on what is wrong with channels last here.

    Raises:
        UsageError: channels last was asked for, and is not right here.
    """
    if asked == CONTIGUOUS or (asked is None and device.type not in ("cpu", "cuda")):
        return CONTIGUOUS, None
    if device.type != "cpu":
        return CHANNELS_LAST, None
    dtype = "bfloat16" if precision == "bf16-mixed" else "float32"
    count, *rest = images
    try:
        convolutions = {
            convolution
            for network in networks
            for batch in {count, max(count, 2)}  # with a single image some faults show only now and then
            for convolution in convolutions_of(network, (batch, *rest), dtype)
        }
    except Exception as error:  # noqa: BLE001 (any module may fail in any way without its numbers)
        fault: str | None = (
            f"its convolutions cannot be listed ({(str(error).splitlines() or [type(error).__name__])[0]})"
        )
    else:
        fault = _remembered_fault(sorted(convolutions), second_order=second_order)
    if fault is None:
        return CHANNELS_LAST, None
    if asked is not None:
        raise UsageError(f"--memory-format channels-last is not safe on this machine: {fault}; leave it out.")
    return CONTIGUOUS, f"kernels lie contiguous, since channels last is not safe on this machine: {fault}"


def convolutions_of(network: nn.Module, images: Sequence[int], dtype: str = "float32") -> set[Convolution]:
    """Every convolution that a network's forward does on a batch of that shape; nothing is computed.

    Args:
        network: left alone.
        images: `[N, C, H, W]`.
        dtype: precision in which convolutions will run.
    """
    shapes = copy.deepcopy(network).to("meta").eval()  # tensors without numbers
    listener = _Listener(dtype)
    with torch.no_grad(), listener:
        shapes(torch.empty(tuple(images), device="meta"))
    return listener.found


class _Listener(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's
    """Notes the convolutions of images that run inside it, however they are called."""

    def __init__(self, dtype: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dtype, self.found = dtype, set[Convolution]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default and args[0].ndim == 4:
            images, kernel, bias, *rest = args
            shapes = list(images.shape), list(kernel.shape)
            self.found.add(convolution_of([*shapes, bias is not None, *map(_plain, rest), self._dtype]))
        return func(*args, **(kwargs or {}))


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int) else list(value)


def _remembered_fault(convolutions: list[Convolution], *, second_order: bool) -> str | None:
    """What is wrong with one of them, from memory or from a check that is then remembered; None where nothing is."""
    surroundings = {**what_it_holds_for(), "second_order": second_order}
    known = recall(surroundings)
    unknown = [convolution for convolution in convolutions if digest(convolution) not in known]
    if not unknown:
        return None
    if digest(unknown) in known:
        return known[digest(unknown)]
    fault, lasting = ask_probe(request_for(unknown, second_order=second_order))
    if lasting:
        remember(surroundings, unknown, fault)
    return fault


def request_for(convolutions: Sequence[Convolution], *, second_order: bool = False) -> dict[str, Any]:
    """What layout_probe.py is asked, and how many seconds of every core it may take."""
    return {
        "threads": torch.get_num_threads(),
        "seconds": SECONDS + sum(12 * convolution.operations for convolution in convolutions) / 5e9,
        "second_order": second_order,
        "convolutions": list(convolutions),
    }


def ask_probe(request: dict[str, Any]) -> tuple[str | None, bool]:
    """Has layout_probe.py check convolutions in a process of its own, and survives whatever becomes of that.

    Args:
        request: as layout_probe.py reads it.

    Returns:
        What is wrong, None where nothing is; and whether that would be so the next time, too.
    """
    seconds = PATIENCE * request["seconds"]
    try:
        done = subprocess.run(
            PROBE,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            cwd=Path(metasum.__file__).parents[1],  # where `-m metasum` is this one
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},  # threads that wait leave the cores to others
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the check of its gradients hangs (no answer in {seconds:.0f} s)", True
    except OSError as error:
        return f"its gradients cannot be checked ({error.strerror})", False
    if done.returncode < 0:
        name = _signal(-done.returncode)
        if name == "SIGXCPU":
            return f"the check of its gradients hangs (busy, without an answer, for {request['seconds']:.0f} s)", True
        return f"the check of its gradients crashes ({name})", name in _CRASHES
    try:
        if done.returncode == 0:
            fault: str | None = json.loads(done.stdout.splitlines()[-1])["fault"]
            return fault, True
    except (ValueError, KeyError, IndexError, TypeError):
        pass
    said = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    return f"its gradients cannot be checked ({said})", False


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
