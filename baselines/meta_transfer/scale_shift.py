"""Scale and shift: all that changes in a frozen network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metasum.types import Parameters


class ScaleShift(nn.Module):
    """Φ for every convolution of a network: weights W ⊙ Φ_S1, biases b + Φ_S2; at first the network as it is.

    Φ_S1 is `[out, in, 1, 1]` and starts at 1, Φ_S2 is `[out]` and starts at 0. A convolution without bias has no Φ_S2.

    Args:
        network: whose convolutions; it is not changed.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._names = [name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)]
        self.scales, self.shifts = nn.ParameterList(), nn.ParameterList()
        self._shifted = list[str]()
        for name in self._names:
            layer = network.get_submodule(name)
            weight = layer.weight
            assert isinstance(weight, Tensor)
            self.scales.append(torch.ones(*weight.shape[:2], 1, 1, device=weight.device))
            if layer.bias is not None:
                self.shifts.append(torch.zeros(weight.shape[0], device=weight.device))
                self._shifted.append(name)

    def effective(self, parameters: Parameters) -> dict[str, Tensor]:
        """All parameters, those of convolutions scaled and shifted; the gradient reaches Φ, and `parameters`' own."""
        changed = dict(parameters)
        for name, scale in zip(self._names, self.scales, strict=True):
            changed[f"{name}.weight"] = parameters[f"{name}.weight"] * scale
        for name, shift in zip(self._shifted, self.shifts, strict=True):
            changed[f"{name}.bias"] = parameters[f"{name}.bias"] + shift
        return changed
