"""`metasum sweep`: the course of a sweep, with trials that take no time."""

import json
import time

import pytest
from fake_trial import FakeClock, FakeProcess, fake_trial, write
from refusal import refused

from metasum.errors import StorageError, UsageError
from metasum.ownership import owning
from metasum.sweeps import course, process
from metasum.sweeps.claim import Claim, lose
from metasum.sweeps.config import SweepConfig
from metasum.sweeps.queue import TrialQueue
from metasum.sweeps.run import sweep
from metasum.sweeps.storage import WAITS, open_storage, patiently
from metasum.sweeps.sweep_file import read_sweep_file
from metasum.training.progress import SilentDisplay

pytest.importorskip("optuna")
sqlalchemy = pytest.importorskip("sqlalchemy.exc")


class Notes(SilentDisplay):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


@pytest.fixture
def log(monkeypatch, tmp_path):
    """What the trials wrote down."""
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    return lambda: (tmp_path / "log").read_text().splitlines()


@pytest.fixture
def run(log, tmp_path):
    """Runs the sweep that differs from GRID in some sections; the settings are those of SweepConfig."""

    def go(changes=None, *, out=tmp_path / "runs", arguments=(), display=None, start=None, **settings):
        file, how = write(tmp_path, **(changes or {})), SweepConfig(**{"report": False} | settings)
        start = start or fake_trial()
        return sweep(file, how, arguments=arguments, out=out, display=display, start=start, clock=FakeClock())

    return go


def test_a_grid_is_run_once_each_and_written_down(metasum, run, log, tmp_path):
    notes = Notes()
    result = run(display=notes, report=True)
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
    assert run().trials == result.trials  # nothing is run again
    assert len(log()) == 6


def test_a_failed_trial_is_written_down_and_the_others_go_on(metasum, run, tmp_path, monkeypatch):
    result = run({"parameters": {"x": {"values": [1, 13, 2]}}}, report=True)
    assert [row.state for row in result.trials] == ["complete", "fail", "complete"]
    assert result.trials[1].error == "thirteen brings bad luck"
    assert "thirteen brings bad luck" in (tmp_path / "runs" / "sweeps" / "mine" / "report.html").read_text()
    again = ("sweep", tmp_path / "mine.yaml", "--out", tmp_path / "runs", "--no-report")
    outcome = metasum(*again)  # nothing is left to run
    assert outcome.code == 1
    assert "1 of 3 trials failed, the first: thirteen brings bad luck" in outcome.err


def test_a_metric_that_no_run_has_is_a_failure_that_names_those_it_has(run):
    result = run({"metric": {"name": "accuracy", "goal": "maximize"}})
    assert all(row.state == "fail" for row in result.trials)
    assert "accuracy is not in its result" in result.trials[0].error
    assert "mean_after" in result.trials[0].error


def test_bayes_searches_where_it_is_good(run):
    result = run({"method": "bayes", "parameters": {"x": {"min": 0.0, "max": 10.0}}}, count=14)
    found = [row.values["x"] for row in result.trials]
    assert len(set(found[:10])) == 10
    assert min(found[11:]) > 8  # the ten first are drawn at random
    assert result.importances == {"x": 1.0}


def test_random_search_depends_on_the_seed_alone(run, tmp_path):
    changes = {"method": "random", "run_cap": 4, "parameters": {"x": {"min": 0.0, "max": 1.0}}}
    runs = [
        [row.values["x"] for row in run(changes, seed=seed, jobs=jobs, out=out).trials]
        for seed, jobs, out in ((0, 1, tmp_path / "a"), (0, 2, tmp_path / "b"), (1, 1, tmp_path / "c"))
    ]
    assert runs[0] == runs[1]
    assert not set(runs[0]) & set(runs[2])


@pytest.mark.parametrize(("cap", "count", "trials"), [(1, None, 1), (5, None, 3), (1, 2, 1), (2, 1, 1), (None, 2, 2)])
def test_a_sweep_never_has_more_runs_than_its_cap_its_grid_or_count(run, cap, count, trials):
    result = run({"run_cap": cap}, count=count)
    assert [row.values["x"] for row in result.trials] == [1, 3, 2][:trials]
    assert result.count == trials


def test_hyperband_ends_bad_trials_early(run, log):
    changes = {
        "early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 2},
        "parameters": {"x": {"values": [5, 8, 1, 2, 6]}},
    }
    result = run(changes)
    assert [row.state for row in result.trials] == ["complete", "complete", "pruned", "pruned", "complete"]
    assert sum(line.startswith("ended") for line in log()) == 3


def test_no_trial_is_begun_once_the_target_is_reached(run):
    result = run({"metric": {"name": "mean_after", "goal": "maximize", "target": 0.025}})
    assert [row.values["x"] for row in result.trials] == [1, 3]


def test_another_file_under_the_same_name_is_refused(run):
    run()
    with pytest.raises(UsageError, match="another sweep file"):
        run({"parameters": {"x": {"values": [7]}}})
    with pytest.raises(UsageError, match="other arguments"):
        run(arguments=["--y=1"])
    with pytest.raises(UsageError, match="another --seed"):
        run(seed=1)


@pytest.mark.parametrize("lost", ["emptied", "torn", "missing"])
def test_trials_of_which_no_journal_tells_are_not_begun_anew(lost, run, tmp_path):
    run()
    folder = tmp_path / "runs" / "sweeps" / "mine"
    (folder / "trials" / "0000").mkdir(parents=True, exist_ok=True)
    journal = folder / "journal.log"
    journal.unlink()
    if lost != "missing":
        journal.write_text("" if lost == "emptied" else '{"op_code":0')
    with pytest.raises(StorageError, match=r"journal\.log tells nothing, though .*trials holds trials"):
        run()


def test_jobs_are_bounded_by_cores_and_memory(run, log, tmp_path, monkeypatch):
    notes = Notes()
    run(jobs=1000, display=notes)
    assert "--jobs 1000" in notes.lines[0]
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 0}))
    monkeypatch.setattr(course, "usable_cores", lambda: 3)
    (tmp_path / "log").unlink()
    run(jobs=3, out=tmp_path / "others")
    assert [line.split()[0] for line in log()] == ["began", "ended"] * 3  # one after the other


def test_a_trial_that_is_ended_from_outside_is_begun_again(run):
    starts, notes = [fake_trial(code=130), fake_trial()], Notes()
    result = run({"parameters": {"x": {"values": [1]}}}, display=notes, start=lambda *asked: starts.pop(0)(*asked))
    assert result.lost == 1
    assert any("stopped from outside" in line for line in notes.lines)


def test_a_lost_trial_that_somebody_still_works_on_keeps_its_folder(run, log, tmp_path):
    file, place = (
        read_sweep_file(write(tmp_path, parameters={"x": {"values": [1]}})),
        tmp_path / "runs" / "sweeps" / "mine",
    )
    with open_storage(None, place) as storage:
        queue = TrialQueue(storage, file, SweepConfig(), name="mine", count=1)
        queue._watch.own = queue._watch.own.rpartition(":")[0] + ":0"  # had our number before us, and is dead
        queue.claim().trial.set_user_attr("folder", str(place / "trials" / "0000"))
    notes = Notes()
    with owning(place / "trials" / "0000" / "a+b" / "fake"):  # its trial has not noticed yet
        result = run({"parameters": {"x": {"values": [1]}}}, display=notes)
    assert [row.state for row in result.trials] == ["complete"]
    assert not log()[0].endswith("resumed")
    assert any("somebody still works in" in line for line in notes.lines)


def test_of_two_claims_for_one_place_the_later_one_gives_way(tmp_path, monkeypatch):
    file = read_sweep_file(write(tmp_path))
    with open_storage(None, tmp_path) as storage:
        first, second = (TrialQueue(storage, file, SweepConfig(), name="mine", count=3) for _ in range(2))
        seen = first.free()
        assert first.claim().place == 0
        free = second.free
        answers = [seen]  # what the second one saw before the first one's claim
        monkeypatch.setattr(second, "free", lambda: answers.pop() if answers else free())
        assert second.claim().place == 1
        assert [trial.user_attrs["place"] for trial in first.trials() if trial.state.name == "RUNNING"] == [0, 1]


def test_a_silent_process_elsewhere_is_taken_for_dead_after_its_grace(tmp_path):
    from optuna.exceptions import UpdateFinishedTrialError

    file, clock = read_sweep_file(write(tmp_path, parameters={"x": {"values": [1]}})), FakeClock()
    with open_storage(None, tmp_path) as storage:
        elsewhere = TrialQueue(storage, file, SweepConfig(), name="mine", count=1, clock=clock)
        elsewhere._watch.own = "elsewhere:1:0"
        lost = elsewhere.claim()
        here = TrialQueue(storage, file, SweepConfig(grace=60), name="mine", count=1, clock=clock)
        assert here.claim() is None
        clock.sleep(50)
        lost.beat()
        assert here.claim() is None
        clock.sleep(50)
        assert here.claim() is None
        clock.sleep(50)
        found = here.claim()
        assert found is not None
        assert found.values == lost.values
        with pytest.raises(UpdateFinishedTrialError):  # it woke up too late
            lost.finish("COMPLETE", 1.0)
        found.finish("COMPLETE", 2.0)
        assert [trial.value for trial in here.trials() if trial.state.name == "COMPLETE"] == [2.0]


def test_a_trial_that_another_process_took_over_is_ended_and_left_to_it(run, tmp_path, monkeypatch):
    notes, taken = Notes(), []

    def start(arguments, folder, threads):
        if not taken:  # another process, which takes us for dead, marks the trial as lost
            file = read_sweep_file(tmp_path / "mine.yaml")
            with open_storage(None, tmp_path / "runs" / "sweeps" / "mine") as storage:
                other = TrialQueue(storage, file, SweepConfig(), name="mine", count=3)
                taken.append(other.trials()[0]._trial_id)
                lose(storage, taken[0])
        return fake_trial()(arguments, folder, threads)

    result = run(display=notes, start=start)
    assert [row.state for row in result.trials] == ["complete"] * 3
    assert result.lost == 1
    assert any("taken over" in line for line in notes.lines)


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("nosuch://host/db", 2, "no such kind of database"),
        ("postgresql://me:secret@127.0.0.1:9/db", 1, "cannot open postgresql://me:***@127.0.0.1:9/db"),
        ("sqlite:////none/at/all.db", 1, "cannot open"),
    ],
)
def test_a_storage_that_cannot_be_is_one_sentence_at_once_without_the_password(
    metasum, tmp_path, monkeypatch, url, code, words
):
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waited for what will not change"))
    outcome = metasum("sweep", write(tmp_path), "--storage", url, "--out", tmp_path / "runs")
    refused(outcome, code, words)
    assert "secret" not in outcome.err


def failing(*errors):
    """Raises the errors, one a call, and then gives 1."""
    left = list(errors)

    def make():
        if left:
            raise left.pop(0)
        return 1

    return make


def test_what_another_process_makes_at_the_same_moment_is_waited_for():
    clock = FakeClock()
    errors = [
        sqlalchemy.OperationalError("CREATE TABLE", {}, Exception("table studies already exists")),
        sqlalchemy.OperationalError("INSERT", {}, Exception("database is locked")),
        sqlalchemy.IntegrityError("INSERT", {}, Exception("duplicate key value violates unique constraint")),
        RuntimeError("Error: did not possess lock"),
    ]
    assert patiently(failing(*errors), clock) == 1
    assert clock.waits == list(WAITS[:4])
    with pytest.raises(sqlalchemy.OperationalError):
        patiently(failing(*[errors[1]] * (len(WAITS) + 1)), clock)


@pytest.mark.parametrize(
    "error",
    [
        sqlalchemy.ProgrammingError("CREATE TABLE lock", {}, Exception("permission denied for schema public")),
        sqlalchemy.OperationalError("CREATE TABLE", {}, Exception("attempt to write a readonly database")),
        sqlalchemy.OperationalError("SELECT 1", {}, Exception("connection refused")),
        RuntimeError("The runtime optuna version 5 is no longer compatible with the table schema"),
        ImportError("no driver"),
    ],
)
def test_what_waiting_does_not_mend_is_said_at_once(error):
    clock = FakeClock()
    with pytest.raises(type(error)):
        patiently(failing(error), clock)
    assert clock.waits == []


def test_a_database_that_goes_away_in_the_middle_is_one_sentence(run, tmp_path, monkeypatch):
    from optuna.exceptions import StorageInternalError

    def beat(self):
        lost = sqlalchemy.OperationalError("UPDATE", {}, Exception("server closed the connection"))
        raise StorageInternalError("An exception is raised during the commit.") from lost

    monkeypatch.setattr(Claim, "beat", beat)
    with pytest.raises(StorageError, match=r"sweep.db does not answer: .*server closed the connection"):
        run(storage=f"sqlite:///{tmp_path / 'sweep.db'}")


def test_a_folder_of_sweeps_does_not_hide_the_function():
    import metasum
    import metasum.sweeps.queue

    assert callable(metasum.sweep)


def test_evaluations_that_a_continued_run_takes_back_are_told_once(log, tmp_path):
    run = tmp_path / "a+b" / "run"
    run.mkdir(parents=True)

    def lines(*steps):
        sides = {side: {"before": 0.5, "after": 0.5} for side in ("target", "support")}
        records = [{"kind": "evaluation", "step": step, "accuracy": sides} for step in steps]
        return "".join(json.dumps(record) + "\n" for record in records)

    trial = process.TrialProcess(["train", "--x=1"], tmp_path, 1, launch=FakeProcess)
    (run / "metrics.jsonl").write_text(lines(1, 2, 3) + lines(4)[:20])
    assert len(trial.news("mean_after")) == 3
    (run / "metrics.jsonl").write_text(lines(1, 2))
    assert trial.news("mean_after") == []
    (run / "metrics.jsonl").write_text(lines(1, 2, 3, 4))
    assert trial.news("mean_after") == [0.5]
