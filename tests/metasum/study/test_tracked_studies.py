"""compare-baselines and experiment in W&B: one group of runs, one run with the tables, and never in their way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
from refusal import nothing_written, refused
from tiny import blob_arrays, write_npz
from wandb_records import items, records

from metasum.study import tracking as study
from metasum.training import tracking, wandb_runs

pytestmark = pytest.mark.usefixtures("no_account")


@pytest.fixture
def compare(metasum, tiny):
    def run(*more, learners="independent,average"):
        return metasum("compare-baselines", *tiny, "--seeds", 1, "--no-tune", "--learners", learners, *more)

    return run


@pytest.fixture
def experiment(metasum, tiny, data_root):
    write_npz(data_root / "third.npz", blob_arrays(2))
    flags = [flag for flag in tiny if flag not in ("--target", "rows")]

    def run(*more):
        learners = ("--targets", "rows,third", "--seeds", 1, "--learners", "independent")
        return metasum("experiment", *flags, *learners, "--no-tune", *more)

    return run


def told(folder):
    """Of the W&B runs in a folder: each one's opening record, by name; the last summary; the config's values."""
    runs, summary = {}, {}
    for record in records(folder):
        if record.WhichOneof("record_type") == "run":
            runs[record.run.display_name] = record.run
        if record.WhichOneof("record_type") == "summary":
            summary |= items(record.summary.update)
    config = {i.key: json.loads(i.value_json) for run in runs.values() for i in run.config.update}
    return runs, summary, config


def table(folder, name):
    """The rows of the one W&B table `name`, by column."""
    (file,) = {path.read_text() for path in folder.rglob(f"media/table/{name}_*.table.json")}
    found = json.loads(file)
    return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]


def test_a_comparison_is_a_group_and_a_run_with_its_tables(compare, tmp_path):
    outcome = compare("--seeds", 2, "--wandb", "offline", "--wandb-name", "ours", "--wandb-tags", "one", "--json")
    assert outcome.code == 0, outcome.err
    result, place = json.loads(outcome.out), tmp_path / "runs" / "rows+lines"
    runs, _, _ = told(place)
    cells = {f"rows+lines/{name}-seed{seed}" for name in ("independent", "average") for seed in (0, 1)}
    assert set(runs) == cells | {"ours"}
    assert {run.run_group for run in runs.values()} == {"rows+lines/comparison"}
    assert {tuple(run.tags) for run in runs.values()} == {("one",)}
    assert {name: run.job_type for name, run in runs.items()} == dict.fromkeys(cells, "train") | {"ours": "comparison"}
    _, summary, config = told(place / "comparison")
    assert config["settings"] == result["settings"]
    assert (config["learners"], config["seeds"]) == (["independent", "average"], [0, 1])
    rows = table(place / "comparison", "summary")
    assert [row["learner"] for row in rows] == ["independent", "average"]
    for row, known in zip(rows, result["summary"], strict=True):
        for side in ("target", "support"):
            for measure in ("before", "after", "drop", "retention"):
                found = {"mean": row[f"{side}_{measure}"], "std": row[f"{side}_{measure}_std"]}
                assert found == pytest.approx(known[side][measure])
        both = (known["target"]["after"]["mean"] + known["support"]["after"]["mean"]) / 2
        assert row["mean_after"] == summary[f"{row['learner']}/mean_after"] == pytest.approx(both)
        assert summary[f"{row['learner']}/target_after"] == known["target"]["after"]["mean"]
    for row, known in zip(table(place / "comparison", "rows"), result["rows"], strict=True):
        assert (row["learner"], row["seed"], row["seconds"]) == (known["learner"], known["seed"], known["seconds"])
        assert row["peak_bytes"] == known["peak_bytes"]
        assert row["support_after"] == known["accuracy"]["support"]["after"]
    assert [set(row) for row in table(place / "comparison", "mean_after_table")] == [{"learner", "mean_after"}] * 2
    assert summary["failed"] == 0


def test_repeating_a_study_resumes_its_run(compare, tmp_path):
    place = tmp_path / "runs" / "rows+lines"
    for _ in range(2):
        assert compare("--wandb", "offline", learners="independent").code == 0
    runs = [r.run for r in records(place / "comparison") if r.WhichOneof("record_type") == "run"]
    assert len(runs) == 2
    assert {run.run_id for run in runs} == {
        json.loads((place / "comparison" / "tracking.json").read_text())["wandb_id"]
    }
    cells = [r.run for r in records(place / "independent-seed0") if r.WhichOneof("record_type") == "run"]
    assert len(cells) == 1, "it was finished"


def test_an_experiment_has_its_own_table(experiment, tmp_path):
    outcome = experiment("--wandb", "offline", "--wandb-group", "mine", "--json")
    assert outcome.code == 0, outcome.err
    result, place = json.loads(outcome.out), tmp_path / "runs" / "experiments" / "rows+third+lines"
    runs, _, _ = told(tmp_path / "runs")
    study_name = "experiments/rows+third+lines"
    assert set(runs) == {"rows+lines/independent-seed0", "third+lines/independent-seed0", study_name}
    assert {run.run_group for run in runs.values()} == {"mine"}
    assert runs[study_name].job_type == "experiment"
    _, summary, config = told(place)
    assert config["targets"] == ["rows", "third"]
    (row,), (known,) = table(place, "summary"), result["summary"]
    for target in ("rows", "third"):
        for measure in ("before", "after", "stranger", "retention", "stranger_union_statistics"):
            assert row[f"{target}_{measure}"] == known["accuracy"][target][measure]["mean"]
    assert row["union_sum_union_statistics"] == known["accuracy"]["union"]["sum_union_statistics"]["mean"]
    strangers = [known["accuracy"][target]["stranger"]["mean"] for target in ("rows", "third")]
    assert summary["independent/mean_stranger"] == pytest.approx(sum(strangers) / 2)
    (row,), (known,) = table(place, "rows"), result["rows"]
    assert (row["seed"], row["seconds"], row["peak_bytes"]) == (0, known["seconds"], known["peak_bytes"])
    assert row["third_stranger"] == known["accuracy"]["third"]["stranger"]


def test_trials_on_validation_images_can_be_told_apart(metasum, tiny, tmp_path):
    flags = ("--seeds", 1, "--learners", "slerp", "--wandb", "offline")
    assert metasum("compare-baselines", *tiny, *flags).code == 0
    runs, _, _ = told(tmp_path / "runs")
    kinds = {name: run.job_type for name, run in runs.items() if "independent" in name}
    assert kinds == {
        "rows+lines/validation/independent-seed0": "validation",
        "rows+lines/independent-seed0": "train",
    }
    assert {run.run_group for run in runs.values()} == {"rows+lines/comparison"}


def test_without_a_key_a_study_goes_on_offline_and_says_so_once(compare, tmp_path):
    outcome = compare("--wandb", "online")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("W&B") == outcome.err.count("tracking offline") == 1
    assert len(told(tmp_path / "runs")[0]) == 3


def test_a_server_that_does_not_answer_is_waited_for_once(compare, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_runs, "PATIENCE", 3)
    outcome = compare("--wandb", "online")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("W&B") == outcome.err.count("does not answer") == 1
    assert len(told(tmp_path / "runs")[0]) == 3


def test_trackers_that_die_again_and_again_are_said_once(compare, tmp_path, monkeypatch):
    def dead(*_):
        raise BrokenPipeError("gone")

    monkeypatch.setattr(tracking.WandbTracker, "finish", dead)
    monkeypatch.setattr(study, "_tables", dead)
    outcome = compare("--wandb", "offline", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("W&B") == outcome.err.count("gone") == 1
    assert len(json.loads(outcome.out)["rows"]) == 2
    assert (tmp_path / "runs" / "rows+lines" / "comparison" / "results.json").is_file()


# metasum, but the process that serves W&B is killed when the first line is to be told
KILLING = """
import contextlib, os, signal
from pathlib import Path
from metasum import cli
from metasum.training.tracking import WandbTracker

record = WandbTracker.record

def deadly(tracker, line):
    WandbTracker.record = record
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # gone by now
            words = path.read_bytes().split(bytes(1))
            if b"wandb-core" in words[0] and str(os.getpid()).encode() in words:
                os.kill(int(path.parent.name), signal.SIGKILL)
    record(tracker, line)

WandbTracker.record = deadly
cli.main()
"""


@pytest.mark.skipif(not Path("/proc/self/cmdline").is_file(), reason="looks for W&B's process where Linux lists them")
def test_when_the_process_of_wandb_dies_the_next_run_has_a_new_one(tiny, tmp_path):
    flags = [*tiny, "--seeds", 1, "--no-tune", "--learners", "independent", "--wandb", "offline"]
    command = [sys.executable, "-c", KILLING, "compare-baselines", *map(str, flags)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr.count("W&B failed") == 1
    assert "Traceback" not in outcome.stderr
    _, summary, _ = told(tmp_path / "runs" / "rows+lines" / "comparison")
    assert "independent/mean_after" in summary


def test_where_everything_fails_the_run_says_how_much(compare, tmp_path, monkeypatch):
    monkeypatch.setattr("metasum.baselines.independent.IndependentLearner.training_step", lambda *_, **__: 1 / 0)
    assert compare("--wandb", "offline", learners="independent").code == 1
    _, summary, config = told(tmp_path / "runs" / "rows+lines" / "comparison")
    assert (summary["failed"], config["learners"]) == (1, ["independent"])


def test_under_an_agent_the_study_is_the_sweeps_run(compare, tmp_path, monkeypatch):
    for name, value in {"WANDB_SWEEP_ID": "s", "WANDB_RUN_ID": "trial1", "WANDB_MODE": "offline"}.items():
        monkeypatch.setenv(name, value)
    wandb.teardown()  # it read the environment when it started
    outcome = compare()
    wandb.teardown()
    assert outcome.code == 0, outcome.err
    (run,) = told(tmp_path / "runs")[0].values()
    assert (run.run_id, run.job_type) == ("trial1", "comparison")


def test_tensorboard_is_looked_for_before_anything_is_written(compare, experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    for command in (compare, experiment):
        refused(command("--tensorboard"), 2, "metasum[tensorboard]")
    assert nothing_written(tmp_path)
