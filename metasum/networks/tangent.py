"""A network replaced by its tangent: linear in its parameters, so that a sum of parameters is a sum of functions.

f(θ_0 + δ; x) ≈ f(θ_0; x) + J(θ_0; x) δ, trained in δ (Ortiz-Jimenez et al. 2023, "Task Arithmetic in the Tangent
Space", arXiv:2305.12827, section 5). δ starts at 0, so that plain addition adds what the networks have learnt, and θ_0
is there once.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from metasum.errors import ArchitectureError
from metasum.networks.heads import head_layer
from metasum.weights.parameters import parameters_of
from metasum.weights.statistics import normalisers


class Tangent(nn.Module):
    """x ↦ f(θ_0; x) + J(θ_0; x) δ. Its parameters δ have the names and shapes of the network's own; θ_0 are buffers.

    A pass costs about two of the network's; the gradient reaches δ.

    Args:
        network: f, at θ_0; it is taken over.

    Raises:
        ArchitectureError: the network keeps batch statistics, which are not linear in anything.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if normalisers(network):
            raise ArchitectureError("a network with batch norm has no tangent of its own; use --norm none or group.")
        with warnings.catch_warnings():  # the first jvp of a process loads parts of PyTorch that PyTorch deprecates
            warnings.simplefilter("ignore")
            jvp(torch.sin, (torch.zeros(()),), (torch.zeros(()),))
        self._network = (network,)  # in a tuple: its parameters are constants here
        for name, tensor in parameters_of(network).items():
            *path, leaf = name.split(".")
            module: nn.Module = self
            for word in path:
                if word not in module._modules:
                    module.add_module(word, nn.Module())
                module = module.get_submodule(word)
            module.register_parameter(leaf, nn.Parameter(tensor.detach().clone().zero_()))
            module.register_buffer(f"{leaf}_start", tensor.detach().clone())

    @property
    def head_layer(self) -> str:
        """See `metasum.networks.heads`: where the network has it that this is the tangent of."""
        return head_layer(*self._network)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[N, C, 32, 32]` to logits `[N, classes]`."""
        (network,) = self._network
        network.train(self.training)
        start = {name.removesuffix("_start"): tensor for name, tensor in self.named_buffers()}
        found = jvp(lambda theta: functional_call(network, theta, (images,)), (start,), (parameters_of(self),))
        logits: Tensor = found[0] + found[1]
        return logits
