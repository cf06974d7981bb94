"""The harness: logging, resuming, stopping."""

import json
import math
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file
from tiny import without_dropout

from metasum import cli, entry, settings, train
from metasum.errors import DivergenceError, Interrupted
from metasum.learners.joint import JointLearner
from metasum.training.optimisation import learning_rate_factor

WEIGHTS = ("target", "support", "summed", "initial")


def run_folder(tmp_path: Path, name: str = "metasum-seed0", out: str = "runs") -> Path:
    return tmp_path / out / "rows+lines" / name


def assert_same_weights(one: Path, other: Path) -> None:
    for name in WEIGHTS:
        first, second = load_file(one / f"{name}.safetensors"), load_file(other / f"{name}.safetensors")
        assert first.keys() == second.keys()
        for key, tensor in first.items():
            assert torch.equal(tensor, second[key]), f"{name} {key}"


def accuracies(path: Path) -> object:
    return json.loads((path / "result.json").read_text())["accuracy"]


def test_a_run_leaves_everything_behind(metasum, tiny, tmp_path):
    outcome = metasum("train", *tiny, "--json", "--report")
    assert outcome.code == 0, outcome.err
    run = run_folder(tmp_path)
    result = json.loads(outcome.out)
    assert result == json.loads((run / "result.json").read_text())
    assert set(result) >= {
        *("learner", "target", "support", "seed", "steps", "seconds", "peak_bytes", "images_per_second"),
        *("accuracy", "run"),
    }
    assert result["run"] == str(run)
    for side in ("target", "support"):
        for when in ("before", "after"):
            assert 0 <= result["accuracy"][side][when] <= 1
    assert sorted(p.name for p in run.iterdir()) == sorted(
        [f"{name}.safetensors" for name in WEIGHTS]
        + ["analysis.json", "config.json", "metrics.jsonl", "result.json", "last.ckpt", "report.html"]
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == [2, 4, 6]
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [3, 6]
    config = json.loads((run / "config.json").read_text())
    assert config["settings"]["optimisation"]["learning_rate"] > 0, "resolved"
    assert config["data"]["target"]["checksum"] != config["data"]["support"]["checksum"]


def test_the_summed_file_is_the_network_that_was_measured(metasum, tiny, tmp_path):
    metasum("train", *tiny)
    run = run_folder(tmp_path)
    target, support, summed = (load_file(run / f"{n}.safetensors") for n in ("target", "support", "summed"))
    for name, tensor in summed.items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(tensor, target[name] + support[name])
    assert int(summed["block_1.1.num_batches_tracked"]) == 1, "recalibrated on one batch"


def test_the_same_settings_give_the_same_weights_and_another_seed_others(metasum, tiny, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert metasum("train", *tiny, "--name", name, "--seed", seed).code == 0
    assert_same_weights(run_folder(tmp_path, "a"), run_folder(tmp_path, "b"))
    a, c = (load_file(run_folder(tmp_path, n) / "target.safetensors") for n in "ac")
    assert not torch.equal(a["block_1.0.weight"], c["block_1.0.weight"])
    initial = [load_file(run_folder(tmp_path, n) / "initial.safetensors") for n in "ac"]
    assert torch.equal(*(state["block_1.0.weight"] for state in initial)), "the initialisation has its own seed"


@pytest.mark.parametrize("augment", ["none", "shift-flip"])
def test_a_run_that_breaks_at_a_random_step_and_is_resumed_ends_in_the_same_weights(
    metasum, tiny, tmp_path, monkeypatch, augment
):
    flags = [*tiny, "--steps", 24, "--checkpoint-every", 7, "--evaluate-every", 5, "--clip", 1]
    flags += ["--augment-target", augment, "--width", 0.03]
    assert metasum("train", *flags, "--name", "whole").code == 0
    step, calls, last = JointLearner.training_step, [], random.SystemRandom().randrange(1, 24)

    def breaking(self, *batches, **keywords):
        calls.append(1)
        if len(calls) == last:
            raise RuntimeError("the machine went away")
        return step(self, *batches, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(JointLearner, "training_step", breaking)
        refused(metasum("train", *flags), 1, "the machine went away")
    outcome = metasum("train", *flags, "--resume")
    assert outcome.code == 0, outcome.err
    run, whole = run_folder(tmp_path), run_folder(tmp_path, "whole")
    assert_same_weights(run, whole)
    assert accuracies(run) == accuracies(whole), f"broken in step {last}"


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["none", "shift-flip"])
def test_a_run_killed_at_a_random_step_and_resumed_ends_in_the_same_weights(metasum, tiny, tmp_path, augment):
    flags = [*tiny, "--steps", 300, "--checkpoint-every", 7, "--evaluate-every", 50, "--log-every", 3, "--clip", 1]
    flags += ["--augment-target", augment, "--width", 0.03]
    whole = [*flags, "--out", tmp_path / "whole"]
    assert metasum("train", *whole).code == 0

    run = run_folder(tmp_path)
    kill_at = random.SystemRandom().randrange(1, 250)
    command = [sys.executable, "-m", "metasum", "train", *map(str, flags)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        metrics = run / "metrics.jsonl"
        steps = [json.loads(line)["step"] for line in metrics.read_text().split("\n")[:-1]] if metrics.exists() else []
        if steps and steps[-1] >= kill_at:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, f"to be killed at step {kill_at}"
    assert not (run / "result.json").exists()

    outcome = metasum("train", *flags, "--resume")
    assert outcome.code == 0, outcome.err
    assert_same_weights(run, run_folder(tmp_path, out="whole"))
    assert accuracies(run) == accuracies(run_folder(tmp_path, out="whole"))
    logged = [
        (line["kind"], line["step"]) for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    ]
    assert len(logged) == len(set(logged)), "no step is logged twice"


def test_the_layout_in_memory_changes_nothing_but_rounding(metasum, tiny, tmp_path, monkeypatch):
    layouts, step = [], JointLearner.training_step

    def watched(self, *batches, **more):
        weights = self.networks.target.block_2[0].weight  # of several channels both ways, so that layouts differ
        layouts.append(weights.is_contiguous(memory_format=torch.channels_last) and not weights.is_contiguous())
        return step(self, *batches, **more)

    monkeypatch.setattr(JointLearner, "training_step", watched)
    for name, flags in (("default", []), ("contiguous", ["--memory-format", "contiguous"])):
        assert metasum("train", *tiny, "--norm", "none", *flags, "--name", name).code == 0
    assert layouts == [True] * 6 + [False] * 6
    for name in WEIGHTS:
        one, other = (load_file(run_folder(tmp_path, run) / f"{name}.safetensors") for run in ("default", "contiguous"))
        for key, tensor in one.items():
            torch.testing.assert_close(tensor, other[key], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("optimizer", "norm", "rate"), [("adam", "none", 1e-4), ("sgd", "group", 1e-3)])
def test_a_run_goes_on_in_another_layout(metasum, tiny, tmp_path, monkeypatch, optimizer, norm, rate):
    """Fused optimisers take it for granted that moments lie as weights do."""
    flags = ["--norm", norm, "--optimizer", optimizer, "--learning-rate", rate]
    assert metasum("train", *tiny, *flags, "--name", "straight").code == 0
    step, steps = JointLearner.training_step, []

    def stopped(self, *batches, **more):
        steps.append(1)
        if len(steps) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *batches, **more)

    monkeypatch.setattr(JointLearner, "training_step", stopped)
    assert metasum("train", *tiny, *flags, "--name", "moved", "--memory-format", "contiguous").code == 130
    config = run_folder(tmp_path, "moved") / "config.json"
    config.write_text(config.read_text().replace('"layout": "contiguous"', '"layout": "channels-last"'))
    assert metasum("train", *tiny, *flags, "--name", "moved", "--resume").code == 0
    for name in ("target", "support"):
        one, other = (load_file(run_folder(tmp_path, run) / f"{name}.safetensors") for run in ("straight", "moved"))
        for key, tensor in one.items():
            torch.testing.assert_close(tensor, other[key], rtol=0, atol=2e-5)


def test_an_interrupted_run_saves_and_says_how_to_go_on(metasum, tiny, tmp_path, monkeypatch):
    whole = metasum("train", *tiny, "--name", "whole")
    assert whole.code == 0
    step = JointLearner.training_step
    calls = []

    def interrupting(self, *batches, **keywords):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *batches, **keywords)

    monkeypatch.setattr(JointLearner, "training_step", interrupting)
    outcome = metasum("train", *tiny)
    assert outcome.code == Interrupted.exit_code == 130
    assert "stopped at step 3 of 6" in outcome.err
    assert "Continue with: metasum train --target rows" in outcome.err
    assert outcome.err.rstrip().endswith("--resume")
    assert metasum("train", *tiny, "--resume").code == 0
    assert len(calls) == 6, "three steps before, three after"
    assert_same_weights(run_folder(tmp_path), run_folder(tmp_path, "whole"))


@pytest.mark.parametrize("flags", [["--overwrite"], ["--overwrite=true"], ["--overwrite=True", "--resume=false"]])
def test_the_command_that_continues_an_interrupted_one_works(metasum, tiny, monkeypatch, flags):
    step = JointLearner.training_step

    def interrupted(self, *batches, **keywords):
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, *batches, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(JointLearner, "training_step", interrupted)
        outcome = metasum("train", *tiny, *flags)
    assert outcome.code == 130
    again = shlex.split(outcome.err.rpartition("Continue with: metasum ")[2])
    outcome = metasum(*again, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["steps"] == 6


@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_closes_stops_it_as_ctrl_c_does_unless_nohup_says_otherwise(metasum, tiny, monkeypatch, nohup):
    step = JointLearner.training_step

    def closed(self, *batches, **keywords):
        os.kill(os.getpid(), signal.SIGHUP)
        return step(self, *batches, **keywords)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(JointLearner, "training_step", closed)
            outcome = metasum("train", *tiny)
        assert signal.getsignal(signal.SIGHUP) == (signal.SIG_IGN if nohup else signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert outcome.code == (0 if nohup else 130), outcome.err
    if not nohup:
        assert "stopped at step 1 of 6; the state is saved" in outcome.err
        assert metasum("train", *tiny, "--resume").code == 0


def test_ctrl_c_during_the_imports_is_one_line(monkeypatch, capsys):
    def find_spec(name, path=None, target=None):
        if name == "metasum.cli":
            raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "metasum.cli")
    monkeypatch.delattr("metasum.cli", raising=False)
    monkeypatch.setattr(sys, "meta_path", [type("Finder", (), {"find_spec": staticmethod(find_spec)}), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "metasum: interrupted; nothing was begun.\n"


def test_what_a_sweep_hands_on_to_its_trials_stays_in_the_command_that_continues_it():
    words = ["sweep", "a.yaml", "--jobs", "2", "--", "--steps=3", "--overwrite"]
    assert cli._again(words) == "sweep a.yaml --jobs 2 -- --steps=3 --overwrite"


def test_a_run_that_a_sweeps_agent_stops_did_not_fail(metasum, tiny, monkeypatch):
    step = JointLearner.training_step

    def stopped(self, *batches, **keywords):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *batches, **keywords)

    monkeypatch.setattr(JointLearner, "training_step", stopped)
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    outcome = metasum("train", *tiny, "--wandb", "disabled")
    assert outcome.code == 0
    assert outcome.err.rstrip().splitlines()[-1].startswith("metasum: stopped at step 1 of 6")


def test_resuming_a_finished_run_gives_its_result_back(metasum, tiny):
    first = metasum("train", *tiny, "--json")
    again = metasum("train", *tiny, "--json", "--resume")
    assert again.code == 0
    assert json.loads(again.out) == json.loads(first.out)
    assert "finished already" in again.err


def test_a_run_killed_while_measuring_measures_once_more(metasum, tiny, tmp_path):
    assert metasum("train", *tiny).code == 0
    run = run_folder(tmp_path)
    before = (run / "metrics.jsonl").read_text(), accuracies(run)
    (run / "result.json").unlink()
    assert metasum("train", *tiny, "--resume").code == 0
    assert ((run / "metrics.jsonl").read_text(), accuracies(run)) == before
    assert metasum("train", *tiny, "--resume", "--report").code == 0
    assert (run / "report.html").is_file(), "a finished run gets the report it lacks"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_checkpoint(
    metasum, tiny, tmp_path, monkeypatch, bad
):
    step = JointLearner.training_step
    calls = []

    def diverging(self, *batches, **keywords):
        terms = step(self, *batches, **keywords)
        calls.append(1)
        if len(calls) == 5:
            terms["sum"] = torch.tensor(bad)
        return terms

    monkeypatch.setattr(JointLearner, "training_step", diverging)
    outcome = metasum("train", *tiny)
    assert outcome.code == DivergenceError.exit_code == 1
    last = outcome.err.rstrip().splitlines()[-1]
    assert f"the sum loss became {bad} in step 5" in last
    assert "the last good checkpoint is kept" in last
    kept = torch.load(run_folder(tmp_path) / "last.ckpt", weights_only=True)
    assert kept["step"] == 4
    assert not (run_folder(tmp_path) / "result.json").exists()


def test_a_weight_that_is_not_a_number_is_never_saved(metasum, tiny, tmp_path, monkeypatch):
    step = JointLearner.training_step
    calls = []

    def poisoning(self, *batches, **keywords):
        terms = step(self, *batches, **keywords)
        calls.append(1)
        if len(calls) == 4:
            next(self.parameters()).data.view(-1)[0] = math.nan
        return terms

    monkeypatch.setattr(JointLearner, "training_step", poisoning)
    outcome = metasum("train", *tiny)
    assert outcome.code == 1
    assert "a weight became NaN or infinite by step 4" in outcome.err
    assert torch.load(run_folder(tmp_path) / "last.ckpt", weights_only=True)["step"] == 2


def test_each_network_is_clipped_apart(metasum, tiny, tmp_path):
    """Independent training: whatever the support's gradients are, the target's weights come out the same."""
    flags = [*tiny, "--learner", "independent", "--clip", 0.01, "--optimizer", "sgd", "--dropout", 0]
    assert metasum("train", *flags).code == 0
    assert metasum("train", *flags, "--support", "rows").code == 0
    one = load_file(run_folder(tmp_path, "independent-seed0") / "target.safetensors")
    other = load_file(tmp_path / "runs" / "rows+rows" / "independent-seed0" / "target.safetensors")
    initial = load_file(run_folder(tmp_path, "independent-seed0") / "initial.safetensors")
    assert torch.equal(one["block_1.0.weight"], other["block_1.0.weight"])
    moved = sum(((one[n] - initial[n]) ** 2).sum() for n in one if n.endswith(("weight", "bias"))).sqrt()
    assert 0 < moved <= 6 * 0.01 * 1e-3 / (1 - 0.9) + 1e-6, "six steps of at most clip x learning rate, with momentum"


def test_runs_made_apart_share_their_initialisation_through_a_file(metasum, tiny, tmp_path):
    assert metasum("train", *tiny, "--name", "a", "--init-seed", 5).code == 0
    file = run_folder(tmp_path, "a") / "initial.safetensors"
    assert metasum("train", *tiny, "--name", "b", "--init", file).code == 0
    checksums = [json.loads((run_folder(tmp_path, n) / "config.json").read_text())["initial_checksum"] for n in "ab"]
    assert checksums[0] == checksums[1]


def test_the_support_can_have_an_initialisation_of_its_own(metasum, tiny, tmp_path):
    flags = [*tiny, "--learning-rate", 1e-12, "--optimizer", "sgd", "--steps", 1]
    assert metasum("train", *flags, "--name", "same").code == 0
    assert metasum("train", *flags, "--name", "own", "--support-init-seed", 9).code == 0
    for name, equal in (("same", True), ("own", False)):
        networks = [load_file(run_folder(tmp_path, name) / f"{n}.safetensors") for n in ("target", "support")]
        assert torch.allclose(*(n["block_1.0.weight"] for n in networks), atol=1e-9) == equal


def test_training_from_python_leaves_the_callers_randomness_alone(data_root, tmp_path):
    flat = {"target": "rows", "support": "lines", "data_root": str(data_root), "width": 0.02, "steps": 2}
    state = torch.get_rng_state()
    result = train(settings(**flat, batch_size=4, device="cpu"), out=tmp_path / "runs")
    assert torch.equal(state, torch.get_rng_state())
    assert result.steps == 2
    assert (Path(result.run) / "report.html").is_file()


@pytest.mark.parametrize(
    "flags",
    [
        ["--precision", "bf16-mixed"],
        ["--in-channels", 3],
        ["--norm", "group"],
        ["--network", "resnet"],
    ],
)
@pytest.mark.parametrize("learner", ["metasum", "independent"])
def test_other_precisions_norms_and_networks_run(metasum, tiny, flags, learner):
    common = without_dropout(tiny) if "resnet" in flags else tiny
    outcome = metasum("train", *common, "--learner", learner, *flags, "--quiet")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [1 / 3, 2 / 3, 1, 1, 1]), ("linear", [1 / 3, 2 / 3, 1, 0.75, 0.5]), ("cosine", [1 / 3, 2 / 3, 1])],
)
def test_learning_rate_rises_then_falls(schedule, expected):
    factors = [learning_rate_factor(s, steps=6, warmup=2, schedule=schedule) for s in range(len(expected))]
    assert factors == pytest.approx(expected)
    assert learning_rate_factor(4, steps=6, warmup=2, schedule="cosine") == pytest.approx(0.5)


def test_terms_that_come_and_go_are_logged_under_their_own_names(metasum, tiny, tmp_path, monkeypatch):
    """A learner with phases: between two lines of the log its terms change, in number and in order."""
    step = JointLearner.training_step
    calls = []

    def phased(self, *batches, **keywords):
        terms = step(self, *batches, **keywords)
        calls.append(1)
        if len(calls) <= 3:
            return {"early": torch.tensor(float(len(calls))), "target": terms["target"]}
        return {"target": terms["target"], "late": torch.tensor(10.0)}

    monkeypatch.setattr(JointLearner, "training_step", phased)
    assert metasum("train", *tiny).code == 0
    lines = [json.loads(line) for line in (run_folder(tmp_path) / "metrics.jsonl").read_text().splitlines()]
    losses = [line["losses"] for line in lines if line["kind"] == "step"]
    assert [set(own) for own in losses] == [{"early", "target"}, {"early", "target", "late"}, {"target", "late"}]
    assert [own.get("early") for own in losses] == [1.5, 3.0, None]
    assert [own.get("late") for own in losses] == [None, 10.0, 10.0]


def test_an_error_of_one_line_on_resuming_is_told_whole(metasum, tiny, unfinished, monkeypatch):
    """PyTorch's have several, of which the second names the tensor."""

    def refuse(*_, **__):
        raise RuntimeError("no luck with this state")

    monkeypatch.setattr(JointLearner, "load_state_dict", refuse)
    refused(metasum("train", *tiny, "--resume"), 1, "last.ckpt is of another architecture", "no luck with this state")
