"""Whose statistics: recalibration, and the four policies."""

import copy

import pytest
import torch
from tiny import images, small_network
from torch import nn

from metasum import MetaSum, recalibrate
from metasum.errors import UsageError
from metasum.weights.parameters import buffers_of, parameters_of


def trained_pair(**keywords):
    """Two networks whose statistics differ, and a sum that has run in training."""
    networks = MetaSum(small_network(0), support=small_network(1), **keywords).train()
    networks.target(images(seed=1) + 1)
    networks.support(images(seed=2) * 3)
    return networks


def test_recalibration_is_the_mean_over_batches_of_each_layers_input():
    network = small_network().train()
    network(images() * 7)  # statistics of something else, to be forgotten
    batches = [images(6, seed=1), images(6, seed=2) + 2]
    recalibrate(network, batches)
    with torch.no_grad():
        inputs = [network[0](batch) for batch in batches]
    mean = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    variance = torch.stack([x.var((0, 2, 3), unbiased=True) for x in inputs]).mean(0)
    torch.testing.assert_close(network[1].running_mean, mean)
    torch.testing.assert_close(network[1].running_var, variance)


def test_recalibration_leaves_dropout_off_and_modes_and_momentum_as_they_were():
    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1, momentum=0.3)).double().train()
    x = images(6) + 1
    recalibrate(network, [x])
    torch.testing.assert_close(network[1].running_mean, x.mean((0, 2, 3)))
    assert network[1].momentum == 0.3
    assert not any(m.training for m in network.modules())


def test_recalibration_needs_a_batch_where_there_are_statistics():
    with pytest.raises(UsageError, match="at least one batch"):
        recalibrate(small_network(), [])
    recalibrate(nn.Linear(2, 2), [])  # keeps none


def test_recalibration_does_not_depend_on_what_was_there():
    first, second = small_network(), small_network()
    second.train()(images() * 9)
    batches = [images(seed=3)]
    one, two = recalibrate(first, batches), recalibrate(second, batches)
    torch.testing.assert_close(one(images()), two(images()), rtol=0, atol=0)


@pytest.mark.parametrize("side", ["target", "support"])
def test_policies_target_and_support_copy_that_networks_statistics(side):
    networks = trained_pair()
    summed = networks.summed_network([], statistics=side)
    for name, buffer in getattr(networks, side).named_buffers():
        assert torch.equal(buffers_of(summed)[name], buffer)


def test_policy_learned_takes_what_training_through_the_sum_kept():
    networks = trained_pair()
    batch = images(seed=4)
    networks.summed(batch)
    summed = networks.summed_network([], statistics="learned")
    with torch.no_grad():
        inputs = summed[0](batch)
    torch.testing.assert_close(summed[1].running_mean, 0.1 * inputs.mean((0, 2, 3)))
    assert int(summed[1].num_batches_tracked) == 1


def test_policy_learned_is_refused_where_training_never_ran_the_sum():
    with pytest.raises(UsageError, match="no learned statistics"):
        trained_pair().summed_network([], statistics="learned")


def test_an_unknown_policy_is_refused():
    with pytest.raises(UsageError, match="did you mean 'recalibrate'"):
        trained_pair().summed_network([], statistics="recalibrated")


@pytest.mark.parametrize("statistics", ["recalibrate", "target"])
def test_the_summed_network_is_a_copy_cut_off_from_both(statistics):
    networks = trained_pair()
    before = copy.deepcopy(networks.state_dict())
    summed = networks.summed_network([images(seed=1)], statistics=statistics)
    for name, parameter in summed.named_parameters():
        expected = parameters_of(networks.target)[name] + parameters_of(networks.support)[name]
        torch.testing.assert_close(parameter, expected)
        parameter.data.zero_()
    for buffer in summed.buffers():
        buffer.zero_()
    assert all(torch.equal(t, before[n]) for n, t in networks.state_dict().items())


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm])
def test_a_norm_whose_tracking_was_switched_off_is_recalibrated_as_eval_mode_reads_its_statistics(norm):
    torch.manual_seed(0)
    layer = norm(3).double()
    layer.track_running_stats = False
    shape = (8, 3) if norm is nn.BatchNorm1d else (8, 3, 2, 2)
    batches = [torch.randn(shape, dtype=torch.float64) * 5 + 1 for _ in range(2)]
    recalibrate(layer, batches)
    dims = [0, *range(2, len(shape))]
    torch.testing.assert_close(layer.running_var, torch.stack([x.var(dims, unbiased=True) for x in batches]).mean(0))
    assert layer.track_running_stats is False


def test_a_norm_that_has_no_statistics_is_left_alone_whatever_its_flag_says():
    layer = nn.BatchNorm2d(3, track_running_stats=False)
    layer.track_running_stats = True
    recalibrate(layer, [])
    assert layer.running_mean is None


@pytest.mark.parametrize("tracking", [True, False])
def test_an_instance_norm_is_recalibrated_where_it_reads_its_statistics(tracking):
    layer = nn.InstanceNorm2d(3, track_running_stats=True, momentum=0.3).double()
    layer.track_running_stats = tracking
    batches = [torch.randn(4, 3, 5, 5, dtype=torch.float64) * k + k for k in (1, 2, 3)]
    recalibrate(layer, batches)
    mean = torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    torch.testing.assert_close(layer.running_mean, mean if tracking else torch.zeros(3).double())
    assert layer.momentum == 0.3
    assert not layer._forward_pre_hooks
