"""A run folder that was moved is taken where it is now."""

import json
import shutil


def test_a_finished_run_says_where_it_is_now(metasum, tiny, tmp_path):
    assert metasum("train", *tiny).code == 0
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "runs", moved)
    outcome = metasum("train", *tiny, "--out", moved, "--resume", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["run"] == str(moved / "rows+lines" / "metasum-seed0")
