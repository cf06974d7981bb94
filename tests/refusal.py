"""What every refusal looks like."""

from __future__ import annotations

from pathlib import Path


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
