"""Joint MetaSum's loss in the three shapes that the field writes it in, each with one backward for all three terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from metasum import third_party
from metasum.types import Batch

Logits = Callable[[Tensor], Tensor]
W = TypeVar("W")
PLAIN = "plain learn2learn"  # how a loss is called in learn2learn's own words


def joint_loss(target: Logits, support: Logits, summed: Logits, batches: list[Batch]) -> Tensor:
    """CE of the target and of the sum on the target's images, and of the support on its own."""
    own, other = batches
    after = cross_entropy(summed(own.images), own.labels)
    return cross_entropy(target(own.images), own.labels) + cross_entropy(support(other.images), other.labels) + after


def with_learn2learn(target: nn.Module, support: nn.Module) -> Logits:
    """A clone of the target, updated by the support's weights."""
    learn2learn = third_party.learn2learn()

    def summed(images: Tensor) -> Tensor:
        clone = learn2learn.clone_module(target)
        clone = learn2learn.update_module(clone, updates=list(support.parameters()))
        return clone(images)  # type: ignore[no-any-return]

    return summed


def with_higher(target: nn.Module, support: nn.Module) -> Logits:
    """The target's architecture, patched to take its parameters as an argument."""
    higher = third_party.higher()

    def summed(images: Tensor) -> Tensor:
        patched = higher.patch.monkeypatch(target, copy_initial_weights=False)
        pairs = zip(target.parameters(), support.parameters(), strict=True)
        return patched(images, params=[own + other for own, other in pairs])  # type: ignore[no-any-return]

    return summed


class TwoStateDicts(nn.Module):
    """A module whose forward adds the parameters of its two networks."""

    def __init__(self, target: nn.Module, support: nn.Module) -> None:
        super().__init__()
        self.target, self.support = target, support

    def forward(self, images: Tensor) -> Tensor:
        other = dict(self.support.named_parameters())
        summed = {name: own + other[name] for name, own in self.target.named_parameters()}
        return functional_call(self.target, summed, (images,))  # type: ignore[no-any-return]


USUAL_SHAPES: dict[str, Callable[[nn.Module, nn.Module], Logits]] = {
    PLAIN: with_learn2learn,
    "plain higher": with_higher,
    "two state dicts": TwoStateDicts,
}


def installed(ways: Mapping[str, W]) -> dict[str, W]:
    """Of ways to write a loss those whose library is here."""
    return {name: way for name, way in ways.items() if name != PLAIN or third_party.has_learn2learn()}
