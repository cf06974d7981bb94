"""metrics.jsonl: what a kill tore may go, and nothing else."""

import json
import random

import pytest

from metasum.errors import CheckpointError
from metasum.training.run_folder import RunFolder, read_metrics


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path)
    for step in range(1, 7):
        folder.append_metrics({"kind": "step", "step": step, "losses": {"sum": 1 / step}})
    folder.append_metrics({"kind": "evaluation", "step": 6, "accuracy": {"target": 0.5}})
    return folder


def test_wherever_the_last_line_is_torn_the_others_stay(run):
    path = run.path / "metrics.jsonl"
    text = path.read_bytes()
    start = text.rindex(b"\n", 0, -1) + 1
    for cut in range(start, len(text) + 1):
        path.write_bytes(text[:cut])
        run.forget_metrics_after(6)
        assert path.read_bytes() == (text if cut >= len(text) - 1 else text[:start])


def test_a_damaged_line_is_refused_by_its_number_and_nothing_is_lost(run):
    path, random_ = run.path / "metrics.jsonl", random.Random(0)
    text = path.read_bytes()
    lines = text.splitlines(keepends=True)
    for number, _ in enumerate(lines):
        for damage in (b"\n", b"{}\n", b"\xff\n", lines[number][:9] + b"\n", b"[" * 99_999 + b"\n", b'{"kind": []}\n'):
            damaged = b"".join([*lines[:number], damage, *lines[number + 1 :]])
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=rf"metrics\.jsonl is damaged in line {number + 1}\."):
                run.forget_metrics_after(6)
            assert path.read_bytes() == damaged
    for _ in range(300):  # bits: what is still a record cannot be told, and all others are refused
        damaged = bytearray(text)
        damaged[random_.randrange(len(text) - 1)] ^= 1 << random_.randrange(8)
        path.write_bytes(damaged)
        try:
            run.forget_metrics_after(10**9)
        except CheckpointError:
            assert path.read_bytes() == damaged
        else:
            assert len(read_metrics(path)) == len(lines)


def test_a_reader_is_told_of_a_torn_line_too(run):
    path = run.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind": "st')
    with pytest.raises(CheckpointError, match="damaged in line 8"):
        run.metrics()
    assert len(read_metrics(path, torn=True)) == 7


def test_what_was_logged_after_the_checkpoint_goes(run):
    run.forget_metrics_after(4)
    assert [json.loads(line)["step"] for line in (run.path / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
