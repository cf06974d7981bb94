"""Which library runs a network with other weights: chosen by what was seen to be right, not by trust."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch._C._functorch import is_functorch_wrapped_tensor

from metasum.config.words import installed_backends
from metasum.errors import UsageError
from metasum.types import Buffers, Parameters
from metasum.weights.copies import copy_of
from metasum.weights.functional import BACKENDS, functional_call, import_backend
from metasum.weights.inputs import Inputs, tensors_in
from metasum.weights.probe import Probe
from metasum.weights.structure import is_plain, refusal


class Runner:
    """Runs one network with given parameters and buffers, in a backend that computes what the network itself would.

    Structure is looked at when this is made. A network whose structure leaves a doubt is probed on the first inputs
    that it sees in each mode, train and eval: once, on four entries, on copies (see `Probe`).

    Args:
        network: the one that is to be run.
        backend: "learn2learn", "torch" or "higher", which is refused where it is wrong; None takes the first of these
            that is installed and right.

    Raises:
        UsageError: a backend that is unknown or not installed; or the network's structure says that the one asked for
            (any, for None) cannot run it. One sentence names the submodule and, where there is one, the backend to
            take.
    """

    def __init__(self, network: nn.Module, backend: str | None = None) -> None:
        if backend is not None:
            import_backend(backend)
        self._asked = backend
        self._faults = {name: f"cannot: {why}" for name in BACKENDS if (why := refusal(network, name))}
        self._faults |= {name: "is not installed" for name in BACKENDS if name not in installed_backends()}
        self._probed: set[bool] = set()
        self.backend = self._choice()
        import_backend(self.backend)

    def __call__(self, network: nn.Module, parameters: Parameters, buffers: Buffers, *inputs: Any, **named: Any) -> Any:
        """The output of `network` as if it had these parameters and buffers; see `functional_call`.

        Raises:
            UsageError: at the first inputs in this mode, where the probe finds no backend, or not the one asked for.
        """
        if network.training not in self._probed and not _inside_a_transform(inputs, named):
            self.check(network, buffers, Inputs(inputs, named))
        return functional_call(network, parameters, buffers, *inputs, backend=self.backend, **named)

    def check(self, network: nn.Module, buffers: Buffers, inputs: Inputs) -> None:
        """Probes `network` on inputs, in the mode that it is in, unless its structure leaves no doubt.

        Raises:
            UsageError: as calling it.
        """
        if not is_plain(network):
            probe = Probe(network, buffers, inputs)
            while (fault := self._fault(probe, network, self.backend)) is not None:
                self._faults[self.backend] = fault
                if self._asked is not None:  # look for one to name
                    for other in BACKENDS:
                        if other not in self._faults and (fault := self._fault(probe, network, other)):
                            self._faults[other] = fault
                self.backend = self._choice()
        self._probed.add(network.training)

    def check_both_modes(self, network: nn.Module, buffers: Buffers, inputs: Inputs) -> None:
        """As `check`, in train and in eval mode; raises UsageError."""
        for training in (True, False):
            self.check(copy_of(network).train(training), buffers, inputs)

    @staticmethod
    def _fault(probe: Probe, network: nn.Module, backend: str) -> str | None:
        why = refusal(network, backend)
        return f"cannot: {why}" if why else probe.fault_of(backend)

    def _choice(self) -> str:
        right = [name for name in BACKENDS if name not in self._faults]
        if self._asked is None and right:
            return right[0]
        if self._asked is not None and self._asked in right:
            return self._asked
        if self._asked is None or not right:
            alike: dict[str, list[str]] = {}
            for name, fault in self._faults.items():
                alike.setdefault(fault, []).append(name)
            faults = "; ".join(f"{_all_of(names)} {fault}" for fault, names in alike.items())
            raise UsageError(f"no backend can run this network with other weights: {faults}.")
        raise UsageError(f"backend {self._asked} {self._faults[self._asked]}; take backend {right[0]!r}.")


def _all_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"each of {', '.join(names)}"


def _inside_a_transform(*inputs: Any) -> bool:
    """Whether PyTorch traces or vectorises this call, so that values cannot be compared."""
    if torch.compiler.is_compiling():
        return True
    return any(is_functorch_wrapped_tensor(tensor) for tensor in tensors_in(inputs))
