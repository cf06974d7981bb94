"""Methods that drop entries of the differences from a base, against mergekit or the paper's formula written plainly."""

import pytest
import torch
from mergekits import called, mergekit_itself, theirs

from metasum.errors import UsageError
from metasum.merging.breadcrumbs import Breadcrumbs
from metasum.merging.consensus import Consensus
from metasum.merging.della import DELLA
from metasum.merging.draws import draws
from metasum.merging.magmax import MagMax
from metasum.merging.memory import merge_parameters
from metasum.merging.model_stock import ModelStock
from metasum.merging.pcb import PCB
from metasum.merging.sce import SCE
from metasum.merging.task_arithmetic import TaskArithmetic


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


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("elect", [False, True])
@pytest.mark.parametrize("shape", [(6, 40), (30,)])
def test_della_is_mergekits_given_its_draws(mergekit, monkeypatch, count, elect, shape):
    """But for the scale of what is left, which is the paper's."""
    start, own = tensors(count, *shape)
    ours = merged(DELLA(drop_rate=0.4, window=0.3, scaling=0.7, elect=elect, seed=3), own, start)
    entries, vectors = start.numel(), []
    for number, tensor in enumerate(own):
        chances = []

        def bernoulli(keep, number=number, chances=chances):
            chances.append(keep.reshape(shape))
            drawn = draws(0, entries, seed=3, name="w", network=number).astype("f8") / 2**32
            return (torch.from_numpy(drawn).view_as(keep) < keep).float()

        monkeypatch.setattr(torch, "bernoulli", bernoulli)
        kept = mergekit.della(tensor - start, density=0.6, epsilon=0.3)
        vectors.append(kept / chances[0])
    if elect:
        mask = mergekit.gta.get_mask(torch.stack(vectors), "sum")
        total = (torch.stack(vectors) * mask).sum(0) / mask.logical_and(torch.stack(vectors) != 0).sum(0).clamp(min=1)
    else:
        total = sum(vectors)
    torch.testing.assert_close(ours, start + 0.7 * total)


def test_della_keeps_the_mean_and_drops_small_entries_more_often():
    vector = torch.linspace(1, 2, 400).expand(500, 400).contiguous()
    ours = merged(DELLA(drop_rate=0.5, window=0.3, scaling=1.0), [vector], torch.zeros_like(vector))
    assert float((ours == 0)[:, :10].float().mean()) == pytest.approx(0.8, abs=0.03)
    assert float((ours == 0)[:, -10:].float().mean()) == pytest.approx(0.2, abs=0.03)
    torch.testing.assert_close(ours.mean(0), vector[0], atol=0.3, rtol=0.3)
    assert float(ours.mean()) == pytest.approx(float(vector.mean()), abs=0.02)


def test_della_s_seed_and_limits():
    start, own = tensors(2, 8, 30)
    one, again, other = (merged(DELLA(seed=seed), own, start) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    plain = merged(TaskArithmetic(scaling=0.7), own, start)
    assert torch.equal(merged(DELLA(drop_rate=0.0, elect=False, scaling=0.7), own, start), plain)
    single = merge_parameters(DELLA(scaling=1.0), [{"w": torch.tensor(3.0)}], {"w": torch.tensor(1.0)})["w"]
    assert float(single) in (1.0, 5.0), "one entry is dropped with the drop rate itself"
    for rate, window in ((0.1, 0.15), (0.9, 0.15)):
        with pytest.raises(UsageError, match="take a smaller window"):
            DELLA(drop_rate=rate, window=window)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_sce_is_mergekits(mergekit, count, density):
    start, own = tensors(count, 12, 9)
    ours = merged(SCE(density=density), own, start)
    torch.testing.assert_close(ours, called(mergekit.sce, own, start, select_topk=density))


def test_sce_weighs_networks_by_their_squares_however_small_they_are():
    start, own = torch.zeros(2), [torch.tensor([1e-5, 3e-5]), torch.tensor([2e-5, 1e-5])]
    weights = [10 / 15, 5 / 15]
    expected = sum(weight * tensor for weight, tensor in zip(weights, own, strict=True))
    torch.testing.assert_close(merged(SCE(), own, start), expected)
    cancelled = merged(SCE(), [torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 1.0])], start)
    torch.testing.assert_close(cancelled, torch.tensor([0.0, 5 / 7 * 2 + 2 / 7]))


def test_magmax_takes_the_largest_and_the_last_of_those_alike():
    start, own = torch.ones(4), [torch.tensor([2.0, -1.0, 1.0, 2.0]), torch.tensor([1.5, 2.0, 1.0, 0.0])]
    ours = merged(MagMax(scaling=0.5), own, start)
    assert torch.equal(ours, 1 + 0.5 * torch.tensor([1.0, -2.0, 0.0, -1.0]))
    start, own = tensors(4, 30)
    stack = torch.stack([tensor - start for tensor in own])
    largest = stack.gather(0, stack.abs().argmax(0, keepdim=True))[0]
    torch.testing.assert_close(merged(MagMax(scaling=0.3), own, start), start + 0.3 * largest)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("shape", [(12, 9), (7,), (3, 2, 3, 3)])
def test_model_stock_is_mergekits(mergekit, count, shape):
    start, own = tensors(count, *shape)
    ours = merged(ModelStock(), own, start)
    torch.testing.assert_close(ours, called(mergekit.model_stock, own, start), atol=1e-5, rtol=1e-5)


def test_model_stock_trusts_what_agrees():
    start, (one, other) = torch.zeros(2), torch.eye(2)
    assert torch.equal(merged(ModelStock(), [one, other], start), start), "at a right angle the base is best"
    assert torch.equal(merged(ModelStock(), [one, -one], start), start)
    torch.testing.assert_close(merged(ModelStock(), [one, 3 * one], start), 2 * one)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("threshold", [0.2, 0.6])
@pytest.mark.parametrize("wanted_by", [0, 1, 2])
def test_consensus_is_the_papers_formula(count, threshold, wanted_by):
    start, own = tensors(count, 30)
    total = start + sum(tensor - start for tensor in own)
    wanting = sum(((tensor - start).abs() >= threshold * (total - tensor).abs()).int() for tensor in own)
    expected = start + 0.7 * (total - start) * (wanting >= wanted_by)
    method = Consensus(scaling=0.7, mask_threshold=threshold, wanted_by=wanted_by)
    torch.testing.assert_close(merged(method, own, start), expected)


def test_consensus_by_hand():
    start, own = torch.zeros(4), [torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor([1.0, 0.1, 0.0, -2.0])]
    ours = merged(Consensus(scaling=1.0, mask_threshold=0.4), own, start)
    assert torch.equal(ours, torch.tensor([2.0, 0.0, 0.0, -1.0]))
    with pytest.raises(UsageError, match="--wanted-by 3: no more than 2 networks"):
        merged(Consensus(wanted_by=3), own, start)


def competed(deltas, density):
    """PCB-Merging on vectors `[N, n]`, as its paper's code defines it, but that a bound is 0 at least."""
    count, entries = deltas.shape

    def scaled(rows):
        least, most = rows.min(1, keepdim=True).values, rows.max(1, keepdim=True).values
        return (rows - least) / (most - least)

    ordered = deltas.abs().sort(1).values
    least, most = ordered[:, int(entries * 1e-4)], ordered[:, int(entries * (1 - 1e-4) - 1)]
    magnitudes = deltas.abs().clamp(least[:, None], most[:, None])
    scores = torch.exp(count * scaled(magnitudes) ** 2) * torch.tanh(deltas * deltas.sum(0))
    bound = scores.sort(1).values[:, int(entries * (1 - density))].clamp(min=0)
    shares = scaled(scores.maximum(bound[:, None]))
    return (deltas.sign() * magnitudes * shares).sum(0) / shares.sum(0).clamp(min=1e-12)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("density", [0.05, 0.2, 1.0])
def test_pcb_is_the_authors_formula_over_all_tensors_at_once(count, density):
    start, own = tensors(count, 3, 7000)
    split = [{"a": tensor[0], "b": tensor[1:]} for tensor in (start, *own)]
    ours = merge_parameters(PCB(density=density, scaling=0.7), split[1:], split[0])
    ours = torch.cat([ours["a"].flatten(), ours["b"].flatten()])
    deltas = torch.stack([(tensor - start).flatten() for tensor in own])
    torch.testing.assert_close(ours, start.flatten() + 0.7 * competed(deltas.double(), density).float())


def test_pcb_of_vectors_without_a_range():
    start = torch.zeros(1)
    assert torch.equal(merged(PCB(), [torch.ones(1), torch.ones(1)], start), torch.ones(1))
    assert torch.equal(merged(PCB(), [torch.ones(1), -torch.ones(1)], start), start)
    assert torch.equal(merged(PCB(), [torch.ones(9)] * 2, torch.ones(9)), torch.ones(9))
