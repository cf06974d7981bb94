"""Meta Networks, part by part, and all together."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, cross_entropy, linear, relu

from metasum.baselines.meta_networks import learner
from metasum.baselines.meta_networks.fast_weights import ExampleLevel, TaskLevel
from metasum.baselines.meta_networks.gradients import example_gradients, preprocess
from metasum.baselines.meta_networks.learner import MetaNetworks, MetaNetworksConfig, attention, contrastive_loss
from metasum.errors import UsageError
from metasum.learners.few_shot import FewShotTask
from metasum.networks.augmented import augmented, augmented_names
from metasum.networks.vgg import VGG16
from metasum.types import Batch, FewShotEpisode


def images(count, size=8, seed=0):
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(seed))


def small(bias=True):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, bias=bias), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 4, bias=bias)
    )


@pytest.mark.parametrize(
    ("gradient", "expected"),
    [
        (1.0, (0.0, 1.0)),
        (-1.0, (0.0, -1.0)),
        (math.e**7, (1.0, 1.0)),
        (-math.exp(-3.5), (-0.5, -1.0)),
        (math.exp(-7) * 1.0001, (-1.0, 1.0)),
        (math.exp(-8), (-1.0, math.exp(-1))),
        (-math.exp(-9), (-1.0, -math.exp(-2))),
        (0.0, (-1.0, 0.0)),
    ],
)
def test_preprocessing_follows_its_table(gradient, expected):
    found = preprocess(torch.tensor([gradient], dtype=torch.float64))
    torch.testing.assert_close(found[0], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-4)


def test_each_examples_gradient_is_its_own_and_a_constant():
    network, x, y = small(), images(3), torch.tensor([0, 3, 1])
    found = example_gradients(network, augmented_names(network), x[:, None], y[:, None])
    assert set(found) == {"0.weight", "4.weight"}
    for index in range(3):
        network.zero_grad()
        cross_entropy(network(x[index : index + 1]), y[index : index + 1]).backward()
        for name in found:
            torch.testing.assert_close(found[name][index], network.get_parameter(name).grad)
            assert not found[name].requires_grad


def test_zero_fast_weights_change_nothing():
    network = small()
    fast = {name: torch.zeros(2, *network.get_parameter(name).shape) for name in augmented_names(network)}
    x = images(5)
    torch.testing.assert_close(augmented(network, fast, torch.full((5, 2), 0.5), x), network(x))


def test_a_layer_answers_with_both_branches_rectified_and_the_last_adds():
    network, x = small(bias=False), images(4)
    fast = {name: torch.randn(3, *network.get_parameter(name).shape) for name in augmented_names(network)}
    weights = torch.rand(4, 3)
    answers = augmented(network, fast, weights, x)
    for index in range(4):  # one image at a time, with its own mixture written out
        own = {name: sum(w * row for w, row in zip(weights[index], rows, strict=True)) for name, rows in fast.items()}
        image = x[index : index + 1]
        hidden = relu(network[0](image)) + relu(conv2d(image, own["0.weight"], padding=1))
        hidden = network[2](hidden).flatten(1)
        expected = network[4](hidden) + linear(hidden, own["4.weight"])
        torch.testing.assert_close(answers[index : index + 1], expected, rtol=1e-4, atol=1e-5)


def test_a_mixture_for_all_is_that_mixture_for_each():
    network, x = small(), images(4)
    fast = {name: torch.randn(3, *network.get_parameter(name).shape) for name in augmented_names(network)}
    weights = torch.rand(1, 3)
    torch.testing.assert_close(
        augmented(network, fast, weights, x), augmented(network, fast, weights.expand(4, 3), x), rtol=1e-4, atol=1e-5
    )


def test_vgg_can_have_fast_weights_in_its_last_block_and_classifier_only():
    network = VGG16(width=0.04, dropout=0.0).eval()
    names = augmented_names(network, within=("block_4", "classifier"))
    assert {name.split(".")[0] for name in names} == {"block_4", "classifier"}
    assert len(names) == 6
    x = images(2, 32)
    nothing = {name: torch.zeros(1, *network.get_parameter(name).shape) for name in names}
    torch.testing.assert_close(augmented(network, nothing, torch.ones(1, 1), x), network(x))
    something = {name: torch.full_like(row, 0.1) for name, row in nothing.items()}
    assert not torch.allclose(augmented(network, something, torch.ones(1, 1), x), network(x))


def test_a_strided_convolution_is_refused():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU())
    with pytest.raises(UsageError, match="strided"):
        augmented(network, {"0.weight": torch.ones(1, 2, 1, 3, 3)}, torch.ones(1, 1), images(1))


def test_memory_of_one_row_is_that_row():
    torch.testing.assert_close(attention(torch.randn(5, 4), torch.randn(1, 4)), torch.ones(5, 1))


def test_attention_is_a_softmax_of_cosines():
    weights = attention(torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]))
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.0, -1.0]]).softmax(1))


@pytest.mark.parametrize("level", [ExampleLevel, TaskLevel])
def test_meta_learners_treat_every_coordinate_alike(level):
    torch.manual_seed(0)
    meta = level()
    gradients = {"a": torch.randn(3, 2, 2), "b": torch.randn(3, 5)}
    found = meta(gradients)
    rows = 3 if level is ExampleLevel else 1
    assert {name: tensor.shape for name, tensor in found.items()} == {"a": (rows, 2, 2), "b": (rows, 5)}
    swapped = meta({"a": gradients["b"], "b": gradients["a"].flatten(1).flip(1)})
    torch.testing.assert_close(swapped["a"], found["b"])
    torch.testing.assert_close(swapped["b"], found["a"].flatten(1).flip(1))


def test_reading_off_the_grid_is_asking_the_perceptron():
    torch.manual_seed(0)
    meta = ExampleLevel().double()
    with torch.no_grad():
        for parameter in meta.parameters():
            parameter.mul_(5)
    generator = torch.Generator().manual_seed(1)
    size = torch.empty(2000, dtype=torch.float64).uniform_(-12, 3, generator=generator).exp()
    gradients = (size * torch.randn(2000, generator=generator, dtype=torch.float64).sign()).unsqueeze(0)
    gradients[0, 0] = 0
    asked = meta.layers(preprocess(gradients)).squeeze(-1)
    read = meta({"a": gradients})["a"]
    torch.testing.assert_close(read, asked, rtol=0, atol=2e-4 * float(asked.detach().abs().max()))
    slopes = [torch.autograd.grad(rows.square().mean(), list(meta.parameters())) for rows in (read, asked)]
    for mine, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-3 * float(theirs.abs().max()) + 1e-12)


def test_task_level_fast_weights_depend_on_the_order_example_level_ones_on_their_own_example_alone():
    torch.manual_seed(0)
    gradients = {"a": torch.randn(3, 4)}
    reversed_ = {"a": gradients["a"].flip(0)}
    task, example = TaskLevel(), ExampleLevel()
    assert not torch.allclose(task(gradients)["a"], task(reversed_)["a"])
    torch.testing.assert_close(example(gradients)["a"].flip(0), example(reversed_)["a"])


def test_contrastive_loss_pulls_alike_and_pushes_others_to_the_margin():
    keys = torch.tensor([[0.0, 0.0], [0.3, 0.4]])
    assert float(contrastive_loss(keys, torch.tensor([1, 1]))) == pytest.approx(0.25)
    assert float(contrastive_loss(keys, torch.tensor([1, 2]))) == pytest.approx(0.25)
    assert float(contrastive_loss(3 * keys, torch.tensor([1, 2]))) == 0
    same = torch.zeros(2, 3, requires_grad=True)
    contrastive_loss(same, torch.tensor([0, 1])).backward()
    assert torch.isfinite(same.grad).all()


def episode(shots, ways=3, seed=0):
    labels = torch.arange(ways).repeat_interleave(shots)
    return Batch(images(ways * shots, 32, seed), labels)


def meta_networks(shots=1):
    return MetaNetworks(FewShotTask(ways=3, shots=shots, filters=4), MetaNetworksConfig())


@pytest.mark.parametrize("shots", [1, 2])
def test_everything_that_is_slow_learns(shots):
    torch.manual_seed(0)
    network = meta_networks(shots)
    network.training_step(FewShotEpisode(episode(shots), episode(2, seed=1), torch.arange(3)))
    learnt = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
    assert [name for name, slope in learnt.items() if slope is None or not bool(slope.any())] == []
    assert [n for n, p in network.named_parameters() if not p.requires_grad] == (
        ["key.18.weight", "key.18.bias"] if shots == 1 else []
    )


def test_an_image_reads_the_fast_weights_of_the_examples_it_is_like(monkeypatch):
    torch.manual_seed(0)
    network, adaptation = meta_networks().eval(), episode(1)
    seen = []

    def spied(keys, memory):
        seen.append(attention(keys, memory))
        return seen[-1]

    monkeypatch.setattr(learner, "attention", spied)
    network.logits(adaptation, adaptation.images)
    assert seen[0].argmax(dim=1).tolist() == [0, 1, 2]  # an example is most like itself
    alone = network.logits(adaptation, adaptation.images[:1])
    monkeypatch.setattr(learner, "attention", lambda keys, memory: torch.full((len(keys), len(memory)), 1 / 3))
    assert not torch.allclose(network.logits(adaptation, adaptation.images[:1]), alone)


@pytest.mark.parametrize("shots", [1, 2])
def test_it_learns_under_autocast_too(shots):
    torch.manual_seed(0)
    network = meta_networks(shots)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = network.training_step(FewShotEpisode(episode(shots), episode(2, seed=1), torch.arange(3)))["loss"]
    assert bool(loss.isfinite())


def test_a_gradient_that_is_no_number_gives_weights_that_are_none():
    gradients = {"a": torch.tensor([[float("nan"), 1.0]])}
    found = ExampleLevel()(gradients)["a"]
    assert bool(found[0, 0].isnan())
    assert bool(found[0, 1].isfinite())


def test_it_can_be_asked_for_other_numbers_of_classes_and_given_another_base():
    torch.manual_seed(0)
    network = meta_networks()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    asked = network.asked(5)
    assert asked.logits(episode(1, ways=5), images(2, 32)).shape == (2, 5)
    assert asked.base[-1].weight.norm() < network.base[-1].weight.norm() / 3  # no class wins by its first weights
    other = network.reparameterised(6)
    assert other.logits(episode(1), images(2, 32)).shape == (2, 3)
    assert other.base[0].out_channels == 6
    torch.testing.assert_close(dict(network.state_dict()), before)
