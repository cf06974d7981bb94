"""`metasum sweep`: W&B's files on Optuna."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from refusal import refused

from metasum.assembly import sweeping
from metasum.assembly.sweeping import sweep
from metasum.errors import UsageError
from metasum.ownership import owning
from metasum.study.sweep import process
from metasum.study.sweep.distributions import parameter
from metasum.study.sweep.owner import this_process
from metasum.study.sweep.queue import TrialQueue
from metasum.study.sweep.storage import open_storage
from metasum.study.sweep.sweep_file import read_sweep_file
from metasum.training.progress import SilentDisplay

FAKE = Path(__file__).parents[1] / "fixtures" / "fake_trial.py"
GRID = {
    "method": "grid",
    "metric": {"name": "mean_after", "goal": "maximize"},
    "command": ["metasum", "train", "${args}"],
    "parameters": {"x": {"values": [1, 3, 2]}},
}


class Notes(SilentDisplay):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Trials take a moment; returns what they wrote down."""
    monkeypatch.setattr(process, "METASUM", (sys.executable, str(FAKE)))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    return lambda: (tmp_path / "log").read_text().splitlines()


def write(tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    path.write_text("# Which x?\n" + yaml.safe_dump({k: v for k, v in (GRID | changes).items() if v is not None}))
    return path


def draws(asked, count=400):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    one = parameter("x", asked)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [one.value(one.suggested(study.ask())) for _ in range(count)]


@pytest.mark.parametrize(
    ("asked", "reference"),
    [
        ({"distribution": "uniform", "min": 2, "max": 6}, lambda r: r.uniform(2, 6)),
        ({"min": 0.5, "max": 1.5}, lambda r: r.uniform(0.5, 1.5)),
        ({"min": 2, "max": 5}, lambda r: r.integers(2, 6)),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25}, lambda r: r.integers(0, 5) / 4),
        ({"distribution": "log_uniform", "min": -2, "max": 1}, lambda r: math.exp(r.uniform(-2, 1))),
        ({"distribution": "log_uniform_values", "min": 0.1, "max": 10}, lambda r: 10 ** r.uniform(-1, 1)),
        ({"distribution": "q_log_uniform_values", "min": 1, "max": 100}, lambda r: round(100 ** r.uniform(0, 1))),
        ({"distribution": "inv_log_uniform", "min": 0, "max": 2}, lambda r: math.exp(-r.uniform(0, 2))),
        ({"distribution": "inv_log_uniform_values", "min": 0.1, "max": 10}, lambda r: 10 ** r.uniform(-1, 1)),
        ({"distribution": "normal", "mu": 3, "sigma": 2}, lambda r: r.normal(3, 2)),
        ({"distribution": "q_normal", "mu": 0, "sigma": 5, "q": 2}, lambda r: 2 * round(r.normal(0, 5) / 2)),
        ({"distribution": "log_normal", "mu": 0, "sigma": 0.5}, lambda r: r.lognormal(0, 0.5)),
        ({"distribution": "beta", "a": 2, "b": 5}, lambda r: r.beta(2, 5)),
        ({"distribution": "q_beta", "a": 2, "b": 2, "q": 0.1}, lambda r: round(10 * r.beta(2, 2)) / 10),
        ({"values": [1, 2, 4]}, lambda r: r.choice([1, 2, 4])),
    ],
    ids=lambda value: value.get("distribution") if isinstance(value, dict) else "",
)
def test_each_distribution_draws_what_wandb_documents(asked, reference):
    from scipy.stats import ks_2samp

    generator = np.random.default_rng(1)
    found, expected = draws(asked), [reference(generator) for _ in range(4000)]
    assert ks_2samp(found, expected).pvalue > 1e-3
    if "q" in asked:
        assert all(abs(value / asked["q"] - round(value / asked["q"])) < 1e-9 for value in found)


def test_constants_and_words_come_through_as_they_are():
    for value in (None, True, 3, 0.5, "mnist"):
        assert draws({"value": value}, 1) == [value]
    assert set(draws({"values": [None, False, "a"]}, 50)) == {None, False, "a"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "gird"}, "did you mean 'grid'"),
        ({"command": ["python", "train.py", "${args}"]}, "metasum train or metasum meta-train"),
        ({"command": ["metasum", "train", "${args_json}"]}, "${args_json}"),
        ({"command": None}, "metasum train or metasum meta-train"),
        ({"metric": None, "method": "bayes"}, "no metric"),
        ({"metric": {"name": "a", "goal": "most"}}, "unknown goal 'most'"),
        ({"parameters": {"x": {"min": 0.5, "max": 1}}}, "a grid needs values"),
        ({"parameters": {"x": {}}}, "neither value"),
        ({"parameters": {"x": {"parameters": {"y": {"value": 1}}}}}, "nested"),
        ({"parameters": {"x": {"distribution": "unifrom", "min": 0, "max": 1}}}, "did you mean 'uniform'"),
        ({"parameters": {"x": {"values": [1], "probabilities": [1]}}}, "'probabilities'"),
        ({"parameters": {"x": {"distribution": "uniform", "min": 3}}}, "needs 'max'"),
        ({"method": "random", "parameters": {"x": {"distribution": "uniform", "min": 3, "max": 1}}}, "no sense"),
        (
            {"method": "random", "parameters": {"x": {"distribution": "log_uniform_values", "min": 0, "max": 1}}},
            "no sense",
        ),
        ({"early_terminate": {"type": "median"}}, "hyperband only"),
        ({"early_terminate": {"type": "hyperband"}}, "min_iter"),
        ({"metric": {"name": "a", "target": "much"}}, "target is 'much'"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": "x"}}, "eta must be an integer"),
        ({"erly_terminate": {}}, "did you mean 'early_terminate'"),
        ({"method": "random"}, "--count"),
    ],
)
def test_what_a_file_cannot_ask_for_is_refused_by_name(metasum, tmp_path, changes, words):
    refused(metasum("sweep", write(tmp_path, **changes), "--out", tmp_path / "runs"), 2, words)
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_none_is_refused(metasum, tmp_path):
    refused(metasum("sweep", tmp_path / "none.yaml"), 2, "none.yaml")
    (tmp_path / "bad.yaml").write_text("method: [")
    refused(metasum("sweep", tmp_path / "bad.yaml"), 2, "not YAML")


def test_a_grid_is_run_once_each_and_written_down(metasum, fake, tmp_path):
    notes = Notes()
    result = sweep(write(tmp_path), out=tmp_path / "runs", display=notes)
    assert [row.values["x"] for row in result.trials] == [1, 3, 2]
    assert [row.score for row in result.trials] == [0.01, 0.03, 0.02]
    assert result.best == (1, 2, 0)
    assert result.question == "Which x?"
    folder = tmp_path / "runs" / "sweeps" / "mine"
    lines = (folder / "results.csv").read_text().splitlines()
    assert len(lines) == 4
    assert "values.x" in lines[0]
    page = (folder / "report.html").read_text()
    assert all(words in page for words in ("Which x?", "Parallel coordinates", "3 finished"))
    assert json.loads((folder / "results.json").read_text()) == result.to_json()
    (folder / "report.html").unlink()
    assert metasum("report", folder).code == 0
    assert (folder / "report.html").read_text() == page
    assert any("mean_after 0.03" in line for line in notes.lines)
    assert sweep(write(tmp_path), out=tmp_path / "runs").trials == result.trials  # nothing is run again
    assert len(fake()) == 6


def test_a_real_trial_reaches_its_run_folder(metasum, tiny, tmp_path):
    changes = {"parameters": {"seed": {"values": [0, 1]}, "symmetric": {"value": True}}}
    outcome = metasum("sweep", write(tmp_path, **changes), "--jobs", 2, "--out", tmp_path / "s", "--json", "--", *tiny)
    assert outcome.code == 0, outcome.err
    for row in json.loads(outcome.out)["trials"]:
        config = json.loads((Path(row["run"]) / "config.json").read_text())
        assert config["settings"]["seed"] == row["values"]["seed"]
        assert config["settings"]["objective"]["symmetric"] is True
        accuracy = json.loads((Path(row["run"]) / "result.json").read_text())["accuracy"]
        assert row["mean_after"] == (accuracy["target"]["after"] + accuracy["support"]["after"]) / 2


def test_a_failed_trial_is_written_down_and_the_others_go_on(metasum, fake, tmp_path):
    file = write(tmp_path, parameters={"x": {"values": [1, 13, 2]}})
    outcome = metasum("sweep", file, "--out", tmp_path / "runs")
    assert outcome.code == 1
    assert "1 of 3 trials failed, the first: thirteen brings bad luck" in outcome.err
    result = sweep(file, out=tmp_path / "runs")
    assert [row.state for row in result.trials] == ["complete", "fail", "complete"]
    assert result.trials[1].error == "thirteen brings bad luck"
    assert "thirteen brings bad luck" in (tmp_path / "runs" / "sweeps" / "mine" / "report.html").read_text()


def test_a_metric_that_no_run_has_is_a_failure_that_names_those_it_has(fake, tmp_path):
    result = sweep(write(tmp_path, metric={"name": "accuracy", "goal": "maximize"}), out=tmp_path / "runs")
    assert all(row.state == "fail" for row in result.trials)
    assert "'accuracy'" in result.trials[0].error
    assert "mean_after" in result.trials[0].error


def test_bayes_searches_where_it_is_good(fake, tmp_path):
    changes = {"method": "bayes", "parameters": {"x": {"min": 0.0, "max": 10.0}}}
    result = sweep(write(tmp_path, **changes), count=14, out=tmp_path / "runs")
    found = [row.values["x"] for row in result.trials]
    assert len(set(found[:10])) == 10
    assert min(found[11:]) > 8  # the ten first are drawn at random
    assert result.importances == {"x": 1.0}


def test_random_search_depends_on_the_seed_alone(fake, tmp_path):
    changes = {"method": "random", "run_cap": 4, "parameters": {"x": {"min": 0.0, "max": 1.0}}}
    runs = [
        [row.values["x"] for row in sweep(write(tmp_path, **changes), seed=seed, jobs=jobs, out=out).trials]
        for seed, jobs, out in ((0, 1, tmp_path / "a"), (0, 2, tmp_path / "b"), (1, 1, tmp_path / "c"))
    ]
    assert runs[0] == runs[1]
    assert not set(runs[0]) & set(runs[2])


def test_hyperband_ends_bad_trials_early(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "4")
    changes = {
        "early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 2},
        "parameters": {"x": {"values": [5, 1, 2, 8]}},
    }
    result = sweep(write(tmp_path, **changes), out=tmp_path / "runs")
    assert [row.state for row in result.trials] == ["complete", "pruned", "pruned", "complete"]
    assert sum(line.startswith("ended") for line in fake()) == 2


def test_no_trial_is_begun_once_the_target_is_reached(fake, tmp_path):
    metric = {"name": "mean_after", "goal": "maximize", "target": 0.025}
    result = sweep(write(tmp_path, metric=metric), out=tmp_path / "runs")
    assert [row.values["x"] for row in result.trials] == [1, 3]


def test_another_file_under_the_same_name_is_refused(fake, tmp_path):
    sweep(write(tmp_path), out=tmp_path / "runs")
    with pytest.raises(UsageError, match="another sweep file"):
        sweep(write(tmp_path, parameters={"x": {"values": [7]}}), out=tmp_path / "runs")
    with pytest.raises(UsageError, match="other arguments"):
        sweep(write(tmp_path), out=tmp_path / "runs", arguments=["--y=1"])


def test_jobs_are_bounded_by_cores_and_memory(fake, tmp_path, monkeypatch):
    notes = Notes()
    sweep(write(tmp_path), jobs=1000, out=tmp_path / "runs", display=notes)
    assert "--jobs 1000" in notes.lines[0]
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 0}))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setenv("FAKE_SECONDS", "0.5")
    (tmp_path / "log").unlink()
    sweep(write(tmp_path), jobs=3, out=tmp_path / "others")
    assert [line.split()[0] for line in fake()] == ["began", "ended"] * 3  # one after the other


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_sweep_goes_on(fake, tmp_path, number):
    file, log = write(tmp_path), tmp_path / "log"
    code = (
        "import sys; from metasum.study.sweep import process; from metasum.cli import main; "
        f"process.METASUM = (sys.executable, {str(FAKE)!r}); main()"
    )
    command = [sys.executable, "-c", code, "sweep", str(file), "--out", str(tmp_path / "runs"), "--quiet"]
    first = subprocess.Popen(command, env=os.environ | {"FAKE_SECONDS": "30"}, stderr=subprocess.PIPE, text=True)
    while not log.is_file() and first.poll() is None:
        time.sleep(0.1)
    first.send_signal(number)
    said = first.communicate(timeout=60)[1]
    if number == signal.SIGINT:
        assert first.returncode == 130
        assert "Continue with: metasum sweep" in said
    result = sweep(file, out=tmp_path / "runs")
    assert [row.state for row in result.trials] == ["complete"] * 3
    assert result.lost == 1
    lines = fake()
    assert [line.split()[:2] for line in lines if line.startswith("ended")] == [["ended", x] for x in "132"]
    assert lines[1].endswith("resumed")  # in the folder that the lost trial began


def test_a_lost_trial_that_somebody_still_works_on_keeps_its_folder(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeping, "PATIENCE", 0.0)
    file = write(tmp_path, parameters={"x": {"values": [1]}})
    place = tmp_path / "runs" / "sweeps" / "mine"
    with open_storage(None, place) as storage:
        queue = TrialQueue(storage, read_sweep_file(file), name="mine", count=1)
        queue._owner = this_process().rpartition(":")[0] + ":0"  # one that had our number before us, and is dead
        queue.work_in(queue.claim(), str(place / "trials" / "0000"))
    notes = Notes()
    with owning(place / "trials" / "0000" / "a+b" / "fake"):  # its trial has not noticed yet
        result = sweep(file, out=tmp_path / "runs", display=notes)
    assert [row["state"] for row in result["trials"]] == ["complete"]
    assert not fake()[0].endswith("resumed")
    assert any("somebody still works in" in line for line in notes.lines)


def test_a_silent_process_elsewhere_is_taken_for_dead_after_its_grace(fake, tmp_path):
    file = read_sweep_file(write(tmp_path, parameters={"x": {"values": [1]}}))
    with open_storage(None, tmp_path) as storage:
        elsewhere = TrialQueue(storage, file, name="mine", count=1)
        elsewhere._owner = "elsewhere:1:0"
        lost = elsewhere.claim()
        here = TrialQueue(storage, file, name="mine", count=1, grace=0.2)
        assert here.claim() is None
        time.sleep(0.3)
        found = here.claim()
        assert found is not None
        assert found.values == lost.values
        assert not elsewhere.finish(lost, "COMPLETE", 1.0)  # it woke up too late
        assert here.finish(found, "COMPLETE", 2.0)
        assert [trial.value for trial in here.trials() if trial.state.name == "COMPLETE"] == [2.0]


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("nosuch://host/db", 2, "no such kind of database"),
        ("postgresql://me:secret@127.0.0.1:9/db", 1, "cannot open postgresql://me:***@127.0.0.1:9/db"),
        ("sqlite:////none/at/all.db", 1, "cannot open"),
    ],
)
def test_a_storage_that_cannot_be_is_one_sentence_without_the_password(metasum, tmp_path, url, code, words):
    outcome = metasum("sweep", write(tmp_path), "--storage", url, "--out", tmp_path / "runs")
    refused(outcome, code, words)
    assert "secret" not in outcome.err


def test_a_wide_range_of_integers_takes_no_room(tmp_path):
    changes = {"method": "random", "parameters": {"x": {"min": 0, "max": 2**40}}}
    (one,) = read_sweep_file(write(tmp_path, **changes)).parameters
    assert isinstance(one.choices, range)


def test_evaluations_that_a_continued_run_takes_back_are_told_once(tmp_path):
    run = tmp_path / "a+b" / "run"
    run.mkdir(parents=True)

    def lines(*steps):
        sides = {side: {"before": 0.5, "after": 0.5} for side in ("target", "support")}
        records = [{"kind": "evaluation", "step": step, "accuracy": sides} for step in steps]
        return "".join(json.dumps(record) + "\n" for record in records)

    trial = process.TrialProcess(["train", "--help"], tmp_path, threads=1)
    trial.wait()
    (run / "metrics.jsonl").write_text(lines(1, 2, 3) + lines(4)[:20])
    assert len(trial.news("mean_after")) == 3
    (run / "metrics.jsonl").write_text(lines(1, 2))
    assert trial.news("mean_after") == []
    (run / "metrics.jsonl").write_text(lines(1, 2, 3, 4))
    assert trial.news("mean_after") == [0.5]


def test_a_trial_that_is_ended_from_outside_is_begun_again(fake, tmp_path, monkeypatch):
    stopping = "import os, sys; first = not os.path.exists({0!r}); open({0!r}, 'w'); first and sys.exit(130)"
    script = tmp_path / "script.py"
    script.write_text(stopping.format(str(tmp_path / "was here")) + f"; exec(open({str(FAKE)!r}).read())")
    notes = Notes()
    monkeypatch.setattr(process, "METASUM", (sys.executable, str(script)))
    result = sweep(write(tmp_path, parameters={"x": {"values": [1]}}), out=tmp_path / "runs", display=notes)
    assert result.lost == 1
    assert any("stopped from outside" in line for line in notes.lines)
