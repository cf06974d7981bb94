"""What cannot be cut into pieces is refused; what can is in tests/slow/test_fsdp.py, with two processes."""

import pytest
import torch
from refusal import nothing_written, refused
from tiny import images, small_network

from metasum.learners.sharded import visit


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["a piece for each process, and there is one", "--devices 2"]),
        (["--pool", "DATA/pool.safetensors"], ["needs whole networks in training, for --pool"]),
        (["--quiet-weight", 0.5], ["needs whole networks in training, for --quiet-weight"]),
        (["--tangent", "--norm", "none"], ["--tangent needs whole networks"]),
        (["--operator", "learned"], ["--operator learned", "take sum or average"]),
        (["--operator", "task-arithmetic"], ["--operator task-arithmetic", "take sum or average"]),
        (["--memory-format", "channels-last"], ["cut from contiguous kernels", "leave --memory-format out"]),
        (["--learner", "two-head"], ["learner 'two-head' needs whole networks"]),
        (["--learner", "ties"], ["learner 'ties' needs whole networks"]),
    ],
    ids=lambda value: "_".join(map(str, value[:2])) if value and " " not in str(value[0]) else "",
)
def test_what_needs_whole_networks(metasum, tiny, tmp_path, flags, words):
    refused(metasum("train", *tiny, *flags, "--fsdp"), 2, "--fsdp", *words)
    assert nothing_written(tmp_path)


def test_a_network_that_visits_a_device_comes_back(monkeypatch):
    """No card is needed: here, what is away from home is of another type."""
    network, whole = small_network().float(), small_network()
    move = torch.nn.Module.to
    monkeypatch.setattr(
        torch.nn.Module, "to", lambda layer, place: move(layer, torch.float32 if place == "cpu" else torch.float64)
    )
    visit(network, torch.device("cuda"))
    with torch.inference_mode():
        away = network.eval()(images())
        torch.testing.assert_close(away, whole.eval()(images()), rtol=1e-5, atol=1e-6)
    assert away.dtype == torch.float64
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}
    assert not any(tensor.is_inference() for tensor in network.parameters())
