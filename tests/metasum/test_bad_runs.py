"""Bad run folders, checkpoints and disks: one clear line, and what was there is kept."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from refusal import nothing_written, refused
from safetensors.torch import load_file, save_file
from tiny import blob_arrays, write_npz

from metasum.errors import StorageError
from metasum.training.run_folder import RunFolder


class Bomb:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_nothing_in_a_users_file_is_executed(metasum, tiny, tmp_path):
    mark = tmp_path / "executed"
    write_npz(tmp_path / "data" / "rows.npz", x_train=np.array([Bomb(mark)], dtype=object))
    assert metasum("train", *tiny).code == 1
    write_npz(tmp_path / "data" / "rows.npz")
    assert metasum("train", *tiny, "--steps", 2).code == 0
    run = tmp_path / "runs" / "rows+lines" / "metasum-seed0"
    (run / "result.json").unlink()
    torch.save({"learner": Bomb(mark)}, run / "last.ckpt")
    refused(metasum("train", *tiny, "--steps", 2, "--resume"), 1, "last.ckpt is damaged or is not a checkpoint")
    torch.save(Bomb(mark), tmp_path / "init.safetensors")
    refused(metasum("train", *tiny, "--name", "b", "--init", tmp_path / "init.safetensors"), 1, "init.safetensors")
    assert not mark.exists()


def test_a_run_that_exists(metasum, tiny, finished):
    run = finished
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    refused(metasum("train", *tiny), 2, "holds a finished run", "--overwrite")
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before
    (run / "result.json").unlink()
    refused(metasum("train", *tiny), 2, "holds an unfinished run (--resume continues it)")
    assert metasum("train", *tiny, "--overwrite").code == 0


def test_overwrite_never_deletes_a_folder_that_is_no_run(metasum, tiny, tmp_path):
    other = tmp_path / "runs" / "rows+lines" / "metasum-seed0"
    other.mkdir(parents=True)
    (other / "thesis.txt").write_text("years of work")
    refused(metasum("train", *tiny, "--overwrite"), 2, "is not a run folder")
    assert (other / "thesis.txt").read_text() == "years of work"


def test_nothing_to_resume(metasum, tiny, tmp_path):
    refused(metasum("train", *tiny, "--resume"), 1, "there is no run to resume")
    assert nothing_written(tmp_path)


def test_resuming_with_other_settings_names_the_first_that_differs(metasum, tiny, tmp_path, unfinished):
    refused(metasum("train", *tiny, "--resume", "--clip", 1), 2, "clip was None, now 1.0")
    assert metasum("train", *tiny, "--resume", "--evaluate-every", 0, "--device", "auto").code == 0, "changes no weight"


def test_resuming_with_other_data(metasum, tiny, tmp_path, unfinished):
    write_npz(tmp_path / "data" / "rows.npz", blob_arrays(seed=7))
    refused(metasum("train", *tiny, "--resume"), 2, "checksum was")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
def test_a_damaged_checkpoint(metasum, tiny, unfinished, keep):
    path = unfinished / "last.ckpt"
    damaged = path.read_bytes()[: int(path.stat().st_size * keep)]
    path.write_bytes(damaged)
    refused(metasum("train", *tiny, "--resume"), 1, "last.ckpt is damaged")
    assert path.read_bytes() == damaged


def test_a_foreign_checkpoint(metasum, tiny, tmp_path, unfinished):
    path = unfinished / "last.ckpt"
    torch.save({"state_dict": {}}, path)
    refused(metasum("train", *tiny, "--resume"), 1, "last.ckpt is not a checkpoint of metasum")


def test_a_checkpoint_of_another_architecture(metasum, tiny, tmp_path, unfinished):
    run = unfinished
    assert metasum("train", *tiny, "--name", "wider", "--width", 0.06).code == 0
    (run.parent / "wider" / "last.ckpt").replace(run / "last.ckpt")
    before = (run / "metrics.jsonl").read_bytes()
    refused(metasum("train", *tiny, "--resume"), 1, "another architecture", "block_1.0.weight", "[4, 1, 3, 3]")
    assert (run / "metrics.jsonl").read_bytes() == before, "a refused resume loses nothing"


def test_a_checkpoint_with_one_flipped_bit(metasum, tiny, tmp_path, unfinished):
    path = unfinished / "last.ckpt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(metasum("train", *tiny, "--resume"), 1, "last.ckpt is damaged", "checksum")


@pytest.mark.parametrize("line", [b"3", b"{}", b'{"step": "x", "kind": "step"}', b"\xff\xfe", b'{"step": 2, "ki'])
def test_damaged_metrics(metasum, tiny, unfinished, line):
    run = unfinished
    whole = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(whole + line)
    assert metasum("train", *tiny, "--resume").code == 0, "what a killed process left is dropped"
    (run / "metrics.jsonl").write_bytes(line + b"\n" + whole)
    refused(metasum("report", run), 1, "metrics.jsonl is damaged in line 1")
    result = (run / "result.json").read_text()
    (run / "result.json").unlink()
    refused(metasum("train", *tiny, "--resume"), 1, f"{run / 'metrics.jsonl'} is damaged in line 1")
    assert (run / "metrics.jsonl").read_bytes() == line + b"\n" + whole, "nothing is lost"
    (run / "result.json").write_text(result)
    (run / "metrics.jsonl").unlink()
    refused(metasum("report", run), 1, "metrics.jsonl is missing or lacks its lines")


@pytest.mark.parametrize("left", [b"", b'{"step": 2, "ki', None], ids=["emptied", "torn", "missing"])
def test_a_history_that_is_gone_is_told(metasum, tiny, unfinished, left):
    log = unfinished / "metrics.jsonl"
    log.unlink()
    if left is not None:
        log.write_bytes(left)
    refused(metasum("train", *tiny, "--resume"), 1, f"{log} is damaged", "lines from before step 6", "0 are there")
    assert left is None or log.read_bytes() == left


def test_a_killed_start_is_no_obstacle(metasum, tiny, tmp_path):
    run = tmp_path / "runs" / "rows+lines" / "metasum-seed0"
    run.mkdir(parents=True)
    (run / ".config.json.partial").write_text("{")
    assert metasum("train", *tiny).code == 0


def test_a_damaged_config(metasum, tiny, tmp_path, unfinished):
    run = unfinished
    for text in ('{"settings": ', "[]", "{}", '{"settings": {"learner": "metasum"}}'):
        (run / "config.json").write_text(text)
        outcome = metasum("train", *tiny, "--resume")
        refused(outcome, 1)


@pytest.mark.parametrize("case", ["missing", "damaged", "shape", "name"])
def test_an_initialisation_that_does_not_fit(metasum, tiny, tmp_path, finished, case):
    state = load_file(finished / "initial.safetensors")
    file = tmp_path / "init.safetensors"
    if case == "damaged":
        file.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00not json")
    elif case == "shape":
        save_file(state | {"classifier.7.bias": torch.zeros(9)}, file)
    elif case == "name":
        save_file({n: t for n, t in state.items() if n != "classifier.7.bias"}, file)
    words = {
        "missing": ["there is no weights file"],
        "damaged": ["is damaged or is not a safetensors file"],
        "shape": ["'classifier.7.bias' is [4] float32 in the network asked for and [9] float32 in"],
        "name": ["'classifier.7.bias' is [4] float32 in the network asked for and missing in"],
    }[case]
    refused(metasum("train", *tiny, "--name", "b", "--init", file), 1, *words)
    assert not (tmp_path / "runs" / "rows+lines" / "b").exists()


def full_disk(*_args, **_keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["config.json", "initial.safetensors", "last.ckpt", "result.json"])
def test_no_space_on_disk(metasum, tiny, tmp_path, monkeypatch, name):
    replace = os.replace

    def failing(source, target, **keywords):
        full_disk() if Path(target).name == name else replace(source, target, **keywords)

    monkeypatch.setattr(os, "replace", failing)
    refused(metasum("train", *tiny), 1, "No space left on device", name)
    run = tmp_path / "runs" / "rows+lines" / "metasum-seed0"
    assert not (run / name).exists()
    assert not list(run.glob(".*")), "no temporary file is left"
    assert name != "config.json" or not run.exists(), "nor an empty folder"


def test_no_space_for_a_log_line(metasum, tiny, monkeypatch):
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *a, **k: full_disk() if path.name == "metrics.jsonl" else opened(path, *a, **k)
    )
    refused(metasum("train", *tiny), 1, "metrics.jsonl", "No space left on device")


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    run = RunFolder.create(tmp_path / "run", {})
    run.save_checkpoint({"step": 1})
    before = (run.path / "last.ckpt").read_bytes()

    def torn(state, file):
        file.write(b"half")
        try:
            full_disk()
        except OSError:
            raise RuntimeError("[enforce fail at inline_container.cc] . unexpected pos")  # noqa: B904 (as PyTorch does)

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(StorageError, match=r"cannot write .*last.ckpt: .*No space left on device"):
        run.save_checkpoint({"step": 2})
    assert (run.path / "last.ckpt").read_bytes() == before
    assert [p.name for p in run.path.iterdir() if p.name.startswith(".")] == []


def test_a_report_of_something_else(metasum, tiny, tmp_path, unfinished):
    refused(metasum("report", tmp_path), 1, "is not a run folder")
    run = unfinished
    refused(metasum("report", run), 1, "has no result.json", "the run is not finished")
    for result in ({"accuracy": 1}, []):
        (run / "result.json").write_text(json.dumps(result))
        refused(metasum("report", run), 1)


def test_an_unwritable_folder(metasum, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    refused(metasum("train", *tiny, "--out", tmp_path / "file"), 1, "cannot make the run folder")
