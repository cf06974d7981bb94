"""The gradients of convolutions in channels last, compared with contiguous ones: a program to be run by itself.

    python -m metasum.training.layout_probe < request.json

It is a process of its own because what it looks for ends processes: some of oneDNN's backward passes write past their
memory in channels last, which crashes, hangs or gives wrong gradients (oneDNN issue 6035). It reads a JSON object with
"threads", "seconds", "second_order" and "convolutions" from stdin, and prints {"fault": null}, or what is wrong.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

SMALL = 10**9  # operations; of a smaller convolution several tries cost nothing
TRIES = 5  # not every overrun is noticed at once: what it overwrote must be in use
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}  # of the largest number in a tensor; rounding stays far below


class Convolution(NamedTuple):
    """One call of `torch.convolution` on images `[N, C, H, W]`, by its shapes."""

    images: tuple[int, ...]
    kernel: tuple[int, ...]
    bias: bool
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int
    dtype: str
    """"float32" or "bfloat16"."""

    def __str__(self) -> str:
        size, stride = ("x".join(map(str, numbers)) for numbers in (self.kernel[2:], self.stride))
        images = "x".join(map(str, self.images))
        return f"a {size} convolution of {images} images with {self.kernel[0]} filters and stride {stride}"

    @property
    def operations(self) -> int:
        """Multiplications and additions of one forward pass, roughly."""
        filters = self.kernel[1:] if self.transposed else (self.kernel[0], *self.kernel[2:])
        positions = math.prod(self.images) / (1 if self.transposed else math.prod(self.stride))
        return int(2 * positions * math.prod(filters) / (1 if self.transposed else self.groups))


def convolution_of(values: Iterable[Any]) -> Convolution:
    """From its fields in order, lists in the place of tuples, as JSON has them."""
    return Convolution._make(tuple(value) if isinstance(value, list) else value for value in values)


def gradients(
    convolution: Convolution, tensors: Sequence[Tensor], layout: torch.memory_format, second_order: bool
) -> list[Tensor]:
    """The output and all gradients of a convolution, computed in a layout.

    Args:
        convolution: its shapes and settings.
        tensors: images, kernel and, where it has one, bias; then, of the output's shape, the gradient that comes back.
        layout: of images, kernel and that gradient.
        second_order: add the gradients of the sum of all squared gradients.
    """
    own = [t.contiguous(memory_format=layout if t.ndim == 4 else torch.contiguous_format) for t in tensors]
    leaves = [tensor.detach().clone().requires_grad_() for tensor in own[:-1]]
    output = _convolve(convolution, leaves)
    first = torch.autograd.grad(output, leaves, own[-1].to(output.dtype), create_graph=second_order)
    found = [output, *first]
    if second_order:
        penalty = torch.stack([gradient.float().square().mean() for gradient in first]).sum()
        again = torch.autograd.grad(penalty, leaves, allow_unused=True)
        found += [gradient for gradient in again if gradient is not None]
    return [tensor.detach().float() for tensor in found]


def fault_of(convolution: Convolution, *, second_order: bool) -> str | None:
    """What is wrong with a convolution in channels last, in words; None where nothing is.

    Args:
        convolution: its shapes.
        second_order: compare gradients of gradients, too.
    """
    tensors = _random_tensors(convolution)
    exact = convolution._replace(dtype="float32")
    expected = gradients(exact, [tensor.float() for tensor in tensors], torch.contiguous_format, second_order)
    for _ in range(TRIES if convolution.operations < SMALL else 1):
        try:
            found = gradients(convolution, tensors, torch.channels_last, second_order)
        except RuntimeError as error:
            return f"{convolution} fails ({(str(error).splitlines() or [''])[0]})"
        for one, other in zip(found, expected, strict=True):
            off = float((one - other).abs().max() / other.abs().max().clamp_min(1e-30))
            if not off <= TOLERANCE[convolution.dtype]:  # NaN is wrong, too
                return f"{convolution} has wrong gradients (off by {off:.2g} of the largest one)"
    return None


def _random_tensors(convolution: Convolution) -> list[Tensor]:
    """Images, kernel, bias where there is one, and a gradient of the output, in the convolution's precision."""
    generator = torch.Generator().manual_seed(0)
    channels = convolution.kernel[1] * convolution.groups if convolution.transposed else convolution.kernel[0]
    shapes = [convolution.images, convolution.kernel, *([(channels,)] if convolution.bias else [])]
    with torch.no_grad():
        empty = [torch.empty(shape, device="meta") for shape in shapes]
        output = _convolve(convolution, empty)
    dtype = getattr(torch, convolution.dtype)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in (*shapes, output.shape)]


def _convolve(convolution: Convolution, tensors: Sequence[Tensor]) -> Tensor:
    """The output for images, kernel and, where it has one, bias."""
    images, kernel, *more = tensors
    return torch.convolution(images, kernel, more[0] if more else None, *convolution[3:-1])  # from stride to groups


def main() -> None:
    """Reads the request from stdin and prints the verdict."""
    request = json.load(sys.stdin)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is expected here, and leaves no file
        # threads that wait for one another for ever are busy; a process that others keep from working is not
        limit = math.ceil(request["seconds"] * request["threads"])
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    torch.set_num_threads(request["threads"])  # memory is divided among them
    faults = (fault_of(convolution_of(c), second_order=request["second_order"]) for c in request["convolutions"])
    sys.stdout.write(json.dumps({"fault": next((fault for fault in faults if fault is not None), None)}) + "\n")


if __name__ == "__main__":
    main()
