"""Networks side by side in one as wide as all of them."""

import copy
import json

import pytest
import torch
from refusal import nothing_written, refused
from safetensors import safe_open
from torch import nn

from metasum.errors import ArchitectureError
from metasum.networks.beside import beside, count_beside
from metasum.networks.build import load_network
from metasum.networks.grouped import GroupedLinear
from metasum.networks.resnet import ResNet
from metasum.networks.vgg import VGG16
from metasum.weights.storage import load_weights, save_weights

X = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def networks_of(architecture, count=3, **settings):
    """With statistics that differ."""
    found = []
    for index in range(count):
        torch.manual_seed(index)
        found.append(architecture(width=0.05, **settings).double().train())
        found[-1](X * (index + 1))
    return [network.eval() for network in found]


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("architecture", [VGG16, ResNet])
def test_side_by_side_networks_add_their_logits_and_cost_what_they_cost(architecture, norm):
    parts = networks_of(architecture, norm=norm)
    before = [{name: tensor.clone() for name, tensor in part.state_dict().items()} for part in parts]
    wide = beside(parts)
    with torch.no_grad():
        torch.testing.assert_close(wide(X), sum(part(X) for part in parts))
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (wide, *parts)]
    assert sizes[0] <= sum(sizes[1:])
    assert not wide.training
    assert (count_beside(wide), count_beside(parts[0])) == (3, 1)
    for part, own in zip(parts, before, strict=True):
        assert all(torch.equal(tensor, own[name]) for name, tensor in part.state_dict().items())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_logits_that_cancel_are_no_reason_to_refuse(precision):
    first = networks_of(VGG16, 1)[0].float()
    second = copy.deepcopy(first)
    with torch.no_grad():
        for parameter in second.classifier[-1].parameters():
            parameter.mul_(-1).add_(1e-5)
    with torch.autocast("cpu", dtype=precision, enabled=precision is torch.bfloat16):
        wide = beside([first, second])
    with torch.no_grad():
        assert wide(X.float()).abs().max() < 1e-2 * first(X.float()).abs().max()


def test_the_wide_network_can_be_trained():
    wide = beside(networks_of(VGG16, 2)).train()
    wide(X).square().sum().backward()
    assert all(parameter.grad is not None for parameter in wide.parameters())
    assert isinstance(wide.classifier[4], GroupedLinear)


class Scaled(nn.Sequential):
    """A layer that counts its channels."""

    def forward(self, images):
        features = super().forward(images)
        return features / features.shape[1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten()), "has no place"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(1024, 4), nn.LayerNorm(4), nn.Linear(4, 2)), "has no place"),
        (lambda: nn.Sequential(nn.Flatten(), Scaled(nn.Linear(1024, 4)), nn.Linear(4, 2)), "how many channels"),
    ],
)
def test_networks_that_have_no_place_beside_another_are_refused(make, words):
    with pytest.raises(ArchitectureError, match=words):
        beside([make().eval(), make().eval()])
    with pytest.raises(ArchitectureError, match="differ in architecture"):
        beside([nn.Linear(4, 2), nn.Linear(4, 3)])


def flags_of(tiny, target, *more):
    return ["train", *tiny, "--target", target, "--support", "digits", "--no-report", "--json", *more]


def test_blocks_are_added_side_by_side_measured_and_exported(metasum, tiny, tmp_path):
    runs = []
    for target in ("rows", "lines", "rows"):
        name = f"{target}{len(runs)}"
        more = ("--learner", "blocks", "--quiet-on", "own", "--out", tmp_path / name)
        outcome = metasum(*flags_of(tiny, target, *more, *(("--seed", 3) if len(runs) == 2 else ())))
        assert outcome.code == 0, outcome.err
        runs.append(json.loads(outcome.out))
        assert runs[-1]["operator"] == "side-by-side"
        assert runs[-1]["statistics"] == "own"
        summed = load_network(f"{runs[-1]['run']}/summed.safetensors")
        assert count_beside(summed) == 2
    file = tmp_path / "all.safetensors"
    folders = [run["run"] for run in runs]
    outcome = metasum("sum", *folders, "--export", file, "--out", tmp_path / "runs", "--json", "--no-report")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["operator"] == "side-by-side"
    for dataset, found in result["accuracy"].items():
        if dataset != "union":
            assert found["sum_own_statistics"] == result["opinions"]["ensemble"][dataset]
    with safe_open(file, "pt") as tensors:
        assert tensors.metadata()["side_by_side"] == "3"
    again = metasum("evaluate", file, *tiny[4:6], "--on", "rows", "--on", "lines", "--json")
    assert again.code == 0, again.err
    for target, accuracy in json.loads(again.out)["accuracy"].items():
        assert accuracy == result["accuracy"][target]["sum_own_statistics"]


def test_the_ensemble_of_independent_networks_is_a_learner_of_its_own(metasum, tiny):
    outcome = metasum(*flags_of(tiny, "rows", "--learner", "side-by-side"))
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["statistics"] == "own"


def test_blocks_keep_their_own_statistics(metasum, tiny, tmp_path):
    outcome = metasum(*flags_of(tiny, "rows", "--learner", "blocks", "--statistics", "target"))
    refused(outcome, 2, "--statistics is own for learner 'blocks'")
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("count", ["0", "two", "100000", ""])
def test_a_file_with_a_false_number_of_networks_is_refused(count, metasum, finished, tmp_path):
    file = finished / "target.safetensors"
    with safe_open(file, "pt") as tensors:
        told = tensors.metadata() | {"side_by_side": count}
    save_weights(tmp_path / "false.safetensors", load_weights(file), metadata=told)
    refused(metasum("evaluate", tmp_path / "false.safetensors", "--on", "digits"), 1, "networks; a number of 1 to")
