"""Reading a run folder leaves it as it is, whoever works in it meanwhile."""

import pytest


@pytest.fixture
def runs(metasum, tiny, tmp_path):
    """Two finished runs that can be added, each with a file that somebody is writing just now."""
    folders = []
    for target, support in (("rows", "lines"), ("lines", "rows")):
        flags = ["--target", target, "--support", support, *tiny[4:], "--report"]
        assert metasum("train", *flags).code == 0
        folders.append(tmp_path / "runs" / f"{target}+{support}" / "metasum-seed0")
        (folders[-1] / ".last.ckpt.partial").write_bytes(b"half")
        (folders[-1] / ".result.json.0123abcd.partial").write_bytes(b"half")
    return folders


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_reading_deletes_and_writes_nothing(metasum, runs, tmp_path, data_root):
    before = [contents(run) for run in runs]
    for run in runs:
        run.chmod(0o555)
    where = ("--data-root", data_root, "--device", "cpu")
    assert metasum("sum", *runs, "--out", tmp_path / "runs", *where).code == 0
    assert metasum("evaluate", runs[0] / "summed.safetensors", "--on", "rows", *where).code == 0
    assert [contents(run) for run in runs] == before
    for run in runs:
        run.chmod(0o755)
    assert metasum("report", *runs).code == 0
    after = [contents(run) for run in runs]
    assert [set(files) for files in after] == [set(files) for files in before], "only report.html is drawn anew"


def test_who_continues_a_run_removes_what_a_kill_left(metasum, runs, tiny):
    (runs[0] / "result.json").unlink()
    assert metasum("train", *tiny, "--resume").code == 0
    assert not list(runs[0].glob(".*"))
