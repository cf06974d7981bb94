"""Slots: thin networks inside whole ones, whose weights add up to functions that add up."""

import copy
import json
import math

import pytest
import torch
from tiny import descend, images, labels, small_network, summed_networks

from metasum import MetaSum
from metasum.config.sections import NetworkConfig
from metasum.errors import ArchitectureError, UsageError
from metasum.learners.regularised import logits_aside, opinion
from metasum.learners.slots import SlotsConfig, SlotsLearner
from metasum.networks.build import build_network
from metasum.networks.slots import Slot
from metasum.types import Batch
from metasum.weights.statistics import recalibrate
from metasum.weights.statistics_policy import side_by_side

TARGET, SUPPORT = Batch(images(seed=1), labels(seed=1)), Batch(images(seed=2), labels(seed=2))


def network_of(kind, **changed):
    config = NetworkConfig(network=kind, width=0.0625, num_classes=5, **changed)
    network = build_network(config, in_channels=1, seed=0).double()
    with torch.no_grad():  # statistics and scales that are not everywhere 0 and 1
        for index, tensor in enumerate(network.state_dict().values()):
            if tensor.ndim == 1 and tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(len(tensor), generator=torch.Generator().manual_seed(index)))
    return network.eval()


def whole(network, slot, thin):
    placed = slot.place(thin.state_dict(), network.state_dict())
    return lambda x: torch.func.functional_call(network, placed, (x,)), placed


@pytest.mark.parametrize("kind", ["vgg16", "resnet"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_sum_of_networks_in_all_slots_computes_the_sum_of_their_functions(kind, count):
    network = (
        network_of(kind)
        if kind == "vgg16"
        else build_network(NetworkConfig(network=kind, width=0.25, num_classes=5), in_channels=1, seed=0)
        .double()
        .eval()
    )
    x = torch.randn(4, 1, 32, 32, dtype=torch.float64)
    slots = [Slot(network, index, count) for index in range(count)]
    thin = [slot.take(network) for slot in slots]
    placed = [whole(network, *pair) for pair in zip(slots, thin, strict=True)]
    with torch.no_grad():
        for small, (function, _) in zip(thin, placed, strict=True):
            torch.testing.assert_close(function(x), small(x))
        total = {name: sum(tensors[name] for _, tensors in placed) for name in placed[0][1]}
        together = torch.func.functional_call(network, total, (x,))
        torch.testing.assert_close(together, sum(small(x) for small in thin))


def test_hidden_weights_belong_to_one_slot_at_most():
    network = network_of("vgg16")
    slots = [Slot(network, index, 2) for index in range(2)]
    ones = {name: torch.ones_like(tensor) for name, tensor in slots[0].take(network).named_parameters()}
    counts = [slot.place(ones, network.state_dict()) for slot in slots]
    for name, tensor in counts[0].items():
        most = 2 if name == "classifier.7.bias" else 1
        assert (tensor + counts[1][name]).max() == most, name


def test_thin_networks_start_with_weights_as_large_as_if_drawn_for_themselves():
    network = build_network(NetworkConfig(width=0.5, num_classes=10), in_channels=1, seed=0)
    for name, weight in Slot(network, 1, 4).start(network).named_parameters():
        if weight.ndim > 1 and weight.numel() > 2000:
            drawn = 1 / math.sqrt(3 * weight[0].numel())  # PyTorch's own initialisation
            assert weight.detach().std().item() == pytest.approx(drawn, rel=0.15), name


def test_placing_hands_the_gradient_back():
    network = small_network()
    slot = Slot(network, 0, 2)
    thin = slot.take(network)
    placed = slot.place(dict(thin.named_parameters()), network.state_dict())
    sum(tensor.square().sum() for tensor in placed.values()).backward()
    for parameter in thin.parameters():
        torch.testing.assert_close(parameter.grad, 2 * parameter)


def test_a_thin_network_says_its_own_size():
    shown = repr(Slot(network_of("vgg16"), 0, 2).take(network_of("vgg16")))
    assert "Conv2d(1, 2" in shown
    assert "BatchNorm2d(2," in shown


class Concatenating(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (torch.nn.Linear(size, 4) for size in (64, 64, 8))

    def forward(self, x):
        return self.third(torch.cat([self.first(x.flatten(1)), self.second(x.flatten(1))], dim=1))


def between(layer):
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 1), layer, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3)
    )


def test_a_slot_of_a_depthwise_convolution_is_one_itself():
    network = between(torch.nn.Conv2d(4, 4, 3, padding=1, groups=4)).double()
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    placed = [whole(network, slot, slot.take(network)) for slot in (Slot(network, index, 2) for index in range(2))]
    total = {name: sum(tensors[name] for _, tensors in placed) for name in placed[0][1]}
    with torch.no_grad():
        thin = sum(Slot(network, index, 2).take(network)(x) for index in range(2))
        torch.testing.assert_close(torch.func.functional_call(network, total, (x,)), thin)


@pytest.mark.parametrize(
    ("network", "count", "words"),
    [
        (lambda: small_network(), 4, "3 channels"),
        (lambda: network_of("vgg16", norm="group"), 2, "several channels"),
        (lambda: Concatenating(), 2, "mixes the channels of several layers"),
        (lambda: between(torch.nn.LayerNorm([4, 32, 32])), 2, "'1' .LayerNorm. does to channels"),
        (lambda: between(torch.nn.Softmax(1)), 2, "'0.bias' are seen together"),
        (lambda: between(torch.nn.Conv2d(4, 4, 1, groups=2)), 2, "'0.bias' are seen together"),
    ],
)
def test_what_cannot_be_divided_is_refused_by_name(network, count, words):
    with pytest.raises(ArchitectureError, match=words):
        Slot(network(), 0, count)


def test_opinion_is_the_divergence_from_uniform():
    assert float(opinion(torch.full((3, 4), 7.0))) == pytest.approx(0, abs=1e-6)
    logits = torch.randn(5, 4, dtype=torch.float64)
    uniform = torch.full((5, 4), 0.25, dtype=torch.float64)
    expected = torch.nn.functional.kl_div(logits.log_softmax(1), uniform, reduction="batchmean")
    torch.testing.assert_close(opinion(logits), expected)
    assert float(opinion(torch.tensor([[0.0, 100.0]]))) == pytest.approx(50 - math.log(2))


def test_looking_at_foreign_images_leaves_the_running_statistics_alone():
    network = small_network()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    logits_aside(network, images(seed=3))
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


def learner_of(**values):
    return SlotsLearner(MetaSum(small_network()), SlotsConfig(**values))


def train(learner, steps):
    return descend(learner, TARGET, SUPPORT, torch.optim.Adam(learner.parameters(), 1e-2), steps)


def test_the_sum_answers_with_the_sum_of_the_logits():
    learner = learner_of()
    train(learner, 5)
    summed = summed_networks(learner, TARGET.images, SUPPORT.images).target
    alone = [learner.target_network(), learner.support_network()]
    for network in alone:
        network.train()  # normalised by the batch, as recalibrating on this one batch does, but for Bessel's correction
    own = alone[0](TARGET.images) + alone[1](TARGET.images)
    torch.testing.assert_close(summed(TARGET.images), own, rtol=0.02, atol=0.02)


def test_the_target_does_not_depend_on_the_supports_weights():
    learner, other = learner_of(), learner_of()
    with torch.no_grad():
        for parameter in other.networks.support.parameters():
            parameter.mul_(2)
    for each in (learner, other):
        each.training_step(TARGET, SUPPORT)
    for mine, theirs in zip(learner.networks.target.parameters(), other.networks.target.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


def test_training_makes_it_quiet():
    loud, quiet = (learner_of(quiet_weight=weight) for weight in (0.0, 1.0))
    assert set(train(loud, 60)) == {"target", "support"}
    terms = train(quiet, 60)
    heard = opinion(logits_aside(loud.networks.target, SUPPORT.images)).detach()
    assert float(terms["target_quiet"]) < 0.2 * float(heard)


def test_a_slot_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="the last one is 1"):
        learner_of(slot=2)


def test_statistics_side_by_side_are_exact_for_networks_in_slots_and_refused_for_others():
    network = network_of("vgg16")
    slots = [Slot(network, index, 2) for index in range(2)]
    thin = [slot.take(network) for slot in slots]
    for number, small in enumerate(thin):
        recalibrate(small, [torch.randn(8, 1, 32, 32, dtype=torch.float64) * (number + 1)])
    placed = [copy.deepcopy(network) for _ in slots]
    for slot, small, large in zip(slots, thin, placed, strict=True):
        large.load_state_dict(slot.place(small.state_dict(), network.state_dict()))
    total = copy.deepcopy(placed[0])
    with torch.no_grad():
        for mine, theirs in zip(total.parameters(), placed[1].parameters(), strict=True):
            mine.add_(theirs)
    total.load_state_dict(side_by_side(placed), strict=False)
    x = torch.randn(4, 1, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(total(x), thin[0](x) + thin[1](x))
    assert side_by_side([placed[0], network]) is None, "the whole network uses the slot's channels, too"
    plain = network_of("vgg16", norm="none")
    assert side_by_side([plain, plain]) is None, "there are none"


def test_a_sum_of_slots_is_measured_with_each_networks_own_statistics(metasum, tiny, tmp_path):
    flags = ["experiment", *tiny[tiny.index("--data-root") :], "--targets", "rows,lines", "--support", "rows"]
    flags += ["--learners", "slots,independent", "--no-tune", "--seeds", 1, "--out", tmp_path / "runs", "--json"]
    outcome = metasum(*flags, "--no-report")
    assert outcome.code == 0, outcome.err
    rows = {row["learner"]: row["accuracy"] for row in json.loads(outcome.out)["rows"]}
    assert "stranger_recalibrated" not in rows["independent"]["rows"]
    for target in ("rows", "lines"):
        found = rows["slots"][target]
        assert 0 <= found["stranger_recalibrated"] <= 1
        assert found["stranger"] == found["ensemble"], "the sum of the weights is the sum of the functions"
