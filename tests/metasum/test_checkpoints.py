"""Checkpoints as people have them: under a key, with a prefix, in half precision, tied, or of another network."""

import json
import warnings

import pytest
import torch
from checkpoints import save
from refusal import refused
from safetensors.torch import load_file
from torch import nn

from metasum.errors import ArchitectureError, CheckpointError
from metasum.networks.checkpoints import load_checkpoint


def network(seed: int = 0, *, classes: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, classes))


class Tied(nn.Module):
    """One matrix by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def averaged(state):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.optim.swa_utils.AveragedModel(network(1))
    model.module.load_state_dict(state)
    return model.state_dict()


KINDS = {
    "bare": (lambda state: state, ""),
    "state_dict": (lambda state: {"state_dict": state, "epoch": 3}, "'state_dict'"),
    "model": (lambda state: {"optimizer": {"state": {}}, "model": state}, "'model'"),
    "model_state_dict": (lambda state: {"model_state_dict": state, "loss": torch.ones(())}, "'model_state_dict'"),
    "ema": (lambda state: {"ema": state, "step": 5}, "'ema'"),
    "nested": (lambda state: {"model": {"state_dict": state}}, "'model/state_dict'"),
    "parallel": (lambda state: prefixed(state, "module."), "'module.'"),
    "compiled": (lambda state: {"model": prefixed(state, "_orig_mod.")}, "'_orig_mod.'"),
    "both": (lambda state: prefixed(state, "module._orig_mod."), "'module._orig_mod.'"),
    "averaged": (averaged, "'module.'"),
    "lightning": (
        lambda state: {
            "epoch": 1,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": prefixed(state, "net."),
            "callbacks": {},
            "optimizer_states": [],
        },
        "'net.'",
    ),
    "half": (lambda state: {name: t.half() if t.is_floating_point() else t for name, t in state.items()}, ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_the_network(tmp_path, kind):
    wrap, said = KINDS[kind]
    trained, fresh = network(7), network(8)
    torch.save(wrap(trained.state_dict()), tmp_path / "a.pt")
    notes = load_checkpoint(fresh, tmp_path / "a.pt")
    close = {"rtol": 1e-3, "atol": 1e-3} if kind == "half" else {"rtol": 0, "atol": 0}
    for name, tensor in trained.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[name], tensor, **close)
    assert bool(notes) == bool(said)
    assert said in "".join(notes)
    assert all(str(tmp_path / "a.pt") in note for note in notes)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "lightning"])
def test_files_merge_whatever_they_are_wrapped_in(metasum, tmp_path, kind):
    """With a plain one, under the plain one's names; what was left off is said in a line on stderr."""
    wrap, said = KINDS[kind]
    states = [network(seed).state_dict() for seed in (1, 2)]
    torch.save(wrap(states[0]), tmp_path / "a.pt")
    save(tmp_path / "b.safetensors", states[1])
    files = [tmp_path / "a.pt", tmp_path / "b.safetensors"]
    outcome = metasum("merge", "average", *files, "-o", tmp_path / "m.safetensors", "--json", "--dtype", "float32")
    assert outcome.code == 0, outcome.err
    assert load_checkpoint(network(), tmp_path / "m.safetensors") == []
    merged = load_file(tmp_path / "m.safetensors")
    torch.testing.assert_close(
        merged["0.weight"], (states[0]["0.weight"] + states[1]["0.weight"]) / 2, rtol=1e-3, atol=1e-3
    )
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == bool(said)
    assert len(json.loads(outcome.out).get("notes", [])) == bool(said)


def test_a_network_whose_own_names_start_so_keeps_them(tmp_path):
    own = nn.ModuleDict({"net": nn.Linear(2, 2)})
    torch.save(own.state_dict(), tmp_path / "a.pt")
    assert load_checkpoint(nn.ModuleDict({"net": nn.Linear(2, 2)}), tmp_path / "a.pt") == []


@pytest.mark.parametrize("left_out", ["embedding.weight", "head.weight"])
def test_a_tied_tensor_is_there_by_one_name_only(tmp_path, left_out):
    trained, fresh = Tied(), Tied()
    state = {name: tensor for name, tensor in trained.state_dict().items() if name != left_out}
    save(tmp_path / "a.safetensors", state)
    load_checkpoint(fresh, tmp_path / "a.safetensors")
    assert torch.equal(fresh.head.weight, trained.head.weight)
    assert fresh.head.weight is fresh.embedding.weight


WRONG = {
    "missing": ({"3.bias": None}, ["lacks '3.bias'"]),
    "missing statistics": ({"1.running_mean": None, "1.running_var": None}, ["lacks '1.running_mean' and 1 more"]),
    "extra": ({"4.bias": torch.zeros(2)}, ["has '4.bias', which the network does not have"]),
    "renamed": ({"3.bias": None, "head.bias": torch.zeros(3)}, ["lacks '3.bias'", "has 'head.bias'"]),
    "misshapen": (
        {"3.weight": torch.zeros(7, 5)},
        ["'3.weight' is [7, 5] float32 there and [3, 5] float32 in the network"],
    ),
    "quantised": ({"3.weight": torch.zeros(3, 5, dtype=torch.int8)}, ["[3, 5] int8 there and [3, 5] float32"]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_fit_is_named_and_nothing_is_changed(tmp_path, kind):
    changed, words = WRONG[kind]
    state = {name: tensor for name, tensor in (network(1).state_dict() | changed).items() if tensor is not None}
    torch.save(state, tmp_path / "a.pt")
    fresh = network(2)
    with pytest.raises(ArchitectureError) as caught:
        load_checkpoint(fresh, tmp_path / "a.pt")
    for word in ["a.pt does not fit the network", *words]:
        assert word in str(caught.value)
    for name, tensor in network(2).state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)


def test_a_counter_may_be_missing(tmp_path):
    state = network(1).state_dict()
    del state["1.num_batches_tracked"]
    torch.save(state, tmp_path / "a.pt")
    load_checkpoint(network(), tmp_path / "a.pt")


def test_nothing_that_a_file_holds_is_run(metasum, tmp_path):
    torch.save(network(), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match=r"holds more than tensors.*Save its state_dict by itself"):
        load_checkpoint(network(), tmp_path / "whole.pt")
    files = [tmp_path / "whole.pt"] * 2
    refused(metasum("merge", "average", *files, "-o", tmp_path / "m.safetensors"), 1, "holds more than tensors")
