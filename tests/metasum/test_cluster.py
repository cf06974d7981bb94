"""Studies on Dask: what cells come to there, how they stop, hang, wait and are counted, and what is refused."""

import ast
import importlib.util
import io
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from refusal import refused
from stub_work import Add, Fail, Freeze, Log, Take, Tell, Threads, Train, Until

from metasum.errors import Interrupted, MetaSumError, UsageError
from metasum.study.engine import cluster_course, on_worker
from metasum.study.engine.cell import Cell
from metasum.study.engine.choice import engine_for
from metasum.study.engine.cluster import Cluster
from metasum.study.engine.connecting import common_ground
from metasum.study.engine.display import SilentStudy, StudyLines
from metasum.study.engine.on_worker import Ground, unsuited, versions
from metasum.study.engine.sequential import Sequential

distributed, dask = pytest.importorskip("distributed"), pytest.importorskip("dask")
TORCH = ("torch", "metasum.study.engine.processes")


@pytest.fixture
def local(tmp_path):
    """Two workers on this machine, with no more imported than stubs need."""

    def run(*cells, display=None, scheduler="local", jobs=2, **more):
        engine = Cluster(scheduler, tmp_path / "runs", jobs=jobs, preload=TORCH, **{"poll": 0.05} | more)
        return engine.run(cells, display=display or SilentStudy())

    return run


def wait_for(path):
    end = time.monotonic() + 120
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)


def test_cells_come_to_what_they_come_to_one_after_the_other(local, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    cells = [Cell("c", Add(1), ("a", "b")), Cell("a", Add(2)), Cell("b", Add(3), ("a",)), Cell("bad", Fail("bug"))]
    cells += [Cell("lost", Add(), ("bad",)), Cell("all", Take(), after=("lost", "b")), Cell("tells", Tell())]
    cells += [Cell("relative", Log(Path("log"), "here"))]
    said = io.StringIO()
    found = local(*cells, Cell("threads", Threads()), display=StudyLines(said))
    assert found.pop("threads")[:2] == (1, "1")
    assert (tmp_path / "log").read_text() == "began here\nended here\n"
    assert list(found.items()) == list(Sequential().run(cells, display=SilentStudy()).items())
    lines = said.getvalue()
    assert "tells: step 2/2  sum 0.250  10 images/s\n" in lines
    assert "tells: plain words\n" in lines
    assert "(9/9 cells, 0 running, 2 failed)" in lines
    assert list((tmp_path / "runs").iterdir()) == [], "what workers were to find is gone"


def test_what_is_no_plan_is_refused_and_no_cells_are_no_work(local):
    with pytest.raises(ValueError, match="named 'a'"):
        local(Cell("a", Add()), Cell("a", Add()))
    assert local() == {}


def test_plugins_are_run_in_the_cells_process_and_what_dies_is_tried_again(local, tmp_path):
    plugin = tmp_path / "plugin.py"
    plugin.write_text("import os\nos.environ['FROM_PLUGIN'] = 'yes'\n")
    cells = [Cell("a", Threads("FROM_PLUGIN")), Cell("killed", Fail("kill")), Cell("frozen", Freeze(tmp_path / "mark"))]
    cells += [Cell("waits", Until(tmp_path / "mark", tmp_path / "tries"))]
    said = io.StringIO()
    found = local(*cells, plugins=(plugin,), silence=2.0, display=StudyLines(said))
    assert found["a"][-1] == "yes"
    assert found["frozen"] == "thawed"
    assert "frozen: its process did nothing for 2 seconds. It is tried again." in said.getvalue()
    assert found["killed"].error.endswith("perhaps because memory ran out. It was tried 3 times.")
    assert found["waits"] == "free"


def test_whoever_works_on_a_cell_is_waited_for(local, tmp_path):
    free, tries, said = tmp_path / "free", tmp_path / "tries", io.StringIO()

    def let_go():
        wait_for(tries)
        free.touch()

    later = threading.Thread(target=let_go, daemon=True)
    later.start()
    assert local(Cell("a", Until(free, tries)), display=StudyLines(said)) == {"a": "free"}
    later.join()
    assert said.getvalue().count("a: process 7 on node3 works in runs/a; waiting for it") == 1


def test_ctrl_c_has_cells_save_their_state(local, tmp_path):
    def send():
        wait_for(tmp_path / "a.pid")
        os.kill(os.getpid(), signal.SIGINT)

    later = threading.Thread(target=send, daemon=True)
    later.start()
    with pytest.raises(Interrupted, match="stopped with 0 of 2 cells ended"):
        local(Cell("a", Train(tmp_path, "a")), Cell("b", Add(1), ("a",)))
    later.join()
    assert (tmp_path / "a.saved").exists()


@pytest.fixture
def gpu():
    """The address of a scheduler whose one worker has three threads, and says that it has a GPU."""
    sizes = {"n_workers": 1, "threads_per_worker": 3, "memory_limit": 0, "resources": {"GPU": 1}}
    with distributed.LocalCluster(processes=False, dashboard_address=None, **sizes) as cluster:
        yield cluster.scheduler_address


@pytest.mark.parametrize(("device", "alone"), [("auto", True), ("cpu", False)])
def test_a_cell_takes_a_whole_gpu_unless_it_runs_on_the_cpu(local, gpu, tmp_path, device, alone):
    def work(name):  # on the CPU, all wait until the other has begun
        return Log(tmp_path / "log", name, 0.0) if alone else Train(tmp_path, name)

    if alone:
        assert local(*(Cell(name, work(name)) for name in "abc"), scheduler=gpu, jobs=1, device=device)
        words = [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]
        assert words == ["began", "ended"] * 3
        return

    def send():
        for name in "ab":
            wait_for(tmp_path / f"{name}.pid")
        os.kill(os.getpid(), signal.SIGINT)

    later = threading.Thread(target=send, daemon=True)
    later.start()
    with pytest.raises(Interrupted):
        local(*(Cell(name, work(name)) for name in "ab"), scheduler=gpu, jobs=1, device=device)
    later.join()
    assert (tmp_path / "b.saved").exists()


def test_a_machine_has_to_share_the_folder_and_the_versions(tmp_path):
    with common_ground(tmp_path / "runs") as ground:
        assert unsuited(ground) is None
        elsewhere = Ground(tmp_path / "other" / ground.token.name, ground.text, ground.versions)
        here = f"the Dask worker on {socket.gethostname()}"
        assert str(unsuited(elsewhere)).startswith(f"{here} does not see the folder {tmp_path / 'other'}: a study on")
        assert "name it with --out" in str(unsuited(elsewhere))
        assert unsuited(Ground(ground.token, "of another study", ground.versions)) is not None
        for name in ("Python", "metasum", "torch", "distributed"):
            other = Ground(ground.token, ground.text, versions() | {name: "0.0"})
            assert str(unsuited(other)).startswith(f"{here} has {name} {versions()[name]}, and this machine 0.0;")
    assert unsuited(ground) is not None


@pytest.mark.parametrize("present", [True, False], ids=["a worker that is there", "one that comes later"])
def test_a_worker_that_does_not_share_them_ends_the_study_in_a_sentence(local, monkeypatch, present):
    monkeypatch.setattr(on_worker, "unsuited", lambda ground: "the Dask worker on node3 does not see it.")
    if present:
        monkeypatch.setattr(cluster_course, "unsuited", on_worker.unsuited)
    with pytest.raises(UsageError, match="node3 does not see it"):
        local(Cell("a", Add(1)))


def test_a_cell_that_somebody_else_cancels_is_tried_again(local, gpu, tmp_path):
    def restart():
        wait_for(tmp_path / "mark")
        with distributed.Client(gpu, set_as_default=False) as other:
            tasks = other.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))
            other.cancel([distributed.Future(key, other) for key in tasks], force=True)

    later, said = threading.Thread(target=restart, daemon=True), io.StringIO()
    later.start()
    found = local(Cell("a", Freeze(tmp_path / "mark")), scheduler=gpu, jobs=1, display=StudyLines(said))
    later.join()
    assert found == {"a": "thawed"}
    assert "a: its task was cancelled by somebody else. It is tried again." in said.getvalue()


def test_a_scheduler_that_ends_is_told_of(local, tmp_path):
    cluster = distributed.LocalCluster(processes=False, dashboard_address=None, n_workers=1, memory_limit=0)

    def close():
        wait_for(tmp_path / "a.pid")
        cluster.close()

    later = threading.Thread(target=close, daemon=True)
    later.start()
    with pytest.raises(MetaSumError, match=r"the scheduler .* is gone; what was under way goes on"):
        local(Cell("a", Train(tmp_path, "a")), scheduler=cluster.scheduler_address, jobs=1)
    later.join()


def test_what_is_no_scheduler_is_refused(local, tmp_path):
    (tmp_path / "no.json").write_text("{}")
    for where, words in [
        (tmp_path / "none.json", r"cannot be read \(No such file"),
        (tmp_path / "no.json", "is not what `dask scheduler --scheduler-file` writes"),
        ("ftp://host:1", "is no address such as tcp://HOST:8786: unknown"),
    ]:
        with pytest.raises(UsageError, match=words):
            local(Cell("a", Add()), scheduler=str(where), jobs=1)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.5s"}),
        pytest.raises(MetaSumError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"),
    ):
        local(Cell("a", Add()), scheduler="tcp://127.0.0.1:9", jobs=1)


def test_commands_take_the_flag_and_say_what_it_needs(metasum, monkeypatch):
    refused(metasum("compare-baselines", "--scheduler", "tcp://a:1", "--jobs", 2), 2, "--jobs says nothing to")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for command in ("compare-baselines", "experiment", "few-shot"):
        refused(metasum(command, "--scheduler", "local"), 2, "pip install 'metasum[dask]'")


def test_the_flag_chooses_the_engine(tmp_path):
    engine = engine_for(1, scheduler="tcp://a:1", out=tmp_path, device="cpu", plugins=[tmp_path / "a.py"])
    assert engine == Cluster("tcp://a:1", tmp_path, device="cpu", plugins=(tmp_path / "a.py",))
    assert engine.apart


def test_a_cell_under_which_workers_died_is_told_in_a_sentence():
    error = distributed.KilledWorker("a", "tcp://b:1", 3)
    assert cluster_course._in_words(error) == "4 workers died under it, perhaps because memory ran out."
    assert cluster_course._in_words(ValueError("x\ny")) == "Dask could not run it (x)."


def test_dask_is_imported_where_it_is_asked_for_only():
    """Inside functions, and under TYPE_CHECKING."""
    for path in (Path(__file__).parents[2] / "metasum").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not ast.unparse(node).split()[1].startswith(("distributed", "dask")), path
