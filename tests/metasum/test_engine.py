"""Engines: the cells of a study in order, what fails with what, several at once, stopping, and what is said."""

import io
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from rich.console import Console
from stub_work import Add, Draw, Fail, Hang, Log, Take, Tell, Threads, Touch, Train, Until

from metasum.errors import Interrupted, UsageError
from metasum.machine import usable_cores
from metasum.study.engine import processes
from metasum.study.engine.cell import Cell, Failure, ordered
from metasum.study.engine.choice import engine_for
from metasum.study.engine.display import LiveStudy, SilentStudy, StudyLines, study_display_for
from metasum.study.engine.processes import Processes, shares
from metasum.study.engine.sequential import Sequential

FAILS = ["diverge", "bug", "exit"]
SAID = {"diverge": "the loss became nan.", "bug": "IndexError: list index out of range", "exit": "SystemExit: enough"}


@pytest.fixture(params=["sequential", "processes"])
def engine(request):
    return Sequential(poll=0.01) if request.param == "sequential" else several(2, poll=0.01)


TORCH = ("torch", "metasum.study.engine.processes")


def several(jobs, **more):
    """The engine with no more imported than stubs need."""
    return Processes(jobs, preload=TORCH, **more)


def run(engine, *cells, display=None):
    return engine.run(cells, display=display or SilentStudy())


def wait_for(*paths):
    end = time.monotonic() + 120
    while not all(path.exists() and path.read_text() for path in paths):
        assert time.monotonic() < end, f"{paths} never came"
        time.sleep(0.02)


def signal_later(number, *paths):
    """Sends this process a signal when the files are there."""

    def send():
        wait_for(*paths)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def gone(pid):
    end = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# A plan


def names(*cells):
    return "".join(cell.name for cell in ordered(cells))


def test_cells_come_after_what_they_need_and_otherwise_as_given():
    assert names(Cell("c", Add()), Cell("a", Add()), Cell("b", Add())) == "cab"
    assert names(Cell("c", Add(), ("b",)), Cell("a", Add()), Cell("b", Add()), Cell("d", Add())) == "abcd"
    assert names(Cell("c", Add(), after=("b",)), Cell("b", Add(), ("a",)), Cell("a", Add())) == "abc"


@pytest.mark.parametrize("field", ["needs", "after"])
def test_what_is_no_plan_is_refused_before_anything_runs(field, engine):
    def cell(name, *others):
        return Cell(name, Touch(Path("/nonexistent")), **{field: others})

    for cells, word in [
        ((cell("a"), cell("a")), "named 'a'"),
        ((cell("a", "b"),), "'b', which does not exist"),
        ((cell("a", "c"), cell("b", "a"), cell("c", "b")), "cycle"),
        ((cell("a", "a"),), "cycle"),
    ]:
        with pytest.raises(ValueError, match=word):
            run(engine, *cells)


def test_a_study_of_no_cells_is_over_at_once(engine):
    assert run(engine) == {}


# What cells are given, and what fails with what


def test_cells_are_given_what_they_need_and_outcomes_come_in_the_given_order(engine):
    outcomes = run(engine, Cell("c", Add(1), ("a", "b")), Cell("a", Add(2)), Cell("b", Add(3), ("a",)))
    assert list(outcomes.items()) == [("c", 8), ("a", 2), ("b", 5)]


@pytest.mark.parametrize("how", FAILS)
def test_a_failure_is_a_sentence_and_fails_only_what_needs_it(how, engine):
    cells = [Cell("y", Add(), ("x",)), Cell("x", Add(), ("bad",)), Cell("bad", Fail(how)), Cell("good", Add(1))]
    assert run(engine, *cells, Cell("all", Take(), after=("bad", "x", "good"))) == {
        "y": Failure("y", because := f"it needs bad, which failed: {SAID[how]}", "x"),
        "x": Failure("x", because, "bad"),
        "bad": (bad := Failure("bad", SAID[how])),
        "good": 1,
        "all": {"bad": bad, "x": Failure("x", because, "bad"), "good": 1},
    }


def test_a_trace_is_shown_where_it_was_asked_for(engine, monkeypatch):
    said = io.StringIO()
    run(engine, Cell("bad", Fail("bug")), display=StudyLines(said))
    assert "Traceback" not in said.getvalue()
    monkeypatch.setenv("METASUM_DEBUG", "1")
    run(engine, Cell("bad", Fail("bug")), display=StudyLines(said))
    assert "bad: Traceback" in said.getvalue()


def test_a_process_that_dies_fails_its_own_cell():
    cells = [Cell(how, Fail(how)) for how in ("kill", "vanish", "unpicklable")]
    outcomes = run(several(2), *cells, Cell("lambda", lambda needed, display: 1), Cell("good", Add(1)))
    assert outcomes["good"] == 1
    assert outcomes["kill"].error == "its process was killed, perhaps because memory ran out."
    assert outcomes["vanish"].error == "its process ended without a result (exit code 3)."
    assert "its result cannot be sent to another process" in outcomes["unpicklable"].error
    assert "its work cannot be sent to another process" in outcomes["lambda"].error


def test_a_cell_that_somebody_else_works_on_is_waited_for(engine, tmp_path):
    said = io.StringIO()
    free, tries = tmp_path / "free", tmp_path / "tries"
    cells = [Cell("busy", Until(free, tries)), Cell("after it", Take(), ("busy",)), Cell("free", Touch(free, tries))]
    outcomes = run(engine, *cells, display=StudyLines(said))
    assert outcomes == {"busy": "free", "after it": {"busy": "free"}, "free": None}
    assert said.getvalue().count("busy: process 7 on node3 works in runs/a; waiting for it") == 1
    assert "fail" not in said.getvalue()


def test_a_cell_is_tried_again_until_somebody_else_has_left(tmp_path):
    free, tries = tmp_path / "free", tmp_path / "tries"
    later = threading.Timer(0.2, free.touch)
    later.start()
    said = io.StringIO()
    assert run(Sequential(poll=0.01), Cell("busy", Until(free, tries)), display=StudyLines(said)) == {"busy": "free"}
    later.join()
    assert said.getvalue().count("works in runs/a") == 1
    assert len(tries.read_text()) > 2


# Several at once


def test_processes_give_the_same_numbers_as_one_after_the_other():
    cells = [Cell(f"draw{seed}", Draw(seed)) for seed in range(3)]
    before = torch.get_num_threads()
    torch.set_num_threads(shares(2)[1])
    try:
        assert run(several(2), *cells) == run(Sequential(), *cells)
    finally:
        torch.set_num_threads(before)


def test_cores_are_shared(monkeypatch):
    monkeypatch.setattr(processes, "usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [shares(jobs) for jobs in (1, 2, 3, 8, 20)] == [(1, 8), (2, 4), (3, 2), (8, 1), (8, 1)]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert [shares(jobs) for jobs in (2, 8)] == [(2, 2), (8, 1)]
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert shares(2) == (2, 4)


def test_a_process_has_its_share_of_cores_and_the_environment_of_now(monkeypatch):
    monkeypatch.setattr(processes, "usable_cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("SOME_VARIABLE", "of now")
    outcomes = run(several(2), Cell("threads", Threads("SOME_VARIABLE")))
    assert outcomes == {"threads": (3, "3", "of now")}


def test_so_many_run_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "usable_cores", lambda: 2)
    log = tmp_path / "log"
    run(several(2), *(Cell(str(n), Log(log, str(n), 0.3)) for n in range(4)))
    running, most = 0, 0
    for line in log.read_text().splitlines():
        running += 1 if line.startswith("began") else -1
        most = max(most, running)
    assert most == 2


def test_more_jobs_than_cores_are_not_taken(monkeypatch):
    said = io.StringIO()
    run(several(usable_cores() + 5), Cell("a", Add()), display=StudyLines(said))
    assert f"cores here: {usable_cores()}, so {usable_cores()} at a time" in said.getvalue()


def test_without_memory_cells_run_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 0}))
    log = tmp_path / "log"
    run(several(2), *(Cell(name, Log(log, name)) for name in "abc"))
    assert log.read_text().split() == [
        "began",
        "a",
        "ended",
        "a",
        "began",
        "b",
        "ended",
        "b",
        "began",
        "c",
        "ended",
        "c",
    ]


def test_memory_that_running_cells_will_yet_take_is_not_given_away(monkeypatch):
    gigabyte = 2**30
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 5 * gigabyte}))

    class Running:
        started, bytes = time.monotonic(), gigabyte // 10

        def measure(self): ...

    known = processes.Memory()
    assert known.fits([])
    assert known.fits([Running()])  # 2.4 GB for it, 2.3 GB to come
    assert not known.fits([Running(), Running()])
    known.end()
    known.measure([Running()])
    assert known.fits([Running()] * 9)  # such cells are small


def test_plugins_are_loaded_in_each_process(tmp_path):
    plugin = tmp_path / "plugin.py"
    plugin.write_text("import os\nos.environ['FROM_PLUGIN'] = 'yes'\n")
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    cell = Cell("a", Threads("FROM_PLUGIN"))
    assert run(several(1, plugins=(plugin,)), cell)["a"][-1] == "yes"
    assert "broken.py failed in line 1" in run(several(1, plugins=(broken,)), cell)["a"].error


def test_the_number_of_jobs_chooses_the_engine(tmp_path):
    assert isinstance(engine_for(1), Sequential)
    assert engine_for(2, plugins=[tmp_path / "a.py"]) == Processes(2, plugins=(tmp_path / "a.py",))
    with pytest.raises(UsageError, match="--jobs must be at least 1, not 0"):
        engine_for(0)


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_of_it(tmp_path):
    fixtures = Path(__file__).parents[1] / "fixtures"
    (tmp_path / "script.py").write_text(
        f"import sys\nsys.path.insert(0, {str(fixtures)!r})\n"
        "from stub_work import Add\nfrom metasum.study.engine.cell import Cell\n"
        "from metasum.study.engine.processes import Processes\nfrom metasum.study.engine.display import SilentStudy\n"
        "print(Processes(1, preload=()).run([Cell('a', Add())], display=SilentStudy()))\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=120)
    assert "could not begin (exit code 1); a script that runs studies in processes needs `if __name__" in done.stdout


# Stopping


@pytest.fixture
def not_under_nohup():
    """The tests themselves may be."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_after_the_other_is_stopped_by_a_signal(number, tmp_path, not_under_nohup):
    later = signal_later(number, tmp_path / "a.pid")
    with pytest.raises(Interrupted, match="the state is saved"):
        run(Sequential(), Cell("a", Train(tmp_path, "a")), Cell("b", Touch(tmp_path / "b")))
    later.join()
    assert (tmp_path / "a.saved").exists()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_work_that_hears_no_signal_is_stopped_all_the_same(number, tmp_path, engine):
    log = tmp_path / "log"
    later = signal_later(number, log)
    with pytest.raises(Interrupted, match="stopped"):
        run(engine, Cell("a", Log(log, "a", 60)), Cell("b", Log(log, "b"), ("a",)))
    later.join()
    assert log.read_text() == "began a\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_processes_save_their_state_first(number, tmp_path):
    said = io.StringIO()
    cells = [Cell("early", Add()), *(Cell(name, Train(tmp_path, name), ("early",)) for name in "ab")]
    later = signal_later(number, *(tmp_path / f"{name}.pid" for name in "ab"))
    with pytest.raises(Interrupted, match="stopped with 1 of 4 cells ended; what was under way goes on from"):
        run(several(2), *cells, Cell("late", Touch(tmp_path / "late"), ("a",)), display=StudyLines(said))
    later.join()
    assert all((tmp_path / f"{name}.saved").exists() for name in "ab")
    assert all(gone(int((tmp_path / f"{name}.pid").read_text())) for name in "ab")
    assert not (tmp_path / "late").exists()
    assert "stopping: what runs saves its state" in said.getvalue()


def test_a_process_that_got_the_signal_itself_is_not_sent_another(tmp_path):
    """Schedulers send theirs to every process of a job: a second one would end the saving."""
    file = tmp_path / "a.pid"

    def send():
        wait_for(file)
        os.kill(int(file.read_text()), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    later = threading.Thread(target=send, daemon=True)
    later.start()
    with pytest.raises(Interrupted):
        run(several(1), Cell("a", Train(tmp_path, "a")))
    later.join()
    assert (tmp_path / "a.saved").exists()


def test_a_cell_that_somebody_stops_stops_the_study(tmp_path):
    file = tmp_path / "a.pid"

    def send():
        wait_for(file)
        os.kill(int(file.read_text()), signal.SIGTERM)

    later = threading.Thread(target=send, daemon=True)
    later.start()
    with pytest.raises(Interrupted, match="0 of 2"):
        run(several(1), Cell("a", Train(tmp_path, "a")), Cell("b", Touch(tmp_path / "b")))
    later.join()
    assert not (tmp_path / "b").exists()


def test_a_second_signal_kills(tmp_path):
    file = tmp_path / "hang.pid"

    def send():
        wait_for(file)
        os.kill(os.getpid(), signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            time.sleep(0.01)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    later = threading.Thread(target=send, daemon=True)
    later.start()
    with pytest.raises(Interrupted):
        run(several(1), Cell("a", Hang(tmp_path)))
    later.join()
    assert gone(int(file.read_text()))


def test_signals_for_all_processes_of_a_job_do_not_end_the_one_that_starts_them(tmp_path):
    """Else the next study would have to import everything again, and cells that end now would lose their exit codes."""
    assert run(several(1), Cell("a", Add())) == {"a": 0}
    server = multiprocessing.forkserver._forkserver._forkserver_pid
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(server, number)
    assert run(several(1), Cell("kill", Fail("kill")))["kill"].error.startswith("its process was killed")
    assert multiprocessing.forkserver._forkserver._forkserver_pid == server


@pytest.mark.slow
def test_a_killed_parent_leaves_nobody_behind_and_its_cells_save_their_state(tmp_path):
    fixtures = Path(__file__).parents[1] / "fixtures"
    (tmp_path / "script.py").write_text(
        f"import sys\nsys.path.insert(0, {str(fixtures)!r})\nfrom pathlib import Path\n"
        "from stub_work import Train\nfrom metasum.study.engine.cell import Cell\n"
        "from metasum.study.engine.processes import Processes\nfrom metasum.study.engine.display import SilentStudy\n"
        f"work = Train(Path({str(tmp_path)!r}), 'a')\n"
        "if __name__ == '__main__':\n"
        f"    Processes(1, preload=()).run([Cell('a', work)], display=SilentStudy())\n"
    )
    parent = subprocess.Popen([sys.executable, tmp_path / "script.py"])
    wait_for(tmp_path / "a.pid")
    parent.kill()
    parent.wait()
    assert gone(int((tmp_path / "a.pid").read_text()))
    assert (tmp_path / "a.saved").exists()


def test_a_killed_process_takes_what_it_had_started_with_it(tmp_path):
    file = tmp_path / "a.pid"

    def send():
        wait_for(file)
        os.kill(int(file.read_text()), signal.SIGKILL)

    later = threading.Thread(target=send, daemon=True)
    later.start()
    outcomes = run(several(1), Cell("a", Train(tmp_path, "a", child=True)))
    later.join()
    assert "was killed" in outcomes["a"].error
    assert gone(int((tmp_path / "a.child").read_text()))


# What is said


def test_lines_begin_with_the_name_of_their_cell(engine, capfd):
    said = io.StringIO()
    run(engine, Cell("tell", Tell()), Cell("bad", Fail("diverge"), ("tell",)), display=StudyLines(said))
    lines = said.getvalue().splitlines()
    assert [line for line in lines if "plain words" not in line] == [
        "tell: two steps",
        "tell: step 1/2  sum 0.500  10 images/s",
        "tell: step 2/2  sum 0.250  10 images/s",
        "tell: step 2/2  target 0.900",
        "tell: done  (1/2 cells, 0 running)",
        "bad: failed: the loss became nan.  (2/2 cells, 0 running, 1 failed)",
    ]
    printed = capfd.readouterr().out
    if isinstance(engine, Processes):
        assert "tell: plain words" in lines
        assert printed == ""  # standard output may be somebody's JSON


def test_a_terminal_shows_what_runs_and_how_far_the_study_is():
    study = LiveStudy(io.StringIO())
    study.begin(60)
    for name in ("metasum-seed0", "ties-seed0"):
        study.started(name).begin("…", step=0, steps=100)
    study.started("x").stepped(5, losses={"sum": 0.5}, images_per_second=123.4)
    study.ended("ties-seed0", Failure("ties-seed0", "no [red]luck[/]."))
    study.ended("never-begun", Failure("never-begun", "…", "ties-seed0"))
    shown = io.StringIO()
    Console(file=shown, width=100).print(study._live.renderable)
    study.end()
    lines = shown.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["metasum-seed0", "x", "2/60"]
    assert "0/100" in lines[0]
    assert "sum 0.500" in lines[1]
    assert "123 images/s" in lines[1]
    assert lines[2].strip() == "2/60 cells, 2 running, 2 failed"
    assert "ties-seed0 failed: no [red]luck[/]." in study.cells.console.file.getvalue()


def test_the_display_suits_the_stream(engine):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert isinstance(study_display_for(quiet=False, stream=io.StringIO()), StudyLines)
    terminal = Terminal()
    live = study_display_for(quiet=False, stream=terminal)
    assert isinstance(live, LiveStudy)
    run(engine, Cell("tell", Tell()), Cell("busy", Add()), display=live)
    assert "2/2 cells, 0 running" in terminal.getvalue()
    assert isinstance(study_display_for(quiet=True, stream=terminal), SilentStudy)
