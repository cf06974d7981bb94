"""Three readings of "the sum should do on the target what the target does"."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy


def sum_loss(reading: str, summed_logits: Tensor, labels: Tensor, *, logits: Tensor, loss: Tensor) -> Tensor:
    """L_sum on one batch, a scalar in nats per image.

    Args:
        reading: "cross-entropy": the sum's own cross-entropy. "gap": how far it is from the network's alone,
            in absolute value; its gradient reaches the network alone as well as the sum. "consistency": the sum's
            cross-entropy against the network's own predicted distribution, which is held constant.
        summed_logits: `[N, classes]` of the summed network.
        labels: `[N]`, int64.
        logits: `[N, classes]` of the network alone on the same images.
        loss: the network's own cross-entropy on them, a scalar.
    """
    if reading == "cross-entropy":
        return cross_entropy(summed_logits, labels)
    if reading == "gap":
        return (cross_entropy(summed_logits, labels) - loss).abs()
    if reading == "consistency":
        return cross_entropy(summed_logits, logits.detach().softmax(dim=-1))
    raise ValueError(f"unknown reading {reading!r}")
