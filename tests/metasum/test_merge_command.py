"""`metasum merge` from outside: what it prints, what it refuses, what it leaves behind, how much memory it takes."""

import errno
import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from checkpoints import save, save_sharded, state_of
from refusal import refused
from safetensors.torch import load_file

import metasum
from metasum import merge_files
from metasum.commands.bars import bar
from metasum.config import options_of
from metasum.errors import Cancelled, CheckpointError, StorageError, UsageError
from metasum.merging import METHODS
from metasum.merging.disk.workers import Workers
from metasum.merging.endpoints import WideningMethod
from metasum.merging.plain import Weighted
from metasum.merging.task_arithmetic import TaskArithmetic


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three checkpoints in the current folder."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a", "b")):
        save(tmp_path / f"{name}.safetensors", state_of(seed))
    return tmp_path


PAIR = ("a.safetensors", "b.safetensors")


def left(folder):
    """Names of all files, hidden ones included, that the fixture did not make."""
    return sorted(file.name for file in folder.iterdir() if file.name not in (*PAIR, "base.safetensors"))


def test_it_prints_its_result(metasum, folder):
    outcome = metasum("merge", "average", *PAIR, "-o", "out.safetensors", "--json", "--threads", 2)
    assert outcome.err == ""
    result = json.loads(outcome.out)
    entries = sum(tensor.numel() for tensor in state_of(1).values() if tensor.is_floating_point())
    assert result["method"] == "average"
    assert result["files"] == list(PAIR)
    assert result["parameters"] == entries
    assert result["bytes"] == (folder / "out.safetensors").stat().st_size
    assert result["output"] == "out.safetensors"
    assert result["seconds"] > 0
    assert result["peak_bytes"] > 2**20
    text = metasum("merge", "sum", *PAIR, "-o", "out.safetensors", "--overwrite").out
    assert f"{entries:,} parameters" in text
    assert "out.safetensors" in text
    assert left(folder) == ["out.safetensors"]


def test_the_flags_reach_the_merge(metasum, folder):
    flags = ["--base", "base.safetensors", "--scaling", 1, "--density", 1, "--skip", "conv.*", "--skip", "scale"]
    assert metasum("merge", "ties", "a.safetensors", *flags, "-o", "out.safetensors", "--dtype", "float64").code == 0
    result = load_file(folder / "out.safetensors")
    torch.testing.assert_close(result["head.weight"].float(), state_of(1)["head.weight"])
    assert result["head.weight"].dtype == torch.float64
    assert torch.equal(result["conv.bias"], state_of(1)["conv.bias"].double())


def test_the_output_is_readable_as_any_new_file_is(folder):
    before = os.umask(0o022)
    try:
        merge_files("sum", PAIR, "out.safetensors")
    finally:
        os.umask(before)
    assert (folder / "out.safetensors").stat().st_mode & 0o777 == 0o644


def test_every_method_is_listed_with_its_flags(metasum):
    text = metasum("merge", "--help").out
    lines = [line.split() for line in text.splitlines()]
    for name, method in METHODS.items():
        one_file = not (issubclass(method, WideningMethod) or method.knows_task)
        assert (name in [line[0] for line in lines if len(line) > 1]) is one_file
        for option in options_of(method.Config):
            assert option.flag in text


def test_a_method_that_needs_more_than_files_says_so(metasum, folder):
    for name in ("fisher", "regmean"):
        outcome = metasum("merge", name, *PAIR, "-o", "out.safetensors")
        refused(
            outcome, 2, f"{name} needs images and the networks, more than files hold", f"metasum sum --operator {name}"
        )
    refused(metasum("merge", "c2m3", *PAIR, "-o", "o.safetensors"), 2, "c2m3 needs the networks")


BASED = ("ties", "a.safetensors", "--base", "base.safetensors")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["averge", *PAIR], ["unknown merging method 'averge'", "did you mean 'average'?"]),
        (["average", "a.safetensors"], ["average takes at least 2 files, not 1"]),
        (["slerp", *PAIR, "base.safetensors"], ["slerp takes 2 files, not 3"]),
        (["ties", *PAIR], ["ties needs --base FILE"]),
        (["average", *PAIR, "--base", "base.safetensors"], ["average takes no --base"]),
        (["average", *PAIR, "--density", "0.3"], ["--density says nothing to method 'average'"]),
        (["weighted", *PAIR], ["one weight for each of the 2 files"]),
        (["weighted", *PAIR, "--weights", "1,2,3"], ["one weight for each of the 2 files"]),
        (["weighted", *PAIR, "--weights", "1,x"], ["--weights takes a number, not 'x'"]),
        (["weighted", *PAIR, "--weights", "1,nan"], ["--weights takes a finite number, not nan"]),
        (["weighted", *PAIR, "--weights", "1,1", "--layers", "*=1"], ["one weight for each of the 2 files"]),
        ([*BASED, "--density", "0"], ["--density must be greater than 0"]),
        ([*BASED, "--layers", "conv.*=-1"], ["--scaling must be greater than 0"]),
        ([*BASED, "--layers", "conv.*"], ["--layers takes PATTERN=VALUE", "'conv.*'"]),
        ([*BASED, "--layers", "cnv.*=1"], ["--layers cnv.*: no parameter is called so"]),
        ([*BASED, "--trim", "pertensor"], ["did you mean 'per-tensor'?"]),
        (["sum", *PAIR, "--layers", "conv.*=1"], ["--layers says nothing to sum"]),
        (["sum", *PAIR, "--only", "cnv.*"], ["--only cnv.*: no parameter is called so, as conv."]),
        (["sum", *PAIR, "--skip", "batch"], ["--skip batch: no parameter is called so"]),
        (["sum", *PAIR, "--dtype", "float31"], ["did you mean 'float32'?"]),
        (["sum", *PAIR, "--threads", "0"], ["--threads must be at least 1"]),
        (["sum", *PAIR, "-o", "out.pt"], ["--output out.pt", ".safetensors"]),
        (["sum", *PAIR, "-o", "nowhere/out.safetensors"], ["there is no folder nowhere"]),
        (["sum", *PAIR, "-o", "a.safetensors"], ["a.safetensors is there already", "--overwrite"]),
        (["sum", *PAIR, "-o", "a.safetensors", "--overwrite"], ["a.safetensors is one of the files to be merged"]),
        (["sum", "a.safetensors", "index", "-o", "index/model-2.safetensors", "--overwrite"], ["one of the files"]),
        ([*BASED, "-o", "link.safetensors", "--overwrite"], ["link.safetensors is one of the files"]),
    ],
    ids=lambda value: "" if " " in value[0] else "_".join(value),
)
def test_a_request_that_makes_no_sense(metasum, folder, arguments, words):
    save_sharded(folder / "index", state_of(2))
    (folder / "link.safetensors").symlink_to(folder / "base.safetensors")
    given = [] if "-o" in arguments else ["-o", "out.safetensors"]
    refused(metasum("merge", *arguments, *given), 2, *words)
    assert left(folder) == ["index", "link.safetensors"]
    assert torch.equal(load_file("a.safetensors")["head.weight"], state_of(1)["head.weight"])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"head.weight": torch.zeros(3, 48)},
            ["'head.weight' is [33, 48] float32 in a.safetensors and [3, 48] float32"],
        ),
        ({"head.weight": None}, ["'head.weight' is [33, 48] float32 in a.safetensors and missing in b.safetensors"]),
        ({"zusatz": torch.zeros(2)}, ["'zusatz' is missing in a.safetensors and [2] float32 in b.safetensors"]),
        ({"scale": torch.tensor(1.0).half()}, ["'scale' is [] float32", "[] float16 in b.safetensors", "--dtype"]),
        ({"scale": torch.tensor(1)}, ["'scale' is [] float32", "[] int64 in b.safetensors"]),
        ({"batches": torch.zeros(2, dtype=torch.int64)}, ["'batches' is [] int64", "[2] int64"]),
    ],
    ids=["shape", "missing", "more", "dtype", "kind", "integer"],
)
def test_files_that_do_not_fit_together(metasum, folder, changed, words):
    state = state_of(2) | changed
    save(folder / "b.safetensors", {name: tensor for name, tensor in state.items() if tensor is not None})
    refused(metasum("merge", "sum", *PAIR, "-o", "out.safetensors"), 1, "do not fit together", *words)
    assert left(folder) == []


def quantised(seed):
    """A layer as GPTQ stores it: integers with a scale for every group."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "fc.qweight": torch.randint(-9, 9, (8, 4), dtype=torch.int32, generator=generator),
        "fc.scales": torch.rand(2, 4, generator=generator).half(),
        "head.weight": torch.randn(3, 4, generator=generator),
    }


def float8(seed):
    """A layer as it is published in float8: each block of 128 with a factor."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "fc.weight": torch.randn(8, 8, generator=generator).to(torch.float8_e4m3fn),
        "fc.weight_scale_inv": torch.rand(1, 1, generator=generator),
        "head.weight": torch.randn(3, 4, generator=generator),
    }


def bits_and_bytes(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        "fc.weight": torch.randint(0, 255, (8, 1), dtype=torch.uint8, generator=generator),
        "fc.weight.absmax": torch.rand(4, generator=generator),
        "head.weight": torch.randn(3, 4, generator=generator),
    }


def low_rank(first, second):
    def make(seed):
        generator = torch.Generator().manual_seed(seed)
        shapes = {first: (2, 8), second: (8, 2), "head.weight": (3, 4)}
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    return make


TOGETHER = {
    "gptq": (quantised, ["fc.*"], ["'fc.qweight'", "differs between a.safetensors and b", "dequantised", "--skip"]),
    "gptq, scales merged": (quantised, ["fc.qweight"], ["'fc.qweight'", "only together with 'fc.scales'"]),
    "float8": (float8, ["fc.*"], ["'fc.weight', [8, 8] float8_e4m3fn", "only together with 'fc.weight_scale_inv'"]),
    "float8, scales merged": (float8, ["fc.weight"], ["'fc.weight'", "only together with 'fc.weight_scale_inv'"]),
    "bitsandbytes": (bits_and_bytes, ["fc.*"], ["'fc.weight', [8, 1] uint8", "differs"]),
    "bitsandbytes, scales merged": (bits_and_bytes, ["fc.weight"], ["only together with 'fc.weight.absmax'"]),
    "peft": (low_rank("q.lora_A.weight", "q.lora_B.weight"), ["q.*"], ["'q.lora_A.weight'", "low-rank", "--skip"]),
    "kohya": (low_rank("q.lora_down.weight", "q.lora_up.weight"), ["q.*"], ["'q.lora_down.weight'"]),
    "diffusers": (low_rank("to_q_lora.down.weight", "to_q_lora.up.weight"), ["to_q*"], ["'to_q_lora.down.weight'"]),
}


@pytest.mark.parametrize("kind", TOGETHER)
def test_what_means_something_only_together_is_refused(metasum, folder, kind):
    make, skipped, words = TOGETHER[kind]
    for seed, name in enumerate(PAIR):
        save(folder / name, make(seed))
    partly = [] if "scales" not in kind else ["--skip", skipped[0]]
    refused(metasum("merge", "average", *PAIR, "-o", "out.safetensors", *partly), 1, *words)
    assert left(folder) == []
    everything = ["fc.*" if "scales" in kind else skipped[0]]
    assert metasum("merge", "average", *PAIR, "-o", "out.safetensors", "--skip", *everything).code == 0
    result = load_file("out.safetensors")
    for name, tensor in make(0).items():
        expected = (tensor + make(1)[name]) / 2 if name == "head.weight" else tensor
        assert torch.equal(result[name].float(), expected.float()), name


def test_integers_may_be_the_same_and_counters_differ(metasum, folder):
    same = {"positions": torch.arange(500), "w": torch.ones(3)}
    for seed, name in enumerate(PAIR):
        save(folder / name, same | {"bn.num_batches_tracked": torch.tensor(seed)})
    flags = ["--threads", 2, "--json"]
    assert metasum("merge", "average", *PAIR, "-o", "out.safetensors", *flags).code == 0
    assert torch.equal(load_file("out.safetensors")["positions"], torch.arange(500))
    save(folder / PAIR[1], same | {"bn.num_batches_tracked": torch.tensor(1), "positions": torch.arange(1, 501)})
    refused(metasum("merge", "average", *PAIR, "-o", "o.safetensors"), 1, "'positions', [500] int64, differs")


def with_header(path, change):
    """Rewrites a file's header through `change`, from and to a dictionary."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.dumps(change(json.loads(data[8 : 8 + length]))).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])


def swap(name, **fields):
    return lambda header: header | {name: header[name] | fields}


DAMAGE = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-9]), ["b.safetensors is damaged", "truncated"]),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"more"), ["4 bytes follow its last tensor"]),
    "empty": (lambda path: path.write_bytes(b""), ["it is 0 bytes long"]),
    "header cut": (lambda path: path.write_bytes(path.read_bytes()[:100]), ["it is 100 bytes long"]),
    "text": (lambda path: path.write_text("not a checkpoint at all"), ["b.safetensors is damaged or is no checkpoint"]),
    "no json": (lambda path: path.write_bytes(struct.pack("<Q", 9) + b"{" * 9), ["its header makes no sense"]),
    "not an object": (lambda path: path.write_bytes(struct.pack("<Q", 2) + b"[]"), ["its header makes no sense"]),
    "no tensors": (lambda path: path.write_bytes(struct.pack("<Q", 2) + b"{}"), ["b.safetensors holds no tensors"]),
    "offsets": (
        lambda path: with_header(path, swap("scale", data_offsets=[0, 9])),
        ["'scale'", "9 bytes in place of 4"],
    ),
    "overlap": (lambda path: with_header(path, swap("scale", data_offsets=[4, 8])), ["begins at byte"]),
    "shape": (lambda path: with_header(path, swap("scale", shape=[-1])), ["shape or offsets of 'scale'"]),
    "dtype": (lambda path: with_header(path, swap("scale", dtype="C64")), ["'scale' is of dtype C64"]),
    "gone": (lambda path: path.unlink(), ["there is no checkpoint b.safetensors"]),
    "folder": (lambda path: (path.unlink(), path.mkdir()), ["b.safetensors is a folder with no .safetensors files"]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file(metasum, folder, damage):
    inflict, words = DAMAGE[damage]
    inflict(folder / "b.safetensors")
    refused(metasum("merge", "sum", *PAIR, "-o", "out.safetensors"), 1, *words)
    assert left(folder) == []


class Trap:
    """Unpickled, it would leave a file."""

    def __reduce__(self):
        return (open, ("trapped", "w"))


def pickled(path, value):
    with path.open("wb") as file:
        pickle.dump(value, file)


PYTORCH = {
    "trap": (lambda path: torch.save({"w": Trap()}, path), ["b.pt holds more than tensors"]),
    "trap, plain": (lambda path: pickled(path, {"w": Trap()}), ["b.pt is in PyTorch's old format"]),
    "old": (
        lambda path: torch.save(state_of(2), path, _use_new_zipfile_serialization=False),
        ["b.pt is in PyTorch's old format", "torch.save"],
    ),
    "truncated": (
        lambda path: (torch.save(state_of(2), path), path.write_bytes(path.read_bytes()[:-400])),
        ["b.pt is damaged or is not a PyTorch file"],
    ),
    "number": (lambda path: torch.save(state_of(2) | {"epoch": 3}, path), ["an entry 'epoch' that is no tensor"]),
    "list": (lambda path: torch.save([torch.zeros(2)], path), ["b.pt holds no dictionary of tensors"]),
    "sparse": (lambda path: torch.save({"w": torch.eye(3).to_sparse()}, path), ["'w' is torch.sparse_coo"]),
    "complex": (lambda path: torch.save({"w": torch.zeros(2, dtype=torch.complex64)}, path), ["torch.complex64"]),
    "empty": (lambda path: torch.save({}, path), ["b.pt holds no tensors"]),
}


@pytest.mark.parametrize("kind", PYTORCH)
def test_a_pytorch_file_that_is_not_named_tensors(metasum, folder, kind):
    write, words = PYTORCH[kind]
    write(folder / "b.pt")
    refused(metasum("merge", "sum", "a.safetensors", "b.pt", "-o", "out.safetensors"), 1, *words)
    assert left(folder) == ["b.pt"]


def reindexed(folder, change):
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps(change(json.loads(index.read_text()))))


SHARDS = {
    "shard gone": (lambda f: (f / "model-2.safetensors").unlink(), ["names model-2.safetensors, which is not there"]),
    "tensor gone": (
        lambda f: save(f / "model-2.safetensors", {"w": torch.zeros(1)}),
        ["index.json is damaged", "is not in model-2.safetensors"],
    ),
    "no map": (lambda f: reindexed(f, lambda index: {}), ["its weight_map does not say"]),
    "outside": (
        lambda f: reindexed(f, lambda index: {"weight_map": {"scale": "../a.safetensors"}}),
        ["its weight_map does not say"],
    ),
    "no json": (lambda f: (f / "model.safetensors.index.json").write_text("{"), ["index.json is damaged"]),
}


@pytest.mark.parametrize("kind", SHARDS)
def test_a_sharded_checkpoint_that_is_not_whole(metasum, folder, kind):
    damage, words = SHARDS[kind]
    save_sharded(folder / "many", state_of(2))
    damage(folder / "many")
    refused(metasum("merge", "sum", "a.safetensors", "many", "-o", "out.safetensors"), 1, *words)
    assert left(folder) == ["many"]


@pytest.mark.parametrize("name", ["model.safetensors.index.fp16.json", "weights.json"])
def test_an_index_of_another_name(metasum, folder, name):
    save_sharded(folder / "many", state_of(2)).rename(folder / "many" / name)
    inputs = [f"many/{name}"] if name == "weights.json" else ["many", f"many/{name}"]
    for number, given in enumerate(inputs):
        outcome = metasum("merge", "sum", "a.safetensors", given, "-o", f"{number}.safetensors")
        assert outcome.code == 0, outcome
        expected = state_of(1)["head.weight"] + state_of(2)["head.weight"]
        assert torch.equal(load_file(f"{number}.safetensors")["head.weight"], expected)
    refused(metasum("merge", "sum", "a.safetensors", "two", "-o", "o.safetensors"), 1, "no checkpoint two")
    if len(inputs) == 2:
        (folder / "many" / name).with_name("model.safetensors.index.json").write_text("{}")
        refused(metasum("merge", "sum", "a.safetensors", "many", "-o", "o.safetensors"), 1, "with 2 .json indices")


@pytest.mark.parametrize(
    ("other", "words"), [("torn", "torn.safetensors is damaged"), ("wide", "do not fit together: 'w'")]
)
def test_files_are_refused_before_pytorch_is_waited_for(folder, other, words):
    save(folder / "a.safetensors", {"w": torch.ones(2, 3)})
    save(folder / "wide.safetensors", {"w": torch.ones(2, 4)})
    (folder / "torn.safetensors").write_bytes((folder / "a.safetensors").read_bytes()[:-1])
    files = [str(folder / f"{name}.safetensors") for name in ("a", other)]
    arguments = ["metasum", "merge", "average", *files, "-o", str(folder / "out.safetensors")]
    code = f"import sys; sys.modules['torch'] = sys.modules['numpy'] = None; sys.argv = {arguments}; "
    code += "from metasum.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(metasum.__file__).parents[1]
    )
    assert run.returncode == 1
    assert words in run.stderr


def test_settings_that_a_method_does_not_have_are_refused_from_python_too():
    with pytest.raises(UsageError, match="unknown setting of task-arithmetic 'weights'; known: scaling"):
        TaskArithmetic(weights=(1.0, 2.0))
    with pytest.raises(UsageError, match=r"--weights takes several values \(in Python a tuple\), not '1,2'"):
        Weighted(weights="1,2")
    assert Weighted(weights=[1, 2]).config.weights == (1, 2)


@pytest.mark.parametrize("dtype", ["float16", "keep"])
def test_values_too_large_for_what_is_written(metasum, folder, dtype):
    narrow = torch.float32 if dtype == "float16" else torch.float16
    for name in PAIR:
        save(folder / name, {"w": torch.tensor([1.0, torch.inf, 40_000.0]).to(narrow)})
    flags = ["-o", "out.safetensors", "--dtype", dtype]
    refused(metasum("merge", "sum", *PAIR, *flags), 1, "'w' has values that float16 cannot hold", "--dtype bfloat16")
    assert left(folder) == []
    assert metasum("merge", "average", *PAIR, *flags).code == 0  # what was infinite before may stay so
    assert load_file("out.safetensors")["w"].tolist() == [1.0, float("inf"), 40_000.0]


def test_a_folder_with_several_checkpoints(metasum, folder):
    refused(
        metasum("merge", "sum", "a.safetensors", ".", "-o", "out.safetensors"), 1, "folder with 3 .safetensors files"
    )


def test_a_file_that_shrinks_while_it_is_read(folder, monkeypatch):
    monkeypatch.setattr("metasum.merging.disk.sections.LARGEST_SPAN", 64)

    def shrink():
        os.truncate("b.safetensors", 500)
        return False

    save(folder / "a.safetensors", {"w": torch.zeros(3_000_000)})
    save(folder / "b.safetensors", {"w": torch.zeros(3_000_000)})
    with pytest.raises(CheckpointError, match=r"b.safetensors became shorter"):
        merge_files("sum", PAIR, "out.safetensors", cancelled=shrink)  # asked after a tenth of a second
    assert left(folder) == []


def no_room(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_full_disk(metasum, folder, monkeypatch, call):
    (folder / "out.safetensors").write_text("what was there")
    monkeypatch.setattr(os, call, no_room)
    outcome = metasum("merge", "sum", *PAIR, "-o", "out.safetensors", "--overwrite")
    refused(outcome, 1, "cannot write out.safetensors", "No space left on device")
    assert left(folder) == ["out.safetensors"]
    assert (folder / "out.safetensors").read_text() == "what was there"


def test_a_disk_that_fills_up_in_a_thread(metasum, folder, monkeypatch):
    calls, write = [], os.pwrite

    def later(*arguments):
        calls.append(arguments)
        return no_room() if len(calls) > 3 else write(*arguments)

    monkeypatch.setattr(os, "pwrite", later)
    outcome = metasum("merge", "sum", *PAIR, "-o", "out.safetensors", "--threads", 4)
    refused(outcome, 1, "cannot write out.safetensors", "No space left on device")
    assert left(folder) == []


def test_a_file_system_that_cannot_reserve(folder, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    merge_files("sum", PAIR, "one.safetensors")
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    merge_files("sum", PAIR, "other.safetensors")
    assert (folder / "one.safetensors").read_bytes() == (folder / "other.safetensors").read_bytes()


def test_without_positioned_reads_and_writes(folder, monkeypatch):  # Windows has none
    merge_files("sum", PAIR, "one.safetensors")
    monkeypatch.setattr("metasum.weights.tensor_files.output.STRETCH", 100)
    monkeypatch.setattr("metasum.merging.disk.sections.LARGEST_SPAN", 13)
    for name in ("preadv", "pwrite", "posix_fallocate", "posix_fadvise"):
        monkeypatch.delattr(os, name)
    merge_files("sum", PAIR, "other.safetensors")
    assert (folder / "one.safetensors").read_bytes() == (folder / "other.safetensors").read_bytes()


def test_reads_and_writes_that_stop_half_way(folder, monkeypatch):
    merge_files("sum", PAIR, "one.safetensors")
    read, write = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda file, views, offset: read(file, [views[0][:700]], offset))
    monkeypatch.setattr(os, "pwrite", lambda file, view, offset: write(file, view[:700], offset))
    merge_files("sum", PAIR, "other.safetensors")
    assert (folder / "one.safetensors").read_bytes() == (folder / "other.safetensors").read_bytes()


def test_what_is_let_go_on_the_way_is_there_in_the_end(folder, monkeypatch):
    merge_files("sum", PAIR, "one.safetensors")
    monkeypatch.setattr("metasum.weights.tensor_files.output.STRETCH", 100)
    monkeypatch.setattr("metasum.merging.disk.sections.LARGEST_SPAN", 13)
    merge_files("sum", PAIR, "other.safetensors")
    assert (folder / "one.safetensors").read_bytes() == (folder / "other.safetensors").read_bytes()


def test_the_first_error_stops_every_thread():
    done = []

    def work(item):
        if item == 0:
            raise StorageError("no room")
        time.sleep(0.001)
        done.append(item)

    with Workers(3, cancelled=None, progress=None) as workers, pytest.raises(StorageError, match="no room"):
        workers.spread(work, range(1000))
    assert len(done) < 100


def test_a_limit_on_the_size_of_files(folder):
    resource = pytest.importorskip("resource")  # not on Windows
    code = "import metasum.cli; metasum.cli.main()"
    run = subprocess.run(
        [sys.executable, "-c", code, "merge", "sum", *PAIR, "-o", "out.safetensors"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr.splitlines() == ["metasum: cannot write out.safetensors: File too large"]
    assert left(folder) == []


SLOW = textwrap.dedent("""
    import os, time
    import metasum.cli
    from metasum.merging.disk.checkpoint import Place

    def slowly(self, start, into):
        os.write(2, b"reading\\n")
        time.sleep(0.05)
        into.zero_()

    Place.read = slowly
    metasum.cli.main()
""")


def started(*flags):
    """A merge that takes minutes, once it is under way."""
    command = [sys.executable, "-c", SLOW, "merge", "sum", *PAIR, "-o", "out.safetensors", "--threads", "2", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "reading\n"
    return process


@pytest.fixture
def many(folder):
    state = {f"layer{index}": torch.zeros(2) for index in range(2000)}
    for name in PAIR:
        save(folder / name, state)
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_it_with_a_sentence_and_nothing_else(many, number):
    process = started()
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert [line for line in err.splitlines() if line != "reading"] == ["metasum: interrupted; nothing was written."]
    assert left(many) == []


def test_what_a_kill_leaves_is_gone_after_the_next_call(many):
    process = started()
    process.kill()
    process.communicate(timeout=30)
    [partial] = left(many)
    assert partial.startswith(".out.safetensors.")
    assert partial.endswith(".partial")
    merge_files("sum", PAIR, "out.safetensors")
    assert left(many) == ["out.safetensors"]


def test_cancelled_from_python(many):
    with pytest.raises(Cancelled):
        merge_files("slerp", PAIR, "out.safetensors", cancelled=lambda: True)
    assert left(many) == []


def test_progress_goes_from_nothing_to_everything(many):
    heard = []
    merge_files("slerp", PAIR, "out.safetensors", progress=lambda *count: heard.append(count))
    assert heard == sorted(heard)
    done, total = heard[-1]
    assert done == total == 2 * 2 * 2000 * 2 * 4  # two readings of two files


def test_the_bar_is_for_terminals(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, quiet, shown in ((Terminal(), False, True), (Terminal(), True, False), (io.StringIO(), False, False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with bar("sum of 2", quiet=quiet) as progress:
            if progress:
                progress(5_000_000, 10_000_000)
        assert ("sum of 2" in stream.getvalue()) is shown
        assert ("5.0/10.0 MB" in stream.getvalue()) is shown


MEMORY = textwrap.dedent("""
    import re, sys
    from pathlib import Path
    import numpy.random, torch
    # not getrusage, whose peak a child has from its parent
    peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
    torch.set_num_threads(1)
    before = peak()
    from metasum import MergeConfig, merge_files
    method, base, *files = sys.argv[1:]
    settings = MergeConfig(threads=2)
    merge_files(method, files, "out.safetensors", base=base or None, overwrite=True, settings=settings)
    print(peak() - before)
""")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = {"huge": torch.arange(96e6).remainder_(1000).bfloat16(), "small": torch.ones(4_000_000)}
    size = sum(tensor.nbytes for tensor in state.values())
    save(tmp_path / "a.safetensors", state)
    torch.save(state, tmp_path / "a.pt")
    runs = [("average", "", "a.safetensors", "a.pt"), ("ties", "a.pt", "a.safetensors", "a.pt")]
    for arguments in runs:
        run = subprocess.run([sys.executable, "-c", MEMORY, *arguments], capture_output=True, text=True, check=True)
        assert int(run.stdout) < 60e6 < size / 3
