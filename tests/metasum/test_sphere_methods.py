"""Methods that go along a sphere, against mergekit."""

import itertools

import pytest
import torch
from checkpoints import save
from mergekits import called, mergekit_itself
from safetensors.torch import load_file

from metasum import merge_files
from metasum.errors import UsageError
from metasum.merging.karcher import Karcher
from metasum.merging.memory import merge_parameters
from metasum.merging.multislerp import MultiSLERP
from metasum.merging.nuslerp import NuSLERP
from metasum.merging.slerp import SLERP
from metasum.merging.task_arithmetic import TaskArithmetic

SHAPES = [(12, 9), (7,), (3, 2, 4, 5)]


@pytest.fixture(scope="module")
def mergekit():
    return mergekit_itself()


def tensors(count, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    start, *own = (torch.randn(shape, generator=generator) for _ in range(count + 1))
    return start, own


def merged(method, own, start=None):
    base = None if start is None else {"w": start}
    return merge_parameters(method, [{"w": tensor} for tensor in own], base)["w"]


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_karcher_mean_is_mergekits(mergekit, count, shape):
    _, own = tensors(count, shape)
    expected = called(mergekit.karcher, own, max_iter=50, tol=1e-6)
    torch.testing.assert_close(merged(Karcher(), own), expected, atol=1e-4, rtol=1e-4)


def test_the_karcher_mean_has_no_pull_and_is_slerp_s_middle_for_two():
    _, own = tensors(4, (6, 5))
    units = [tensor.double().flatten() / tensor.double().norm() for tensor in own]
    mean = merged(Karcher(), [tensor.double() for tensor in own]).flatten()
    torch.testing.assert_close(mean.norm(), torch.stack([tensor.double().norm() for tensor in own]).mean())
    mean = mean / mean.norm()
    arcs = [torch.acos(unit.dot(mean)) for unit in units]
    pulls = [arc / arc.sin() * (unit - unit.dot(mean) * mean) for arc, unit in zip(arcs, units, strict=True)]
    torch.testing.assert_close(sum(pulls), torch.zeros_like(mean), atol=1e-8, rtol=0)
    one, other = units[:2]
    torch.testing.assert_close(merged(Karcher(), [one, other]), merged(SLERP(), [one, other]))


def test_the_karcher_mean_of_what_has_no_mean():
    axis = torch.tensor([2.0, 0.0])
    assert torch.equal(merged(Karcher(), [axis, torch.zeros(2)]), axis / 2)
    assert torch.equal(merged(Karcher(), [torch.zeros(2), torch.zeros(2)]), torch.zeros(2))
    torch.testing.assert_close(merged(Karcher(), [axis, -axis]), axis)


WEIGHTS = {2: [(), (1.0, 1.0), (0.2, 0.6)], 3: [(), (1.0, 2.0, 0.5)]}


@pytest.mark.parametrize(("count", "weights"), [(count, own) for count, some in WEIGHTS.items() for own in some])
@pytest.mark.parametrize("based", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_multislerp_is_mergekits(mergekit, count, weights, based, shape):
    start, own = tensors(count, shape)
    start = start if based else None
    given = list(weights or [1.0] * count)
    expected = called(mergekit.multislerp, own, start, weight=given)
    torch.testing.assert_close(merged(MultiSLERP(weights=weights), own, start), expected)


def test_multislerp_of_directions_that_cancel():
    axis = torch.tensor([2.0, 0.0])
    torch.testing.assert_close(merged(MultiSLERP(), [axis, -2 * axis]), -axis / 2)
    four = [axis, -2 * axis, torch.tensor([0.0, 1.0]), torch.tensor([0.0, -1.0])]
    torch.testing.assert_close(merged(MultiSLERP(), four), -axis / 4)
    assert torch.equal(merged(MultiSLERP(), [axis] * 3, axis), axis)


KINDS = {
    "tensor": {"nuslerp_flatten": True},
    "rows": {"nuslerp_flatten": False},
    "columns": {"nuslerp_flatten": False, "nuslerp_row_wise": True},
}


@pytest.mark.parametrize("vectors", KINDS)
@pytest.mark.parametrize("based", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.2, 0.6)])
def test_nuslerp_is_mergekits(mergekit, vectors, based, shape, weights):
    start, own = tensors(2, shape)
    start = start if based else None
    expected = called(mergekit.nuslerp, own, start, weight=list(weights), **KINDS[vectors])
    torch.testing.assert_close(merged(NuSLERP(vectors=vectors, weights=weights), own, start), expected)


def test_nuslerp_of_whole_tensors_is_slerp():
    _, own = tensors(2, (6, 5))
    expected = merged(SLERP(position=0.75), own)
    torch.testing.assert_close(merged(NuSLERP(weights=(1.0, 3.0)), own), expected)


@pytest.mark.parametrize("method", [MultiSLERP(), NuSLERP()], ids=["multislerp", "nuslerp"])
def test_a_base_is_taken_where_it_is_given(tmp_path, method):
    start, own = tensors(2, (6, 5))
    states = [{"w": tensor} for tensor in (start, *own)]
    base, *files = (save(tmp_path / f"{number}.safetensors", state) for number, state in enumerate(states))
    results = []
    for given in (None, base):
        merge_files(method, files, tmp_path / "out.safetensors", base=given, overwrite=True)
        results.append(load_file(tmp_path / "out.safetensors")["w"])
    assert torch.equal(results[0], merged(method, own))
    assert torch.equal(results[1], merged(method, own, start))
    assert not torch.allclose(*results)
    with pytest.raises(UsageError, match="average takes no --base"):
        merge_files("average", files, tmp_path / "out.safetensors", base=base, overwrite=True)


def test_weights_that_make_no_sense(tmp_path):
    _, own = tensors(3, (2,))
    with pytest.raises(UsageError, match="multislerp takes one weight for each of the 3 networks"):
        merge_parameters(MultiSLERP(weights=(1.0, 2.0)), [{"w": tensor} for tensor in own])
    for weights in itertools.permutations((-1.0, 2.0)):
        with pytest.raises(UsageError, match="--weights must be at least 0"):
            MultiSLERP(weights=weights)
    with pytest.raises(UsageError, match="not all of them 0"):
        NuSLERP(weights=(0.0, 0.0))
    with pytest.raises(UsageError, match="not all of them 0"):
        NuSLERP(layers=[("*", (0.0, 0.0))])
    assert TaskArithmetic.takes_base is False
