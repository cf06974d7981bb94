"""A flipped bit in a run's weights: one sentence that names the file, from every command that reads it."""

import zipfile

import pytest
import torch
from refusal import refused
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from metasum import load_checkpoint
from metasum.errors import CheckpointError
from metasum.weights.storage import load_weights, read_metadata, save_weights
from metasum.weights.tensor_files.archive import check_records
from metasum.weights.tensor_files.checksum import CHECKSUM


def flip(path, *, back=40):
    data = bytearray(path.read_bytes())
    data[-back] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["initial", "target", "support", "summed"])
def test_every_weights_file_of_a_run_has_its_checksum(finished, name):
    assert CHECKSUM in read_metadata(finished / f"{name}.safetensors")


def commands(run, data_root, tmp_path):
    other = run.parent.parent / "lines+rows" / "metasum-seed0"
    target, support = (run / f"{name}.safetensors" for name in ("target", "support"))
    data, small = ["--data-root", data_root], ["--width", 0.04, "--dropout", 0.1, "--out", tmp_path, "--name", "b"]
    return {
        "evaluate": ["evaluate", target, "--on", "rows", *data],
        "merge": ["merge", "average", target, support, "-o", tmp_path / "both.safetensors"],
        "sum": ["sum", run, other, "--out", tmp_path / "sums", *data, "--device", "cpu"],
        "report": ["report", run],
        "init": ["train", "--target", "rows", "--support", "lines", "--init", target, *small, *data],
    }


@pytest.mark.parametrize("command", ["evaluate", "merge", "sum", "report", "init"])
def test_a_flipped_bit_is_one_sentence(metasum, finished, data_root, tmp_path, command):
    flip(finished / "target.safetensors")
    refused(metasum(*commands(finished, data_root, tmp_path)[command]), 1, "target.safetensors is damaged", "checksum")
    assert not (tmp_path / "both.safetensors").exists()


def test_a_sum_compares_the_start_with_what_config_json_says(metasum, finished, data_root, tmp_path):
    path = finished / "initial.safetensors"
    tensors, metadata = load_file(path), read_metadata(path)
    tensors["classifier.7.bias"][0] += 1
    save_weights(path, tensors, metadata=metadata)
    words = ["initial.safetensors is not what", "config.json"]
    refused(metasum(*commands(finished, data_root, tmp_path)["sum"]), 1, *words)


def test_files_without_a_checksum_are_read_as_they_were(metasum, finished, data_root, tmp_path):
    for path in finished.parent.parent.glob("*/*/*.safetensors"):
        metadata = {name: value for name, value in read_metadata(path).items() if name != CHECKSUM}
        save_file(load_file(path), path, metadata=metadata)
    every = commands(finished, data_root, tmp_path)
    for command in ("evaluate", "merge", "report", "sum"):
        outcome = metasum(*every[command])
        assert outcome.code == 0, outcome.err


def test_a_merge_of_a_runs_files_has_none_of_theirs(metasum, finished, data_root, tmp_path):
    assert metasum(*commands(finished, data_root, tmp_path)["merge"]).code == 0
    with safe_open(tmp_path / "both.safetensors", framework="pt") as file:
        assert "architecture" in file.metadata()
    load_weights(tmp_path / "both.safetensors")


@pytest.mark.parametrize("place", ["data", "name", "metadata"])
def test_any_bit_counts(tmp_path, place):
    path = tmp_path / "a.safetensors"
    tensors = {"weight": torch.randn(3, 4), "half": torch.randn(5).bfloat16(), "flags": torch.tensor([True, False])}
    save_weights(path, {**tensors, "none": torch.zeros(0, 2), "count": torch.tensor(3)}, metadata={"told": "abc"})
    load_weights(path)
    data = path.read_bytes()
    changed = {
        "data": data[:-1] + bytes([data[-1] ^ 1]),
        "name": data.replace(b'"weight"', b'"wefght"'),
        "metadata": data.replace(b'"abc"', b'"abd"'),
    }[place]
    assert changed != data
    path.write_bytes(changed)
    with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged: its checksum"):
        load_weights(path)


@pytest.mark.parametrize("command", ["merge", "load"])
def test_a_flipped_bit_in_a_pytorch_file(metasum, tmp_path, command):
    """PyTorch writes checksums, and does not look at them."""
    path, out = tmp_path / "a.pt", tmp_path / "both.safetensors"
    network = torch.nn.Linear(40, 40)
    torch.save(network.state_dict(), path)
    data = path.read_bytes()
    place = data.index(network.weight.detach().numpy().tobytes()) + 100
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    if command == "merge":
        refused(metasum("merge", "average", path, path, "-o", out), 1, "a.pt is damaged")
        assert not out.exists()
    else:
        with pytest.raises(CheckpointError, match=r"a\.pt is damaged"):
            load_checkpoint(network, path)


def test_a_pytorch_file_without_checksums_is_read(tmp_path):
    torch.save({"weight": torch.ones(3)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        sums = {record.CRC.to_bytes(4, "little") for record in archive.infolist()}
    data = (tmp_path / "a.pt").read_bytes()
    for own in sums:
        data = data.replace(own, bytes(4))
    (tmp_path / "a.pt").write_bytes(data)
    check_records(tmp_path / "a.pt")
