"""PLeaS: layers against a solver of least squares, its limits, and what it gains over activation matching."""

import copy

import pytest
import torch
from reordered import in_another_order
from torch import nn

import metasum
from metasum.baselines.activation_matching import ActivationMatching
from metasum.baselines.pleas import PLeaS
from metasum.errors import DivergenceError
from metasum.merging.endpoints import Endpoint
from metasum.merging.memory import merge
from metasum.weights.composition import average_parameters
from metasum.weights.parameters import with_parameters

IMAGES = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A padded convolution, a batch norm, a layer that is called twice, one without a bias."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5)
        self.twice, self.last = nn.Conv2d(5, 5, 1, bias=False), nn.Linear(5, 3)

    def forward(self, x):
        x = self.norm(self.first(x)).tanh()
        return self.last(self.twice(self.twice(x).tanh()).tanh().mean((2, 3)))


def made(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net().eval()


def ends_of(*networks):
    return [Endpoint(network, [IMAGES[:20], IMAGES[20:]]) for network in networks]


@pytest.mark.parametrize("count", [2, 3])
def test_layers_are_least_squares_of_the_matched_networks_means(count):
    ends = ends_of(*(made(seed) for seed in range(count)))
    matched = [end.network for end in ActivationMatching().prepared(ends)]
    merged = merge(PLeaS(pleas_ridge=0), ends, {})
    with torch.no_grad():
        hidden = [network.norm(network.first(IMAGES)).tanh() for network in matched]
        once = [network.twice(own) for network, own in zip(matched, hidden, strict=True)]
        again = [network.twice(own.tanh()) for network, own in zip(matched, once, strict=True)]
        pooled = [own.tanh().mean((2, 3)) for own in again]
        logits = [network.last(own) for network, own in zip(matched, pooled, strict=True)]

    def mean(tensors):
        return torch.stack(tensors).mean(0).double()

    def rows(tensors):
        return mean(tensors).movedim(1, -1).flatten(0, -2)

    inputs = torch.cat([rows(hidden), rows([own.tanh() for own in once])])
    found = torch.linalg.lstsq(inputs, torch.cat([rows(once), rows(again)])).solution
    torch.testing.assert_close(merged["twice.weight"][..., 0, 0].double(), found.T, atol=1e-4, rtol=1e-3)
    inputs = torch.cat([rows(pooled), torch.ones(len(IMAGES), 1)], 1)
    found = torch.linalg.lstsq(inputs, rows(logits)).solution
    torch.testing.assert_close(merged["last.weight"].double(), found[:-1].T, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(merged["last.bias"].double(), found[-1], atol=1e-4, rtol=1e-3)
    average = average_parameters([dict(network.named_parameters()) for network in matched])
    for name in ("first.weight", "first.bias"):  # of the same images: their mean needs no solving
        torch.testing.assert_close(merged[name], average[name].detach(), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(merged["norm.weight"], average["norm.weight"].detach())


def test_a_great_ridge_is_activation_matching():
    ends = ends_of(made(0), made(1))
    held, matched = merge(PLeaS(pleas_ridge=1e8), ends, {}), merge(ActivationMatching(), ends, {})
    for name, tensor in matched.items():
        torch.testing.assert_close(held[name], tensor, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [2, 3])
def test_permuted_copies_give_the_network(count):
    network = made()
    others = [in_another_order(network, IMAGES, seed) for seed in range(count - 1)]
    metasum.same_function(network, with_parameters(network, merge(PLeaS(), ends_of(network, *others), {})), [IMAGES])


def test_what_is_kept_is_each_networks_own_in_the_first_ones_order():
    network = made()
    other = in_another_order(network, IMAGES, 3)
    merged = metasum.merge([network, other], "pleas", images=[IMAGES, IMAGES], keep="last.*")
    for index, own in enumerate((network, other)):
        expected = metasum.recalibrate(copy.deepcopy(own), [IMAGES])
        metasum.same_function(expected, merged.for_task(index), [IMAGES])
        assert torch.equal(merged.for_task(index).last.bias, own.last.bias)


def test_a_tensor_that_two_layers_have_is_averaged():
    def tied(seed):
        network = made(seed)
        network.other = nn.Conv2d(5, 5, 1, bias=False)
        network.other.weight = network.twice.weight
        return network

    ends = ends_of(tied(0), tied(1))
    found, matched = merge(PLeaS(), ends, {}), merge(ActivationMatching(), ends, {})
    torch.testing.assert_close(found["twice.weight"], matched["twice.weight"])


def test_what_is_infinite_is_said():
    first, second = made(), made(1)
    with torch.no_grad():
        first.last.bias[0] = torch.inf
    with pytest.raises(DivergenceError, match="PLeaS"):
        merge(PLeaS(), ends_of(first, second), {})
