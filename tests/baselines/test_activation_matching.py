"""Activation matching: it finds a permutation again, and beats the plain average of two initialisations."""

import pytest
import torch
from reordered import in_another_order, randomised
from torch import nn

from metasum.baselines.activation_matching import ActivationMatching, correlations
from metasum.errors import ArchitectureError, DivergenceError
from metasum.merging.endpoints import Endpoint
from metasum.merging.memory import merge
from metasum.networks.channels import channel_groups
from metasum.weights.parameters import parameters_of

IMAGES = torch.randn(24, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def plain():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(54, 7), nn.Tanh(), nn.Linear(7, 4)
    )


class Residual(nn.Module):
    """A stream that two layers write and two read, and a grouped convolution, which is matched by weights."""

    def __init__(self):
        super().__init__()
        self.first, self.inner, self.back = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.norm, self.parts, self.last = nn.BatchNorm2d(6), nn.Conv2d(8, 8, 3, groups=2), nn.Linear(8, 4)

    def forward(self, x):
        x = self.first(x).relu()
        x = x + self.back(self.norm(self.inner(x)).relu())
        return self.last(self.parts(x).relu().mean((2, 3)))


class Tokens(nn.Module):
    """A transformer's layer, whose heads are matched by weights."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 8, 4, stride=4), nn.Linear(8, 5)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)

    def forward(self, x):
        return self.last(self.layer(self.first(x).flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize("build", [plain, Residual, Tokens])
@pytest.mark.parametrize("seed", range(3))
def test_it_undoes_a_permutation(build, seed):
    network = randomised(build, seed)
    ends = [Endpoint(each, [IMAGES[:16], IMAGES[16:]]) for each in (network, in_another_order(network, IMAGES, seed))]
    merged = merge(ActivationMatching(), ends, ends[0].parameters)
    for name, tensor in parameters_of(network).items():
        torch.testing.assert_close(merged[name], tensor.detach())


def test_correlations_are_pearsons_over_images_and_pixels():
    first, second = randomised(plain, 1), randomised(plain, 2)
    groups = channel_groups(first, IMAGES)
    for chunks in ([IMAGES], IMAGES.split(5)):
        pooled, hidden = correlations(Endpoint(first, []), Endpoint(second, []), groups, chunks)
        with torch.no_grad():
            rows = [network[:3](IMAGES).transpose(0, 1).flatten(1) for network in (first, second)]
            expected = torch.corrcoef(torch.cat(rows).double())[:6, 6:]
            torch.testing.assert_close(pooled, expected, atol=1e-6, rtol=0)
            rows = [network[:6](IMAGES).T for network in (first, second)]
            torch.testing.assert_close(hidden, torch.corrcoef(torch.cat(rows).double())[:7, 7:], atol=1e-6, rtol=0)


def test_what_is_changed_in_place_later_was_read_before():
    class Stream(nn.Module):
        def __init__(self, add):
            super().__init__()
            self.first, self.inner, self.last = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 1), nn.Linear(6, 4)
            self.add = add

        def forward(self, x):
            x = self.first(x).relu()
            return self.last(self.add(x, self.inner(x)).mean((2, 3)))

    found = []
    for add in (torch.add, torch.Tensor.add_):
        first, second = (randomised(lambda add=add: Stream(add), seed) for seed in (1, 2))
        groups = channel_groups(first, IMAGES)
        found.append(correlations(Endpoint(first, []), Endpoint(second, []), groups, [IMAGES]))
    for expected, own in zip(*found, strict=True):
        torch.testing.assert_close(own, expected)


def test_a_channel_that_never_answers_is_like_no_other():
    network = randomised(plain)
    with torch.no_grad():
        network[0].weight[2], network[0].bias[2] = 0, -1
    end = Endpoint(network, [])
    pooled, _ = correlations(end, end, channel_groups(network, IMAGES), [IMAGES])
    assert pooled[2].eq(0).all()
    assert pooled[:, 2].eq(0).all()
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(pooled.diagonal()[others], torch.ones(5, dtype=torch.float64))


def test_no_image_more_than_asked_for_is_looked_at():
    seen = []
    network = randomised(plain)
    network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    ends = [Endpoint(network, [IMAGES, IMAGES]), Endpoint(randomised(plain, 1), [IMAGES])]
    merge(ActivationMatching(merging_images=10), ends, ends[0].parameters)
    assert sum(seen) == 1 + 20  # following the channels takes one


def test_what_is_infinite_is_said():
    first, second = randomised(plain), randomised(plain)
    with torch.no_grad():
        second[0].bias[0] = torch.inf
    with pytest.raises(DivergenceError, match="NaN or infinite"):
        merge(ActivationMatching(), [Endpoint(each, [IMAGES]) for each in (first, second)], parameters_of(first))


def test_channels_that_cannot_be_followed_are_refused():
    class Sorted(nn.Module):
        def forward(self, x):
            return x.sort(1).values

    network = nn.Sequential(nn.Conv2d(1, 4, 3), Sorted(), nn.Conv2d(4, 2, 3)).eval()
    with pytest.raises(ArchitectureError, match=r"'1' \(Sorted\)"):
        merge(ActivationMatching(), [Endpoint(network, [IMAGES])] * 2, parameters_of(network))
