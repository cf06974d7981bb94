"""Accuracy and loss of any network, and any metric."""

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from users import AnswersAnObject, Trunk, TwoInputs, classes, inputs, loader, same, seeded, snapshot

from metasum import evaluate
from metasum.errors import DivergenceError, UsageError
from metasum.modules import measuring
from metasum.strangers import opinions
from metasum.training import episodes
from metasum.training.confusion import accuracy
from metasum.weights.guesses import guesses

X, Z, Y = inputs(0), inputs(1, size=3), classes()


def test_accuracy_and_loss_are_those_of_all_images_in_eval_mode():
    network = seeded(Trunk, 0).train()
    found = evaluate(network, loader(batch=7, shuffle=True))
    with torch.no_grad():
        logits = copy.deepcopy(network).eval()(X)
    assert found.count == 20
    assert found.accuracy == pytest.approx(float((logits.argmax(1) == Y).double().mean()))
    assert found.loss == pytest.approx(float(cross_entropy(logits, Y)))
    assert found.metric is None
    assert found.value == found.accuracy
    assert found.plain().keys() == {"count", "accuracy", "loss"}


@pytest.mark.parametrize(
    ("make", "data"),
    [
        (TwoInputs, [(X, Z, Y)]),
        (TwoInputs, [{"image": X, "extra": Z, "label": Y}]),
        (AnswersAnObject, [{"values": X, "attention_mask": Y.double(), "labels": Y.tolist()}]),
    ],
)
def test_batches_of_all_kinds(make, data):
    assert evaluate(seeded(make, 0), data).count == 20


def test_nothing_is_changed():
    network = seeded(Trunk, 0).train()
    network.trunk.eval()
    network(X).sum().backward()
    network.head.requires_grad_(False)
    before = snapshot(network)
    evaluate(network, loader(shuffle=True))
    evaluate(network, loader(shuffle=True), metric=lambda outputs, targets: 1)
    assert same(snapshot(network), before)


def test_pixels_and_labels_that_are_passed_over():
    network = nn.Conv2d(1, 3, 1)
    x, y = torch.randn(4, 1, 2, 2), torch.randint(3, (4, 2, 2))
    y[0] = -100
    found = evaluate(network, [(x, y)])
    assert found.count == 12
    with torch.no_grad():
        assert found.loss == pytest.approx(float(cross_entropy(network(x), y)), rel=1e-6)


def test_a_metric_sees_everything_at_once():
    network = nn.Linear(6, 1).double()
    seen = []

    def minus_error(outputs, targets):
        seen.append((outputs.shape, targets.shape))
        return -(outputs - targets).square().mean()

    target = inputs(3, size=1)
    found = evaluate(network, [(X[:8], target[:8]), (X[8:], target[8:])], metric=minus_error)
    assert seen == [((20, 1), (20, 1))]
    with torch.no_grad():
        assert found.value == pytest.approx(-float((network(X) - target).square().mean()))
    assert found.accuracy is None


def test_labels_may_come_from_forward():
    network = seeded(Trunk, 0)
    data = [(X, Y, ["names"] * 20)]
    found = evaluate(network, data, forward=lambda net, batch: (net(batch[0]), batch[1]))
    assert found == evaluate(network, [(X, Y)])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "data: there is nothing, and at least one batch is needed"),
        ([X], "a batch has no labels"),
        ([(X, X)], r"labels \[N\], whole numbers; here they are float64 \[20, 4\] and float64 \[20, 6\]: give metric="),
        ([(X, Y + 4)], "a label is .*the network has 4 classes"),
        ([(X, ["a"] * 20)], "the labels of a batch are no tensor"),
        ([(Z, Y)], r"cannot be run on a batch of float64 \[20, 3\].*; say how with forward="),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(data, words):
    with pytest.raises(UsageError, match=words):
        evaluate(seeded(Trunk, 0), data)


def test_outputs_that_do_not_fit_together_are_said():
    with pytest.raises(UsageError, match="do not fit together"):
        evaluate(nn.Identity(), [(torch.ones(2, 3), Y[:2]), (torch.ones(2, 4), Y[:2])], metric=lambda *both: 0)


def test_accuracy_of_nan_is_an_error_wherever_it_is_measured():
    logits, labels = torch.tensor([[0.0, 1.0], [torch.nan, 0.0]]), torch.zeros(2, dtype=torch.long)
    for measure in (
        lambda: guesses(logits),
        lambda: evaluate(nn.Identity(), [(logits, labels)]),
        lambda: accuracy(lambda images: images, [(logits, labels)]),
        lambda: episodes._share_right(logits, labels),
        lambda: opinions._share_right(logits, labels),
    ):
        with pytest.raises(DivergenceError, match="a network answers with NaN"):
            measure()


def test_the_largest_logit_is_taken_in_one_place_only():
    root = Path(measuring.__file__).parents[1]
    rooms = [root, (root / "baselines").resolve(), (root / "tasks").resolve()]
    files = {file.resolve() for room in rooms for file in room.rglob("*.py")}
    taking = sorted(file.name for file in files if re.search(r"logits\.argmax|\)\.argmax\(", file.read_text()))
    assert taking == ["build.py", "few_shot.py", "guesses.py"], "an example, and losses that choose a label"
