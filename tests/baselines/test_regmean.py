"""RegMean: each layer is the least-squares answer to both networks' own."""

import pytest
import torch
from tiny import images, small_network
from torch import nn
from torch.nn.functional import conv2d

from metasum.baselines.regmean import RegMean, input_products
from metasum.errors import DivergenceError
from metasum.merging.endpoints import Endpoint
from metasum.merging.memory import merge
from metasum.weights.composition import average_parameters


def ends_of(networks, batches):
    return [Endpoint(network.double().eval(), [batch]) for network, batch in zip(networks, batches, strict=True)]


def test_a_linear_layer_is_the_least_squares_solution():
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) for _ in range(2)]
    x = [torch.randn(30, 1, 2, 2, dtype=torch.float64) for _ in range(2)]
    ends = ends_of(networks, x)
    merged = merge(RegMean(shrinkage=1.0, merging_images=30), ends, ends[0].parameters)["1.weight"]
    rows = [batch.flatten(1) for batch in x]
    answers = [r @ network[1].weight.detach().T for r, network in zip(rows, networks, strict=True)]
    expected = torch.linalg.lstsq(torch.cat(rows), torch.cat(answers)).solution.T
    torch.testing.assert_close(merged, expected)


@pytest.mark.parametrize(
    "keywords", [{}, {"stride": 2}, {"padding": 1, "padding_mode": "circular"}, {"dilation": 2}, {"padding": "same"}]
)
def test_a_convolution_is_the_least_squares_solution_on_its_patches(keywords):
    """Checked by its optimality: the gradient of Σ mean ‖conv(x; W) - conv(x; W_i)‖² at the solution is zero."""
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Conv2d(2, 3, 3, bias=False, **keywords)) for _ in range(2)]
    x = [torch.randn(20, 2, 7, 7, dtype=torch.float64) for _ in range(2)]
    ends = ends_of(networks, x)
    weight = merge(RegMean(shrinkage=1.0, merging_images=20), ends, ends[0].parameters)["0.weight"].requires_grad_()
    probe = nn.Conv2d(2, 3, 3, bias=False, **keywords).double()
    loss = 0
    for network, batch in zip(networks, x, strict=True):
        answer = torch.func.functional_call(probe, {"weight": weight}, (batch,))
        loss = loss + (answer - network(batch).detach()).square().mean()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert gradient.abs().max() < 1e-10
    assert loss.item() > 1e-3


def test_products_are_the_mean_over_what_each_output_sees():
    network = nn.Sequential(nn.Conv2d(1, 1, 2, bias=False), nn.Flatten(), nn.Linear(4, 2)).double().eval()
    x = images(5)[:, :, :3, :3]
    products = input_products(Endpoint(network, [x]), [x])
    kernels = torch.eye(4, dtype=torch.float64).view(4, 1, 2, 2)
    patches = conv2d(x, kernels).permute(0, 2, 3, 1).reshape(-1, 4)
    torch.testing.assert_close(products["0.weight"], patches.T @ patches / 20)
    hidden = network[1](network[0](x)).detach()
    torch.testing.assert_close(products["2.weight"], hidden.T @ hidden / 5)
    assert not network[0]._forward_pre_hooks, "no hook is left"


class Adding(nn.Module):
    """A layer, whose input is changed behind it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        hidden = x.clone()
        return hidden.add_(self.layer(hidden))


def test_products_are_the_same_however_the_images_come():
    network, x = Adding().double().eval(), torch.randn(20, 6, dtype=torch.float64)
    for size in (1, 4, 5, 20):
        products = input_products(Endpoint(network, [x]), x.split(size))
        torch.testing.assert_close(products["layer.weight"], x.T @ x / 20)


def test_the_same_network_twice_is_that_network_and_no_off_diagonal_is_a_weighted_mean():
    network = small_network(1)
    ends = ends_of([network, network], [images(seed=1), images(seed=2)])
    for name, tensor in merge(RegMean(shrinkage=0.9, merging_images=6), ends, ends[0].parameters).items():
        torch.testing.assert_close(tensor, ends[0].parameters[name])
    pair = ends_of([small_network(1), small_network(2)], [images(seed=1), images(seed=2)])
    merged = merge(RegMean(shrinkage=0.0, merging_images=6), pair, pair[0].parameters)["7.weight"]
    first, second = (input_products(end, end.images)["7.weight"].diagonal() for end in pair)
    ours, theirs = (end.parameters["7.weight"] for end in pair)
    torch.testing.assert_close(merged, (first * ours + second * theirs) / (first + second))


def test_fewer_images_than_inputs_still_have_an_answer_and_the_rest_is_averaged():
    ends = ends_of([small_network(1), small_network(2)], [images(2, seed=1), images(2, seed=2)])
    merged = merge(RegMean(shrinkage=1.0, merging_images=2), ends, ends[0].parameters)
    assert all(tensor.isfinite().all() for tensor in merged.values())
    average = average_parameters([end.parameters for end in ends])
    for name in ("0.bias", "1.weight", "1.bias", "5.bias"):
        torch.testing.assert_close(merged[name], average[name])
    dark = ends_of([small_network(1), small_network(2)], [torch.zeros(3, 1, 8, 8).double()] * 2)
    merged = merge(RegMean(shrinkage=1.0, merging_images=3), dark, dark[0].parameters)
    torch.testing.assert_close(merged["0.weight"], average["0.weight"])


def test_what_is_not_a_number_is_said():
    broken = small_network(1)
    with torch.no_grad():
        broken[0].weight.fill_(float("inf"))
    ends = ends_of([broken, small_network(2)], [images(seed=1), images(seed=2)])
    with pytest.raises(DivergenceError, match="NaN or infinite"):
        merge(RegMean(shrinkage=0.9, merging_images=6), ends, ends[0].parameters)
