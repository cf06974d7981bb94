"""Meta-Transfer Learning: frozen trunk, scale and shift, base training."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, linear

from metasum.baselines.fine_tuning import FineTuning
from metasum.baselines.meta_transfer.base_training import BaseTrainingConfig, base_trained
from metasum.baselines.meta_transfer.learner import ClassifierTuning, MetaTransfer
from metasum.baselines.meta_transfer.pretraining import Pretraining
from metasum.baselines.meta_transfer.scale_shift import ScaleShift
from metasum.learners.few_shot import FewShotTask
from metasum.networks.convnet import convnet
from metasum.networks.resnet import ResNet
from metasum.networks.vgg import VGG16
from metasum.types import Batch, FewShotEpisode

STEPS, RATE = 5, 0.1
TASK = FewShotTask(ways=3, shots=1, filters=4)


def made(kind, steps=5, rate=0.1):
    return kind(TASK, kind.Config(base_steps=steps, base_lr=rate), pretrained())


def batch(ways=3, shots=1, seed=0):
    pictures = torch.randn(ways * shots, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Batch(pictures, torch.arange(ways).repeat_interleave(shots))


def pretrained():
    torch.manual_seed(0)
    return convnet(ways=7, filters=4)


@pytest.mark.parametrize(
    "make", [lambda: VGG16(width=0.04), lambda: ResNet(width=0.1), lambda: convnet(ways=3, filters=4)]
)
def test_at_identity_the_network_is_the_pretrained_one_exactly(make):
    torch.manual_seed(0)
    network = make().eval()
    own = dict(network.named_parameters())
    effective = ScaleShift(network).effective(own)
    x = batch().images
    assert torch.equal(functional_call(network, effective, (x,)), network(x))


def test_scale_is_one_number_a_kernel_and_shift_one_a_channel():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 4, 1, bias=False))
    phi = ScaleShift(network)
    assert [tuple(scale.shape) for scale in phi.scales] == [(3, 2, 1, 1), (4, 3, 1, 1)]
    assert [tuple(shift.shape) for shift in phi.shifts] == [(3,)]
    with torch.no_grad():
        phi.scales[0].copy_(torch.arange(6.0).view(3, 2, 1, 1))
        phi.shifts[0].fill_(2)
    own = dict(network.named_parameters())
    effective = phi.effective(own)
    torch.testing.assert_close(effective["0.weight"][1, 1], 3 * own["0.weight"][1, 1])
    torch.testing.assert_close(effective["0.bias"], own["0.bias"] + 2)
    assert effective["1.weight"].equal(own["1.weight"])


def test_base_training_is_plain_gradient_descent_on_the_classifier():
    torch.manual_seed(0)
    classifier, features, labels = nn.Linear(4, 3), torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    trained = base_trained(classifier, features, labels, STEPS, RATE)
    twin = nn.Linear(4, 3)
    twin.load_state_dict(classifier.state_dict())
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        cross_entropy(twin(features), labels).backward()
        optimizer.step()
    for mine, theirs in zip(trained, (twin.weight, twin.bias), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_meta_gradient_is_taken_at_the_trained_classifier():
    torch.manual_seed(0)
    classifier, features, labels = nn.Linear(4, 3), torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    weight, bias = base_trained(classifier, features, labels, STEPS, RATE)
    cross_entropy(linear(features, weight, bias), labels).backward()
    there = [tensor.detach().requires_grad_() for tensor in (weight, bias)]
    cross_entropy(linear(features, *there), labels).backward()
    torch.testing.assert_close(classifier.weight.grad, there[0].grad)
    torch.testing.assert_close(classifier.bias.grad, there[1].grad)


def test_frozen_weights_do_not_move_and_the_rest_does():
    learner = made(MetaTransfer)
    trunk = {name: tensor.clone() for name, tensor in learner.trunk.state_dict().items()}
    moving = learner.parameter_groups()[0]
    assert len(moving) == 5 + 5 + 2  # scales, shifts, classifier
    before = [tensor.detach().clone() for tensor in moving]
    optimizer = torch.optim.Adam(moving, lr=0.1, weight_decay=0.1)
    for _ in range(2):  # the classifier starts at zero: the first step reaches it alone
        optimizer.zero_grad()
        learner.training_step(FewShotEpisode(batch(), batch(shots=2, seed=1), torch.arange(3)))
        optimizer.step()
    torch.testing.assert_close(dict(learner.trunk.state_dict()), trunk, rtol=0, atol=0)
    assert all(not torch.equal(was, now) for was, now in zip(before, moving, strict=True))


def test_an_untrained_meta_transfer_learner_is_classifier_tuning():
    adaptation, query = batch(), batch(seed=1).images
    mine, plain = (made(kind) for kind in (MetaTransfer, ClassifierTuning))
    torch.testing.assert_close(mine.logits(adaptation, query), plain.logits(adaptation, query), rtol=0, atol=0)


def test_fine_tuning_moves_all_of_the_network_for_an_episode_and_keeps_nothing():
    learner = made(FineTuning, 20, 0.05)
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    adaptation = batch()
    answers = learner.logits(adaptation, adaptation.images).detach()
    assert float(cross_entropy(answers, adaptation.labels)) < 0.9  # of 1.1
    torch.testing.assert_close(dict(learner.state_dict()), before, rtol=0, atol=0)
    with torch.no_grad():  # as it is measured
        torch.testing.assert_close(learner.logits(adaptation, adaptation.images), answers)


def test_both_ways_of_tuning_can_be_asked_for_other_numbers_of_classes():
    for learner in (made(ClassifierTuning), made(FineTuning, 2)):
        assert learner.asked(5).logits(batch(ways=5), batch().images).shape == (3, 5)
    assert not MetaTransfer.other_ways


def test_pretraining_learns_to_classify():
    torch.manual_seed(0)
    model, images = Pretraining(TASK, BaseTrainingConfig(), classes=3), batch(shots=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(float(model.training_step(images)["loss"]))
        optimizer.step()
    assert losses[-1] < losses[0] / 2
