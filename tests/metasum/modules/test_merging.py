"""Modules of any kind are merged by every method, and stay as they were."""

import copy

import odd_layers
import pytest
import torch
from odd_modules import REFUSED, RUN, odd_module
from torch import nn
from users import CLASSES, AnswersAnObject, Trunk, TwoInputs, classes, inputs, loader, same, seeded, snapshot

import metasum
from metasum import merge, recalibrate
from metasum.errors import ArchitectureError, MetaSumError, UsageError
from metasum.merging import METHODS
from metasum.merging.ties import TIES
from metasum.modules.tasks import MergedTasks
from metasum.weights.inputs import Inputs, tensors_in

X, Z, Y = inputs(0), inputs(1, size=3), classes()
SETTINGS = {"weighted": {"weights": (0.5, 0.25)}, "adamerging": {"adamerging_steps": 3}}


def two_inputs(seed):
    return [(inputs(seed), inputs(seed + 9, size=3), classes(seed))]


def dictionaries(seed):
    return [{"values": inputs(seed), "attention_mask": classes(seed).double(), "labels": classes(seed)}]


NETWORKS = {
    "tensor": (Trunk, lambda seed: loader(seed, shuffle=True), None),
    "two inputs": (TwoInputs, two_inputs, None),
    "dictionary and object": (AnswersAnObject, dictionaries, None),
    "forward": (AnswersAnObject, lambda seed: [(classes(seed), inputs(seed))], lambda net, batch: net(batch[1]).logits),
    "lone layer": (lambda: nn.Linear(6, CLASSES), loader, None),
}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_merges_every_kind_and_changes_nothing_given(method, kind):
    make, images, forward = NETWORKS[kind]
    networks, base = [seeded(make, seed) for seed in (1, 2)], seeded(make, 0)
    networks[0].train()
    next(networks[1].parameters()).requires_grad_(False)
    before = snapshot(*networks, base)
    settings = SETTINGS.get(method, {})
    try:
        found = merge(networks, method, images=[images(1), images(2)], base=base, forward=forward, **settings)
    except ArchitectureError:  # whose channels cannot be followed: it is said
        if not METHODS[method].needs_networks:
            raise
        return
    finally:
        assert same(snapshot(*networks, base), before)
    assert not any(module.training for module in found.modules())
    assert all(tensor.isfinite().all() for tensor in found.parameters())
    own = {id(tensor) for network in (*networks, base) for tensor in (*network.parameters(), *network.buffers())}
    assert not own & {id(tensor) for tensor in (*found.parameters(), *found.buffers())}
    assert isinstance(found, MergedTasks) == METHODS[method].knows_task
    if METHODS[method].exactly is None and "weights" not in settings:
        every = [images(s) for s in (1, 2, 0)]
        assert merge([*networks, base], method, images=every, base=base, forward=forward, **settings)


def test_it_is_the_methods_own_arithmetic():
    networks = [seeded(Trunk, seed) for seed in (1, 2)]
    found = dict(merge(networks).named_parameters())
    for name, tensor in found.items():
        pair = [network.get_parameter(name).detach() for network in networks]
        torch.testing.assert_close(tensor.detach(), (pair[0] + pair[1]) / 2)
        assert tensor.requires_grad
    base = seeded(Trunk, 0)
    one = merge(networks, TIES(density=0.3), base=base).state_dict()
    other = merge(networks, "ties", density=0.3, base=base.state_dict()).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_without_images_statistics_are_averaged_and_with_them_recalibrated_on_all():
    networks = [seeded(Trunk, seed) for seed in (1, 2)]
    without = merge(networks)
    means = [network.trunk[1].running_mean for network in networks]
    torch.testing.assert_close(without.trunk[1].running_mean, (means[0] + means[1]) / 2)
    found = merge(networks, images=[loader(1), loader(2, count=60)])
    hidden = found.trunk[0](torch.cat([inputs(1), inputs(2, 60)])).detach()
    torch.testing.assert_close(found.trunk[1].running_mean, hidden.mean(0))


def test_a_method_that_keeps_functions_keeps_statistics():
    """Networks without a channel in common compute in the sum, each with its own statistics, what they did alone."""
    networks = [seeded(Trunk, 0) for _ in range(2)]
    for network, off in zip(networks, (slice(0, 4), slice(4, 8)), strict=True):
        with torch.no_grad():
            network.trunk[0].weight[off] = 0
            network.trunk[0].bias[off] = 0
            for tensor in (network.trunk[1].weight, network.trunk[1].bias, *(network.trunk[1].running_mean,)):
                tensor[off] = 0
            network.trunk[1].running_var[off] = 0
    found = merge(networks, "sum", images=[loader(1), loader(2)])
    expected = networks[0].trunk[1].running_var + networks[1].trunk[1].running_var
    torch.testing.assert_close(found.trunk[1].running_var, expected)


class Buffers(nn.Linear):
    def __init__(self, scale=1.0, table=(1, 2)):
        super().__init__(2, 2)
        self.register_buffer("scale", torch.tensor([scale]))
        self.register_buffer("table", torch.tensor(table))


def test_other_buffers_are_averaged_where_they_differ_and_integers_refused():
    assert merge([Buffers(1.0), Buffers(3.0)], "sum").scale == 2.0
    with pytest.raises(ArchitectureError, match="'table' is a buffer of integers"):
        merge([Buffers(), Buffers(table=(2, 1))])


def heads():
    return [seeded(Trunk, 1, 3), seeded(Trunk, 2, 7)]


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("side-by-side", "surgery")])
def test_heads_are_kept_and_the_trunk_is_one_in_memory(method):
    networks, base = heads(), seeded(Trunk, 0)
    before = snapshot(*networks)
    images = [loader(1, of=3), loader(2, of=7)]
    found = merge(networks, method, images=images, base=base, keep="head.*", **SETTINGS.get(method, {}))
    assert same(snapshot(*networks), before)
    first, second = found.for_task(0), found.for_task(1)
    in_common = not METHODS[method].knows_task
    assert (first.trunk[0].weight is second.trunk[0].weight) == in_common
    assert (first.trunk[1].running_mean is second.trunk[1].running_mean) == in_common
    assert (first.head.out_features, second.head.out_features) == (3, 7)
    assert torch.equal(first.head.weight, networks[0].head.weight)
    assert torch.equal(second.head.weight.sort(dim=1).values, networks[1].head.weight.sort(dim=1).values)
    assert len(list(found.parameters())) == (6 if in_common else 2 * 6) + 2 * 2
    assert found(X, task=1).shape == (20, 7)
    assert metasum.evaluate(second, images[1]).count == 20
    with pytest.raises(UsageError, match="there is no task 2: 2 networks"):
        found.for_task(2)


@pytest.mark.parametrize("change", [copy.deepcopy, nn.Module.float, lambda network: network.to(torch.bfloat16)])
def test_the_trunk_stays_one_in_memory_where_all_tasks_are_moved_or_copied(change):
    found = change(merge(heads(), keep="head.*"))
    first, second = found.for_task(0), found.for_task(1)
    assert first.trunk[0].weight is second.trunk[0].weight
    assert first.trunk[1].running_mean is second.trunk[1].running_mean
    assert first.head.weight is not second.head.weight


def test_an_aligned_network_keeps_the_head_that_reads_its_channels():
    """A network and itself in another order, each with its own head: what was merged is the network, for both."""
    first = seeded(Trunk, 1)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    second = copy.deepcopy(first)
    with torch.no_grad():
        second.trunk[3].weight.copy_(first.trunk[3].weight[order])
        second.trunk[3].bias.copy_(first.trunk[3].bias[order])
        second.head.weight.copy_(first.head.weight[:, order])
    found = merge([first, second], "weight-matching", keep="head.*")
    for task in (0, 1):
        torch.testing.assert_close(found.for_task(task)(X), first.eval()(X))


def test_statistics_of_the_common_trunk_are_of_all_images_and_kept_ones_of_their_own():
    networks = [seeded(Trunk, seed) for seed in (1, 2)]
    found = merge(networks, images=[loader(1), loader(2, count=60)], keep="head.*")
    hidden = found.for_task(0).trunk[0](torch.cat([inputs(1), inputs(2, 60)])).detach()
    torch.testing.assert_close(found.for_task(1).trunk[1].running_mean, hidden.mean(0))
    found = merge(networks, images=[loader(1), loader(2, count=60)], keep=["trunk.1.*", "head.*"])
    for task, own in enumerate((inputs(1), inputs(2, 60))):
        network = found.for_task(task)
        torch.testing.assert_close(network.trunk[1].running_mean, network.trunk[0](own).detach().mean(0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "tise"}, "did you mean 'ties'"),
        ({"method": 3}, "method= takes text or a method of merging, not 3"),
        ({"method": "ties"}, "ties works on differences from a common start: give it as base="),
        ({"method": "regmean"}, r"regmean looks at images of each network's data: give a loader for each as images="),
        ({"density": 0.5}, "density"),
        ({"method": TIES(), "density": 0.5}, "density= is a setting of ties, which was made with its own already"),
        ({"networks": [seeded(Trunk, 1)]}, "average takes at least 2 networks, not 1"),
        (
            {"networks": [seeded(Trunk, 1), {}]},
            r"each entry an nn.Module.*, not an empty dict at networks\[1\]",
        ),
        ({"networks": [nn.LazyLinear(3), nn.LazyLinear(3)]}, "has no weights before its first batch"),
        ({"images": [loader()]}, "images= takes a loader for each of the 2 networks, in a list; not 1"),
        ({"images": loader()}, "a loader for each of the 2 networks, in a list; not a DataLoader"),
        ({"images": [[], loader()]}, "images of network 1: there is nothing"),
        ({"images": [it := iter([X]), it]}, "holds one iterator twice"),
        ({"method": "fisher", "images": [iter([X]), iter([X])]}, "images of network 1 is an iterator"),
        ({"base": 3}, "base is a int, and should be a network or its state dict"),
        ({"keep": "haed.*"}, r"keep='haed.\*': no parameter is called so, as 'trunk.0.weight' is"),
        ({"keep": "*"}, "nothing is left to be merged"),
        ({"method": "side-by-side", "keep": "head.*"}, "side-by-side makes a network of another architecture"),
    ],
)
def test_what_cannot_be_merged_is_one_sentence(change, words):
    given = {"networks": [seeded(Trunk, seed) for seed in (1, 2)], **change}
    with pytest.raises(UsageError, match=words):
        merge(given.pop("networks"), given.pop("method", "average"), **given)


def test_networks_that_differ_are_named():
    with pytest.raises(ArchitectureError, match=r"'head.weight' is \[3, 5\] float64 in network 1 and \[7, 5\]"):
        merge(heads())


def test_recalibration_reads_any_loader_and_leaves_out_a_last_image_alone():
    network = seeded(Trunk, 1)
    state = torch.get_rng_state()
    recalibrate(network, loader(count=17, shuffle=True))  # 8 + 8 + 1, which batch norm refuses
    assert torch.equal(torch.get_rng_state(), state)
    recalibrate(network, loader(count=12))
    torch.testing.assert_close(network.trunk[1].running_mean, network.trunk[0](inputs(0, 12)).detach().mean(0))
    two = seeded(TwoInputs, 1)
    recalibrate(two, [(X, Z, Y)])
    torch.testing.assert_close(two.trunk[1].running_mean, two.trunk[0](X).detach().mean(0))
    recalibrate(two, [(Z, X)], forward=lambda net, batch: (net(batch[1], batch[0]), "anything"))


ODD = RUN | odd_layers.RUN | {"list of tensors": REFUSED["list of tensors"]}  # whose copies are whole
DIFFERENT = "quantisation-aware training"  # whose networks have rounded to different integers


@pytest.mark.filterwarnings("ignore:None of the inputs")  # of the reentrant checkpoint
@pytest.mark.parametrize("kind", sorted({*ODD} - {"drawing", DIFFERENT}))
def test_networks_that_run_in_unusual_ways_are_merged_whole(kind):
    """The same as one that was built anew and given the merged tensors one by one."""
    make = ODD[kind][0]
    networks = [odd_module(make, seed) for seed in (1, 2)]
    before = snapshot(*networks)
    found = merge(networks)
    assert same(snapshot(*networks), before)
    expected = odd_module(make, 3)
    with torch.no_grad():
        for name, tensor in expected.named_parameters():
            tensor.copy_(found.get_parameter(name))
        for name, tensor in expected.named_buffers():
            tensor.copy_(found.get_buffer(name))
        given = odd_layers.INPUTS.get(kind, Inputs.of(odd_layers.x))
        pair = (tensors_in(given.call(network)) for network in (found, expected.eval()))
        torch.testing.assert_close(*map(list, pair))


@pytest.mark.parametrize("kind", ["inner function", "lazy, no batch yet", "quantised layer", "no weights at all"])
def test_networks_that_a_copy_would_not_be_of_are_refused(kind):
    make, words = REFUSED[kind]
    with pytest.raises(MetaSumError, match=words):
        merge([odd_module(make, 1), odd_module(make, 2)])


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_a_spectral_norm_divides_by_the_merged_weights_norm(norm):
    networks = [seeded(lambda: norm(nn.Linear(6, 4)), seed).eval() for seed in (1, 2)]
    found = merge(networks)
    found(X)
    assert float(torch.linalg.matrix_norm(found.weight.detach(), 2)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("images", [[], [X, Z], iter([])])
def test_recalibration_that_fails_leaves_statistics_as_they_were(images):
    network = seeded(Trunk, 1).eval()
    before = snapshot(network)
    with pytest.raises(UsageError):
        recalibrate(network, images)
    assert same(snapshot(network), before)


def test_weights_that_are_nan_or_infinite_are_refused():
    networks = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
    with torch.no_grad():
        networks[1].bias[0] = torch.inf
    with pytest.raises(UsageError, match="network 2: 'bias' holds NaN or infinite"):
        merge(networks)
