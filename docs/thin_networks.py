"""What could make thin networks quicker on one core: ways of one pass, and of three networks' passes, in turn.

    taskset -c 1 python docs/thin_networks.py --width 0.125 [--compile]
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 taskset -c 1 python docs/thin_networks.py

Times are the processor's own, in milliseconds: the median, the least, and the median ratio to the first of a group.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metasum.networks.vgg import VGG16

BATCH = 64


def compared(contenders: Mapping[str, Callable[[], object]], rounds: int) -> None:
    """Runs all in turn, in every other round the other way round, and prints a line of each."""
    order, seconds = list(contenders), {name: list[float]() for name in contenders}
    for number in range(rounds + 1):
        for name in order if number % 2 else reversed(order):
            started = time.process_time()
            contenders[name]()
            seconds[name].append(time.process_time() - started)
    for name, times in seconds.items():
        ratio = statistics.median(own / first for own, first in zip(times[1:], seconds[order[0]][1:], strict=True))
        middle, least = 1e3 * statistics.median(times[1:]), 1e3 * min(times[1:])
        sys.stdout.write(f"{name:30} {middle:8.1f} {least:8.1f} {ratio:6.2f}\n")


def network(width: float, layout: torch.memory_format = torch.channels_last) -> VGG16:
    """VGG16 at its start."""
    made: VGG16 = VGG16(width=width).to(memory_format=layout)  # type: ignore[call-overload]
    return made


def one_pass(trained: nn.Module, logits: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """Forward and backward through the cross-entropy of a batch of noise."""
    images, labels = torch.randn(BATCH, 1, 32, 32), torch.randint(10, (BATCH,))

    def work() -> None:
        trained.zero_grad(set_to_none=True)
        cross_entropy(logits(images), labels).backward()

    return work


def in_blocks(vgg: VGG16) -> Callable[[Tensor], Tensor]:
    """The network's forward with activations that stay in oneDNN's own blocked layout up to the classifier."""
    *blocks, classifier = vgg.children()

    def logits(images: Tensor) -> Tensor:
        inner = images.to_mkldnn()
        for block in blocks:
            inner = block(inner)
        return classifier(inner.to_dense())  # type: ignore[no-any-return]

    return logits


def together(vgg: VGG16, groups: int) -> Callable[[], None]:
    """Three networks' pass as one of three times the channels, in groups of their own, or (1) as if block diagonal."""
    layers = list[nn.Module]()
    for layer in [each for block in list(vgg.children())[:-1] for each in block.children()]:
        if isinstance(layer, nn.Conv2d):
            into, out = 3 * layer.in_channels, 3 * layer.out_channels
            layers.append(nn.Conv2d(into, out, 3, padding=1, groups=groups))
        else:
            layers.append(nn.BatchNorm2d(3 * layer.num_features) if isinstance(layer, nn.BatchNorm2d) else layer)
    heads = nn.ModuleList(copy.deepcopy(vgg.classifier) for _ in range(3))
    trunk = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (3, BATCH))

    def work() -> None:
        trunk.zero_grad(set_to_none=True)
        heads.zero_grad(set_to_none=True)
        parts = zip(heads, trunk(images).chunk(3, dim=1), labels, strict=True)
        torch.stack([cross_entropy(head(part), own) for head, part, own in parts]).sum().backward()

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="take torch.compile along: a minute of compiling")
    given = parser.parse_args()
    torch.set_num_threads(1)
    left, right = torch.randn(2, 1024, 1024)
    plain, contiguous, blocked = (
        network(given.width),
        network(given.width, torch.contiguous_format),
        network(given.width),
    )
    passes: dict[str, Callable[[], object]] = {
        "pass, channels last": one_pass(plain, plain),
        "contiguous": one_pass(contiguous, contiguous),
        "oneDNN's blocks": one_pass(blocked, in_blocks(blocked)),
        "product of 1024x1024 matrices": lambda: left @ right,
    }
    if given.compile:
        compiled = network(given.width)
        work = passes["compiled"] = one_pass(compiled, torch.compile(compiled))
        started = time.perf_counter()
        work()
        sys.stdout.write(f"compiled in {time.perf_counter() - started:.0f} s\n")
    compared(passes, given.rounds)
    every = [one_pass(each, each) for each in (network(given.width) for _ in range(3))]
    three = {"three passes": lambda: [each() for each in every], "in groups": together(plain, 3)}
    compared({**three, "block diagonal": together(plain, 1)}, given.rounds)


if __name__ == "__main__":
    main()
