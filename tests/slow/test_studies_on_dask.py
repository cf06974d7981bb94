"""A study on a Dask scheduler and three workers, one of them killed: cells are done once, with the same numbers."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("distributed")
pytestmark = pytest.mark.slow
STEPS = 100


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A scheduler's file; three workers, each with one thread, one of them under a nanny."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    file, dask = tmp_path / "scheduler.json", [sys.executable, "-m", "dask"]
    (tmp_path / "elsewhere").mkdir()  # workers start in another folder than the study

    def start(*words):
        return subprocess.Popen([*dask, *map(str, words)], cwd=tmp_path / "elsewhere", stderr=subprocess.DEVNULL)

    started = [start("scheduler", "--scheduler-file", file, "--port", 0, "--no-dashboard", "--host", "127.0.0.1")]
    worker = ("worker", "--scheduler-file", file, "--nthreads", 1, "--no-dashboard", "--memory-limit", 0)
    started += [start(*worker, nanny) for nanny in ("--no-nanny", "--no-nanny", "--nanny")]
    end = time.monotonic() + 120
    while not file.exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    yield file
    for process in reversed(started):  # the scheduler last: workers take leave of it
        process.terminate()
    for process in reversed(started):
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def worker_of(cell):
    """The worker's process, of which the cell's process descends: between them is the one that is forked."""
    return psutil.Process(cell).parents()[1].pid


def owner(folder):
    try:
        return json.loads((folder / ".lock").read_text())["pid"]
    except (OSError, ValueError, KeyError):
        return None


@pytest.mark.parametrize("dies", ["worker", "machine"])
def test_a_worker_is_killed_and_every_cell_is_done_once(dies, cluster, metasum, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    without = {"--out", tmp_path / "runs"}
    flags = ["compare-baselines", *(flag for flag in tiny if flag not in without), "--steps", STEPS]
    flags += ["--checkpoint-every", 5, "--evaluate-every", 0, "--log-every", 1, "--memory-format", "contiguous"]
    flags += ["--learners", "independent,average", "--seeds", 3, "--no-tune", "--json"]
    study = subprocess.Popen(
        [sys.executable, "-m", "metasum", *map(str, flags), "--out", "shared", "--scheduler", str(cluster)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder, end = tmp_path / "shared" / "rows+lines" / "independent-seed1", time.monotonic() + 240
    while not (folder / "last.ckpt").exists():
        assert time.monotonic() < end
        assert study.poll() is None, study.communicate()[1]
        time.sleep(0.02)
    cell = owner(folder)
    worker = worker_of(cell)
    if dies == "machine":  # nothing is saved any more
        os.kill(cell, signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    if dies == "machine":
        os.kill(cell, signal.SIGKILL)
    out, said = study.communicate(timeout=280)
    assert study.returncode == 0, said
    assert "independent-seed1: its worker is gone; it goes on, on " in said
    assert said.count(": done") == 6
    assert not list((tmp_path / "shared").glob(".metasum*"))
    plain = metasum(*flags, "--out", tmp_path / "plain")
    assert plain.code == 0, plain.err
    ours, theirs = json.loads(out), json.loads(plain.out)
    for row, other in zip(ours["rows"], theirs["rows"], strict=True):
        assert (row["learner"], row["seed"], row["accuracy"]) == (other["learner"], other["seed"], other["accuracy"])
    files = sorted(path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*.safetensors"))
    assert len(files) == 15
    for file in files:
        one, two = load_file(tmp_path / "plain" / file), load_file(tmp_path / "shared" / file)
        assert all(torch.equal(one[name], two[name]) for name in one), file
    steps = [json.loads(line).get("step") for line in (folder / "metrics.jsonl").read_text().splitlines()]
    other = tmp_path / "plain" / folder.relative_to(tmp_path / "shared") / "metrics.jsonl"
    assert steps == [json.loads(line).get("step") for line in other.read_text().splitlines()]
