"""Small files that stand for much: they are refused before anything large is made of them."""

import json
import zipfile

import numpy as np
import pytest
import torch
from refusal import refused
from safetensors.torch import load_file
from tiny import blob_arrays, write_npz

from metasum import load_network
from metasum.errors import MetaSumError, UsageError
from metasum.networks import build as building
from metasum.run.array_files import ArrayFile
from metasum.sweeps.sweep_file import read_sweep_file
from metasum.weights.storage import read_metadata, save_weights


def told_otherwise(path, metadata=None, **changed):
    """The weights file with other words on what it is."""
    own = read_metadata(path)
    own["architecture"] = json.dumps({**json.loads(own["architecture"]), **changed})
    save_weights(path, load_file(path), metadata={**own, **(metadata or {})})


@pytest.fixture
def nothing_built(monkeypatch):
    """Fails where a network is built whose numbers take memory."""
    build = building.build_network

    def without_numbers(*arguments, **keywords):
        made = build(*arguments, **keywords)
        assert all(parameter.is_meta for parameter in made.parameters())
        return made

    monkeypatch.setattr(building, "build_network", without_numbers)


@pytest.mark.parametrize("changed", [{"width": 3.0}, {"num_classes": 10**6}, {"in_channels": 10**5}, {"width": 1e300}])
def test_a_file_that_says_it_is_large_is_refused_before_that_is_built(finished, nothing_built, changed):
    path = finished / "target.safetensors"
    told_otherwise(path, **changed)
    with pytest.raises(MetaSumError, match=r"target\.safetensors"):
        load_network(path)


def test_nor_are_a_thousand_networks_built_of_one(finished):
    path = finished / "target.safetensors"
    told_otherwise(path, {"side_by_side": "1024"})
    with pytest.raises(MetaSumError, match=r"target\.safetensors says that it is 1024 networks"):
        load_network(path)


def test_what_is_as_it_says_is_read(finished):
    assert load_network(finished / "target.safetensors")(torch.zeros(2, 1, 32, 32)).shape == (2, 4)


@pytest.fixture
def inflated(monkeypatch):
    """Names of the arrays whose values are read from .npz files."""
    names, read = [], np.lib.npyio.NpzFile.__getitem__
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda file, key: (names.append(key), read(file, key))[1])
    return names


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x_test": np.zeros((48, 8, 8))}, "x_test must be uint8, not float64"),
        ({"x_train": np.zeros((96, 8, 8, 17), np.uint8)}, "x_train must have shape"),
        ({"x_train": np.zeros((2, 225, 225), np.uint8), "y_train": np.zeros(2, int)}, "images of 225x225"),
        ({"y_test": np.zeros(48)}, "y_test must be integers"),
        ({"y_train": np.zeros(95, int)}, "y_train must have shape [96]"),
    ],
    ids=["dtype", "channels", "size", "labels", "lengths"],
)
def test_shapes_of_a_dataset_are_looked_at_before_it_is_inflated(metasum, tiny, data_root, inflated, changed, words):
    write_npz(data_root / "rows.npz", blob_arrays(), **changed)
    refused(metasum("train", *tiny), 1, words)
    assert inflated == []


def rewritten(path, name, shape, data):
    """Puts an array of another announced shape into the file."""
    with zipfile.ZipFile(path) as archive:
        parts = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in parts.items():
            with archive.open(each, "w") as member:
                if each == f"{name}.npy":
                    np.lib.format.write_array_header_1_0(
                        member, {"shape": shape, "fortran_order": False, "descr": "|u1"}
                    )
                member.write(data if each == f"{name}.npy" else content)


def test_an_array_that_announces_more_than_is_there(metasum, tiny, data_root, inflated):
    rewritten(data_root / "rows.npz", "x_train", (10**9, 200, 200), b"few")
    refused(metasum("train", *tiny), 1, "rows.npz is damaged", "x_train.npy would have 40,000,000,000,000 bytes")
    assert inflated == []
    with pytest.raises(MetaSumError, match=r"rows\.npz is damaged: x_train"):
        ArrayFile(data_root / "rows.npz", "train")


def test_more_than_there_is_memory_is_refused(metasum, tiny, data_root, inflated, monkeypatch):
    monkeypatch.setattr("metasum.npz.FREE", 0)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    refused(metasum("train", *tiny), 1, "rows.npz holds arrays of", "memory")
    with pytest.raises(MetaSumError, match=r"rows\.npz holds arrays of"):
        ArrayFile(data_root / "rows.npz", "test")
    assert inflated == []


LEVELS = "\n".join(f"l{n + 1}: &l{n + 1} [{', '.join([f'*l{n}'] * 9)}]" for n in range(30))
MERGES = "\n".join(f"l{n + 1}: &l{n + 1} {{<<: [{', '.join([f'*l{n}'] * 9)}]}}" for n in range(30))
GOOD = {"method": "random", "command": "[metasum, train, '${args}']", "run_cap": "2", "metric": "{name: x}"}
GOOD |= {"parameters": "{steps: {values: [1, 2]}}", "early_terminate": "{type: hyperband, min_iter: 1}"}
GOOD |= {"controller": "{type: local}", "description": "much"}


@pytest.mark.parametrize("key", GOOD)
@pytest.mark.parametrize("bomb", ["list", "merge", "itself", "deep", "digits", "date", "long"])
def test_a_sweep_file_that_stands_for_too_much(tmp_path, key, bomb):
    before, value = {
        "list": (f"name: &l0 [a]\n{LEVELS}", "*l30"),
        "merge": (f"name: &l0 {{a: 1}}\n{MERGES}", "*l30"),
        "itself": ("", "&me [*me, *me]"),
        "deep": ("", "[" * 5000),
        "digits": ("", "1" * 5000),
        "date": ("", "2001-99-99"),
        "long": ("", "'" + "x" * 100_000 + "'"),
    }[bomb]
    lines = [f"{name}: {value if name == key else text}" for name, text in GOOD.items()]
    path = tmp_path / "sweep.yaml"
    path.write_text("\n".join([before, *lines]))
    if (key, bomb) == ("description", "long"):
        assert read_sweep_file(path).cap == 2
        return
    with pytest.raises(UsageError) as told:
        read_sweep_file(path)
    assert len(str(told.value)) < 1000


@pytest.mark.parametrize("value", ["0x" + "f" * 6000, "-.inf", "[1]", "{a: 1}"])
def test_numbers_of_a_sweep_file(tmp_path, value):
    path = tmp_path / "sweep.yaml"
    lines = GOOD | {"parameters": f"{{steps: {{min: {value}, max: 3.5}}}}"}
    path.write_text("\n".join(f"{name}: {text}" for name, text in lines.items()))
    with pytest.raises(UsageError) as told:
        read_sweep_file(path)
    assert len(str(told.value)) < 1000
