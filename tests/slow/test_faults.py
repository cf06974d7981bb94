"""Every file that a command reads, damaged in every way: one sentence that names it, or the very same answer.

PLACES=1000 in the environment tries more of them.
"""

import json
import os
import random
import shutil
import sys

import pytest
from damages import DAMAGES
from every_command import commands, cut, files_used, numbers, prepared
from refusal import check_sentence, refused

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
PLACES, SEED = int(os.environ.get("PLACES", "200")), int(os.environ.get("SEED", "0"))
LAST_RESORT = "METASUM_DEBUG=1"


def tree(root):
    """The bytes of every file below a folder."""
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def version(path):
    """Changes where a file is written anew, be it with the same bytes."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def all_once(metasum, root):
    """Runs every command, so that all its files are there."""
    root.mkdir()
    prepared(root)
    for name, words in commands(root).items():
        if name == "train --resume":
            cut(root)
        if name == "meta-train":
            words = [word for word in words if word != "--resume"]
        outcome = metasum(*words)
        assert outcome.code == 0, (name, outcome.err)


class Whole:
    """What a command does where nothing is damaged: its answer, the files that it reads, those that it writes."""

    def __init__(self, metasum, root, words):
        before = {path: version(path) for path in tree(root)}
        with files_used(root) as used:
            outcome = metasum(*words)
        assert outcome.code == 0, (words, outcome.err)
        after = {path: version(path) for path in tree(root)}
        self.words, self.answer = words, numbers(outcome.out)
        self.written = used.written | {path for path in before if after.get(path) != before[path]}
        self.reads = sorted(path for path in used.read if path in before and path.suffix != ".py")


def knowable(root, path):
    """Whether a damaged file can be told from one that says something else: no other number in readable JSON or YAML,
    nor in weights that others have written without a checksum.
    """
    if path.suffix in (".yaml", ".yml", ".jsonl"):
        return False
    if path.suffix == ".json" and path.is_file():
        try:
            json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return True
        return False
    return path.parent not in (root / "a", root / "b")


def check(outcome, whole, path, known, before):
    assert "Traceback" not in outcome.err
    assert LAST_RESORT not in outcome.err, outcome.err
    assert "METASUM" not in outcome.out
    may = {path} | whole.written
    if outcome.code:
        check_sentence(Exception(outcome.err.strip().splitlines()[-1]))
        if not outcome.out:  # a study tells of runs that failed, and shows the others
            refused(outcome, outcome.code)
            may = {path}
        assert path.name in outcome.err or str(path.parent) in outcome.err, outcome.err
    else:
        may |= {other for other in before if other.parent == path.parent}  # the run may be made anew
        if known:
            assert numbers(outcome.out) == whole.answer
            may -= {
                other for other in may if other.suffix == ".safetensors" and other != path
            }  # with the very same bits
    changed = {str(other) for other, data in before.items() if other not in may and not same(other, data)}
    assert not changed, changed
    assert not list(path.parents[0].rglob("*.partial"))


def same(path, data):
    return path.is_file() and path.read_bytes() == data


def test_a_damaged_file_of_any_command(metasum, tmp_path):
    root, kept, draw = tmp_path / "root", tmp_path / "kept", random.Random(SEED)
    all_once(metasum, root)
    shutil.copytree(root, kept)

    def restored(name):
        shutil.rmtree(root)
        shutil.copytree(kept, root)
        if name in ("train --resume", "meta-train"):
            cut(root)

    wholes = {}
    for name, words in commands(root).items():
        restored(name)
        wholes[name] = Whole(metasum, root, words)
    pairs = [(name, path) for name, whole in wholes.items() for path in whole.reads]
    draw.shuffle(pairs)
    refusals, faults = 0, []
    for number in range(PLACES):
        (name, path), damage = pairs[number % len(pairs)], draw.choice(DAMAGES)
        restored(name)
        before = tree(root)
        damage(path, draw)
        known = knowable(root, path)
        outcome = metasum(*wholes[name].words)
        refusals += bool(outcome.code)
        try:
            check(outcome, wholes[name], path, known, before)
        except AssertionError as error:
            told = f"{number}: {name}, {path.relative_to(root)} {damage.__name__}: {str(error)[:700]}"
            print(told, file=sys.__stderr__, flush=True)
            faults.append(told)
    files = {path for _, path in pairs[:PLACES]}
    print(f"{PLACES} damages of {len(files)} files were tried, {refusals} were refused", file=sys.__stderr__)
    assert not faults, "\n".join(faults)
