"""Whatever a loader gives, a network is asked about it in the same way."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from users import AnswersAnObject, TwoInputs, classes, inputs, seeded

from metasum.errors import UsageError
from metasum.weights.batches import Batches, asked, cut, limited, moved, size_of
from metasum.weights.calling import answer, logits_in

X, Z, Y = inputs(0), inputs(1, size=3), classes()


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


@pytest.mark.parametrize(
    ("batch", "given", "labels"),
    [
        (X, X, None),
        ((X, Y), X, Y),
        ([X], X, None),
        ((X, Z, Y), (X, Z), Y),
        ({"image": X, "label": Y}, X, Y),
        ({"a": X, "b": Z, "targets": Y}, {"a": X, "b": Z}, Y),
        ({"a": X, "b": Z}, {"a": X, "b": Z}, None),
    ],
)
def test_labels_are_told_from_inputs(batch, given, labels):
    found = asked(batch)
    assert type(found.inputs) is type(given)
    assert found.inputs is given or list(found.inputs) == list(given)
    assert found.labels is labels
    assert asked(batch, lambda network, whole: whole).inputs is batch


@pytest.mark.parametrize(
    "source",
    [
        DataLoader(TensorDataset(X, Y), batch_size=6),
        DataLoader(Stream(), batch_size=6),
        [(X[:6], Y[:6]), (X[6:], Y[6:])],
        TensorDataset(X, Y),
        ((X[:6], Y[:6]), (X[6:], Y[6:])),
        (X[:6], X[6:]),
        X,
        {"x": X, "labels": Y},
    ],
)
def test_loaders_of_all_kinds_are_read_again_and_again(source):
    batches = Batches(source)
    for _ in range(2):
        assert torch.equal(torch.cat([batch.inputs for batch in batches]), X)
    assert torch.equal(torch.cat(list(batches.inputs)), X)


def test_an_iterator_is_read_once_and_says_so():
    batches = Batches(iter([X, X]), what="images of network 2")
    assert len(list(batches)) == 2
    with pytest.raises(UsageError, match=r"images of network 2 is an iterator.*DataLoader or a list"):
        list(batches)


def test_nothing_is_said():
    with pytest.raises(UsageError, match="data: there is nothing, and at least one batch is needed"):
        list(Batches([], what="data"))
    with pytest.raises(UsageError, match="data is a int, and should be a DataLoader"):
        Batches(3, what="data")
    with pytest.raises(UsageError, match="a batch holds no tensor, but str"):
        size_of("words")


def test_what_is_cut_keeps_its_kind():
    batch = {"x": X, "deep": [X, (Y, "all")], "names": [str(i) for i in range(20)], "one": torch.ones(3)}
    part = cut(batch, 2, 5)
    assert torch.equal(part["x"], X[2:5])
    assert torch.equal(part["deep"][1][0], Y[2:5])
    assert part["deep"][1][1] == "all"
    assert part["names"] == ["2", "3", "4"]
    assert part["one"].shape == (3,)
    assert [len(own) for own in limited([X, X], 25, size=8)] == [8, 8, 4, 5]
    assert moved(batch, torch.device("cpu"))["deep"][1][1] == "all"


def test_networks_are_called_as_their_batches_are():
    two, answers = seeded(TwoInputs, 0).eval(), seeded(AnswersAnObject, 0).eval()
    assert answer(two, (X, Z)).shape == (20, 4)
    assert torch.equal(answer(two, {"extra": Z, "image": X}), two(X, Z))
    assert torch.equal(answer(answers, {"values": X, "attention_mask": Y.double()}), answers(X, Y.double()).logits)
    assert torch.equal(answer(two, (X, Z), lambda network, batch: network(batch[0], batch[1] * 2)), two(X, Z * 2))


def test_logits_are_found():
    assert logits_in({"loss": X, "logits": Z}) is Z
    assert logits_in(SimpleNamespace(logits=Z)) is Z
    with pytest.raises(
        UsageError, match="answers with a tuple without logits; say which tensor is meant with forward="
    ):
        logits_in((X, Z))


def test_a_network_that_cannot_be_called_so_is_one_sentence():
    with pytest.raises(UsageError, match=r"cannot be run on a batch of float64 \[20, 3\] \(.*forward="):
        answer(nn.Linear(6, 2).double(), Z)
