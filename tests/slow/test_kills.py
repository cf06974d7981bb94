"""A training that is killed at any moment, and killed again while it goes on, ends as if nobody had been there."""

import multiprocessing
import os
import random
import sys
import time

import pytest
import started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
KILLS = int(os.environ.get("KILLS", "30"))
CONTEXT = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
PRELOADED = ["torch", "lightning_fabric", "metasum.cli", "metasum.run.request", "metasum.run.training"]
"""What each child would else import for itself, which takes longer than what is to be killed."""


def begun(arguments):
    CONTEXT.set_forkserver_preload(PRELOADED)
    child = CONTEXT.Process(target=started.command, args=([str(argument) for argument in arguments],))
    child.start()
    return child


def ended(arguments):
    child = begun(arguments)
    child.join()
    assert child.exitcode == 0, arguments


def left(run):
    """What must be the same in the end."""
    return {path.name: path.read_bytes() for path in run.glob("*.safetensors")}


def test_whenever_it_is_killed(tiny, tmp_path):
    folder, draw = tmp_path / "runs" / "rows+lines", random.Random(0)
    flags = ["train", *tiny, "--memory-format", "contiguous", "--checkpoint-every", 1]
    ended([*flags, "--name", "first"])  # imports what the others find imported
    before = time.monotonic()
    ended([*flags, "--name", "whole"])
    whole, took, midway = left(folder / "whole"), time.monotonic() - before, 0
    for number in range(KILLS):
        run = folder / f"killed-{number}"
        for _ in range(1 + number % 3):
            resume = ["--resume"] if (run / "config.json").is_file() else []
            child = begun([*flags, "--name", run.name, *resume])
            time.sleep(draw.uniform(0, took))
            child.kill()
            child.join()
            midway += (run / "config.json").is_file() and not (run / "result.json").is_file()
        resume = ["--resume"] if (run / "config.json").is_file() else []
        ended([*flags, "--name", run.name, *resume])
        assert left(run) == whole, number
        assert not list(run.glob(".*")), "nothing is left half-written"
    print(f"{KILLS} runs were killed, {midway} times midway", file=sys.__stderr__)


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
        assert left(run) == left(folder / "whole")
        assert len((run / "metrics.jsonl").read_text().splitlines()) == len(
            (folder / "whole" / "metrics.jsonl").read_text().splitlines()
        )
