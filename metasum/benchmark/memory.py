"""What a step holds at its peak, against what has to be there, counted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metasum.benchmark.conditions import Conditions
from metasum.benchmark.joint_steps import joint_steps
from metasum.results.benchmark import MemoryRow
from metasum.training.memory import held_bytes, peak_bytes, reset_peak


def memory_rows(conditions: Conditions) -> list[MemoryRow]:
    """Joint MetaSum's step with its update: bytes at the peak, and the parts that they consist of.

    On the CPU the process's resident memory is read, so that libraries' buffers count, too.

    Returns:
        One row: "parameters", "gradients" and "optimizer_state" (of all networks), "sum" (the third network's
        parameters and their gradient), "activations" (what one term saves for its backward), "counted", the total of
        these; and "measured", with "ratio". "sum_forward" is what a forward through the sum holds more than one
        through the target, in copies of a network's parameters.
    """
    step, fabric = joint_steps(conditions).step(), conditions.fabric
    networks = step.learner.networks
    for _ in range(2):  # moments are there from the first update on
        step()
        step.updater.update()
    one, count = sum(p.nbytes for p in networks.target.parameters()), len(step.batches)
    device, batch = fabric.device, step.batches[0]

    def forward(network: Callable[[Tensor], Tensor]) -> Tensor:
        with fabric.autocast():
            return cross_entropy(network(batch.images), batch.labels)

    parts = {
        "parameters": count * one,
        "gradients": count * one,
        "optimizer_state": sum(t.nbytes for t in step.updater.moments()),
        "sum": 2 * one,
        "activations": saved_bytes(lambda: forward(networks.target), networks),
    }
    counted = sum(parts.values())

    def work() -> None:
        step()
        step.updater.update()

    own = growth(lambda: forward(networks.target), device)
    summed = growth(lambda: forward(networks.detached_sum()), device)
    measured = parts["parameters"] + parts["optimizer_state"] + growth(work, device)
    ratio, forward_ratio = measured / counted, (summed - own) / one
    return [
        MemoryRow(
            conditions.setting, **parts, counted=counted, measured=measured, ratio=ratio, sum_forward=forward_ratio
        )
    ]


def growth(work: Callable[[], object], device: torch.device) -> int:
    """Bytes that `work` holds at its peak beyond what was held before."""
    reset_peak(device)
    before = held_bytes(device)
    kept = work()
    after = peak_bytes(device)
    del kept
    return after - before


def saved_bytes(loss: Callable[[], Tensor], network: nn.Module) -> int:
    """What a forward keeps for its backward: every storage once, the network's own tensors not counted."""
    own = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers())}
    kept = dict[int, int]()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = loss()  # alive, so that no storage is freed and its address taken by another
    del graph
    return sum(kept.values())
