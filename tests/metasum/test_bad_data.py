"""Bad data: one clear line, nothing half-written."""

import numpy as np
import pytest
from refusal import nothing_written, refused
from tiny import blob_arrays, write_npz


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
        ({"x_train": np.stack([X] * 17, -1)}, ["C 1 to 16", "[96, 8, 8, 17]"]),
        ({"x_train": np.stack([X] * 3, 1)}, ["[N, H, W, C]", "[96, 3, 8, 8]"]),
        ({"x_train": np.stack([X] * 3, -1)}, ["8x8 with 3 channels and test images 8x8 with 1 channel"]),
        ({"y_train": Y[:-1]}, ["y_train must have shape [96]", "not [95]"]),
        ({"y_train": Y - 1}, ["y_train has a label out of range: -1 to 2"]),
        ({"y_test": np.full(48, 2**64 - 5, np.uint64)}, ["y_test has a label out of range"]),
        ({"y_train": Y * 1000}, ["y_train has label 3000 out of range"]),
        ({"y_test": np.full(48, 9)}, ["y_test has label 9 out of range: y_train has 0 to 3"]),
        ({"y_train": Y * 0}, ["y_train has one class only"]),
        ({"y_train": np.where(Y == 1, 9, 0)}, ["y_train has labels 0 to 9, but no 1, 2, 3, 4, 5, 6, 7, 8"]),
        ({"y_train": np.where(Y == 0, 2, Y)}, ["y_train has labels 0 to 3, but no 0"]),
        ({"x_test": X[:0], "y_test": Y[:0]}, ["the test split is empty"]),
        ({"x_train": X[:0], "y_train": Y[:0]}, ["the train split is empty"]),
        ({"x_train": np.zeros((96, 225, 8), np.uint8)}, ["225x8", "not of 1x1 to 224x224"]),
        (
            {"x_train": np.zeros((96, 33, 8), np.uint8), "x_test": np.zeros((48, 33, 8), np.uint8)},
            ["33x8, which cannot be padded to 32x32", "--image-size 33"],
        ),
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


@pytest.mark.parametrize("body", ["raise RuntimeError('no luck')", "return 3", "return ((1, 2), (3, 4))"])
def test_a_registered_loader_that_fails(metasum, tiny, tmp_path, body):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        f"from metasum.tasks import register_dataset\ndef load():\n    {body}\nregister_dataset('mine', load)\n"
    )
    refused(metasum("train", *tiny, "--target", "mine", "--plugin", plugin), 1, "mine")


@pytest.mark.parametrize(
    "command",
    [
        ("train", "--target", "gaps"),
        ("train", "--support", "gaps"),
        ("meta-train", "--meta-datasets", "gaps"),
        ("compare-baselines", "--target", "gaps", "--support", "lines", "--learners", "independent", "--seeds", 1),
        ("experiment", "--targets", "rows,gaps", "--support", "lines", "--learners", "independent", "--seeds", 1),
        ("sum", "RUN", "RUN", "--on", "gaps"),
        ("evaluate", "RUN/target.safetensors", "--on", "gaps"),
        ("few-shot", "--dataset", "gaps"),
        ("few-shot", "--dataset", "lines", "--then", "gaps"),
    ],
    ids=lambda command: "_".join(map(str, command)).replace("--", ""),
)
def test_labels_with_gaps_are_refused_at_the_door_of_every_command(metasum, finished, tmp_path, command):
    (x_train, y_train), (x_test, y_test) = blob_arrays()
    gaps = {"y_train": np.where(y_train % 2, 9, 0), "y_test": np.where(y_test % 2, 9, 0)}
    write_npz(tmp_path / "data" / "gaps.npz", x_train=x_train, x_test=x_test, **gaps)
    words = [str(word).replace("RUN", str(finished)) for word in command]
    before = sorted(tmp_path.rglob("*"))
    refused(metasum(*words, "--data-root", tmp_path / "data"), 1, "'gaps'", "y_train has labels 0 to 9, but no 1, 2")
    assert sorted(tmp_path.rglob("*")) == before
