"""The quicker layout is taken, remembered, and kept by a run that goes on."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import without_dropout
from torch import nn

from metasum.networks.vgg import VGG16
from metasum.run import parts
from metasum.run.description import plan_of
from metasum.training import layout, layout_trial
from metasum.training.layout import CHANNELS_LAST, CONTIGUOUS
from metasum.training.layout_memory import settled
from metasum.training.layout_trial import AUTO, Surroundings, chosen_layout

tried = layout_trial.tried  # before any fixture replaces it
CPU = torch.device("cpu")
WHERE = Surroundings((4, 1, 32, 32), CPU, "32")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("METASUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(layout, "ask_probe", lambda request: (None, True))


@pytest.fixture
def trials(monkeypatch):
    """Replaces the trial by an answer; returns the surroundings of each that was made."""
    made = []

    def answer(found):
        monkeypatch.setattr(layout_trial, "tried", lambda network, where: (made.append(where), found)[1])
        return made

    return answer


def small(**shape):
    return VGG16(width=0.03, **shape)


@pytest.mark.parametrize(
    ("contiguous", "found"), [(0.5, CONTIGUOUS), (0.89, CONTIGUOUS), (0.91, CHANNELS_LAST), (2.0, CHANNELS_LAST)]
)
def test_contiguous_kernels_are_taken_only_where_they_are_clearly_quicker(contiguous, found, monkeypatch):
    seconds = {CONTIGUOUS: contiguous, CHANNELS_LAST: 1.0}
    outlier = iter([9.0])  # one disturbed round decides nothing

    class Pass:
        def __init__(self, network, layout, where):
            self.seconds = seconds[layout]

        def __call__(self):
            pass

    monkeypatch.setattr(layout_trial, "_pass", Pass)
    monkeypatch.setattr(layout_trial, "_seconds", lambda work: next(outlier, work.seconds))
    assert tried(small(), WHERE) == found


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_a_real_trial_runs_both_and_leaves_network_and_random_state_alone(precision, monkeypatch):
    layouts, seconds = [], layout_trial._seconds
    monkeypatch.setattr(layout_trial, "_seconds", lambda work: (layouts.append(work), seconds(work))[1])
    network = small().eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    assert tried(network, WHERE._replace(precision=precision)) in (CONTIGUOUS, CHANNELS_LAST)
    assert len(set(layouts)) == 2
    assert len(layouts) >= 2 * layout_trial.ROUNDS.start
    assert torch.equal(torch.get_rng_state(), state)
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_passes_are_run_in_both_layouts_in_train_mode():
    seen = {}

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(2, 3, 3)

        def forward(self, images):
            weight = self.layer.weight
            last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
            seen[last] = self.training and torch.is_grad_enabled()
            return self.layer(images).mean((2, 3))

    tried(Watched().eval(), WHERE._replace(images=(4, 2, 8, 8)))
    assert seen == {False: True, True: True}


def test_a_network_that_refuses_noise_stays_in_channels_last():
    class Refuses(nn.Conv2d):
        def forward(self, images):
            raise ValueError("no noise, please")

    assert tried(Refuses(1, 2, 3), WHERE) == CHANNELS_LAST


def test_what_was_found_is_remembered_for_network_batch_precision_and_machine(trials, monkeypatch):
    made = trials(CONTIGUOUS)
    for times, network, where in (
        (1, small(), WHERE),
        (1, small(), WHERE),  # other weights
        (2, small(norm="group"), WHERE),
        (3, small(), WHERE._replace(images=(8, 1, 32, 32))),
        (4, small(), WHERE._replace(precision="bf16-mixed")),
    ):
        assert chosen_layout(AUTO, [network], where) == (CONTIGUOUS, None)
        assert len(made) == times
    trials(CHANNELS_LAST)
    assert chosen_layout(AUTO, [small()], WHERE) == (CONTIGUOUS, None), "as it was found first"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert chosen_layout(AUTO, [small()], WHERE) == (CHANNELS_LAST, None)


def test_of_two_processes_that_try_at_once_the_first_to_finish_decides_for_both():
    def slower():
        assert settled({"machine": 1}, "shape", lambda: CHANNELS_LAST) == CHANNELS_LAST  # the other one, meanwhile
        return CONTIGUOUS

    assert settled({"machine": 1}, "shape", slower) == CHANNELS_LAST
    assert settled({"machine": 2}, "shape", lambda: CONTIGUOUS) == CONTIGUOUS


def test_where_nothing_can_be_written_the_outcome_of_the_trial_holds(trials, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("METASUM_CACHE", str(tmp_path / "file" / "cache"))
    trials(CONTIGUOUS)
    assert chosen_layout(AUTO, [small()], WHERE) == (CONTIGUOUS, None)


def test_nothing_is_tried_where_nothing_is_open(trials, monkeypatch):
    made = trials(CONTIGUOUS)
    assert chosen_layout(CHANNELS_LAST, [small()], WHERE) == (CHANNELS_LAST, None)
    assert chosen_layout(AUTO, [small()], WHERE, before=CHANNELS_LAST) == (CHANNELS_LAST, None)
    assert chosen_layout(AUTO, [small()], WHERE._replace(device=torch.device("cuda"))) == (CHANNELS_LAST, None)
    assert chosen_layout(AUTO, [nn.Linear(1, 1)], WHERE._replace(images=(4, 1))) == (CHANNELS_LAST, None)
    monkeypatch.setattr(layout, "ask_probe", lambda request: pytest.fail("contiguous kernels need no check"))
    assert chosen_layout(AUTO, [small()], WHERE, before=CONTIGUOUS) == (CONTIGUOUS, None)
    assert not made


def test_networks_whose_passes_take_long_are_not_tried(trials, monkeypatch):
    made = trials(CONTIGUOUS)
    layers = [nn.Conv2d(2, 2, 3, padding=1) for _ in range(10)]  # that are alike count each
    pass_of_one = 3 * 2 * 4 * 32 * 32 * 2 * 2 * 9
    where = WHERE._replace(images=(4, 2, 32, 32))
    for largest, found in ((10 * pass_of_one, CONTIGUOUS), (10 * pass_of_one - 1, CHANNELS_LAST)):
        monkeypatch.setattr(layout_trial, "LARGEST", largest)
        assert chosen_layout(AUTO, [nn.Sequential(*layers)], where) == (found, None)
    assert len(made) == 1


def test_a_run_says_its_layout_and_goes_on_in_it(metasum, tiny, tmp_path, trials, monkeypatch):
    laid = []
    place = parts.place
    monkeypatch.setattr(parts, "place", lambda module, device, how: (laid.append(how), place(module, device, how)))
    trials(CONTIGUOUS)
    flags = ["train", *without_dropout(tiny)]
    outcome = metasum(*flags, "--json")
    assert outcome.code == 0, outcome.err
    assert "parameters a network, contiguous" in outcome.err
    run = tmp_path / "runs" / "rows+lines" / "metasum-seed0"
    config = json.loads((run / "config.json").read_text())
    assert config["layout"] == CONTIGUOUS
    assert config["settings"]["optimisation"]["memory_format"] == AUTO

    trials(CHANNELS_LAST)
    monkeypatch.setenv("METASUM_CACHE", str(tmp_path / "another"))
    (run / "result.json").unlink()
    assert metasum(*flags, "--resume").code == 0
    (run / "result.json").unlink()
    del config["layout"]  # as earlier versions wrote it, which tried nothing
    config["settings"]["optimisation"]["memory_format"] = None
    assert plan_of(config).optimisation.memory_format == AUTO
    (run / "config.json").write_text(json.dumps(config))
    trials(CONTIGUOUS)
    assert metasum(*flags, "--resume").code == 0
    assert laid == [CONTIGUOUS, CONTIGUOUS, CHANNELS_LAST]


def test_runs_of_one_shape_take_one_layout_whatever_a_second_trial_would_say(metasum, tiny, tmp_path, monkeypatch):
    answers = iter([CONTIGUOUS, CHANNELS_LAST, CHANNELS_LAST])
    monkeypatch.setattr(layout_trial, "tried", lambda network, where: next(answers))
    flags = [*without_dropout(tiny), "--learners", "metasum,independent", "--seeds", 2]
    outcome = metasum("compare-baselines", *flags)
    assert outcome.code == 0, outcome.err
    configs = sorted(tmp_path.glob("runs/rows+lines/*-seed*/config.json"))
    assert len(configs) == 4
    assert {json.loads(config.read_text())["layout"] for config in configs} == {CONTIGUOUS}
