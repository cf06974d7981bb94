"""Train and eval mode, put back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import nn


@contextmanager
def in_mode(training: bool, *networks: nn.Module) -> Iterator[None]:
    """Within the block these networks are in train (or eval) mode; behind it each module is in its mode of before."""
    before = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.train(training)
    try:
        yield
    finally:
        for module, own in before:
            module.training = own


def in_eval_mode(*networks: nn.Module) -> AbstractContextManager[None]:
    """Within the block these networks are in eval mode, see `in_mode`."""
    return in_mode(False, *networks)
