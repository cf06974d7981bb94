"""Networks cut into pieces, one in each process (FSDP), and the learner that trains them.

θ_t ⊕ θ_s is taken element by element, so a piece of it is made of the same pieces of θ_t and θ_s: adding two networks
that are cut alike takes no message. The pieces of a layer come together in every process only while the layer runs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from metasum.errors import UsageError
from metasum.learners.detached import DetachedSum
from metasum.learners.learner import Learner
from metasum.learners.networks import MetaSum
from metasum.learners.trainable import Backward
from metasum.types import Batch, Parameters
from metasum.weights.functional import set_buffers
from metasum.weights.pieces import cut, put_together

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def shard(network: nn.Module, mesh: DeviceMesh, *, precision: torch.dtype | None = None) -> nn.Module:
    """Cuts the parameters of `network` into pieces, in place, and moves them to the mesh's device.

    Each kernel or matrix, with the bias of its layer, comes together by itself, while that layer runs; the other
    vectors (scales and shifts of normalisations) come together once, at the network's start. A backward leaves in
    `.grad` the piece of the mean gradient of all processes. Buffers stay whole.

    Args:
        network: any module, anywhere; one layer at a time is whole on the device.
        mesh: the processes, in one dimension.
        precision: what autocast runs kernels and matrices in, where it does: they travel in it, too.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    narrow = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in list(network.modules()):
        if layer is not network and any(own.ndim > 1 for own in layer.parameters(recurse=False)):
            fully_shard(layer, mesh=mesh, mp_policy=narrow if precision else MixedPrecisionPolicy())
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    return network


class ShardedMetaSum(MetaSum):
    """A pair that is trained in pieces. Its sum is a third network in pieces, written anew from the pair's each time.

    Of what a `MetaSum` does, training: `target`, `support` and `detached_sum` run. What runs a network with other
    weights than its own (`summed`, `clone`, `summed_network`) needs whole ones.

    Args:
        networks: copied, at their start, into pieces; with the operator "sum" or "average".
        mesh, precision: see `shard`.
    """

    def __init__(self, networks: MetaSum, mesh: DeviceMesh, *, precision: torch.dtype | None = None) -> None:
        super().__init__(
            networks.target, support=networks.support, operator=networks.operator, backend=networks.backend
        )
        third = copy.deepcopy(self.target)
        set_buffers(third, self.target, self._statistics.by_name())
        self._third = (third,)  # in a tuple: its weights are nobody's to train or save
        for network in (self.target, self.support, third):
            shard(network, mesh, precision=precision)

    def detached_sum(self, sets: Sequence[Parameters] | None = None) -> DetachedSum:
        """As `MetaSum.detached_sum`; only one of them at a time is of use. Raises UsageError for sets of others."""
        if sets is not None:
            raise UsageError("networks in pieces are added to each other only.")
        return _SumInPieces(self, self.summed_parameters(), self._third[0])

    def run_with(self, parameters: Parameters, *inputs: Any, **named: Any) -> Any:
        raise UsageError("networks in pieces run with their own weights only.")


class _SumInPieces(DetachedSum):
    """Its leaves are the pieces of a network of its own, into which the composition is written."""

    def __init__(self, networks: MetaSum, composed: Parameters, third: nn.Module) -> None:
        self._third, self._composed = third.train(networks.training), composed
        self._leaves = dict(third.named_parameters())
        for name, leaf in self._leaves.items():
            leaf.grad = None
            leaf.detach().copy_(composed[name].detach())

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return self._third(*inputs, **named)


class ShardedLearner:
    """Trains one learner, in pieces, and is measured and saved as another, whole: the same two networks.

    What `before_measuring` has put together answers for the networks, in the first process alone; it lies in the
    machine's memory, from where it visits the device layer by layer.

    Args:
        pieces: whose pair is a `ShardedMetaSum`.
        whole: the same learner, with a pair on the CPU.
        device: what networks run on.
        first: whether this process is the one that measures and writes.
    """

    def __init__(self, pieces: Learner, whole: Learner, *, device: torch.device, first: bool) -> None:
        self._pieces, self._whole, self._first = pieces, whole, first
        self.parameter_groups, self.parameters, self.modules = (
            pieces.parameter_groups,
            pieces.parameters,
            pieces.modules,
        )
        self.operators, self.trains_sum = whole.operators, whole.trains_sum
        self.target_network, self.support_network = whole.target_network, whole.support_network
        self.compose, self.compose_trunk = whole.compose, whole.compose_trunk
        self.sum_statistics = whole.sum_statistics
        self.own_statistics = whole.own_statistics
        self.state_dict = whole.state_dict  # as last put together
        for network in (whole.target_network(), whole.support_network()):
            if first:
                visit(network, device)
            else:
                network.to("meta")

    def before_measuring(self) -> None:
        """Puts the networks together as they are now, tensor by tensor; all processes call it together."""
        own = self._whole.state_dict()
        for name, piece in self._pieces.state_dict().items():
            whole = put_together(piece, keep=self._first)
            if self._first:
                own[name].copy_(whole)

    def training_step(self, target: Batch, support: Batch, *, backward: Backward) -> dict[str, Tensor]:
        """See `Learner.training_step`; gradients that it adds are pieces of the means over the processes."""
        terms = self._pieces.training_step(target, support, backward=backward)
        return {name: put_together(term) for name, term in terms.items()}  # of a distance, a process has its share

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes a whole state, which every process has; raises RuntimeError where it is another architecture's."""
        own = self._pieces.state_dict()
        self._pieces.load_state_dict(
            {name: cut(value, own[name]) if name in own else value for name, value in state_dict.items()}
        )
        if self._first:
            self._whole.load_state_dict(state_dict)


def visit(network: nn.Module, device: torch.device) -> None:
    """Has every layer of `network`, which stays on the CPU, go to the device when it runs, and come back. In place.

    A copy of the network does so, too. For inference: no gradient finds its way back.
    """

    def arrive(layer: nn.Module, _: object) -> None:
        with torch.inference_mode(False):
            layer.to(device)

    def leave(layer: nn.Module, _: object, __: object) -> None:
        with torch.inference_mode(False):
            layer.to("cpu")

    for layer in network.modules():
        if next(layer.parameters(recurse=False), None) is not None and device.type != "cpu":
            layer.register_forward_pre_hook(arrive)
            layer.register_forward_hook(leave)
