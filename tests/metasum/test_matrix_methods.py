"""Methods that merge matrices by their singular vectors, against the papers' formulas written plainly."""

import pytest
import torch

from metasum.errors import MetaSumError
from metasum.merging.iso import IsoC, IsoCTS
from metasum.merging.memory import merge_parameters
from metasum.merging.tsv import TSVM
from metasum.merging.wudi import WUDI

SHAPES = [(12, 9), (9, 30), (8, 3, 2, 2)]


def tensors(count, shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    start, *own = (torch.randn(shape, generator=generator).to(dtype) for _ in range(count + 1))
    return start, own


def merged(method, own, start):
    return merge_parameters(method, [{"w": tensor} for tensor in own], {"w": start})["w"]


def whole(vectors):
    """Of a matrix of full rank, the nearest one with orthonormal rows or columns, by the inverse root of its Gram."""
    flat = vectors if len(vectors) <= vectors.shape[1] else vectors.T
    values, basis = torch.linalg.eigh(flat @ flat.T)
    nearest = basis @ torch.diag(values.rsqrt()) @ basis.T @ flat
    return nearest if flat is vectors else nearest.T


def tsv(deltas):
    rank = min(deltas[0].shape) // len(deltas)
    parts = [torch.linalg.svd(delta, full_matrices=False) for delta in deltas]
    left = torch.cat([u[:, :rank] for u, _, _ in parts], 1)
    values = torch.cat([s[:rank] for _, s, _ in parts])
    right = torch.cat([v[:rank] for _, _, v in parts])
    return whole(left) @ torch.diag(values) @ whole(right)


def iso_c(deltas):
    total = sum(deltas)
    return torch.linalg.svdvals(total).mean() * whole(total)


def iso_cts(deltas, common):
    rank, count = min(deltas[0].shape), len(deltas)
    each = round((rank - int(rank * common)) / count)
    shared = rank - each * count
    u, s, v = torch.linalg.svd(sum(deltas), full_matrices=False)
    left, values, right = [u[:, :shared]], [s[:shared]], [v[:shared]]
    for delta in deltas:
        apart = delta - left[0] @ left[0].T @ delta
        u, s, v = torch.linalg.svd(apart, full_matrices=False)
        left, values, right = [*left, u[:, :each]], [*values, s[:each]], [*right, v[:each]]
    return torch.cat(values).mean() * whole(torch.cat(left, 1)) @ whole(torch.cat(right))


FORMULAS = {
    "tsv-m": (TSVM(scaling=0.7), tsv),
    "iso-c": (IsoC(scaling=0.7), iso_c),
    "iso-cts 0.5": (IsoCTS(scaling=0.7, common=0.5), lambda deltas: iso_cts(deltas, 0.5)),
    "iso-cts 0.8": (IsoCTS(scaling=0.7), lambda deltas: iso_cts(deltas, 0.8)),
}


@pytest.mark.parametrize("kind", FORMULAS)
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_papers_formula(kind, count, shape, dtype):
    method, formula = FORMULAS[kind]
    start, own = tensors(count, shape, dtype=dtype)
    deltas = [(tensor - start).view(shape[0], -1).double() for tensor in own]
    expected = start + 0.7 * formula(deltas).view(shape).to(dtype)
    torch.testing.assert_close(merged(method, own, start), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(7,), ()])
@pytest.mark.parametrize("kind", FORMULAS)
def test_vectors_are_averaged(kind, shape):
    start, own = tensors(3, shape)
    expected = start + 0.7 * (sum(own) / 3 - start)
    torch.testing.assert_close(merged(FORMULAS[kind][0], own, start), expected)


def test_one_network_is_itself_and_equal_ones_keep_what_is_strongest():
    start, (one, *_) = tensors(1, (6, 8))
    torch.testing.assert_close(merged(TSVM(), [one], start), one)
    u, s, v = torch.linalg.svd((one - start).double(), full_matrices=False)
    strongest = start + (u[:, :3] @ torch.diag(s[:3]) @ v[:3]).float()
    torch.testing.assert_close(merged(TSVM(), [one, one], start), strongest)


@pytest.mark.parametrize("method", [TSVM(), IsoC(), IsoCTS()], ids=lambda method: method.name)
def test_more_networks_than_singular_values(method):
    start, own = tensors(7, (3, 5))
    assert merged(method, own, start).isfinite().all()
    assert merged(method, [tensor[:1] for tensor in own], start[:1]).isfinite().all()


@pytest.mark.parametrize("method", [IsoC(), IsoCTS(), TSVM()], ids=lambda method: method.name)
def test_directions_in_which_nobody_moved_stay_still(method):
    """Their singular vectors are whatever the SVD returns."""
    start, own = tensors(2, (6, 8))
    own = [torch.cat([tensor[:2], start[2:]]) for tensor in own]
    torch.testing.assert_close(merged(method, own, start)[2:], start[2:], atol=1e-5, rtol=0)


def test_a_small_direction_is_one_as_long_as_it_is_no_rounding():
    start, (one, *_) = tensors(1, (64, 64), dtype=torch.float64)
    u, _, v = torch.linalg.svd(one - start)
    delta = (u @ torch.diag(torch.logspace(0, -5.5, 64, dtype=torch.float64)) @ v).float()
    expected = (IsoC().config.scaling * iso_c([delta.double()])).float()
    torch.testing.assert_close(merged(IsoC(), [delta], torch.zeros(64, 64)), expected, atol=1e-6, rtol=1e-4)


def test_iso_c_keeps_the_sum_of_singular_values():
    start, own = tensors(2, (6, 8))
    before, after = sum(own) - 2 * start, merged(IsoC(), own, start) - start
    values = torch.linalg.svdvals(after)
    torch.testing.assert_close(values, values.mean().expand(6), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(values.sum(), torch.linalg.svdvals(before).sum())


def test_numbers_that_are_none_are_named():
    start, own = tensors(2, (4, 4))
    own[1][2, 2] = torch.nan
    with pytest.raises(MetaSumError, match="'w' holds values that are no finite numbers"):
        merged(TSVM(), own, start)


def interference(delta, deltas):
    return sum(((delta - own) @ own.T).square().sum() / own.square().sum() for own in deltas)


@pytest.mark.parametrize("shape", [(12, 9), (3, 40), (8, 3, 2, 2)])
@pytest.mark.parametrize("count", [1, 3])
def test_wudi_is_adam_on_the_papers_loss(shape, count):
    start, own = tensors(count, shape, dtype=torch.float64)
    deltas = [(tensor - start).view(shape[0], -1) for tensor in own]
    expected = sum(deltas).clone().requires_grad_()
    optimizer = torch.optim.Adam([expected], lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        interference(expected, deltas).backward()
        optimizer.step()
    ours = merged(WUDI(wudi_steps=20, wudi_lr=1e-2, scaling=0.7), own, start)
    torch.testing.assert_close(ours, start + 0.7 * expected.detach().view(shape))
    assert count == 1 or interference(expected, deltas) < interference(sum(deltas), deltas)


def test_wudi_without_steps_is_the_sum_and_leaves_out_who_has_not_moved():
    start, (one, other) = tensors(2, (4, 6))
    torch.testing.assert_close(merged(WUDI(wudi_steps=0), [one, other], start), one + other - start)
    torch.testing.assert_close(merged(WUDI(wudi_steps=5), [one, start], start), one, atol=1e-6, rtol=0)
