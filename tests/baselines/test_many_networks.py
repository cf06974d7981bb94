"""MergeMany and C2M3: any number of networks in one order, against the papers' algorithms written plainly."""

import copy
import itertools

import pytest
import torch
from apart import network as apart
from scipy.optimize import linear_sum_assignment
from torch import nn

import metasum
from metasum.baselines.assignment import LARGE, best_order, best_orders
from metasum.baselines.c2m3 import C2M3, climb, to_universe
from metasum.baselines.merge_many import MergeMany, merge_many
from metasum.baselines.universe import Universe
from metasum.baselines.weight_matching import match
from metasum.errors import DivergenceError, UsageError
from metasum.merging.endpoints import Endpoint
from metasum.networks.channels import channel_groups
from metasum.networks.permuting import in_order, in_turn, one_after_another, permute_network, permuted, undoing

METHODS = [MergeMany, C2M3]


def mlp(seed, width=12):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 9), nn.Tanh(), nn.Linear(9, 4)).double()


def weights(network):
    return {name: tensor.detach() for name, tensor in network.named_parameters()}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def likeness(sets):
    """Σ_{i<j} ⟨θ_i, θ_j⟩."""
    pairs = itertools.combinations(sets, 2)
    return sum(float((one[name] * two[name]).double().sum()) for one, two in pairs for name in one)


def moved_by(steps, sets, groups):
    return [in_order(own, in_turn(groups, orders, own)) for own, orders in zip(sets, steps, strict=True)]


def shuffled_copies(network, count, images=None):
    groups = channel_groups(network, images)
    copies = [network]
    for seed in range(1, count):
        moved = copy.deepcopy(network)
        permute_network(moved, groups, [torch.randperm(group.size, generator=generator(seed)) for group in groups])
        copies.append(moved)
    return copies


class Tokens(nn.Module):
    """A transformer layer on the pixels of an image: attention heads are blocks of channels."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 12, 4, stride=4), nn.Linear(12, 4)
        self.layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)

    def forward(self, x):
        return self.last(self.layer(self.first(x).flatten(2).transpose(1, 2)).mean(1))


def used(network):
    """Statistics of its own, and no bias 0."""
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator()))
        network.train()(torch.randn(8, 1, 8, 8, generator=generator()))
    return network.eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [apart, lambda seed: used(apart(seed)), lambda _: used(Tokens())])
@pytest.mark.parametrize("count", [2, 4])
def test_permuted_copies_come_out_as_the_first(method, make, count):
    network, images = make(3).eval(), torch.randn(8, 1, 8, 8, generator=generator(1))
    copies = shuffled_copies(network, count, images)
    merged = metasum.merge(copies, method.name, images=[images] * count)
    for name, tensor in weights(network).items():
        torch.testing.assert_close(weights(merged)[name], tensor, rtol=1e-5, atol=1e-6)


def plain_merge_many(sets):
    """Algorithm 3 for an MLP of two hidden layers: the sets as they stand at its end."""
    sets = [dict(own) for own in sets]
    for sweep in itertools.count():
        gained = False
        for turn in range(not sweep, len(sets)):
            others = [own for k, own in enumerate(sets[: turn if sweep == 0 else None]) if k != turn]
            mean = {n: sum(own[n] for own in others) / len(others) for n in sets[0]}
            again = True
            while again:
                again = False
                for before, after in (("0", "2"), ("2", "4")):
                    own = sets[turn]
                    gain = mean[f"{before}.weight"] @ own[f"{before}.weight"].T
                    gain = gain + mean[f"{before}.bias"][:, None] * own[f"{before}.bias"][None]
                    gain = gain + mean[f"{after}.weight"].T @ own[f"{after}.weight"]
                    order = linear_sum_assignment(gain.numpy(), maximize=True)[1]
                    if gain.numpy()[range(len(order)), order].sum() > gain.trace() + 1e-9:
                        again = gained = True
                        own[f"{before}.weight"] = own[f"{before}.weight"][order]
                        own[f"{before}.bias"] = own[f"{before}.bias"][order]
                        own[f"{after}.weight"] = own[f"{after}.weight"][:, order]
        if sweep and not gained:
            return sets


@pytest.mark.parametrize("seed", range(3))
def test_merge_many_is_the_papers_algorithm(seed, monkeypatch):
    """Both visit networks and layers in the order of their numbers."""
    sets, groups = [weights(mlp(3 * seed + number)) for number in range(3)], channel_groups(mlp(0))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randperm", lambda count, generator: torch.arange(count))
        found = moved_by(merge_many(sets, groups, generator=generator()), sets, groups)
    for mine, theirs in zip(found, plain_merge_many(sets), strict=True):
        for name in mine:
            torch.testing.assert_close(mine[name], theirs[name])


@pytest.mark.parametrize("seed", range(4))
def test_sweeps_never_lose(seed):
    sets, groups = [weights(mlp(5 * seed + number)) for number in range(4)], channel_groups(mlp(0))
    values = [
        likeness(moved_by(merge_many(sets, groups, generator=generator(), sweeps=sweeps), sets, groups))
        for sweeps in range(6)
    ]
    assert values == sorted(values)
    assert likeness(sets) < values[0] < values[-1]


def plain_objective(sets, matrices):
    """Σ_{i<j} ⟨u_i, u_j⟩ of an MLP of two hidden layers."""
    universe = []
    for own, (p, q) in zip(sets, matrices, strict=True):
        universe.append({
            "0.weight": p @ own["0.weight"], "0.bias": p @ own["0.bias"],
            "2.weight": q @ own["2.weight"] @ p.T, "2.bias": q @ own["2.bias"],
            "4.weight": own["4.weight"] @ q.T,
        })  # fmt: skip
    return sum((one[name] * two[name]).sum() for one, two in itertools.combinations(universe, 2) for name in one)


def doubly_stochastic(size, seed):
    matrices = [torch.eye(size)[torch.randperm(size, generator=generator(seed + k))] for k in range(5)]
    return (sum(matrices) / 5).double()


def test_frank_wolfe_goes_where_the_objective_is_steepest():
    sets, groups = [weights(mlp(number)) for number in range(3)], channel_groups(mlp(0))
    universe = Universe(sets, groups)
    matrices = [[doubly_stochastic(12, 10 * k), doubly_stochastic(9, 10 * k + 5)] for k in range(3)]
    leaves = [[matrix.clone().requires_grad_() for matrix in own] for own in matrices]
    plain_objective(sets, leaves).backward()
    mixed = [universe.mixed(network, own) for network, own in enumerate(matrices)]
    for network, own in enumerate(universe.corners(matrices, mixed)):
        for order, leaf in zip(own, leaves[network], strict=True):
            assert order.tolist() == linear_sum_assignment(leaf.grad.numpy(), maximize=True)[1].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_frank_wolfe_never_falls_and_stays_doubly_stochastic(seed):
    sets, groups = [weights(mlp(3 * seed + number)) for number in range(3)], channel_groups(mlp(0))
    values = []
    for steps in range(12):
        matrices = climb(sets, groups, steps=steps)
        values.append(float(plain_objective(sets, matrices)))
        for matrix in itertools.chain(*matrices):
            torch.testing.assert_close(matrix.sum(0), torch.ones(len(matrix)).double())
            torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix)).double())
            assert matrix.min() >= -1e-12
    assert values == sorted(values)
    assert values[0] < values[1] < values[-1]


def test_a_step_has_the_best_length_of_all():
    sets, groups = [weights(mlp(number)) for number in range(3)], channel_groups(mlp(0))
    start, end = (climb(sets, groups, steps=steps) for steps in (2, 3))
    mixed = [Universe(sets, groups).mixed(network, own) for network, own in enumerate(start)]
    orders = Universe(sets, groups).corners(start, mixed)
    eyes = [[torch.eye(len(order)).double()[order] for order in own] for own in orders]

    def value(step):
        return float(
            plain_objective(
                sets, [[a.lerp(b, step) for a, b in zip(*pair, strict=True)] for pair in zip(start, eyes, strict=True)]
            )
        )

    reached = float(plain_objective(sets, end))
    assert reached == pytest.approx(max(value(step / 500) for step in range(501)), rel=1e-4)
    assert reached >= max(value(step / 500) for step in range(501)) - 1e-9


def test_c2m3_finds_more_likeness_than_merge_many_on_average_and_that_more_than_matching_to_the_first():
    groups, found = channel_groups(mlp(0)), []
    for seed in range(6):
        sets = [weights(mlp(4 * seed + number)) for number in range(4)]
        to_first = [permuted(own, groups, match(sets[0], own, groups, generator=generator())) for own in sets[1:]]
        many = moved_by(merge_many(sets, groups, generator=generator()), sets, groups)
        universe = moved_by(to_universe(sets, groups), sets, groups)
        found.append(torch.tensor([likeness([sets[0], *to_first]), likeness(many), likeness(universe)]))
    first, many, universe = torch.stack(found).mean(0).tolist()
    assert first < many < universe


@pytest.mark.parametrize("seed", range(6))
def test_two_networks_are_matched_as_by_weight_matching(seed):
    sets, groups = [weights(mlp(2 * seed)), weights(mlp(2 * seed + 1))], channel_groups(mlp(0))
    matched = [sets[0], permuted(sets[1], groups, match(*sets, groups, generator=generator()))]
    many = moved_by(merge_many(sets, groups, generator=generator()), sets, groups)
    assert likeness(many) >= likeness(matched) - 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_going_round_is_staying(method):
    """P_ij P_jk = P_ik, and networks that are matched stay in the first one's order."""
    networks = [mlp(number) for number in range(3)]
    ends, groups = [Endpoint(network, []) for network in networks], channel_groups(mlp(0))
    orders = method().common_order(ends, groups)

    def pair(one, two):
        return one_after_another(orders[two], undoing(orders[one]))

    for i, j, k in itertools.permutations(range(3)):
        way = one_after_another(pair(j, k), pair(i, j))
        assert way.keys() == pair(i, k).keys()
        assert all(torch.equal(way[axis], index) for axis, index in pair(i, k).items())
    first, second, third = method().prepared(ends)
    assert first is ends[0]
    for end, own in ((second, 1), (third, 2)):
        expected = in_order(weights(networks[own]), pair(0, own))
        assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(end.network).items())


@pytest.mark.parametrize("method", METHODS)
def test_equal_networks_stay_as_they_are(method):
    network = mlp(0)
    merged = metasum.merge([network, copy.deepcopy(network), copy.deepcopy(network)], method.name)
    for name, tensor in weights(network).items():
        torch.testing.assert_close(weights(merged)[name], tensor)


@pytest.mark.parametrize("method", METHODS)
def test_one_network(method):
    network, groups = mlp(0), channel_groups(mlp(0))
    (only,) = method().prepared([Endpoint(network, [])])
    assert only.network is network
    assert merge_many([weights(network)], groups, generator=generator()) == [[]]
    with pytest.raises(UsageError, match="takes at least 2 networks, not 1"):
        metasum.merge([network], method.name)


@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_same_every_time_and_changes_nothing_given(method):
    networks = [apart(number).eval() for number in range(3)]
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    first, second = (metasum.merge(networks, method.name).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_networks_keep_their_heads(method):
    network = mlp(0).eval()
    copies = shuffled_copies(network, 3)
    with torch.no_grad():
        for number, own in enumerate(copies):
            own[4].weight.mul_(number + 1)
    x = torch.randn(5, 6, generator=generator()).double()
    answers = [own(x) for own in copies]
    tasks = metasum.merge(copies, method.name, keep="4.*")
    for number, expected in enumerate(answers):
        torch.testing.assert_close(tasks.for_task(number)(x), expected)


@pytest.mark.parametrize("method", METHODS)
def test_align_brings_one_network_into_anothers_order(method):
    network, moved = shuffled_copies(mlp(0).eval(), 2)
    aligned = metasum.align(moved, to=network, method=method.name)
    for name, tensor in weights(network).items():
        torch.testing.assert_close(weights(aligned)[name], tensor)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(method, dtype):
    merged = metasum.merge([mlp(number).to(dtype).eval() for number in range(3)], method.name)
    assert all(tensor.dtype == dtype and tensor.isfinite().all() for tensor in merged.parameters())


def test_gains_that_are_no_numbers_are_refused():
    with pytest.raises(DivergenceError, match="weights are NaN or infinite"):
        best_order(torch.tensor([[1.0, torch.nan], [0.0, 1.0]]))


def test_large_assignment_problems_are_solved_side_by_side(monkeypatch):
    monkeypatch.setattr("metasum.machine.usable_cores", lambda: 2)
    gains = [torch.randn(size, size, generator=generator(size)) for size in (LARGE + 1, 5, LARGE)]
    for mine, gain in zip(best_orders(gains), gains, strict=True):
        assert torch.equal(mine, best_order(gain))
