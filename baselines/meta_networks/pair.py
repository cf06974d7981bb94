"""Meta Networks as a learner for sums: slow weights for both datasets, fast ones for each, and the fast ones added."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from metasum.baselines.meta_networks.fast_weights import ExampleLevel
from metasum.baselines.sharing import share_parameters
from metasum.config import NoSettings
from metasum.learners.learner import Start
from metasum.learners.networks import MetaSum
from metasum.learners.trainable import Backward, Terms
from metasum.learners.written import WrittenLearner
from metasum.networks.augmented import Augmented, augmented, augmented_names, last_parts
from metasum.types import Batch, Sides
from metasum.weights.parameters import parameters_of, with_parameters


class MetaNetworksLearner(WrittenLearner):
    """L = CE(b(W, W*_t; x_t), y_t) + CE(b(W, W*_s; x_s), y_s); before is b(W, W*_t), after b(W, W*_t + W*_s).

    W*_t is what the meta learner makes of the gradient of b(W)'s loss on half of the target's batch; the other half is
    judged. A dataset is one task, so its memory holds one row, every image reads that row whatever its key, and
    no key network is needed. Fast weights stand beside those of the last block and the classifier.

    Args:
        networks: the pair; target and support share their parameters from here on, not their statistics.
        config: empty.
        seed: of the meta learner's first weights.
    """

    name = "meta-networks"
    summary = "Slow weights for both, and fast ones for each that a meta learner writes; those are added."
    paper = "Munkhdalai & Yu 2017, arXiv:1703.00837"
    Config = NoSettings
    start = Start.SHARED
    preset = {"augmented": True}

    def __init__(self, networks: MetaSum, config: Any, *, seed: int = 0) -> None:
        super().__init__(networks, config, seed=seed)
        for side in ("target", "support"):
            network = getattr(networks, side)
            if isinstance(network, Augmented):  # with fast weights of its own, which are not trained but written
                setattr(networks, side, network.slow())
        share_parameters(networks.target, networks.support, set(parameters_of(networks.target)))
        self._names = augmented_names(networks.target, within=last_parts(networks.target))
        first = parameters_of(networks.target)[self._names[0]]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.example_level = ExampleLevel().to(first)
        for side in ("target", "support"):
            for name in self._names:
                self.register_buffer(_buffer(side, name), torch.zeros_like(parameters_of(networks.target)[name]))

    @classmethod
    def against_own_heads(cls) -> str:
        return "adds fast weights, those of the head too, to slow ones that both networks share"

    @property
    def operators(self) -> tuple[str, ...]:
        return ("fast-sum",)

    def training_step(self, target: Batch, support: Batch, *, backward: Backward = torch.Tensor.backward) -> Terms:
        """Terms "target" and "support", in nats per image; each side's fast weights are kept, as they then stand."""
        self.train()
        terms = dict[str, Tensor]()
        for side, network, batch in (
            ("target", self.networks.target, target),
            ("support", self.networks.support, support),
        ):
            half = len(batch.labels) // 2
            rows = in_he_units(self.example_level(self._gradients(network, Batch(*(part[:half] for part in batch)))))
            logits = augmented(network, rows, batch.images.new_ones(1, 1), batch.images[half:])
            loss = cross_entropy(logits, batch.labels[half:])
            backward(loss)
            terms[side] = loss.detach()
            for name, row in rows.items():
                self.get_buffer(_buffer(side, name)).copy_(row[0].detach())
        return terms

    def _gradients(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Of b(W)'s loss, constants: `[1, *shape]` by name. Running statistics stay as they are."""
        parameters = {name: tensor.detach() for name, tensor in parameters_of(network).items()}
        asked = {name: parameters[name].requires_grad_() for name in self._names}
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        logits = functional_call(network, {**parameters, **asked, **buffers}, (batch.images,))
        slopes = torch.autograd.grad(cross_entropy(logits, batch.labels), list(asked.values()))
        return {name: slope.unsqueeze(0) for name, slope in zip(asked, slopes, strict=True)}

    def compose(self, images: Sides[Sequence[Tensor]], *, operator: str | None = None) -> Sides[nn.Module]:
        target, support = self.target_network(), self.support_network()
        first, second = parameters_of(target), parameters_of(support)
        composed = {n: first[n] + second[n] if n.startswith("fast.") else first[n] for n in first}
        network = with_parameters(target, composed)
        return Sides(network, network)

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]

    def written(self, side: str) -> nn.Module:
        """b(W, W*) as a network of its own."""
        written = Augmented(copy.deepcopy(getattr(self.networks, side)))
        with torch.no_grad():
            for name in self._names:
                written.fast[name.replace(".", "/")].copy_(self.get_buffer(_buffer(side, name)))
        return written.eval()


def in_he_units(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fast weights `[M, *shape]` by name, times the standard deviation of He's initialisation of their layer.

    Most gradients are nearly 0, so that most fast weights of a layer are nearly the same number, and its inputs are
    added up: in wide layers, untamed, this starts at losses of 10,000 nats, from which not every run comes back.
    """
    return {name: row * math.sqrt(2 / row[0][0].numel()) for name, row in rows.items()}


def _buffer(side: str, name: str) -> str:
    return f"fast_{side}_{name.replace('.', '/')}"
