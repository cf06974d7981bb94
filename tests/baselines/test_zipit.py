"""ZipIt! against matrices written out, its limits, networks that keep their later layers, and what it is good for."""

import copy

import pytest
import torch
from reordered import in_another_order, randomised
from torch import nn

import metasum
from metasum.baselines.zipit import ZipIt
from metasum.baselines.zipping import zipped
from metasum.errors import DivergenceError, UsageError
from metasum.merging.endpoints import Endpoint
from metasum.merging.memory import merge
from metasum.weights.parameters import with_parameters

IMAGES = torch.randn(48, 1, 12, 12, generator=torch.Generator().manual_seed(0))
SETTINGS = [(0.3, 0.125), (1.0, 1.0), (0.0, 0.5), (1e-4, 0.0)]


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 4))


def cnn():
    """A stream that two layers write and two read, a batch norm, and a flatten that gives a channel four inputs."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner, self.back = nn.Conv2d(1, 8, 3, 2), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
            self.norm, self.last = nn.BatchNorm2d(6), nn.Linear(32, 4)

        def forward(self, x):
            x = self.first(x).tanh()
            x = x + self.back(self.norm(self.inner(x)).tanh())
            return self.last(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))

    return Net()


def tokens():
    """A transformer's layer: heads and its normalised stream cannot be added up, the hidden units between can."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 8, 4, stride=4), nn.Linear(8, 5)
            self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)

        def forward(self, x):
            return self.last(self.layer(self.first(x).flatten(2).transpose(1, 2)).mean(1))

    return Net()


def depthwise():
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Conv2d(6, 6, 3, groups=6), nn.Tanh(), nn.Conv2d(6, 5, 1), nn.Tanh()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)),
    )


def ends_of(*networks):
    return [Endpoint(network, [IMAGES[:16], IMAGES[16:]]) for network in networks]


def zip_by_hand(correlation, count, alpha, beta):
    """M and U, each `[all, left]`, by looking at every pair each time and throwing the merged one away."""
    alike = correlation.clone().fill_diagonal_(-torch.inf)
    size = len(correlation) // count
    unmerge = torch.eye(len(correlation), dtype=torch.float64)
    owner = [number // size for number in range(len(correlation))]
    budget = [int((count - 1) * size // count * beta + 1e-4)] * count
    closed = torch.zeros_like(alike).bool()

    def close(network):
        own = torch.tensor([each == network for each in owner])
        closed[own[:, None] & own[None]] = True

    for network in range(count):
        if budget[network] == 0:
            close(network)
    while unmerge.shape[1] > size:
        every = [(i, j) for i in range(len(owner)) for j in range(i + 1, len(owner))]
        if all(closed[pair] for pair in every):
            closed[:] = False
        i, j = max((pair for pair in every if not closed[pair]), key=lambda pair: float(alike[pair]))
        unmerge[:, i] += unmerge[:, j]
        for k in range(len(owner)):
            if k != i:
                alike[i, k] = alike[k, i] = min(float(alike[i, k]), float(alike[j, k])) * (alpha if k != j else 1)
                closed[i, k] = closed[k, i] = closed[i, k] | closed[j, k]
        left = [k for k in range(len(owner)) if k != j]
        unmerge, alike, closed = unmerge[:, left], alike[left][:, left], closed[left][:, left]
        within, network = owner[i] == owner[j], owner[i]
        owner = [owner[k] for k in left]
        if within:
            budget[network] -= 1
            if budget[network] == 0:
                close(network)
    return unmerge / unmerge.sum(0), unmerge


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(("alpha", "beta"), SETTINGS)
def test_pairs_are_those_of_a_search_through_all_of_them(count, alpha, beta):
    for seed in range(4):
        rows = torch.randn(30, 12 * count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        rows[:, 12:] += rows[:, : rows.shape[1] - 12]  # some are alike
        correlation = torch.corrcoef(rows.T)
        numbers = zipped(correlation, count, alpha=alpha, beta=beta).flatten()
        _, unmerge = zip_by_hand(correlation, count, alpha, beta)
        assert torch.equal(nn.functional.one_hot(numbers, 12).double(), unmerge)


def test_where_budgets_leave_no_pair_they_are_lifted():
    alike = torch.zeros(6, 6, dtype=torch.float64)  # of three networks with two channels each
    for (one, two), value in {(0, 2): 0.9, (1, 4): 0.8, (3, 5): 0.7, (0, 1): 0.6}.items():
        alike[one, two] = alike[two, one] = value
    numbers = zipped(alike, 3, alpha=1.0, beta=0.0)
    assert numbers.unique().tolist() == [0, 1]


def dense(networks, alpha, beta):
    """Zipped weights of two-layer MLPs, all matrices written out."""
    with torch.no_grad():
        hidden = [[network[:3](IMAGES).double(), network[:5](IMAGES).double()] for network in networks]
    count = len(networks)
    matrices = [
        zip_by_hand(torch.corrcoef(torch.cat([own[layer] for own in hidden], 1).T), count, alpha, beta)
        for layer in range(2)
    ]
    result = {}
    for number, network in enumerate(networks):
        (m_1, u_1), (m_2, u_2) = ([matrix.chunk(count)[number] for matrix in pair] for pair in matrices)
        own = {name: tensor.detach().double() for name, tensor in network.named_parameters()}
        parts = {
            "1.weight": m_1.T @ own["1.weight"],
            "1.bias": m_1.T @ own["1.bias"],
            "3.weight": m_2.T @ own["3.weight"] @ u_1,
            "3.bias": m_2.T @ own["3.bias"],
            "5.weight": own["5.weight"] @ u_2 / count,
            "5.bias": own["5.bias"] / count,
        }
        result = {name: result.get(name, 0) + part for name, part in parts.items()}
    return result


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(("alpha", "beta"), SETTINGS[:3])
def test_weights_are_those_of_merge_and_unmerge_matrices(count, alpha, beta):
    networks = [randomised(mlp, seed) for seed in range(count)]
    merged = merge(ZipIt(zip_alpha=alpha, zip_beta=beta), ends_of(*networks), {})
    expected = dense(networks, alpha, beta)
    assert merged.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name].double(), tensor, atol=1e-6, rtol=1e-5)


def test_all_layers_of_a_stream_share_its_matrices_and_a_flatten_its_blocks():
    networks = [randomised(cnn, seed) for seed in range(2)]
    merged = merge(ZipIt(), ends_of(*networks), {})
    with torch.no_grad():
        inner, stream = [], []
        for network in networks:
            first = network.first(IMAGES).tanh()
            inside = network.norm(network.inner(first)).tanh()
            last = nn.functional.adaptive_avg_pool2d(first + network.back(inside), 2)
            inner.append(inside.transpose(0, 1).flatten(1).double())
            stream.append([own.transpose(0, 1).flatten(1).double() for own in (first, last)])
    seen = [torch.corrcoef(torch.cat([own[place] for own in stream])) for place in range(2)]
    matrices = {"stream": torch.stack(seen).mean(0), "inner": torch.corrcoef(torch.cat(inner))}
    made_of = {name: zip_by_hand(own, 2, 0.3, 0.125) for name, own in matrices.items()}
    expected = dict.fromkeys(merged, 0)
    for number, network in enumerate(networks):
        m, u = (matrix.chunk(2)[number] for matrix in made_of["stream"])
        m_in, u_in = (matrix.chunk(2)[number] for matrix in made_of["inner"])
        own = {name: tensor.detach().double() for name, tensor in network.named_parameters()}
        blocks = torch.kron(u, torch.eye(4, dtype=torch.float64))
        parts = {
            "first.weight": torch.einsum("oz,oihw->zihw", m, own["first.weight"]),
            "first.bias": m.T @ own["first.bias"],
            "inner.weight": torch.einsum("oz,oihw,iy->zyhw", m_in, own["inner.weight"], u),
            "inner.bias": m_in.T @ own["inner.bias"],
            "norm.weight": m_in.T @ own["norm.weight"],
            "norm.bias": m_in.T @ own["norm.bias"],
            "back.weight": torch.einsum("oz,oihw,iy->zyhw", m, own["back.weight"], u_in),
            "back.bias": m.T @ own["back.bias"],
            "last.weight": own["last.weight"] @ blocks / 2,
            "last.bias": own["last.bias"] / 2,
        }
        expected = {name: expected[name] + parts[name] for name in expected}
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name].double(), tensor, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("build", [mlp, cnn, tokens, depthwise])
@pytest.mark.parametrize("count", [2, 3])
def test_permuted_copies_of_a_network_give_its_function(build, count):
    network = randomised(build)
    others = [in_another_order(network, IMAGES, seed) for seed in range(count - 1)]
    zipped_network = with_parameters(network, merge(ZipIt(zip_alpha=1.0), ends_of(network, *others), {}))
    metasum.same_function(network, zipped_network, [IMAGES])


def test_the_networks_stay_as_they_are():
    networks = [randomised(cnn, seed) for seed in range(2)]
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    metasum.merge(networks, "zipit", images=[IMAGES, IMAGES], keep="last.*")
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(own, state[name]) for name, own in network.state_dict().items())


def test_one_network_is_no_merge():
    with pytest.raises(UsageError, match="at least 2"):
        metasum.merge([randomised(mlp)], "zipit", images=[IMAGES])


def test_what_is_infinite_is_said():
    first, second = randomised(mlp), randomised(mlp, 1)
    with torch.no_grad():
        second[5].bias[0] = torch.nan
        second[1].bias[0] = torch.inf
        second[3].weight[0] = torch.inf
    with pytest.raises(DivergenceError, match="NaN or infinite"):
        merge(ZipIt(), ends_of(first, second), {})


def test_kept_layers_read_the_merged_channels_as_their_own_networks_did():
    """The border: each network's first kept layer is its own, times its own unmerge matrix, and not divided."""
    networks = [randomised(mlp, seed) for seed in range(2)]
    merged = metasum.merge(networks, "zipit", images=[IMAGES, IMAGES], keep=["3.*", "5.*"])
    with torch.no_grad():
        hidden = torch.cat([network[:3](IMAGES).double() for network in networks], 1)
    merge_matrix, unmerge = zip_by_hand(torch.corrcoef(hidden.T), 2, 0.3, 0.125)
    trunk = sum(m.T @ net[1].weight.detach().double() for m, net in zip(merge_matrix.chunk(2), networks, strict=True))
    for index, network in enumerate(networks):
        task = merged.for_task(index)
        torch.testing.assert_close(task[1].weight.detach().double(), trunk, atol=1e-6, rtol=1e-5)
        own = network[3].weight.detach().double() @ unmerge.chunk(2)[index]
        torch.testing.assert_close(task[3].weight.detach().double(), own, atol=1e-6, rtol=1e-5)
        assert torch.equal(task[5].weight, network[5].weight)


def test_a_kept_head_may_have_another_number_of_classes():
    networks = [randomised(mlp, seed) for seed in range(2)]
    networks[1][5] = nn.Linear(7, 3)
    merged = metasum.merge(networks, "zipit", images=[IMAGES, IMAGES], keep="5.*")
    assert [merged.for_task(index)(IMAGES).shape[1] for index in range(2)] == [4, 3]


@pytest.mark.parametrize("build", [mlp, cnn])
def test_a_permuted_copy_with_kept_layers_gives_each_its_function(build):
    network = randomised(build)
    other = in_another_order(network, IMAGES)
    keep = {mlp: ["3.*", "5.*"], cnn: ["back.*", "last.*"]}[
        build
    ]  # a kept layer writes to cnn's stream: it is permuted
    merged = metasum.merge([network, other], ZipIt(zip_beta=0.0), images=[IMAGES, IMAGES], keep=keep)
    for index, own in enumerate((network, other)):
        expected = metasum.recalibrate(copy.deepcopy(own), [IMAGES])
        metasum.same_function(expected, merged.for_task(index), [IMAGES])
