"""Batch normalisation over the images of all processes."""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor, nn


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """`BatchNorm2d` whose batch, in training, is that of all processes together; the gradient crosses them, too.

    Outside training, and where no gradient is recorded (statistics that one process recalibrates by itself), it is
    `BatchNorm2d`. Unlike `torch.nn.SyncBatchNorm` it runs on the CPU as well.
    """

    plain_forward = True  # reads its own tensors only: see metasum.weights.structure.is_plain

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled() and torch.distributed.is_initialized()):
            return super().forward(input)
        from torch.distributed.nn.functional import all_reduce

        count = input.numel() // input.shape[1] * torch.distributed.get_world_size()
        wide = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        mean = all_reduce(wide.sum(dim=(0, 2, 3))) / count  # type: ignore[no-untyped-call]
        centred = wide - mean[:, None, None]
        variance = all_reduce(centred.square().sum(dim=(0, 2, 3))) / count  # type: ignore[no-untyped-call]
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            with torch.no_grad():
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * count / (count - 1), share)
        scaled = centred * (variance + self.eps).rsqrt()[:, None, None]
        answer: Tensor = scaled * self.weight[:, None, None] + self.bias[:, None, None]
        return answer.to(input.dtype)


def synchronise(network: nn.Module) -> nn.Module:
    """Puts such layers in the place of `BatchNorm2d`; parameters and buffers keep values and names. In place."""
    for name, layer in network.named_children():
        if type(layer) is nn.BatchNorm2d:
            own = SynchronisedBatchNorm(layer.num_features, eps=layer.eps, momentum=layer.momentum).to(layer.weight)
            own.load_state_dict(layer.state_dict())
            setattr(network, name, own)
        else:
            synchronise(layer)
    return network
