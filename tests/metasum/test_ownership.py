"""One owner a run folder: who comes second is told so, studies wait, and a killed owner is in nobody's way."""

import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
from refusal import refused
from tiny import blob_arrays, write_npz

from metasum import files, ownership, settings
from metasum.errors import OccupiedError, StorageError
from metasum.few_shot.request import FewShotRequest
from metasum.few_shot.run import few_shot
from metasum.locks import lock
from metasum.ownership import in_turn, is_occupied, owning
from metasum.run.meta_training import meta_train
from metasum.run.training import train
from metasum.study.comparing import compare
from metasum.study.engine.display import SilentStudy
from metasum.study.engine.sequential import Sequential
from metasum.study.request import StudyRequest
from metasum.training.progress import SilentDisplay
from metasum.training.run_folder import RunFolder

HOLD = (
    "import sys; from pathlib import Path; from metasum.ownership import owning\n"
    "with owning(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
)


@contextmanager
def another_process(folder):
    """Owns the folder; killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        yield process
        process.kill()


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(ownership, "PAUSE", 0.01)
    monkeypatch.setattr(ownership, "LOOK", 0.01)


@pytest.mark.parametrize("flag", [None, "--resume", "--overwrite"])
def test_the_second_process_is_told_who_works_there_and_changes_nothing(metasum, tiny, tmp_path, flag):
    assert metasum("train", *tiny).code == 0
    run = tmp_path / "runs" / "rows+lines" / "metasum-seed0"
    (run / "result.json").unlink()
    with another_process(run) as process:
        before = contents(run)
        words = (f"process {process.pid} on {socket.gethostname()} works in {run}", "choose another --name or --out")
        refused(metasum("train", *tiny, *([flag] if flag else [])), 1, *words)
        assert contents(run) == before
    assert not is_occupied(run), "the lock ended with the process"
    assert metasum("train", *tiny, flag or "--resume").code == 0
    assert not list(run.glob(".*"))


def test_a_run_that_is_being_begun_is_occupied_too(metasum, tiny, tmp_path):
    run = tmp_path / "runs" / "rows+lines" / "metasum-seed0"
    with another_process(run):
        refused(metasum("train", *tiny), 1, f"works in {run}")
    assert metasum("train", *tiny, "--steps", 1).code == 0, "what the killed process left is no obstacle"


class Waits:
    """Hears that somebody waits, and lets go of what is waited for."""

    def __init__(self, held: ExitStack) -> None:
        self.held, self.waits = held, []

    def note(self, text):
        if "waiting for it" in text:
            self.waits.append(text)
            self.held.close()


class Told(Waits, SilentDisplay):
    """Of a run."""


class ToldStudy(Waits, SilentStudy):
    """Of a study."""


def tiny_settings(data_root, **more):
    common = {"target": "rows", "support": "lines", "data_root": str(data_root), "width": 0.04, "steps": 2}
    common |= {"batch_size": 8, "evaluate_every": 0, "log_every": 1, "device": "cpu", "calibration_batches": 1}
    return settings(**common | more)


ONE_SEED = {"seeds": 1, "tuned": False, "report": False}


def test_a_study_waits_for_a_cell_that_another_works_on(data_root, tmp_path):
    with ExitStack() as held:
        folder = tmp_path / "runs" / "rows+lines" / "independent-seed0"
        process = held.enter_context(another_process(folder))
        told = ToldStudy(held)
        names = ("independent", "average")  # the second one merges what the first one trains
        asked = StudyRequest(request=tiny_settings(data_root), learners=names, **ONE_SEED, out=tmp_path / "runs")
        result = compare(asked, engine=Sequential(poll=0.01), display=told)
    (waited,) = told.waits
    assert f"process {process.pid} on {socket.gethostname()} works in {folder}; waiting for it" in waited
    assert result.failed == ()
    assert tuple(row.learner for row in result.rows) == names
    assert (folder / "metrics.jsonl").read_text().count("\n") == 3  # two steps and the end


META = {"meta_steps": 1, "inner_steps": 1, "meta_batch_size": 4, "partners": 2, "task_classes": 2}


def test_meta_training_is_refused_by_itself_and_waited_for_by_a_run(data_root, tmp_path):
    config, runs = tiny_settings(data_root, learner="metasum-meta", norm="none", **META), tmp_path / "runs"
    first = train(config, out=runs, report=False)
    [folder] = (runs / "meta").iterdir()
    (folder / "result.json").unlink()
    with another_process(folder), pytest.raises(OccupiedError, match="works in"):
        meta_train(config, out=runs, name=folder.name, overwrite=True)
    with ExitStack() as held:
        held.enter_context(another_process(folder))
        told = Told(held)
        again = train(config, out=runs, name="again", report=False, display=told)
    assert len(told.waits) == 1
    assert again.accuracy == first.accuracy


@pytest.fixture
def few_shot_config(tmp_path):
    write_npz(tmp_path / "data" / "rows15.npz", blob_arrays(train=90, test=45, size=16, classes=15))
    few = {"ways": 2, "queries": 2, "filters": 4, "steps": 1, "pretraining_steps": 1, "episodes": 2}
    few |= {"dataset": "rows15", "data_root": str(tmp_path / "data"), "device": "cpu", "validation_episodes": 2}
    return FewShotRequest(few)


def test_few_shot_waits_for_runs_and_for_the_trunk_that_they_share(few_shot_config, tmp_path):
    folder = tmp_path / "runs" / "few-shot" / "rows15-2way-1shot"
    for name in ("prototypical-seed0", "pretrained-seed0"):
        with ExitStack() as held:
            held.enter_context(another_process(folder / name))
            told = ToldStudy(held)
            learners = ["prototypical", "classifier-tuning"]
            few_shot(
                few_shot_config,
                learners=learners,
                out=tmp_path / "runs",
                report=False,
                engine=Sequential(poll=0.01),
                display=told,
            )
        assert len(told.waits) == 1
        assert name in told.waits[0]
        (folder / "pretrained-seed0" / "result.json").unlink()
        shutil.rmtree(folder / "classifier-tuning-seed0")


def test_what_a_kill_left_of_a_start_is_no_obstacle_to_a_study(few_shot_config, data_root, tmp_path):
    runs = tmp_path / "runs"
    folders = [
        runs / "few-shot" / "rows15-2way-1shot" / "prototypical-seed0",
        runs / "rows+lines" / "independent-seed0",
    ]
    config = tiny_settings(data_root, learner="metasum-meta", norm="none", **META)
    meta_train(config, out=tmp_path / "elsewhere")
    folders += [runs / "meta" / path.name for path in (tmp_path / "elsewhere" / "meta").iterdir()]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / ".config.json.0123abcd.partial").write_text("{")
        (folder / ".lock").write_text("{}")
    few = {name: value for name, value in few_shot_config.given.items() if name != "pretraining_steps"}
    few_shot(FewShotRequest(few), learners=["prototypical"], out=runs, report=False)
    asked = StudyRequest(request=tiny_settings(data_root), learners=("independent",), **ONE_SEED, out=runs)
    result = compare(asked)
    assert result.failed == ()
    meta_train(config, out=runs, resume=None)
    assert not [path for folder in folders for path in folder.glob(".*")]


def test_only_one_at_a_time_owns_a_folder_and_it_leaves_nothing(tmp_path):
    inside, most = [], []

    def work(number):
        with owning(tmp_path / "runs" / "run"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.001)
            inside.remove(number)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: in_turn(lambda: work(number), lambda _: None), range(60)))
    assert max(most) == 1
    assert len(most) == 60
    assert not (tmp_path / "runs" / "run").exists(), "it was empty"


def test_looking_whether_a_folder_is_free_takes_it_from_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "PAUSE", 0.1)  # on a busy machine, whoever looks may be put to sleep while he does
    run, stop = tmp_path / "run", threading.Event()
    run.mkdir()

    def look():
        while not stop.is_set():
            is_occupied(run)
            time.sleep(0.001)  # without a pause, two of them hold the lock nearly all the time

    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(look)
        try:
            for _ in range(100):
                with owning(run):
                    assert is_occupied(run)
        finally:
            stop.set()


def test_who_looks_does_not_take_another_who_looks_for_an_owner(tmp_path):
    (tmp_path / ownership.LOCK).touch()
    with (tmp_path / ownership.LOCK).open() as other:
        assert lock(other.fileno(), shared=True)
        assert not is_occupied(tmp_path)


def test_a_folder_that_is_moved_away_keeps_its_owner(tmp_path):
    with owning(tmp_path / "run"):
        (tmp_path / "run" / "config.json").write_text("{}")
        (tmp_path / "run").rename(tmp_path / "moved")
        assert is_occupied(tmp_path / "moved")
        with owning(tmp_path / "run"):
            pass
    assert not is_occupied(tmp_path / "moved")


def test_a_folder_is_not_left_half_made(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(StorageError), owning(tmp_path / "run"):
        RunFolder.create(tmp_path / "run", {})
    assert not (tmp_path / "run").exists()


def test_a_planted_lock_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(StorageError, match="cannot write into"), owning(tmp_path / "run"):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_without_locks_it_is_said_that_nobody_watches(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "lock", lambda *_, **__: None)
    notes = []
    with owning(tmp_path / "run", note=notes.append):
        pass
    assert "has no locks" in notes[0]
    assert not is_occupied(tmp_path / "run")


def test_the_error_reaches_other_processes_whole(tmp_path):
    error = OccupiedError(tmp_path, "process 17 on node3")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.folder, again.owner) == (str(error), error.folder, error.owner)
