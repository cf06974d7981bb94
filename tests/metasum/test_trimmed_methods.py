"""Methods that drop entries of the differences from a base, against mergekit or the paper's formula written plainly."""

import pytest
import torch
from mergekits import mergekit_itself, theirs

from metasum.merging.breadcrumbs import Breadcrumbs
from metasum.merging.memory import merge_parameters


@pytest.fixture(scope="module")
def mergekit():
    return mergekit_itself()


def tensors(count, *shape, seed=0):
    """A base and as many networks, all different."""
    generator = torch.Generator().manual_seed(seed)
    start, *own = (torch.randn(shape, generator=generator) for _ in range(count + 1))
    return start, own


def merged(method, own, start):
    return merge_parameters(method, [{"w": tensor} for tensor in own], {"w": start})["w"]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("elect", [False, True])
@pytest.mark.parametrize(
    ("density", "outliers"), [(0.2, 0.01), (0.5, 0.1), (0.9, 0.3), (0.3, 0.0), (1.0, 0.1), (0.0, 0.1)]
)
def test_breadcrumbs_are_mergekits(mergekit, count, elect, density, outliers):
    start, own = tensors(count, 20, 15)
    ours = merged(Breadcrumbs(density=density, outliers=outliers, scaling=0.7, elect=elect), own, start)
    expected = theirs(
        mergekit,
        own=own,
        start=start,
        density=density,
        scaling=0.7,
        consensus=mergekit.gta.ConsensusMethod.sum if elect else None,
        sparsification=mergekit.sparsification.magnitude_outliers,
        gamma=outliers,
    )
    torch.testing.assert_close(ours, expected)


def test_breadcrumbs_by_hand():
    vector = torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0, 9.0, -10.0])
    kept = merged(Breadcrumbs(density=0.5, outliers=0.2, scaling=1.0), [vector], torch.zeros(10))
    assert torch.equal(kept, torch.tensor([0.0, 0.0, 0.0, -4.0, 5.0, -6.0, 7.0, -8.0, 0.0, 0.0]))
    infinite = torch.where(vector == 9, torch.inf, vector)
    kept = merged(Breadcrumbs(density=0.5, outliers=0.2, scaling=1.0), [infinite], torch.zeros(10))
    assert kept.isfinite().all(), "what is dropped leaves nothing behind"
