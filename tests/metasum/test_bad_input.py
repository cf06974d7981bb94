"""Bad input: one clear line, exit code 1 or 2, no traceback, nothing half-written."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import blob_arrays, write_npz

from metasum.errors import StorageError
from metasum.training.run_folder import RunFolder


def refused(outcome, code: int, *words: str) -> None:
    """The command failed with `code` and one line that holds all `words`."""
    lines = outcome.err.strip().splitlines()
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err
    assert lines[-1].startswith("metasum: ")
    assert sum(line.startswith("metasum: ") for line in lines) == 1
    assert outcome.out == ""
    for word in words:
        assert word in lines[-1]


def nothing_written(tmp_path: Path) -> bool:
    return not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--target", "minst"], ["unknown dataset 'minst'", "did you mean 'mnist'?"]),
        (["--learner", "metasom"], ["unknown learner 'metasom'", "did you mean 'metasum'?"]),
        (["--norm", "bach"], ["unknown value for --norm 'bach'", "did you mean 'batch'?"]),
        (["--reading", "gapp"], ["did you mean 'gap'?"]),
        (["--stepz", "4"], ["--stepz", "--steps"]),
        (["--steps", "0"], ["--steps must be at least 1, not 0"]),
        (["--steps", "many"], ["--steps", "many"]),
        (["--width", "0"], ["--width must be greater than 0"]),
        (["--learning-rate", "nan"], ["--learning-rate takes a finite number"]),
        (["--dropout", "1"], ["--dropout must be less than 1"]),
        (["--in-channels", "2"], ["--in-channels takes 1 or 3, not 2"]),
        (["--num-classes", "3"], ["--num-classes 3 is too few: the datasets have 4 classes"]),
        (["--symmetric=perhaps"], ["--symmetric takes true or false, not 'perhaps'"]),
        (["--learner", "independent", "--sum-weight", "2"], ["--sum-weight says nothing to learner 'independent'"]),
        (["--learner", "independent", "--statistics", "learned"], ["does not run the sum in training"]),
        (["--precision", "16-mixed"], ["--precision 16-mixed needs a GPU"]),
        (["--plugin", "nowhere.py"], ["there is no plugin file nowhere.py"]),
        (["--name", "../elsewhere"], ["--name '../elsewhere' does not work", "folder's name"]),
        (["--name", ""], ["--name '' does not work"]),
        (["--target", "/etc/rows"], ["a dataset called '/etc/rows' does not work"]),
        (["--resume", "--overwrite"], ["ask for opposite things"]),
        (["--seed", str(2**64)], ["--seed must be less than"]),
        (["--init-seed", str(2**64)], ["--init-seed must be less than"]),
        (["--init", "x.safetensors", "--init-seed", "3"], ["--init and --init-seed"]),
        (["--network", "resnet", "--dropout", "0.5"], ["--dropout says nothing to network 'resnet'"]),
        (["--momentum", "0.5"], ["--momentum says nothing to optimizer 'adam'"]),
        (["--warmup", "6"], ["--warmup 6 leaves nothing of --steps 6"]),
        (["extra"], ["extra"]),
    ],
    ids=lambda value: "" if isinstance(value[0], str) and " " in value[0] else "_".join(value),
)
def test_a_value_that_makes_no_sense(metasum, tiny, tmp_path, flags, words):
    refused(metasum("train", *tiny, *flags), 2, *words)
    assert nothing_written(tmp_path)


def test_an_unknown_command_gets_the_nearest_one(metasum):
    refused(metasum("trian"), 2, "unknown command 'trian'; did you mean 'train'?")


def test_cuda_without_cuda(metasum, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(metasum("train", *tiny, "--device", "cuda"), 2, "no CUDA device", "--device cpu")
    assert nothing_written(tmp_path)


def test_a_dataset_that_is_not_there_names_the_flag_and_the_folder(metasum, tiny, tmp_path):
    refused(metasum("train", *tiny, "--target", "kmnist"), 1, "'kmnist'", "--download", str(tmp_path / "data"))
    assert nothing_written(tmp_path)


def arrays_with(**changed):
    (x_train, y_train), (x_test, y_test) = blob_arrays()
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test} | changed


X, Y = blob_arrays()[0]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"y_test": None}, ["lacks y_test"]),
        ({"x_train": X.astype(np.float32)}, ["x_train must be uint8, not float32"]),
        ({"y_train": Y.astype(np.float64)}, ["y_train must be integers, not float64"]),
        ({"x_train": X[0]}, ["x_train must have shape [N, H, W]", "[8, 8]"]),
        ({"x_train": np.stack([X, X], -1)}, ["C 1 or 3", "[96, 8, 8, 2]"]),
        ({"y_train": Y[:-1]}, ["y_train must have shape [96]", "not [95]"]),
        ({"y_train": Y - 1}, ["y_train has a label out of range: -1 to 2"]),
        ({"y_test": np.full(48, 2**64 - 5, np.uint64)}, ["y_test has a label out of range"]),
        ({"y_train": Y * 1000}, ["y_train has label 3000 out of range"]),
        ({"y_test": np.full(48, 9)}, ["y_test has label 9 out of range: y_train has 0 to 3"]),
        ({"y_train": Y * 0}, ["y_train has one class only"]),
        ({"x_test": X[:0], "y_test": Y[:0]}, ["the test split is empty"]),
        ({"x_train": X[:0], "y_train": Y[:0]}, ["the train split is empty"]),
        ({"x_train": np.zeros((96, 33, 8), np.uint8)}, ["33x8 cannot be padded to 32x32"]),
        ({"x_test": np.zeros((48, 9, 9), np.uint8)}, ["training images are 8x8", "test images 9x9"]),
        ({"x_train": np.array([{}] * 96, dtype=object)}, ["is damaged or is not a .npz file"]),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, dict) else "",
)
def test_a_foreign_npz(metasum, tiny, tmp_path, changed, words):
    write_npz(tmp_path / "data" / "rows.npz", **changed)
    refused(metasum("train", *tiny), 1, "rows", *words)
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.98])
def test_a_truncated_npz(metasum, tiny, tmp_path, keep):
    path = tmp_path / "data" / "rows.npz"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    refused(metasum("train", *tiny), 1, "rows.npz is damaged or is not a .npz file")
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("seed", range(8))
def test_a_corrupted_npz(metasum, tiny, tmp_path, seed):
    """Bytes are overwritten at random in a compressed file; whatever breaks, it is one clear line."""
    path = tmp_path / "data" / "rows.npz"
    np.savez_compressed(path, **arrays_with())
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for place in rng.integers(0, len(data), 40):
        data[place] = rng.integers(256)
    path.write_bytes(data)
    refused(metasum("train", *tiny), 1, "rows")
    assert nothing_written(tmp_path)


def test_a_single_array_is_no_npz(metasum, tiny, tmp_path):
    with (tmp_path / "data" / "rows.npz").open("wb") as file:
        np.save(file, X)
    refused(metasum("train", *tiny), 1, "rows.npz is not a .npz file")


class Bomb:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_nothing_in_a_users_file_is_executed(metasum, tiny, tmp_path):
    mark = tmp_path / "executed"
    np.savez(tmp_path / "data" / "rows.npz", **arrays_with(x_train=np.array([Bomb(mark)], dtype=object)))
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_like_it", ["line 1", "ModuleNotFoundError"]),
        ("x = 1\nraise RuntimeError('no luck')", ["line 2", "no luck"]),
        ("def f(:", ["is not Python", "line 1"]),
        ("import sys\nsys.exit(0)", ["line 2", "SystemExit"]),
        (
            "from metasum.tasks import register_dataset\nregister_dataset('digits', lambda: None)",
            ["there is a dataset 'digits' already"],
        ),
    ],
    ids=["import", "raise", "syntax", "exit", "taken"],
)
def test_a_plugin_that_fails(metasum, tiny, tmp_path, text, words):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(text)
    refused(metasum("train", *tiny, "--plugin", plugin), 2, *words)
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("body", ["raise RuntimeError('no luck')", "return 3", "return ((1, 2), (3, 4))"])
def test_a_registered_loader_that_fails(metasum, tiny, tmp_path, body):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        f"from metasum.tasks import register_dataset\ndef load():\n    {body}\nregister_dataset('mine', load)\n"
    )
    refused(metasum("train", *tiny, "--target", "mine", "--plugin", plugin), 1, "mine")


def test_a_run_that_exists(metasum, tiny, tmp_path):
    assert metasum("train", *tiny).code == 0
    run = tmp_path / "runs" / "rows+lines" / "metasum-seed0"
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


def unfinished(metasum, tiny, tmp_path) -> Path:
    assert metasum("train", *tiny).code == 0
    run = tmp_path / "runs" / "rows+lines" / "metasum-seed0"
    (run / "result.json").unlink()
    return run


def test_nothing_to_resume(metasum, tiny, tmp_path):
    refused(metasum("train", *tiny, "--resume"), 1, "there is no run to resume")
    assert nothing_written(tmp_path)


def test_resuming_with_other_settings_names_the_first_that_differs(metasum, tiny, tmp_path):
    unfinished(metasum, tiny, tmp_path)
    refused(metasum("train", *tiny, "--resume", "--clip", 1), 2, "clip was None, now 1.0")
    assert metasum("train", *tiny, "--resume", "--evaluate-every", 0, "--device", "auto").code == 0, "changes no weight"


def test_resuming_with_other_data(metasum, tiny, tmp_path):
    unfinished(metasum, tiny, tmp_path)
    write_npz(tmp_path / "data" / "rows.npz", blob_arrays(seed=7))
    refused(metasum("train", *tiny, "--resume"), 2, "checksum was")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
def test_a_damaged_checkpoint(metasum, tiny, tmp_path, keep):
    path = unfinished(metasum, tiny, tmp_path) / "last.ckpt"
    damaged = path.read_bytes()[: int(path.stat().st_size * keep)]
    path.write_bytes(damaged)
    refused(metasum("train", *tiny, "--resume"), 1, "last.ckpt is damaged")
    assert path.read_bytes() == damaged


def test_a_foreign_checkpoint(metasum, tiny, tmp_path):
    path = unfinished(metasum, tiny, tmp_path) / "last.ckpt"
    torch.save({"state_dict": {}}, path)
    refused(metasum("train", *tiny, "--resume"), 1, "last.ckpt is not a checkpoint of metasum")


def test_a_checkpoint_of_another_architecture(metasum, tiny, tmp_path):
    run = unfinished(metasum, tiny, tmp_path)
    assert metasum("train", *tiny, "--name", "wider", "--width", 0.05).code == 0
    (run.parent / "wider" / "last.ckpt").replace(run / "last.ckpt")
    before = (run / "metrics.jsonl").read_bytes()
    refused(metasum("train", *tiny, "--resume"), 1, "another architecture", "block_1.0.weight", "[3, 1, 3, 3]")
    assert (run / "metrics.jsonl").read_bytes() == before, "a refused resume loses nothing"


def test_a_checkpoint_with_one_flipped_bit(metasum, tiny, tmp_path):
    path = unfinished(metasum, tiny, tmp_path) / "last.ckpt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(metasum("train", *tiny, "--resume"), 1, "last.ckpt is damaged", "checksum")


@pytest.mark.parametrize("line", [b"3", b"{}", b'{"step": "x", "kind": "step"}', b"\xff\xfe", b'{"step": 2, "ki'])
def test_damaged_metrics(metasum, tiny, tmp_path, line):
    run = unfinished(metasum, tiny, tmp_path)
    whole = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(whole + line)
    assert metasum("train", *tiny, "--resume").code == 0, "what a killed process left is dropped"
    (run / "metrics.jsonl").write_bytes(line + b"\n" + whole)
    refused(metasum("report", run), 1, "metrics.jsonl is damaged in line 1")
    (run / "metrics.jsonl").unlink()
    refused(metasum("report", run), 1, "metrics.jsonl is missing or lacks its lines")


def test_a_killed_start_is_no_obstacle(metasum, tiny, tmp_path):
    run = tmp_path / "runs" / "rows+lines" / "metasum-seed0"
    run.mkdir(parents=True)
    (run / ".config.json.partial").write_text("{")
    assert metasum("train", *tiny).code == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), ["not enough memory", "--width"]),
        (MemoryError(), ["not enough memory"]),
        (LookupError("surprise\nsecond line"), ["LookupError: surprise (METASUM_DEBUG=1 shows where)"]),
    ],
    ids=["allocator", "memory", "anything"],
)
def test_what_nobody_foresaw_is_one_line_too(metasum, tiny, tmp_path, monkeypatch, error, words):
    def failing(*_args, **_keywords):
        raise error

    monkeypatch.setattr("metasum.assembly.build_network", failing)
    refused(metasum("train", *tiny), 1, *words)
    assert nothing_written(tmp_path)
    monkeypatch.setenv("METASUM_DEBUG", "1")
    with pytest.raises(type(error)):
        metasum("train", *tiny)


def test_a_damaged_config(metasum, tiny, tmp_path):
    run = unfinished(metasum, tiny, tmp_path)
    for text in ('{"settings": ', "[]", "{}", '{"settings": {"learner": "metasum"}}'):
        (run / "config.json").write_text(text)
        outcome = metasum("train", *tiny, "--resume")
        refused(outcome, 1)


@pytest.mark.parametrize("case", ["missing", "damaged", "shape", "name"])
def test_an_initialisation_that_does_not_fit(metasum, tiny, tmp_path, case):
    assert metasum("train", *tiny, "--name", "a").code == 0
    state = load_file(tmp_path / "runs" / "rows+lines" / "a" / "initial.safetensors")
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


def test_a_report_of_something_else(metasum, tiny, tmp_path):
    refused(metasum("report", tmp_path), 1, "is not a run folder")
    run = unfinished(metasum, tiny, tmp_path)
    refused(metasum("report", run), 1, "has no result.json", "the run is not finished")
    for result in ({"accuracy": 1}, []):
        (run / "result.json").write_text(json.dumps(result))
        refused(metasum("report", run), 1)


def test_an_unwritable_folder(metasum, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    refused(metasum("train", *tiny, "--out", tmp_path / "file"), 1, "cannot make the run folder")
