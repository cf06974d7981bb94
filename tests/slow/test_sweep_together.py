"""Several processes that begin one sweep at the same instant, one of them killed in the middle of a trial."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from postgres import binaries, postgres

from metasum.study.sweep.queue import TrialQueue
from metasum.study.sweep.storage import open_storage
from metasum.study.sweep.sweep_file import read_sweep_file

pytestmark = pytest.mark.slow
FAKE = Path(__file__).parents[1] / "fixtures" / "fake_trial.py"
PROCESSES, TRIALS = 3, 9
DRIVER = """
import pathlib, sys, time
from metasum.assembly.sweeping import sweep
from metasum.study.sweep import process
import optuna, scipy.stats  # what takes long comes before the start
fake, file, out, storage, go, count = sys.argv[1:]
process.METASUM = (sys.executable, fake)
pathlib.Path(out + ".ready").touch()
while not pathlib.Path(go).exists():
    time.sleep(0.01)
sweep(file, out=out, storage=storage, count=int(count))
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
            queue = TrialQueue(shared, read_sweep_file(file), name="many", count=TRIALS)
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
