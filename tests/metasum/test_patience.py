"""`metasum few-shot --patience`: where it stops, which network is kept, how it goes on, what is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from refusal import refused
from tiny import write_npz
from torch import nn

from metasum.errors import Interrupted, UsageError
from metasum.few_shot.request import FewShotRequest
from metasum.few_shot.run import few_shot
from metasum.results.few_shot import Trunk
from metasum.study.engine.display import SilentStudy
from metasum.training.patience import Patience
from metasum.training.progress import SilentDisplay
from metasum.training.run_folder import RunFolder
from metasum.weights.storage import load_weights


def toy(seed):
    rng = np.random.default_rng(seed)
    y = np.arange(15).repeat(6)
    x = rng.integers(0, 60, (len(y), 16, 16), dtype=np.uint8)
    x[np.arange(len(y)), :, y] += 90
    return (x, y), (x[::2], y[::2])


@pytest.fixture
def asked(tmp_path):
    """Tiny settings; class k of the toys is faintly bright in column k."""
    write_npz(tmp_path / "data" / "columns.npz", toy(0))
    write_npz(tmp_path / "data" / "others.npz", toy(1))

    def of(**more):
        return FewShotRequest({
            "dataset": "columns", "data_root": str(tmp_path / "data"), "ways": 2, "queries": 3, "filters": 4,
            "episodes": 4, "validation_episodes": 8, "device": "cpu", "steps": 30, "evaluate_every": 1,
            "checkpoint_every": 1, **more,
        })  # fmt: skip

    return of


def evaluations(run):
    """By step, the accuracy on validation classes."""
    found = [(r["step"], r["accuracy"]["mean"]) for r in RunFolder(run).metrics() if r["kind"] == "evaluation"]
    assert len(dict(found)) == len(found)
    return dict(found)


def where(accuracies, patience):
    """The best step, and where it is over: what patience means, said another way."""
    steps = sorted(accuracies)
    best = max(steps, key=lambda step: (accuracies[step], -step))
    return best, steps[min(steps.index(best) + patience, len(steps) - 1)]


def test_the_first_of_equals_is_best_and_so_many_in_a_row_end_it():
    layer, patience = nn.Linear(1, 1), Patience(2, score=lambda it: it.mean)
    for step, (score, over) in enumerate([(0.5, False), (0.4, False), (0.6, False), (0.6, False), (0.1, True)], 1):
        nn.init.constant_(layer.weight, step)
        patience.heard(step, SimpleNamespace(mean=score), layer)
        assert patience.over is over
    assert (patience.best.step, patience.best.score) == (3, 0.6)
    again = Patience(2, score=lambda it: it.mean)
    again.load_state_dict(patience.state_dict())
    assert again.over
    again.return_to_best(layer)
    assert layer.weight.item() == 3


@pytest.mark.parametrize(
    ("learner", "patience", "more"), [("prototypical", 3, {}), ("meta-transfer", 2, {"pretraining_steps": 20})]
)
def test_it_stops_and_tests_the_network_of_the_best_evaluation(asked, tmp_path, learner, patience, more):
    request = asked(patience=patience, **more)
    result = few_shot(request, learners=[learner], out=tmp_path / "runs")
    (row,) = result.rows
    run = tmp_path / "runs" / "few-shot" / "columns-2way-1shot" / row.run
    assert (row.best_step, row.steps) == where(evaluations(run), patience)
    assert row.best_step < row.steps < 30
    if learner == "meta-transfer":
        trunk = run.parent / "pretrained-seed0"
        told = json.loads((trunk / "result.json").read_text())
        assert (told["best_step"], told["steps"]) == where(evaluations(trunk), patience)
        assert result.trunks == (Trunk(0, told["steps"], told["best_step"]),)
    kept = torch.load(run / "last.ckpt", weights_only=True)
    weights = load_weights(run / "learner.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in kept["patience"]["best"]["weights"].items())
    assert any(not torch.equal(weights[name], value) for name, value in kept["learner"].items())
    assert result.settings["schedule"] == "constant"
    assert "A star is the best" in (run.parent / "report.html").read_text()


def test_to_the_last_step_where_patience_lasts_which_is_evaluated_too(asked, tmp_path):
    result = few_shot(asked(steps=5, evaluate_every=2, patience=9), learners=["prototypical"], out=tmp_path / "runs")
    run = tmp_path / "runs" / "few-shot" / "columns-2way-1shot" / "prototypical-seed0"
    assert list(evaluations(run)) == [2, 4, 5]
    assert (result.rows[0].best_step, result.rows[0].steps) == where(evaluations(run), 9)


class StoppingAt(SilentStudy, SilentDisplay):
    """Kills meta-training after a step, before that is saved."""

    def __init__(self, step):
        self.last, self.title = step, ""

    def started(self, cell):
        return self

    def begin(self, title, **_):
        self.title = str(title)

    def stepped(self, step, **_):
        if step == self.last and "pretraining" not in self.title:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("learner", "more"), [("prototypical", {}), ("meta-transfer", {"pretraining_steps": 3})])
def test_it_goes_on_bit_for_bit_wherever_it_was_stopped(asked, tmp_path, learner, more):
    request = asked(patience=3, **more)
    straight = few_shot(request, learners=[learner], out=tmp_path / "straight", report=False).rows[0]
    name = f"few-shot/columns-2way-1shot/{learner}-seed0/learner.safetensors"
    for step in {2, straight.best_step + 1, straight.best_step + 2, straight.steps}:
        out = tmp_path / str(step)
        with pytest.raises(Interrupted):
            few_shot(request, learners=[learner], out=out, report=False, display=StoppingAt(step))
        again = few_shot(request, learners=[learner], out=out, report=False).rows[0]
        assert (again.best_step, again.steps, again.accuracy) == (straight.best_step, straight.steps, straight.accuracy)
        assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_killed_after_its_end_it_trains_no_more(asked, tmp_path):
    """Between the last checkpoint and result.json."""
    request = asked(patience=2)
    first = few_shot(request, learners=["prototypical"], out=tmp_path / "runs", report=False).rows[0]
    run = tmp_path / "runs" / "few-shot" / "columns-2way-1shot" / first.run
    weights = (run / "learner.safetensors").read_bytes()
    for name in ("result.json", "learner.safetensors"):
        (run / name).unlink()
    stopping = StoppingAt(first.steps + 1)
    again = few_shot(request, learners=["prototypical"], out=tmp_path / "runs", report=False, display=stopping).rows[0]
    assert (again.best_step, again.steps, again.accuracy) == (first.best_step, first.steps, first.accuracy)
    assert (run / "learner.safetensors").read_bytes() == weights


def test_the_second_dataset_is_gone_on_with_likewise(asked, tmp_path):
    request = asked(patience=2, then="others", then_steps=20)
    few_shot(request, learners=["prototypical"], out=tmp_path / "runs", report=False)
    run = tmp_path / "runs" / "few-shot" / "columns-2way-1shot" / "prototypical-seed0-then-others"
    steps = evaluations(run)
    assert max(steps) == where(steps, 2)[1]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--patience", 3, "--evaluate-every", 0), "--patience has nothing to go by with --evaluate-every 0"),
        (("--patience", 3, "--schedule", "cosine"), "give --schedule constant"),
        (("--patience", 0), "--patience must be at least 1"),
        (("--patience", 3, "--learner", "from-scratch"), "--patience says nothing to learner 'from-scratch'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(metasum, tmp_path, more, words):
    refused(metasum("few-shot", "--learner", "prototypical", "--out", tmp_path / "runs", *more), 2, words)
    assert not (tmp_path / "runs").exists()


def test_the_table_says_where_the_best_was_and_where_it_stopped(metasum, asked, tmp_path):
    given = asked(patience=2).given
    flags = [part for name, value in given.items() for part in ("--" + name.replace("_", "-"), value)]
    outcome = metasum("few-shot", *flags, "--learner", "prototypical", "--out", tmp_path / "runs", "--no-report")
    assert outcome.code == 0, outcome.err
    assert "best step" in outcome.out
    assert "stopped at" in outcome.out


def test_a_run_with_other_patience_is_another_run(asked, tmp_path):
    few_shot(asked(patience=2), learners=["prototypical"], out=tmp_path / "runs", report=False)
    for other in ({"patience": 3}, {"patience": 2, "validation_episodes": 9}, {"schedule": "constant"}):
        with pytest.raises(UsageError, match="was"):
            few_shot(asked(**other), learners=["prototypical"], out=tmp_path / "runs", report=False)
