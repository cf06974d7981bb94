"""Every file that a command reads, damaged in every way: one sentence that names it, or the very same answer."""

import json
import os
import random
import shutil
import sys

import pytest
from refusal import refused

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
PLACES = int(os.environ.get("PLACES", "60"))
"""Damages that are tried of each file; PLACES=1000 in the environment tries more."""
LAST_RESORT = "METASUM_DEBUG=1"
ODD = [None, 1e999, -1e999, 10**400, -5, 10**9, "", "\x1b[2J", "x" * 5000, [], {}, [[]], True, 0.5]


def truncated(data, draw):
    return data[: draw.randrange(len(data))]


def flipped(data, draw):
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def emptied(data, draw):
    return b""


def nested(data, draw):
    return b'{"a":' * 100_000


def spliced(data, draw):
    place = draw.randrange(len(data))
    return data[:place] + draw.randbytes(draw.randrange(1, 64)) + data[place:]


def places_in(value, path=()):
    """The paths to all values in a JSON object."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield from places_in(each, (*path, key))


def replaced(data, draw):
    """A JSON file with one of its values replaced by, or a key lost to, something odd."""
    try:
        value = {"": json.loads(data)}
    except ValueError:
        return flipped(data, draw)
    path = draw.choice([path for path in places_in(value) if path])
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if len(path) > 1 and isinstance(inner, dict) and draw.random() < 0.2:
        del inner[path[-1]]
    else:
        inner[path[-1]] = draw.choice(ODD)
    return json.dumps(value[""]).encode()


DAMAGES = [truncated, flipped, flipped, emptied, nested, spliced, replaced, replaced, replaced]


def commands(run, data_root):
    """What reads a run, by name, as arguments."""
    other = run.parent.parent / "lines+rows" / "metasum-seed0"
    out = ["--out", run.parent.parent / "new", "--data-root", data_root]
    files = [run / f"{name}.safetensors" for name in ("target", "support")]
    merged = ["--base", run / "initial.safetensors", "--overwrite", "-o", run.parent / "both.safetensors"]
    return {
        "report": ["report", run],
        "sum": ["sum", run, other, *out, "--device", "cpu", "--overwrite"],
        "evaluate": ["evaluate", files[0], "--on", "rows", "--data-root", data_root, "--device", "cpu"],
        "merge": ["merge", "ties", *files, *merged],
    }


READ = {
    "config.json": ["report", "sum", "resume"],
    "result.json": ["report", "sum"],
    "analysis.json": ["report"],
    "metrics.jsonl": ["report", "resume"],
    "last.ckpt": ["resume"],
    "target.safetensors": ["evaluate", "merge", "sum", "report"],
    "initial.safetensors": ["merge", "sum"],
}
"""Which commands read which file of a run."""


def no_surprise(outcome, told):
    assert "Traceback" not in outcome.err, told
    assert LAST_RESORT not in outcome.err, (told, outcome.err)
    assert "METASUM" not in outcome.out, told
    if outcome.code:
        refused(outcome, outcome.code)


@pytest.mark.parametrize("name", READ)
def test_a_damaged_file_of_a_run(metasum, tiny, finished, data_root, tmp_path, name):
    draw, kept, tried = random.Random(name), tmp_path / "kept", 0
    shutil.copytree(finished.parent.parent, kept)
    if name in ("last.ckpt",):
        (kept / "rows+lines" / "metasum-seed0" / "result.json").unlink()
    for number in range(PLACES):
        shutil.rmtree(finished.parent.parent)
        shutil.copytree(kept, finished.parent.parent)
        damage, path = draw.choice(DAMAGES), finished / name
        whole = path.read_bytes()
        path.write_bytes(damage(whole, draw))
        command = READ[name][number % len(READ[name])]
        if command == "resume":
            (finished / "result.json").unlink(missing_ok=True)
        arguments = ["train", *tiny, "--resume"] if command == "resume" else commands(finished, data_root)[command]
        told = (name, number, damage.__name__, command)
        outcome = metasum(*arguments)
        no_surprise(outcome, told)
        if outcome.code:
            assert name in outcome.err or "config.json" in outcome.err or str(finished) in outcome.err, (
                told,
                outcome.err,
            )
        tried += 1
    print(f"{tried} damages of {name} were tried", file=sys.__stderr__)


@pytest.mark.parametrize("kind", ["directory", "unreadable", "missing"])
@pytest.mark.parametrize("name", READ)
def test_a_file_that_cannot_be_read(metasum, tiny, finished, data_root, name, kind):
    path = finished / name
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "unreadable":
        path.symlink_to(path)  # a right that is missing does not stop root
    for command in READ[name]:
        if command == "resume":
            continue
        no_surprise(metasum(*commands(finished, data_root)[command]), (name, kind, command))
