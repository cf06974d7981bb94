"""What every method of tensors does where it is plain what comes out: equal networks, none that moved, one."""

import pytest
import torch

from metasum.merging import METHODS
from metasum.merging.memory import merge_parameters
from metasum.merging.tensors import TensorMethod

KEEPING = {  # settings with which nothing is dropped, nor a sum taken of equal differences
    "weighted": {"weights": (0.25, 0.75)},
    "task-arithmetic": {"scaling": 0.5},
    "ties": {"density": 1.0, "scaling": 1.0},
    "dare": {"drop_rate": 0.0, "scaling": 0.5},
    "breadcrumbs": {"density": 1.0, "scaling": 0.5},
    "della": {"drop_rate": 0.0, "scaling": 1.0},
    "magmax": {"scaling": 1.0},
    "consensus": {"scaling": 0.5},
}
CHANGING = {"sum", "pcb", "tsv-m", "iso-c", "iso-cts", "wudi"}
"""Of equal networks they make another one: a sum, or what is left of each by their own rule."""
ALL = [name for name, method in METHODS.items() if issubclass(method, TensorMethod)]
BASED = [name for name in ALL if METHODS.named(name).needs_base]
ALONE = [name for name in BASED if METHODS.named(name).fewest == 1]


def state(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (6, 3, 2, 2), "conv.bias": (6,), "scale": (), "head.weight": (5, 9), "one.weight": (1, 4)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def merged(name, sets, base, **settings):
    method = METHODS.named(name)(**KEEPING.get(name, {}) | settings)
    return merge_parameters(method, sets, base if method.needs_base else None)


def close(ours, theirs, **tolerance):
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert ours[name].shape == tensor.shape
        torch.testing.assert_close(ours[name], tensor, **tolerance)


@pytest.mark.parametrize("name", [name for name in ALL if name not in CHANGING])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_equal_networks_give_that_network(name, dtype):
    own = state(1, dtype)
    close(merged(name, [own, own], state(0, dtype)), own)


@pytest.mark.parametrize("name", BASED)
@pytest.mark.parametrize("count", [2, 3])
def test_networks_that_have_not_moved_give_the_base(name, count):
    base = state(0)
    method = METHODS.named(name)
    close(merge_parameters(method(), [base] * count, base), base, atol=0, rtol=0)


@pytest.mark.parametrize("name", ALONE)
def test_one_network_alone(name):
    """Is what it was, or of its rule's making: finite, and in place where it has not moved."""
    own, base = state(1), state(0)
    own["head.weight"] = base["head.weight"]
    result = merged(name, [own], base)
    close(result, {"head.weight": base["head.weight"]}, atol=0, rtol=0)
    assert all(tensor.isfinite().all() for tensor in result.values())
    if name in ("ties", "magmax", "della", "tsv-m", "wudi"):
        close(result, own)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sets_that_are_merged_stay_what_they_are(name, dtype):
    base, *sets = (state(seed, dtype) for seed in range(3))
    before = [{key: tensor.clone() for key, tensor in own.items()} for own in (base, *sets)]
    result = merged(name, sets, base)
    for own, was in zip((base, *sets), before, strict=True):
        close(own, was, atol=0, rtol=0)
    assert all(tensor.isfinite().all() and tensor.dtype == dtype for tensor in result.values())


@pytest.mark.parametrize("name", ALL)
def test_the_same_bits_again(name):
    base, *sets = (state(seed) for seed in range(3))
    close(merged(name, sets, base), merged(name, sets, base), atol=0, rtol=0)
