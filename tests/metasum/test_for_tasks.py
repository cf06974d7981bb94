"""Methods that have to know the task: EMR-merging and TALL masks. Nobody takes them for merges."""

import pytest
import torch
from tiny import images, small_network
from users import Trunk, inputs, loader, seeded

import metasum
from metasum.baselines.registry import LEARNERS
from metasum.errors import ArchitectureError, UsageError
from metasum.merging import METHODS
from metasum.merging.emr import EMR
from metasum.merging.endpoints import Endpoint
from metasum.merging.for_tasks import MaskingMethod
from metasum.merging.memory import merge, networks_for_tasks
from metasum.merging.tall import TALLMasks

KNOWING = [name for name, method in METHODS.items() if method.knows_task]
MASKS = [name for name in KNOWING if issubclass(METHODS[name], MaskingMethod)]
BASE = {name: tensor.detach() for name, tensor in small_network(0).named_parameters()}


def ends(count, *, dtype=torch.float64):
    return [Endpoint(small_network(seed).to(dtype).eval(), []) for seed in range(1, count + 1)]


def found_by(method, endpoints, base=BASE):
    return [dict(network.named_parameters()) for network in networks_for_tasks(method, endpoints, base)]


def vector(parameters):
    return torch.cat([(own.detach() - BASE[name]).flatten() for name, own in parameters.items()])


@pytest.mark.parametrize("count", [2, 3])
def test_emr_is_its_formula(count):
    endpoints = ends(count)
    deltas = torch.stack([vector(end.parameters) for end in endpoints])
    sign = deltas.sum(dim=0).sign()
    agrees = deltas * sign > 0
    tau = sign * (deltas.abs() * agrees).max(dim=0).values
    for own, delta, mask in zip(found_by(EMR(), endpoints), deltas, agrees, strict=True):
        scale = delta.abs().sum() / (mask * tau).abs().sum()
        torch.testing.assert_close(vector(own), scale * mask * tau)


@pytest.mark.parametrize("threshold", [0.2, 1.0])
def test_tall_masks_are_their_formula(threshold):
    endpoints = ends(3)
    deltas = torch.stack([vector(end.parameters) for end in endpoints])
    whole = deltas.sum(dim=0)
    for own, delta in zip(found_by(TALLMasks(mask_threshold=threshold), endpoints), deltas, strict=True):
        torch.testing.assert_close(vector(own), whole * (delta.abs() >= threshold * (whole - delta).abs()))


def test_the_knowing_are_these():
    assert KNOWING == [*MASKS, "surgery"] == ["emr", "tall-masks", "surgery"]
    assert all("the task of each input" in METHODS[name].needs() for name in KNOWING)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_one_network_is_given_back(name, dtype):
    endpoints = ends(1, dtype=dtype)
    (own,) = found_by(METHODS[name](), endpoints, {key: tensor.to(dtype) for key, tensor in BASE.items()})
    for key, tensor in endpoints[0].parameters.items():
        assert own[key].dtype == dtype
        torch.testing.assert_close(own[key].detach(), tensor)


@pytest.mark.parametrize("name", MASKS)
def test_networks_that_have_not_moved_give_the_base(name):
    still = [Endpoint(small_network(0).eval(), [])] * 3
    for own in found_by(METHODS[name](), still):
        assert all(torch.equal(tensor, BASE[key]) for key, tensor in own.items())


@pytest.mark.parametrize("name", MASKS)
def test_networks_that_moved_different_entries_are_given_back(name):
    """Nobody is in anybody's way: masks tell them apart."""
    endpoints = ends(2)
    with torch.no_grad():
        for place, end in enumerate(endpoints):
            for key, own in end.network.named_parameters():
                flat, start = own.flatten(), BASE[key].flatten()
                flat[place::2] = start[place::2]
                own.copy_(flat.view(own.shape))
    for own, end in zip(found_by(METHODS[name](), endpoints), endpoints, strict=True):
        for key, tensor in end.parameters.items():
            torch.testing.assert_close(own[key].detach(), tensor)


def test_statistics_are_each_networks_own_or_of_its_own_images():
    pair, base = [seeded(Trunk, seed) for seed in (1, 2)], seeded(Trunk, 0)
    found = metasum.merge(pair, "emr", base=base)
    for place, own in enumerate(pair):
        assert torch.equal(found.for_task(place).trunk[1].running_mean, own.trunk[1].running_mean)
    data = [loader(1), loader(2)]
    found = metasum.merge(pair, "emr", base=base, images=data)
    twin = metasum.recalibrate(metasum.merge(pair, "emr", base=base).for_task(1), data[1])
    torch.testing.assert_close(found.for_task(1).trunk[1].running_mean, twin.trunk[1].running_mean)
    assert found(inputs(), task=1).shape == twin(inputs()).shape


def test_they_make_no_network_where_one_is_wanted():
    with pytest.raises(UsageError, match="emr makes a network for each task, and no merged one"):
        merge(EMR(), ends(2), BASE)
    with pytest.raises(UsageError, match="give it as base="):
        metasum.merge([small_network(1), small_network(2)], "emr")
    other = small_network(2, classes=5).eval()
    with pytest.raises(ArchitectureError, match=r"7.weight"):
        networks_for_tasks(EMR(), [*ends(1), Endpoint(other, [images()])], BASE)


def test_what_is_no_merge_is_marked_among_learners():
    marked = {name: learner.no_merge for name, learner in LEARNERS.items() if learner.no_merge}
    assert marked == {
        "two-head": "joint training",
        "multi-input": "joint training",
        "emr": "task known",
        "tall-masks": "task known",
    }
