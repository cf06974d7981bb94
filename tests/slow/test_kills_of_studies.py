"""Long commands, ended at any moment by any signal: the same command goes on, and its numbers are what they were."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import started
from every_command import commands, numbers, prepared

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
KILLS = int(os.environ.get("KILLS", "30"))
CONTEXT = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
PRELOADED = ["torch", "lightning_fabric", "yaml", "metasum.cli", "metasum.run.training", "metasum.run.meta_training"]
PRELOADED += ["metasum.study.comparing", "metasum.study.experimenting", "metasum.few_shot.run", "metasum.report.page"]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LONG = ("compare-baselines", "experiment", "meta-train", "few-shot")


def begun(arguments, out, *, slow=False):
    CONTEXT.set_forkserver_preload(PRELOADED)
    child = CONTEXT.Process(target=started.told_to, args=([str(word) for word in arguments], str(out), slow))
    child.start()
    return child


@pytest.mark.parametrize("name", LONG)
def test_whenever_and_however_it_is_ended(tmp_path, name):
    root, out, draw = tmp_path / "root", tmp_path / "out", random.Random(name)
    root.mkdir()
    prepared(root)
    words = [word for word in commands(root)[name] if word != "--resume"] + ["--no-report"] * (name != "meta-train")
    for _ in range(2):  # the first one imports what the others find imported
        shutil.rmtree(root / "runs", ignore_errors=True)
        before = time.monotonic()
        child = begun(words, out)
        child.join()
        assert child.exitcode == 0, out.read_text()
        took = time.monotonic() - before
    whole, ended = numbers(out.with_suffix(".json").read_text()), 0
    for number in range(KILLS):
        shutil.rmtree(root / "runs", ignore_errors=True)
        chosen = draw.choice(SIGNALS)
        child = begun(words, out, slow=number % 5 == 0)
        time.sleep(draw.uniform(0, took))
        if child.is_alive():
            os.kill(child.pid, chosen)
        child.join()
        ended += child.exitcode != 0
        if chosen != signal.SIGKILL:
            told = out.read_text()
            assert "Traceback" not in told, (number, chosen, told)
        resumed = name == "meta-train" and (root / "runs" / "meta" / "start" / "config.json").is_file()
        child = begun([*words, "--resume"] if resumed else words, out)
        child.join()
        assert child.exitcode == 0, (number, chosen, out.read_text())
        assert numbers(out.with_suffix(".json").read_text()) == whole, (number, chosen)
        assert not list((root / "runs").rglob(".*.partial")), "nothing is left half-written"
    print(f"{name}: {KILLS} were ended, {ended} of them before they were done", file=sys.__stderr__)


def test_a_sweep_goes_on_where_it_was_ended(tmp_path):
    pytest.importorskip("optuna")
    root, out, draw = tmp_path / "root", tmp_path / "out", random.Random(0)
    root.mkdir()
    prepared(root)
    (root / "sweep.yaml").write_text((root / "sweep.yaml").read_text().replace("[3]", "[3, 4]"))
    words = commands(root)["sweep"]
    before = time.monotonic()
    child = begun(words, out)
    child.join()
    assert child.exitcode == 0, out.read_text()
    took, whole = time.monotonic() - before, scores(out)
    for _ in range(max(1, KILLS // 10)):
        shutil.rmtree(root / "runs")
        child = begun(words, out)
        time.sleep(draw.uniform(0, took))
        os.kill(child.pid, draw.choice(SIGNALS))
        child.join()
        child = begun(words, out)
        child.join()
        assert child.exitcode == 0, out.read_text()
        assert scores(out) == whole


def scores(out):
    rows = numbers(out.with_suffix(".json").read_text())["trials"]
    return sorted((row["values"]["seed"], row["state"], row["score"]) for row in rows)


INTERRUPTING = """
import os, signal, sys
count, after = 0, int(os.environ["AFTER"])
def hear(event, arguments):
    global count
    if event == "import" and (count or arguments[0].startswith("metasum.entry")):
        count += 1
        if count == after:
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.addaudithook(hear)
"""


@pytest.mark.parametrize("place", range(12))
def test_ctrl_c_while_it_starts(tmp_path, place):
    """At the first imports, one by one and then further apart."""
    (tmp_path / "usercustomize.py").write_text("")
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTING)
    after = [2, 3, 5, 9, 17, 33, 60, 90, 120, 160, 200, 240][place]
    paths = os.pathsep.join([str(tmp_path), os.getcwd()])
    environment = os.environ | {"AFTER": str(after), "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-m", "metasum", "learners"], capture_output=True, text=True, timeout=200, env=environment
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 130), done
    if done.returncode:
        assert done.stderr.count("metasum: ") == 1
