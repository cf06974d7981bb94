"""Files that appear whole: whoever else writes, whatever lies in the way, whatever a killed process left."""

import json
import math
import os
import pathlib
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file

from metasum import files
from metasum.errors import StorageError
from metasum.files import json_text, replacing, write_text
from metasum.training.run_folder import RunFolder
from metasum.weights.storage import load_weights, read_metadata, save_weights
from metasum.weights.tensor_files.dtypes import TensorInfo
from metasum.weights.tensor_files.output import writing


def write_piecewise(path, number):
    with writing(path, {"a": TensorInfo("F32", (1000,))}, {}) as output:
        data = torch.full((1000,), float(number)).view(torch.uint8)
        for start in range(0, len(data), 400):
            output.write("a", start, data[start : start + 400])


def write_checkpoint(path, number):
    RunFolder(path.parent).save_checkpoint({"step": number})


WRITERS = {
    "out.txt": lambda path, number: write_text(path, str(number) * 1000),
    "out.safetensors": lambda path, number: save_weights(path, {"a": torch.full((1000,), float(number))}),
    "merged.safetensors": write_piecewise,
    "last.ckpt": write_checkpoint,
}
every_writer = pytest.mark.parametrize("name", WRITERS)


def hidden(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@every_writer
def test_of_several_writers_at_once_one_leaves_its_whole_file(tmp_path, name):
    path, whole = tmp_path / name, set()
    for number in range(4):
        WRITERS[name](path, number)
        whole.add(path.read_bytes())
    assert len(whole) == 4
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            list(pool.map(lambda number: WRITERS[name](path, number), range(4)))
            assert path.read_bytes() in whole
    assert hidden(tmp_path) == []


def test_two_merges_that_write_in_turns_do_not_mix(tmp_path):
    path, infos = tmp_path / "out.safetensors", {"a": TensorInfo("F32", (2,))}
    ones, twos = (torch.full((2,), float(number)).view(torch.uint8) for number in (1, 2))
    with writing(path, infos, {}) as first:
        first.write("a", 0, ones[:4])
        with writing(path, infos, {}) as second:
            second.write("a", 0, twos)
        first.write("a", 4, ones[4:])
        assert load_weights(path)["a"].tolist() == [2, 2]
    assert load_weights(path)["a"].tolist() == [1, 1]


@every_writer
def test_who_reads_the_old_file_goes_on_reading_it(tmp_path, name):
    WRITERS[name](tmp_path / name, 1)
    before = (tmp_path / name).read_bytes()
    with (tmp_path / name).open("rb") as reader:
        WRITERS[name](tmp_path / name, 2)
        assert reader.read() == before
    assert (tmp_path / name).read_bytes() != before


@every_writer
def test_a_planted_link_is_not_followed(tmp_path, monkeypatch, name):
    (tmp_path / "victim").write_text("precious")
    names = iter(["guessed", "guessed", "fresh"])
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: next(names))
    for planted in (f".{name}.guessed.partial", f".{name}.partial"):
        (tmp_path / planted).symlink_to(tmp_path / "victim")
    WRITERS[name](tmp_path / name, 1)
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / name).is_symlink()
    assert (tmp_path / name).stat().st_size > 0


@every_writer
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_rights_are_those_of_a_plain_file(tmp_path, name, mask):
    before = os.umask(mask)
    try:
        WRITERS[name](tmp_path / name, 1)
    finally:
        os.umask(before)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~mask


@every_writer
def test_an_error_names_the_file_and_not_the_hidden_one(tmp_path, monkeypatch, name):
    with pytest.raises(StorageError) as caught:
        WRITERS[name](tmp_path / "none" / name, 1)
    assert str(caught.value).startswith(f"cannot write {tmp_path / 'none' / name}: ")
    assert "partial" not in str(caught.value)
    taken = tmp_path / name
    taken.mkdir()
    with pytest.raises(StorageError) as caught:
        WRITERS[name](taken, 1)
    assert str(caught.value).startswith(f"cannot write {taken}: ")
    assert "partial" not in str(caught.value)
    assert hidden(tmp_path) == []


def test_what_a_killed_writer_left_goes_with_the_next_and_a_live_one_stays(tmp_path):
    path = tmp_path / "out.txt"
    code = "import sys, time; from pathlib import Path; from metasum.files import replacing\n"
    code += "with replacing(Path(sys.argv[1])): print('writing', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        with replacing(path) as ours:
            assert len(hidden(tmp_path)) == 2, "both are being written"
            ours.write_text("ours")
        assert len(hidden(tmp_path)) == 1, "the other's"
        process.send_signal(signal.SIGKILL)
    write_text(path, "again")
    assert hidden(tmp_path) == []


def test_without_locks_files_are_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "lock", lambda *_, **__: None)
    (tmp_path / ".out.txt.0123abcd.partial").write_text("whose?")
    write_text(tmp_path / "out.txt", "text")
    assert (tmp_path / "out.txt").read_text() == "text"
    assert hidden(tmp_path) == [".out.txt.0123abcd.partial"], "nobody can know who writes it"


def test_weights_of_every_kind_come_back_as_they_were(tmp_path):
    shared = torch.arange(6.0).view(2, 3)
    tensors = {
        "transposed": shared.T,
        "tied": shared,
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "complex": torch.tensor([1 + 2j]),
        "mask": torch.tensor([True, False]),
        "learnt": torch.nn.Parameter(torch.ones(2)),
    }
    save_weights(tmp_path / "a.safetensors", tensors, metadata={"architecture": "θ"})
    found = load_file(tmp_path / "a.safetensors")
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert read_metadata(tmp_path / "a.safetensors")["architecture"] == "θ"
    with pytest.raises(StorageError, match=r"'odd' is torch\.complex128, which such files do not hold"):
        save_weights(tmp_path / "b.safetensors", {"odd": torch.zeros(1, dtype=torch.complex128)})


def test_json_is_json_whatever_the_numbers():
    """NaN and infinity are Python's words, not JSON's."""
    value = {"a": [1.5, math.nan, (math.inf, {"b": -math.inf})], "c": "NaN", "d": True}
    assert json.loads(json_text(value)) == {"a": [1.5, None, [None, {"b": None}]], "c": "NaN", "d": True}
    assert "NaN" not in json_text(value).replace('"NaN"', "")
    assert "Infinity" not in json_text(value)


ELSEWHERE = {"header.py", "journal.py", "layout.py", "layout_memory.py", "layout_probe.py", "ownership.py"}
"""Write no number that could be NaN: places in a file, layouts, a process's number; or, as Optuna does, its journal."""


def test_json_is_written_in_one_place():
    root = pathlib.Path(files.__file__).parent
    rooms = (root, (root / "tasks").resolve(), (root / "baselines").resolve())
    every = {file.resolve() for room in rooms for file in room.rglob("*.py")}
    assert {file.name for file in every if "json.dump" in file.read_text()} == {"files.py", *ELSEWHERE}
