"""Run folders that the last release left can still be reported, summed, compared and resumed."""

import json
import shutil
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures" / "runs-format-1"
FLAGS = ["--support", "lines", "--data-root", "data", "--width", 0.01, "--norm", "none", "--optimizer", "sgd"]
FLAGS += ["--steps", 6, "--batch-size", 8, "--evaluate-every", 3, "--checkpoint-every", 2, "--log-every", 2]
FLAGS += ["--device", "cpu", "--calibration-batches", 1]
FINISHED, STOPPED = Path("runs/rows+lines/metasum-seed0"), Path("runs/third+lines/metasum-seed0")


@pytest.fixture(autouse=True)
def copies(tmp_path, monkeypatch):
    """Copies of the folders, where they were made: in `runs`."""
    shutil.copytree(FIXTURES / "folders", tmp_path / "runs")
    shutil.copytree(FIXTURES / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)


def test_the_fixtures_are_of_format_1():
    assert "format" not in json.loads((FINISHED / "result.json").read_text())
    assert "format" not in json.loads((FINISHED / "config.json").read_text())
    assert not (STOPPED / "result.json").exists()


def test_report(metasum):
    outcome = metasum("report", FINISHED)
    assert outcome.code == 0, outcome.err
    text = (FINISHED / "report.html").read_text()
    assert text.count("<figure>") == 7
    assert "Images that the sum gets wrong" in text


def test_resume_then_sum(metasum):
    outcome = metasum("train", "--target", "third", *FLAGS, "--no-report", "--resume", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert (result["format"], result["kind"], result["steps"]) == (2, "run", 6)
    steps = [json.loads(line)["step"] for line in (STOPPED / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == [2, 3, 4, 6]
    outcome = metasum("sum", FINISHED, STOPPED, "--json")
    assert outcome.code == 0, outcome.err
    assert set(json.loads(outcome.out)["accuracy"]) == {"rows", "third", "union"}


def test_two_of_format_1_are_summed(metasum):
    shutil.copytree(FINISHED, "runs/rows+lines/other")
    outcome = metasum("sum", FINISHED, "runs/rows+lines/other", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["accuracy"]["rows"]["alone"] is not None


def test_a_finished_one_is_returned_as_it_is(metasum):
    before = (FINISHED / "result.json").read_text()
    outcome = metasum("train", "--target", "rows", *FLAGS, "--resume", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out) == {"format": 2, "kind": "run", **json.loads(before), "heads": "summed"}
    assert (FINISHED / "result.json").read_text() == before


def test_a_comparison_takes_it_as_it_is(metasum):
    before = json.loads((FINISHED / "result.json").read_text())
    learners = ("--learners", "metasum", "--seeds", 1, "--no-tune")
    outcome = metasum("compare-baselines", "--target", "rows", *FLAGS, *learners, "--json")
    assert outcome.code == 0, outcome.err
    assert "is finished already" in outcome.err
    (row,) = json.loads(outcome.out)["rows"]
    assert (row["seconds"], row["accuracy"]["target"]["after"]) == (
        before["seconds"],
        before["accuracy"]["target"]["after"],
    )


@pytest.mark.parametrize(
    ("name", "file"),
    [("comparison", "results.json"), ("experiment", "results.json"), ("sweep", "results.json"), ("sum", "result.json")],
)
def test_studies_are_reported(metasum, name, file):
    folder = Path("runs") / name / name
    folder.mkdir(parents=True)
    shutil.copy(FIXTURES / "results" / f"{name}.json", folder / file)
    outcome = metasum("report", folder)
    assert outcome.code == 0, outcome.err
    assert "<table" in (folder / "report.html").read_text()


def test_a_damaged_result_is_one_sentence(metasum):
    result = json.loads((FINISHED / "result.json").read_text())
    del result["accuracy"]["support"]
    (FINISHED / "result.json").write_text(json.dumps(result))
    outcome = metasum("report", FINISHED)
    assert outcome.code == 1
    assert "result.json is damaged or of another version: accuracy.support is missing." in outcome.err
