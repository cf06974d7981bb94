"""Channels last is used only where its gradients were compared with contiguous ones on this machine."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from tiny import without_dropout
from torch import nn

from metasum.errors import UsageError
from metasum.networks.resnet import ResNet
from metasum.networks.tangent import Tangent
from metasum.training import layout, layout_probe
from metasum.training.layout import checked_layout, convolutions_of
from metasum.training.layout_probe import Convolution

CPU, IMAGES = torch.device("cpu"), (2, 1, 32, 32)
ask_probe = layout.ask_probe  # before any fixture replaces it

PROGRAMS = {
    "crashes": "import os; os.abort()",
    "overruns": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "hangs": "import time; time.sleep(600)",
    "spins": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass",
    "is wrong": """print('{"fault": "a convolution has wrong gradients"}')""",
    "crashes at its end": """print('{"fault": null}', flush=True); import os; os.abort()""",
}
WORDS = {
    "crashes": "crashes (SIGABRT)",
    "overruns": "crashes (SIGSEGV)",
    "hangs": "hangs (no answer",
    "spins": "hangs (busy",
    "is wrong": "wrong gradients",
    "crashes at its end": "crashes (SIGABRT)",
}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("METASUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(layout, "ask_probe", ask_probe)


@pytest.fixture
def probe(monkeypatch, tmp_path):
    """Replaces the probe by a program of one's own; returns how often it ran."""

    def replace(program):
        log = tmp_path / "asked"
        monkeypatch.setattr(layout, "PROBE", [sys.executable, "-c", f"open({str(log)!r}, 'a').write('x')\n{program}"])
        return lambda: len(log.read_text()) if log.exists() else 0

    return replace


RIGHT = """print('{"fault": null}')"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("kind", PROGRAMS)
def test_whatever_becomes_of_the_check_this_process_goes_on_contiguous(kind, probe, monkeypatch):
    if kind == "hangs":
        monkeypatch.setattr(layout, "SECONDS", 0.1)
        monkeypatch.setattr(layout, "PATIENCE", 20)
    asked = probe(PROGRAMS[kind])
    found, why = checked_layout(None, [ResNet(width=0.1)], IMAGES, CPU)
    assert found == "contiguous"
    assert WORDS[kind] in why
    assert checked_layout(None, [ResNet(width=0.1)], IMAGES, CPU) == (found, why)
    assert asked() == 1, "it is remembered"
    with pytest.raises(
        UsageError, match=r"--memory-format channels-last is not safe on this machine: .*; leave it out"
    ):
        checked_layout("channels-last", [ResNet(width=0.1)], IMAGES, CPU)


def test_a_check_that_could_not_be_made_is_made_again(probe):
    asked = probe("raise SystemExit('no room left')")
    for times in (1, 2):
        found, why = checked_layout(None, [nn.Conv2d(1, 2, 3)], IMAGES, CPU)
        assert found == "contiguous"
        assert "cannot be checked (no room left)" in why
        assert asked() == times


def test_a_verdict_holds_for_its_shapes_threads_and_settings_of_onednn(probe, monkeypatch):
    asked = probe(RIGHT)
    small, large = nn.Conv2d(1, 2, 3), nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3))
    for times, networks, more in (
        (1, [small, large], {}),
        (1, [small], {}),  # what is known of many is known of each
        (2, [small], {"precision": "bf16-mixed"}),
        (3, [small], {"second_order": True}),
    ):
        assert checked_layout(None, networks, IMAGES, CPU, **more) == ("channels-last", None)
        assert asked() == times
    assert checked_layout(None, [small], (3, 1, 32, 32), CPU) == ("channels-last", None)
    assert asked() == 4
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    checked_layout(None, [small], IMAGES, CPU)
    assert asked() == 5
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    checked_layout(None, [small], IMAGES, CPU)
    assert asked() == 6


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"of": 1, "right": 2, "wrong": 3}', "\0"])
def test_a_damaged_memory_is_no_memory(probe, content, tmp_path):
    asked = probe(RIGHT)
    for times in (1, 2):
        assert checked_layout(None, [nn.Conv2d(1, 2, 3)], IMAGES, CPU)[0] == "channels-last"
        assert asked() == times
        (file,) = (tmp_path / "cache").glob("*.json")
        file.write_text(content)


def test_without_a_place_to_remember_it_is_checked_each_time(probe, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("METASUM_CACHE", str(tmp_path / "file" / "below"))
    asked = probe(RIGHT)
    for times in (1, 2):
        assert checked_layout(None, [nn.Conv2d(1, 2, 3)], IMAGES, CPU)[0] == "channels-last"
        assert asked() == times


def test_what_is_not_in_question_is_not_checked(probe):
    asked = probe("raise SystemExit(1)")
    network = [ResNet(width=0.1)]
    assert checked_layout("contiguous", network, IMAGES, CPU) == ("contiguous", None)
    assert checked_layout(None, network, IMAGES, torch.device("cuda")) == ("channels-last", None)
    assert checked_layout(None, network, IMAGES, torch.device("mps")) == ("contiguous", None)
    assert asked() == 0
    assert checked_layout(None, [nn.Linear(1, 1)], (2, 1), CPU) == ("channels-last", None), "it has no convolution"
    assert asked() == 0


class Reader(nn.Module):
    def forward(self, images):
        return images * float(images.sum())


def test_a_network_whose_convolutions_cannot_be_listed_stays_contiguous(probe):
    probe(RIGHT)
    found, why = checked_layout(None, [Reader()], IMAGES, CPU)
    assert found == "contiguous"
    assert "cannot be listed" in why


@pytest.mark.parametrize("kind", [lambda network: network, Tangent], ids=["plain", "tangent"])
def test_every_convolution_is_found_and_the_network_left_alone(kind):
    network = kind(ResNet(width=0.25, norm="none")).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = convolutions_of(network, (8, 1, 32, 32))
    assert {(c.kernel, c.stride) for c in found} == {
        *(((4, channels, 3, 3), (1, 1)) for channels in (1, 4)),
        *(((2 * channels, channels, size, size), (2, 2)) for channels in (4, 8) for size in (1, 3)),
        *(((channels, channels, 3, 3), (1, 1)) for channels in (8, 16)),
    }
    assert {c.images[0] for c in found} == {8}
    assert all(module.training for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


CONVOLUTIONS = [
    Convolution((2, 4, 8, 8), (8, 4, 3, 3), True, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, "float32"),
    Convolution((2, 4, 8, 8), (8, 2, 3, 3), False, (2, 2), (1, 1), (2, 2), False, (0, 0), 2, "bfloat16"),
    Convolution((2, 4, 8, 8), (4, 3, 3, 3), True, (2, 2), (1, 1), (1, 1), True, (1, 1), 2, "float32"),
]


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=["plain", "grouped", "transposed"])
def test_any_gradient_that_differs_is_a_fault(convolution, second_order, monkeypatch):
    assert layout_probe.fault_of(convolution, second_order=second_order) is None
    right = layout_probe.gradients
    count = len(right(convolution, layout_probe._random_tensors(convolution), torch.channels_last, second_order))
    assert count == (1 + convolution.bias + 2) + second_order * 2
    for wrong in range(count):
        for fault in (lambda tensor: tensor * 1.2, lambda tensor: tensor * float("nan")):

            def broken(*arguments, wrong=wrong, fault=fault):
                found = right(*arguments)
                if arguments[2] == torch.channels_last:
                    found[wrong] = fault(found[wrong])
                return found

            monkeypatch.setattr(layout_probe, "gradients", broken)
            assert "wrong gradients" in layout_probe.fault_of(convolution, second_order=second_order)


def test_an_error_of_the_library_is_a_fault(monkeypatch):
    right = layout_probe.gradients

    def broken(convolution, tensors, memory_format, second_order):
        if memory_format == torch.channels_last:
            raise RuntimeError("could not create a primitive")
        return right(convolution, tensors, memory_format, second_order)

    monkeypatch.setattr(layout_probe, "gradients", broken)
    assert "could not create a primitive" in layout_probe.fault_of(CONVOLUTIONS[0], second_order=False)


def test_the_real_probe_agrees_with_itself(tmp_path):
    """On a processor with the fault it finds it; where this process itself computes what is right, it does, too."""
    found, why = checked_layout(None, [nn.Conv2d(8, 16, 3, padding=1)], (2, 8, 8, 8), CPU)
    assert (found, why) == ("channels-last", None)
    (file,) = (tmp_path / "cache").glob("*.json")
    assert list(json.loads(file.read_text()).values()) == [None]


def test_training_falls_back_and_says_so_and_refuses_what_was_asked_for(metasum, tiny, tmp_path, probe, monkeypatch):
    probe(PROGRAMS["crashes"])
    flags = ["train", *without_dropout(tiny), "--network", "resnet", "--width", 0.1, "--steps", 1]
    outcome = metasum(*flags, "--name", "asked", "--memory-format", "channels-last")
    assert outcome.code == 2
    assert "--memory-format channels-last is not safe on this machine" in outcome.err
    assert not list(tmp_path.glob("runs/*/*"))
    outcome = metasum(*flags)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("kernels lie contiguous") == 1
    laid = []
    from metasum.run import parts

    monkeypatch.setattr(parts, "place", lambda module, device, memory_format: laid.append(memory_format))
    assert metasum(*flags, "--name", "again").code == 0
    assert laid == ["contiguous"]


def test_the_networks_that_a_learner_really_trains_are_checked(metasum, tiny, monkeypatch):
    asked = []
    monkeypatch.setattr(layout, "ask_probe", lambda request: (asked.extend(request["convolutions"]), (None, True))[1])
    flags = [*without_dropout(tiny), "--network", "resnet", "--width", 0.25, "--steps", 1]
    assert metasum("train", *flags, "--learner", "slots", "--slots", 2).code == 0
    assert {c.kernel[0] for c in asked} == {2, 4, 8}, "half of 4, 8 and 16 filters"


@pytest.mark.parametrize("command", ["meta-train", "benchmark"])
def test_other_commands_refuse_it_too(command, metasum, data_root, tmp_path, probe):
    probe(PROGRAMS["crashes"])
    flags = {
        "meta-train": ["--meta-datasets", "rows", "--data-root", data_root, "--out", tmp_path / "runs"],
        "benchmark": ["--batch-size", 4, "--repeats", 1, "--device", "cpu"],
    }[command]
    outcome = metasum(command, *flags, "--width", 0.04, "--memory-format", "channels-last")
    assert outcome.code == 2, outcome.err
    assert "not safe on this machine" in outcome.err
    assert not list(tmp_path.glob("runs/*/*"))
