"""The class that a network says, wherever its accuracy is measured."""

from __future__ import annotations

from torch import Tensor

from metasum.errors import DivergenceError


def guesses(logits: Tensor) -> Tensor:
    """The class with the largest logit.

    Args:
        logits: `[N, classes]`, with more dimensions behind, perhaps.

    Returns:
        int64 `[N]`, with those dimensions behind. No gradient reaches the logits.

    Raises:
        DivergenceError: a logit is NaN, which PyTorch takes for the largest: the accuracy would look like one.
    """
    check_answer(logits)
    return logits.argmax(dim=1)


def check_answer(logits: Tensor) -> None:
    """Raises DivergenceError where a logit is NaN."""
    if logits.isnan().any():
        raise DivergenceError(
            "a network answers with NaN: its weights, statistics or inputs are NaN or infinite, or far too large."
        )
