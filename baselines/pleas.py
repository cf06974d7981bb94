"""PLeaS (Nasery et al. 2025, arXiv:2407.02447): permute, then solve each layer for what the networks compute.

The average of matched channels is not what a layer with averaged weights makes of averaged inputs. PLeaS takes, layer
by layer, the weights that do: of the mean of the permuted networks' inputs they make the mean of their outputs.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from metasum.config import option
from metasum.merging.endpoints import Endpoint, NetworkMethod
from metasum.merging.method import ImagesConfig
from metasum.weights.listening import listening

if TYPE_CHECKING:
    from torch import Tensor, nn

    from metasum.types import Parameters

CHUNK = 32  # inputs that are run at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class PLeaSConfig(ImagesConfig):
    """Settings of `pleas`."""

    pleas_ridge: float = option(
        0.01, "How much PLeaS' layers are held to the average, as a share of their inputs' mean square.", minimum=0
    )


class PLeaS(NetworkMethod):
    """W of least Σ ‖W x - y‖² for each layer: x and y are the mean of its inputs and outputs in the matched networks.

    Channels are matched by `ActivationMatching`; linear layers and ungrouped two-dimensional convolutions are solved
    with their biases, on the images of all networks alike; everything else is averaged. This is the paper's merge of
    the networks' own width (its budget of 100 %); what keeps some channels apart, and so makes a wider network, is not
    here. The authors' code takes steps of gradient descent from the average; here the squares are at their minimum,
    but for a ridge towards the average.
    """

    name = "pleas"
    summary = "Permutes channels, then solves each layer for what the networks compute on average."
    paper = "Nasery et al. 2025, arXiv:2407.02447"
    Config = PLeaSConfig
    candidates = {"pleas_ridge": (0.0001, 0.01, 1.0)}
    needs_images = True
    needs_networks = True
    any_start = True
    two_starts = True

    def prepared(self, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        from metasum.baselines.activation_matching import ActivationMatching

        return ActivationMatching(merging_images=self.config.merging_images).prepared(endpoints)

    def merge(self, endpoints: Sequence[Endpoint], initial: Parameters) -> dict[str, Tensor]:
        import torch

        from metasum.baselines.least_squares import solution
        from metasum.merging.memory import merge_parameters
        from metasum.merging.plain import Average

        merged = merge_parameters(Average(), [end.parameters for end in endpoints])
        for layer, (total, wanted) in mean_products(endpoints, self.config.merging_images).items():
            weight, bias = merged[f"{layer}.weight".removeprefix(".")], merged.get(f"{layer}.bias".removeprefix("."))
            average = weight.flatten(1).double().T
            if bias is not None:
                average = torch.cat([average, bias.double()[None]])
            found = solution(total, wanted, average, ridge=self.config.pleas_ridge, what="PLeaS")
            weight.copy_(found[: weight[0].numel()].T.reshape(weight.shape))
            if bias is not None:
                bias.copy_(found[-1])
        return merged


def mean_products(endpoints: Sequence[Endpoint], count: int) -> dict[str, tuple[Tensor, Tensor]]:
    """xᵀx and xᵀy of every layer that is solved, by the layer's name.

    Args:
        endpoints: networks in eval mode with their channels in one order.
        count: of the images of each that all are run on, at most.

    Returns:
        The means over outputs `[K, K]` and `[K, outputs]`, float64; x is the mean over networks of what an output sees,
        with a 1 behind it where the layer has a bias, and y of the outputs.
    """
    import torch

    from metasum.baselines.least_squares import Products, seen_by
    from metasum.weights.batches import limited

    layers, totals = _layers(endpoints), defaultdict[str, Products](Products)
    for chunk in (chunk for end in endpoints for chunk in limited(end.images, count, size=CHUNK)):
        heard: list[list[tuple[str, Tensor, Tensor]]] = []
        for end in endpoints:
            with torch.no_grad(), _calls(end.network, layers) as calls:
                end.logits(chunk)
            heard.append(calls)
        for same in zip(*heard, strict=True):
            name = same[0][0]
            module = endpoints[0].network.get_submodule(name)
            inputs, outputs = (torch.stack([call[place] for call in same]).mean(dim=0) for place in (1, 2))
            x, y = seen_by(module, inputs), outputs.movedim(_channels(module), -1).flatten(0, -2)
            if module.bias is not None:
                x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
            totals[name].add(x, y)
    return {name: (total, wanted) for name, (total, wanted) in ((name, own.means()) for name, own in totals.items())}


def _channels(module: nn.Module) -> int:
    """The dimension of its output that holds channels."""
    from torch import nn

    return -1 if isinstance(module, nn.Linear) else 1


def _layers(endpoints: Sequence[Endpoint]) -> list[str]:
    """Layers that can be solved, whose tensors are merged and no other layer's."""
    from metasum.baselines.least_squares import is_solvable

    network, merged = endpoints[0].network, endpoints[0].parameters
    owners = Counter(id(own) for module in network.modules() for own in module._parameters.values() if own is not None)
    return [
        name
        for name, module in network.named_modules()
        if is_solvable(module)
        and all(
            owners[id(own)] == 1 and f"{name}.{key}".removeprefix(".") in merged
            for key, own in (("weight", module._parameters.get("weight")), ("bias", module._parameters.get("bias")))
            if own is not None or key == "weight"
        )
    ]


@contextmanager
def _calls(network: nn.Module, layers: Sequence[str]) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
    """Within the block each call of the layers: its name, and copies of what it was given and what it returned."""
    found: list[tuple[str, Tensor, Tensor]] = []

    def keep(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((name, given.pop(), output.detach().clone()))

    given: list[Tensor] = []

    def before(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given.append(inputs[0].detach().clone())

    with listening({name: network.get_submodule(name) for name in layers}, given=before, returned=keep):
        yield found
