"""A disk that is full at any moment, or read-only: one sentence names what the user knows, and nothing is lost."""

import os
import random
import shutil
import subprocess
import sys

import pytest
from every_command import commands, prepared

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SIZES = int(os.environ.get("SIZES", "4"))
"""How many sizes of a full disk are tried with each command."""


def mounted(folder, *options):
    return subprocess.run(["mount", *options, folder], capture_output=True, text=True)


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, of 64 MiB; it is called with another size, or with "ro" or "rw"."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        made = mounted(folder, "-t", "tmpfs", "-o", "size=64m", "tmpfs")
    except OSError as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    if made.returncode:
        pytest.skip(f"no disk can be mounted here: {made.stderr.strip()}")

    def changed(option):
        again = mounted(folder, "-o", f"remount,{option}")
        assert again.returncode == 0, again.stderr

    changed.folder = folder
    yield changed
    subprocess.run(["umount", "--lazy", folder], check=True)


WRITING = ["train", "compare-baselines", "meta-train", "few-shot", "sum", "merge", "merge YAML", "compare-networks"]


def arguments_of(name, root):
    words = commands(root)[name]
    begun = name != "meta-train" or (root / "runs" / "meta" / "start" / "config.json").is_file()
    return words if begun else [word for word in words if word != "--resume"]


def train_both(metasum, root):
    for needed in ("train", "train another"):
        assert metasum(*commands(root)[needed], "--no-report").code == 0


def told(outcome, root, words, of):
    lines = [line for line in outcome.err.splitlines() if line.startswith("metasum: ")]
    assert "Traceback" not in outcome.err, (of, outcome.err)
    assert len(lines) == 1, (of, outcome)
    assert words in lines[0], (of, outcome.err)
    assert str(root) in lines[0] or "failed" in lines[0], (of, outcome.err)
    assert ".partial" not in lines[0], (of, outcome.err)


@pytest.mark.parametrize("name", WRITING)
def test_a_full_disk(metasum, tmp_path, disk, name):
    root, draw, full = disk.folder / "root", random.Random(name), 0
    prepared(root)
    if name in ("sum", "merge"):
        train_both(metasum, root)
    kept = tmp_path / "kept"
    shutil.copytree(root, kept)
    whole = metasum(*arguments_of(name, root))
    assert whole.code == 0, whole.err
    needs = sum(path.stat().st_blocks for path in root.rglob("*")) * 512
    has = sum(path.stat().st_blocks for path in kept.rglob("*")) * 512
    for _ in range(SIZES):
        shutil.rmtree(root)
        shutil.copytree(kept, root)
        size = draw.randrange(has, max(needs, has + 2**14))
        disk(f"size={-(-size // 4096) * 4096}")
        outcome = metasum(*arguments_of(name, root))
        disk("size=64m")
        if outcome.code == 0:
            continue
        full += 1
        told(outcome, root, "No space left on device", (name, size))
        again = metasum(*arguments_of(name, root))
        assert again.code == 0, (name, size, again.err)
    assert full, "the disk was never full"
    print(f"{name}: {SIZES} full disks were tried, {full} of them too small", file=sys.__stderr__)


@pytest.mark.parametrize("name", [*WRITING, "report run"])
def test_a_read_only_disk(metasum, disk, name):
    root = disk.folder / "root"
    prepared(root)
    train_both(metasum, root)
    disk("ro")
    outcome = metasum(*arguments_of(name, root))
    disk("rw")
    told(outcome, root, "Read-only file system", name)


def test_a_read_only_disk_is_read_from(metasum, disk, tmp_path):
    root = disk.folder / "root"
    prepared(root)
    train_both(metasum, root)
    disk("ro")
    first, second = root / "runs" / "rows+lines" / "first", root / "runs" / "lines+rows" / "second"
    files = [first / "target.safetensors", second / "target.safetensors"]
    data = ["--data-root", root / "data"]
    for words in (
        ["sum", first, second, "--out", tmp_path, "--device", "cpu", *data],
        ["evaluate", files[0], "--on", "rows", *data],
        ["merge", "average", *files, "-o", tmp_path / "m.safetensors"],
    ):
        outcome = metasum(*words)
        assert outcome.code == 0, (words[0], outcome.err)


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_standard_output_that_is_full(metasum, monkeypatch, flags):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        outcome = metasum("learners", *flags)
        full.buffer.raw.close()  # what is left in it would fail once more
    assert outcome.code == 1
    assert "cannot write the result to standard output: No space left on device" in outcome.err
