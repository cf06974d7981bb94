"""The code on the page "Your own networks" runs as it stands, from top to bottom."""

import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "your_networks.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def few_digits(tmp_path, monkeypatch):
    """A folder whose `.data/mnist.npz` has a few images, class k bright in row 2k."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 200), ("test", 60)):
        arrays[f"y_{split}"] = np.arange(count, dtype=np.uint8) % 10
        arrays[f"x_{split}"] = rng.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        arrays[f"x_{split}"][np.arange(count), 2 * arrays[f"y_{split}"]] += 190
    (tmp_path / ".data").mkdir()
    np.savez(tmp_path / ".data" / "mnist.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_runs(few_digits, capsys):
    names = {"__name__": "page"}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"block {number}", "exec"), names)
    assert names["matched"].barrier <= names["plain"].barrier
    assert names["merged"] is not names["net_a"]
    assert {row.name for row in names["federated"].rows} >= {
        "network 5",
        "ties",
        "regmean",
        "weight-matching",
        "ensemble",
    }
    assert {*names["federated"].left_out} == {"weighted", "slerp", "nuslerp", "emr", "tall-masks", "surgery"}
    for file in ("networks.html", "federation.html", "line.svg"):
        assert (few_digits / file).stat().st_size > 1000
    assert "Measured(count=60, accuracy=" in capsys.readouterr().out
