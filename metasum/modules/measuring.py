"""What a network does on labelled data: accuracy and loss of a classifier, or any metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metasum.errors import UsageError, reason, told_of, worded
from metasum.results.modules import Measured
from metasum.weights.batches import Asked, Batches, Forward, described, device_of
from metasum.weights.calling import answer_and_labels
from metasum.weights.guesses import guesses
from metasum.weights.modes import in_eval_mode
from metasum.weights.randomness import same_randomness

IGNORED = -100  # a label that PyTorch's losses pass over

Metric: TypeAlias = Callable[[Tensor, Tensor], Any]
"""(outputs, targets), of all data at once and on the CPU, to a number; more is better."""
Answer: TypeAlias = Callable[[Asked], tuple[Tensor, Any]]
"""From a batch to logits and labels."""


def evaluate(
    network: nn.Module, data: Any, *, metric: Metric | None = None, forward: Forward | None = None
) -> Measured:
    """Accuracy and cross-entropy of a classifier, or what a metric says of any network.

    The network is run in eval mode on its own device; modes, gradients and random states are as they were before.

    Args:
        network: logits are `[N, classes]` (with more dimensions behind, as `cross_entropy` takes them), alone or under
            `.logits` or "logits".
        data: a DataLoader or another iterable of batches with labels (int64 `[N]`; -100 is passed over), or a dataset.
            `metasum.weights.batches` says what a batch may be.
        metric: called once with all outputs and all labels, on the CPU, instead of accuracy and loss: of more than
            classes. More is better: give a loss with its sign changed.
        forward: (network, batch) to logits, or to (logits, labels), where a batch is of another kind.

    Example:
        >>> metasum.evaluate(network, test_loader).accuracy
        0.981

    Raises:
        UsageError: there is no batch, no label, or a label that is no class; or the network cannot be run on a batch.
        DivergenceError: a logit is NaN; accuracy and loss of such are none.
    """
    return evaluate_on(network, Batches(data, what="data", forward=forward, device=device_of(network)), metric, forward)


def evaluate_on(
    network: nn.Module, batches: Batches, metric: Metric | None = None, forward: Forward | None = None
) -> Measured:
    """The same on batches that have a name."""
    with in_eval_mode(network), same_randomness(device_of(network)):
        return measured(lambda batch: answer_and_labels(network, batch, forward), batches, metric)


def measured(answer: Answer, batches: Batches, metric: Metric | None = None) -> Measured:
    """The same of whatever answers; no gradient is recorded."""
    with torch.no_grad(), told_of(batches.what):
        pairs = ((logits, _labels(labels)) for logits, labels in map(answer, batches))
        return _classified(pairs) if metric is None else _by_metric(pairs, metric)


def _labels(labels: Any) -> Tensor:
    if labels is None:
        raise UsageError(
            "a batch has no labels; give (inputs, labels), a dictionary with labels, or forward= that returns both."
        )
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"the labels of a batch are no tensor ({reason(error)}).") from error


def _classified(pairs: Iterable[tuple[Tensor, Tensor]]) -> Measured:
    right, count, loss = 0, 0, 0.0
    for logits, labels in pairs:
        labels = labels.to(logits.device)
        _check_classes(logits, labels)
        counted = labels != IGNORED
        right += int(((guesses(logits) == labels) & counted).sum())
        count += int(counted.sum())
        wide = logits if logits.dtype == torch.float64 else logits.float()
        loss += float(cross_entropy(wide, labels.long(), reduction="sum", ignore_index=IGNORED))
    return Measured(count, round(right / max(1, count), 6), loss / max(1, count))


def _check_classes(logits: Tensor, labels: Tensor) -> None:
    """Raises UsageError where these are no classes' logits and labels."""
    classes = logits.ndim > 1 and not labels.is_floating_point() and labels.dtype != torch.bool
    if not classes or labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise UsageError(
            f"accuracy is of logits [N, classes] and labels [N], whole numbers; here they are {described(logits)} and "
            f"{described(labels)}{worded(': give metric=, or forward= that returns such', '')}."
        )
    wrong = (labels >= logits.shape[1]) | ((labels < 0) & (labels != IGNORED))
    if wrong.any():
        raise UsageError(f"a label is {int(labels[wrong][0])}, and the network has {logits.shape[1]} classes, from 0.")


def _by_metric(pairs: Iterable[tuple[Tensor, Tensor]], metric: Metric) -> Measured:
    outputs, targets = [], []
    for output, labels in pairs:
        outputs.append(output.cpu())
        targets.append(labels.cpu())
    try:
        together = torch.cat(outputs), torch.cat(targets)
    except RuntimeError as error:  # of shapes that do not fit
        raise UsageError(
            f"a metric is given all outputs at once, and they do not fit together ({reason(error)}): flatten them with "
            "forward=."
        ) from error
    return Measured(len(together[1]), metric=float(metric(*together)))
