"""Sweeps in processes: real trials, a stop, several that begin at the same instant and one of them killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_trial import FakeClock, fake_trial, write
from postgres import binaries, postgres

from metasum.sweeps.config import SweepConfig
from metasum.sweeps.queue import TrialQueue
from metasum.sweeps.run import sweep
from metasum.sweeps.storage import open_storage
from metasum.sweeps.sweep_file import read_sweep_file

pytest.importorskip("optuna")

pytestmark = pytest.mark.slow
FAKE = Path(__file__).parents[1] / "fixtures" / "fake_trial.py"
PROCESSES, TRIALS = 3, 9
DRIVER = """
import pathlib, sys, time
from functools import partial
from metasum.sweeps.config import SweepConfig
from metasum.sweeps.process import TrialProcess, launch
from metasum.sweeps.run import sweep
import optuna, scipy.stats  # what takes long comes before the start
fake, file, out, storage, go, count = sys.argv[1:]
start = partial(TrialProcess, launch=partial(launch, program=(sys.executable, fake)))
pathlib.Path(out + ".ready").touch()
while not pathlib.Path(go).exists():
    time.sleep(0.01)
sweep(file, SweepConfig(storage=storage, count=int(count), report=False), out=out, start=start)
"""
SWEEP = """
method: random
metric: {name: mean_after, goal: maximize}
command: [metasum, train, "${args}"]
parameters: {x: {min: 20.0, max: 90.0}}
"""


@contextlib.contextmanager
def storage_of(kind, tmp_path):
    if kind == "journal":
        yield str(tmp_path / "shared" / "journal.log")
    elif kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'sweep.db'}"
    else:
        if binaries() is None:
            pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
        with postgres() as url:
            yield url


@pytest.mark.parametrize("kind", ["journal", "sqlite", "postgresql"])
def test_no_trial_is_lost_or_run_to_its_end_twice(tmp_path, kind):
    file, log = tmp_path / "many.yaml", tmp_path / "log"
    file.write_text(SWEEP)
    (tmp_path / "shared").mkdir()
    environment = os.environ | {"FAKE_LOG": str(log), "FAKE_SECONDS": "1.5", "OMP_NUM_THREADS": "1"}
    with storage_of(kind, tmp_path) as storage:
        processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    DRIVER,
                    FAKE,
                    file,
                    tmp_path / f"runs{number}",
                    storage,
                    str(tmp_path / "go"),
                    str(TRIALS),
                ],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(PROCESSES)
        ]
        try:
            while len(list(tmp_path.glob("*.ready"))) < PROCESSES:
                assert all(process.poll() is None for process in processes), processes[0].communicate()[1]
                time.sleep(0.05)
            (tmp_path / "go").touch()
            victim = wait_for_a_trial(log, processes)
            victim.send_signal(signal.SIGKILL)
            for process in processes:
                said = process.communicate(timeout=240)[1]
                assert process is victim or process.returncode == 0, said
        finally:
            for process in processes:
                process.kill()
        with open_storage(storage, tmp_path) as shared:
            queue = TrialQueue(shared, read_sweep_file(file), SweepConfig(), name="many", count=TRIALS)
            complete = [trial for trial in queue.trials() if trial.state.name == "COMPLETE"]
    assert sorted(trial.user_attrs["place"] for trial in complete) == list(range(TRIALS))
    lines = [line.split()[:2] for line in log.read_text().splitlines()]
    ended = [x for word, x in lines if word == "ended"]
    assert sorted(ended) == sorted(f"{trial.user_attrs['values']['x']:g}" for trial in complete)
    assert len(set(ended)) == TRIALS
    assert len([word for word, _ in lines if word == "began"]) == TRIALS + 1  # the victim's, and that one again


def wait_for_a_trial(log, processes):
    """The process whose trial began first."""
    while not log.is_file() or not log.read_text().endswith("\n"):
        assert all(process.poll() is None for process in processes), processes[0].communicate()[1]
        time.sleep(0.05)
    owner = int(log.read_text().splitlines()[0].split()[2])
    return next(process for process in processes if process.pid == owner)


def test_a_real_trial_reaches_its_run_folder(metasum, tiny, tmp_path):
    changes = {"parameters": {"seed": {"values": [0, 1]}, "symmetric": {"value": True}}}
    outcome = metasum("sweep", write(tmp_path, **changes), "--jobs", 2, "--out", tmp_path / "s", "--json", "--", *tiny)
    assert outcome.code == 0, outcome.err
    for row in json.loads(outcome.out)["trials"]:
        config = json.loads((Path(row["run"]) / "config.json").read_text())
        assert config["settings"]["seed"] == row["values"]["seed"]
        assert config["settings"]["own"]["symmetric"] is True
        accuracy = json.loads((Path(row["run"]) / "result.json").read_text())["accuracy"]
        assert row["mean_after"] == (accuracy["target"]["after"] + accuracy["support"]["after"]) / 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_sweep_goes_on(monkeypatch, tmp_path, number):
    file, log = write(tmp_path), tmp_path / "log"
    monkeypatch.setenv("FAKE_LOG", str(log))
    code = (
        "import sys; from functools import partial; from metasum.cli import main; "
        "from metasum.sweeps import process, run; "
        f"launch = partial(process.launch, program=(sys.executable, {str(FAKE)!r})); "
        "run.sweep = partial(run.sweep, start=partial(process.TrialProcess, launch=launch)); main()"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "sweep",
        str(file),
        "--out",
        str(tmp_path / "runs"),
        "--quiet",
        "--no-report",
    ]
    first = subprocess.Popen(command, env=os.environ | {"FAKE_SECONDS": "30"}, stderr=subprocess.PIPE, text=True)
    while not log.is_file() and first.poll() is None:
        time.sleep(0.1)
    first.send_signal(number)
    said = first.communicate(timeout=60)[1]
    if number == signal.SIGINT:
        assert first.returncode == 130
        assert "Continue with: metasum sweep" in said
    result = sweep(file, SweepConfig(report=False), out=tmp_path / "runs", start=fake_trial(), clock=FakeClock())
    assert [row.state for row in result.trials] == ["complete"] * 3
    assert result.lost == 1
    lines = log.read_text().splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("ended")] == [["ended", x] for x in "132"]
    assert lines[1].endswith("resumed")  # in the folder that the lost trial began
