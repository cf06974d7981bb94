"""Fisher merging: the information is its definition, and the mean is weighted by it."""

import pytest
import torch
from tiny import images, small_network
from torch import nn

from metasum.baselines.fisher import Fisher, fisher_information
from metasum.merging.endpoints import Endpoint
from metasum.merging.memory import merge
from metasum.weights.composition import average_parameters
from metasum.weights.parameters import parameters_of


def test_the_information_is_the_expected_square_of_the_score():
    """Of softmax regression, where E over labels is a sum: Σ_y p_y ((p - e_y) xᵀ)²."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    x = torch.randn(4000, 1, 2, 2, dtype=torch.float64)
    found = fisher_information(Endpoint(network, [x]), len(x), torch.Generator().manual_seed(0))
    with torch.no_grad():
        p = network(x).softmax(1)
        scores = (p.unsqueeze(1) - torch.eye(3).double()).square()  # [N, label, class]
        expected = torch.einsum("ny,nyc,nk->ck", p, scores, x.flatten(1).square()) / len(x)
    torch.testing.assert_close(found["1.weight"], expected, rtol=0.1, atol=0.002)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3), nn.Identity()])
def test_the_information_is_that_of_all_images_at_once(norm):
    """Against `torch.func`, with the labels that the same generator draws."""
    network = small_network(1).eval()
    network[1] = norm.double().eval()
    x, parameters = images(5), {name: tensor.detach() for name, tensor in parameters_of(network).items()}

    def log_likelihood(parameters, image, label):
        return (torch.func.functional_call(network, parameters, (image[None],)).log_softmax(-1)[0] * label).sum()

    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        labels = torch.cat([torch.multinomial(p, 1, generator=generator) for p in network(x).softmax(-1)])
    gradients = torch.func.vmap(torch.func.grad(log_likelihood), in_dims=(None, 0, 0))
    scores = gradients(parameters, x, nn.functional.one_hot(labels, 4).double())
    found = fisher_information(Endpoint(network, [x]), len(x), torch.Generator().manual_seed(2))
    for name, score in scores.items():
        torch.testing.assert_close(found[name], score.square().mean(0))


def test_the_mean_is_weighted_by_the_information():
    networks = [small_network(seed).eval() for seed in (1, 2)]
    batches = [images(8, seed=1)], [images(8, seed=2)]
    ends = [Endpoint(*pair) for pair in zip(networks, batches, strict=True)]
    merged = merge(Fisher(merging_images=5, seed=3), ends, ends[0].parameters)
    generator = torch.Generator().manual_seed(3)
    first, second = (fisher_information(end, 5, generator) for end in ends)
    for name, tensor in merged.items():
        ours, theirs = (end.parameters[name] for end in ends)
        weights = first[name] + 1e-12, second[name] + 1e-12
        torch.testing.assert_close(tensor, (weights[0] * ours + weights[1] * theirs) / (weights[0] + weights[1]))


def test_what_only_one_network_uses_is_taken_from_it():
    """An input that is dark in the first dataset: the first network's weights to it are noise."""
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).double().eval() for _ in range(2)]
    x = torch.randn(50, 1, 1, 2, dtype=torch.float64)
    dark = x * torch.tensor([1.0, 0.0])
    ends = [Endpoint(networks[0], [dark]), Endpoint(networks[1], [x])]
    merged = merge(Fisher(merging_images=50, seed=0), ends, ends[0].parameters)
    torch.testing.assert_close(merged["1.weight"][:, 1], networks[1][1].weight[:, 1].detach())
    assert not torch.allclose(merged["1.weight"][:, 0], networks[1][1].weight[:, 0])


def test_what_nobody_uses_is_averaged_and_nothing_is_left_behind():
    networks = [small_network(seed).eval() for seed in (1, 2)]
    ends = [Endpoint(network, [torch.zeros(4, 1, 8, 8, dtype=torch.float64)]) for network in networks]
    merged = merge(Fisher(merging_images=4, seed=0), ends, ends[0].parameters)
    average = average_parameters([end.parameters for end in ends])
    torch.testing.assert_close(merged["0.weight"], average["0.weight"])
    assert all(p.grad is None for network in networks for p in network.parameters())


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_are_drawn_with_its_seed(seed):
    network = small_network(1).eval()
    draws = [
        fisher_information(Endpoint(network, [images(3)]), 3, torch.Generator().manual_seed(s))
        for s in (seed, seed, seed + 1)
    ]
    name = next(iter(parameters_of(network)))
    assert torch.equal(draws[0][name], draws[1][name])
    assert not torch.equal(draws[0][name], draws[2][name])
