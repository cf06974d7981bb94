"""A command that is killed at any moment, and killed again while it goes on, ends as if nobody had been there.

KILLS=180 in the environment kills more often.
"""

import multiprocessing
import os
import random
import shutil
import sys
import time

import pytest
import started
from every_command import commands, numbers, prepared

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
KILLS = int(os.environ.get("KILLS", "30"))
"""Of a training; of each other command a sixth, for they take longer."""
OTHERS = max(2, KILLS // 6)
CONTEXT = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
PRELOADED = ["torch", "lightning_fabric", "metasum.cli", "metasum.run.request", "metasum.run.training"]
"""What each child would else import for itself, which takes longer than what is to be killed."""
LAYOUT = ["--memory-format", "contiguous"]
"""No trial of what is quicker here: two runs could come to other ends."""
MORE = {
    "compare-baselines": [*LAYOUT, "--no-report"],
    "experiment": [*LAYOUT, "--no-report"],
    "few-shot": [],
    "meta-train": [],
    "merge": [],
    "merge .pt": [],
    "merge YAML": [],
}
"""What is killed beside a training, and with which flags."""


def begun(arguments, slow=False):
    """A child that runs a command, on a slow disk or not."""
    CONTEXT.set_forkserver_preload(PRELOADED)
    child = CONTEXT.Process(target=started.command, args=([str(argument) for argument in arguments], slow))
    child.start()
    return child


def ended(arguments):
    child = begun(arguments)
    child.join()
    assert child.exitcode == 0, arguments


def weights(run):
    return {path.name: path.read_bytes() for path in run.glob("*.safetensors")}


def test_whenever_it_is_killed(tiny, tmp_path):
    folder, draw = tmp_path / "runs" / "rows+lines", random.Random(0)
    flags = ["train", *tiny, "--memory-format", "contiguous", "--checkpoint-every", 1]
    ended([*flags, "--name", "first"])  # imports what the others find imported
    before = time.monotonic()
    ended([*flags, "--name", "whole"])
    whole, took, midway = weights(folder / "whole"), time.monotonic() - before, 0
    for number in range(KILLS):
        run = folder / f"killed-{number}"
        for _ in range(1 + number % 3):
            resume = ["--resume"] if (run / "config.json").is_file() else []
            child = begun([*flags, "--name", run.name, *resume], slow=draw.random() < 0.5)
            time.sleep(draw.uniform(0, took))
            child.kill()
            child.join()
            midway += (run / "config.json").is_file() and not (run / "result.json").is_file()
        resume = ["--resume"] if (run / "config.json").is_file() else []
        ended([*flags, "--name", run.name, *resume])
        assert weights(run) == whole, number
        assert not list(run.glob(".*")), "nothing is left half-written"
    print(f"{KILLS} runs were killed, {midway} times midway", file=sys.__stderr__)


def left(root):
    """What must be the same in the end: every network, bit for bit, and the numbers of every table."""
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.safetensors")}
    tables = root.rglob("results.json")
    return found, {str(path.relative_to(root)): numbers(path.read_text()) for path in tables}


def words_of(name, root):
    words = [*commands(root)[name]]
    begun_before = (root / "runs" / "meta" / "start" / "config.json").is_file()
    if name == "meta-train" and not begun_before:
        words.remove("--resume")
    return words + MORE[name]


@pytest.mark.parametrize("name", MORE)
def test_any_other_command_whenever_it_is_killed(tmp_path, name):
    root, kept, draw, midway = tmp_path / "root", tmp_path / "kept", random.Random(name), 0
    root.mkdir()
    prepared(root)
    if name == "merge":
        ended([*commands(root)["train"], "--no-report"])
    shutil.copytree(root, kept)
    ended(["learners"])  # starts the process that children come from
    before = time.monotonic()
    ended(words_of(name, root))
    whole, took = left(root), time.monotonic() - before
    for number in range(OTHERS):
        shutil.rmtree(root)
        shutil.copytree(kept, root)
        for _ in range(1 + number % 2):
            child = begun(words_of(name, root), slow=draw.random() < 0.5)
            time.sleep(draw.uniform(0, took))
            child.kill()
            child.join()
            midway += child.exitcode != 0
            assert left(root)[0].items() <= whole[0].items(), "networks are there whole or not at all"
        ended(words_of(name, root))
        assert left(root) == whole, number
        assert not list(root.rglob(".*.partial")), "nothing is left half-written"
    print(f"{name}: {OTHERS} times killed, {midway} kills came before its end", file=sys.__stderr__)


def test_of_two_owners_one_works_and_the_other_is_told(tiny, tmp_path):
    folder = tmp_path / "runs" / "rows+lines"
    flags = ["train", *tiny, "--memory-format", "contiguous"]
    ended([*flags, "--name", "whole"])
    for number in range(max(2, KILLS // 3)):
        children = [begun([*flags, "--name", f"shared-{number}"]) for _ in range(3)]
        for child in children:
            child.join()
        codes = sorted(child.exitcode for child in children)
        assert codes[0] == 0, codes
        assert set(codes[1:]) <= {1, 2}, codes
        run = folder / f"shared-{number}"
        assert weights(run) == weights(folder / "whole")
        assert len((run / "metrics.jsonl").read_text().splitlines()) == len(
            (folder / "whole" / "metrics.jsonl").read_text().splitlines()
        )
