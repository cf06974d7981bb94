"""What is no result: states and networks with NaN or infinite numbers, and checkpoints that no run can have left."""

import math

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file, save_file

from metasum.weights.storage import read_metadata, save_weights


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--weight-decay", "1e38"], "the optimiser's memory became NaN or infinite"),
        (["--learning-rate", "1e30"], "became"),
    ],
    ids=["decay", "rate"],
)
def test_an_optimiser_whose_memory_is_infinite_has_diverged(metasum, tiny, tmp_path, flags, word):
    refused(metasum("train", *tiny, *flags), 1, "training diverged", word)
    assert not (tmp_path / "runs" / "rows+lines" / "metasum-seed0" / "result.json").exists()


def spoilt(path, key, value):
    """The file with one number in the first of its floating-point tensors, or of those called `key`, replaced."""
    tensors, metadata = load_file(path), read_metadata(path)
    name = next(name for name in tensors if key in name and tensors[name].is_floating_point())
    tensors[name].view(-1)[0] = value
    save_weights(path, tensors, metadata=metadata)
    return name


@pytest.mark.parametrize("key", ["weight", "running_var"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_network_without_finite_weights_is_not_measured(metasum, finished, data_root, key, value):
    file = finished / "target.safetensors"
    name = spoilt(file, key, value)
    words = ["target.safetensors", repr(name), "NaN or infinite"]
    refused(metasum("evaluate", file, "--on", "rows", "--data-root", data_root), 1, *words)


@pytest.mark.parametrize("method", ["average", "ties", "slerp"])
def test_nor_merged(metasum, finished, tmp_path, method):
    files = [finished / f"{name}.safetensors" for name in ("target", "support")]
    name = spoilt(files[1], "weight", math.nan)
    base = ["--base", finished / "initial.safetensors"] if method == "ties" else []
    out = tmp_path / "both.safetensors"
    refused(metasum("merge", method, *files, *base, "-o", out), 1, f"{files[1]}: {name!r} holds NaN")
    assert not out.exists()


def test_infinities_that_the_method_makes_are_none_either(metasum, tmp_path):
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for file in files:
        save_file({"weight": torch.full((64,), 3e38)}, file)
    out = tmp_path / "both.safetensors"
    refused(metasum("merge", "sum", *files, "-o", out), 1, "'weight' would hold", "this method")


def test_large_numbers_whose_sum_alone_is_infinite_are_merged(metasum, tmp_path):
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for file in files:
        save_file({"weight": torch.full((64,), 1e38)}, file)
    outcome = metasum("merge", "average", *files, "-o", tmp_path / "both.safetensors")
    assert outcome.code == 0, outcome.err


def changed(run, change):
    path = run / "last.ckpt"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def first_weight(state):
    return next(tensor for tensor in state["learner"].values() if tensor.is_floating_point())


def moment(state):
    return next(iter(state["optimizer"]["state"].values()))["exp_avg_sq"]


@pytest.mark.parametrize("held", [first_weight, moment])
def test_a_checkpoint_with_nan_at_its_last_step_is_not_finished(metasum, tiny, unfinished, held):
    changed(unfinished, lambda state: held(state).view(-1)[0].fill_(math.nan))
    refused(metasum("train", *tiny, "--resume"), 1, "last.ckpt", "NaN or infinite")
    assert not (unfinished / "result.json").exists()


FIELDS = {
    "step": [10**9, -5, None, "3", 2.5, True, []],
    "updates": [10**9, -1, None],
    "images": [-1, None, {}],
    "seconds": [-1.0, math.nan, math.inf, None, "x"],
    "evaluation_seconds": [None, math.nan],
    "learner": [None, [], 3],
    "optimizer": [None, {}, 3, {"state": 3, "param_groups": []}],
    "sampler": [None, {}, {"generator": 3, "streams": []}],
    "precision": [None, 3],
    "random": [None, {}, {"cpu": 3}],
}


def test_a_checkpoint_with_fields_of_another_kind_is_refused_by_its_file(metasum, tiny, unfinished):
    path = unfinished / "last.ckpt"
    whole, log = path.read_bytes(), (unfinished / "metrics.jsonl").read_bytes()
    for name, values in FIELDS.items():
        for value in values:
            path.write_bytes(whole)
            changed(unfinished, lambda state, name=name, value=value: state.update({name: value}))
            outcome = metasum("train", *tiny, "--resume")
            assert "METASUM_DEBUG" not in outcome.err, (name, value, outcome.err)
            refused(outcome, 1, "last.ckpt")
    assert (unfinished / "metrics.jsonl").read_bytes() == log
