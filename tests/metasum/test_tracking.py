"""Tracking in W&B (offline) and TensorBoard: complete, resumed with the run, and never in its way."""

import json

import pytest
from refusal import nothing_written, refused
from wandb_records import items, records

from metasum import settings, train
from metasum.config.sections import TrackingConfig
from metasum.training import tracking, wandb_runs
from metasum.training.progress import SilentDisplay
from metasum.training.tracking import scalars
from metasum.training.wandb_runs import wandb_mode

pytestmark = pytest.mark.usefixtures("no_account")


def test_lines_of_metrics_have_flat_names():
    step = {"kind": "step", "step": 3, "losses": {"sum": 0.5}, "learning_rate": 0.1, "seconds": 2, "peak_bytes": 7}
    assert scalars(step) == {"loss/sum": 0.5, "learning_rate": 0.1, "peak_bytes": 7}
    sides = {"target": {"before": 0.9, "after": 0.8}, "support": {"before": 0.7, "after": 0.6}}
    assert scalars({"kind": "evaluation", "step": 3, "accuracy": sides}) == {
        "target_before": 0.9,
        "target_after": 0.8,
        "support_before": 0.7,
        "support_after": 0.6,
        "mean_after": pytest.approx(0.7),
    }


def test_an_offline_run_holds_everything_that_the_folder_does(metasum, tiny, tmp_path):
    flags = ("--wandb", "offline", "--wandb-tags", "one, two", "--wandb-group", "mine", "--wandb-network")
    outcome = metasum("train", *tiny, *flags, "--report")
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "runs" / "rows+lines" / "metasum-seed0"
    result = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = list(records(folder))
    (run,) = (record.run for record in found if record.WhichOneof("record_type") == "run")
    assert (run.project, run.run_group, run.job_type, list(run.tags)) == ("metasum", "mine", "train", ["one", "two"])
    assert run.display_name == "rows+lines/metasum-seed0"
    config = {item.key: json.loads(item.value_json) for item in run.config.update if item.key != "_wandb"}
    assert config == json.loads((folder / "config.json").read_text())
    history = [items(r.history.item) for r in found if r.WhichOneof("record_type") == "history"]
    losses = [(row["_step"], row["loss/sum"]) for row in history if "loss/sum" in row]
    assert losses == [(line["step"], line["losses"]["sum"]) for line in lines if line["kind"] == "step"]
    summary = {}
    for record in found:
        if record.WhichOneof("record_type") == "summary":
            summary |= items(record.summary.update)
    assert summary["target_after"] == result["accuracy"]["target"]["after"]
    assert summary["support_before"] == result["accuracy"]["support"]["before"]
    artifacts = {record.artifact.name for record in found if record.WhichOneof("record_type") == "artifact"}
    assert f"summed-{run.run_id}" in artifacts
    assert any("interpolation_table" in name for name in artifacts)
    assert sum("confusion" in name for name in artifacts) == 4


def test_resuming_a_run_resumes_its_wandb_run(data_root, tmp_path):
    config = settings(
        target="rows", support="lines", data_root=str(data_root), width=0.04, steps=4, batch_size=8, evaluate_every=0,
        checkpoint_every=1, log_every=1, calibration_batches=1, device="cpu", wandb="offline",
    )  # fmt: skip

    class Stopping(SilentDisplay):
        def stepped(self, step, **_):
            if step == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, out=tmp_path / "runs", report=False, display=Stopping())
    train(config, out=tmp_path / "runs", report=False, resume=True)
    runs = [r.run for r in records(tmp_path / "runs") if r.WhichOneof("record_type") == "run"]
    assert len(runs) == 2
    assert len({run.run_id for run in runs}) == 1


def test_the_name_is_the_pairs_and_not_that_of_the_meta_training_before_it(metasum, tiny, tmp_path):
    flags = ("--learner", "metasum-meta", "--meta-steps", 1, "--meta-batch-size", 4)
    outcome = metasum("train", *tiny, *flags, "--wandb", "offline", "--wandb-name", "mine")
    assert outcome.code == 0, outcome.err
    runs = [r.run for r in records(tmp_path / "runs") if r.WhichOneof("record_type") == "run"]
    (meta,) = (tmp_path / "runs" / "meta").iterdir()
    assert {run.display_name: run.job_type for run in runs} == {f"meta/{meta.name}": "meta-train", "mine": "train"}


def test_without_a_key_it_goes_on_offline_and_says_so_once(metasum, tiny, tmp_path):
    outcome = metasum("train", *tiny, "--wandb", "online")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("W&B") == 1
    assert "tracking offline" in outcome.err
    assert "wandb: " not in outcome.err
    assert any(r.WhichOneof("record_type") == "history" for r in records(tmp_path / "runs"))


def test_without_an_answering_server_it_goes_on_offline(metasum, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_runs, "PATIENCE", 3)
    outcome = metasum("train", *tiny, "--wandb", "online")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("W&B does not answer") == 1
    assert "Traceback" not in outcome.err
    assert any(r.WhichOneof("record_type") == "history" for r in records(tmp_path / "runs"))


def test_a_tracker_that_dies_is_said_once_and_changes_nothing(metasum, tiny, tmp_path, monkeypatch):
    assert metasum("train", *tiny, "--name", "plain").code == 0

    def dead(*_):
        raise BrokenPipeError("gone")

    monkeypatch.setattr(tracking.WandbTracker, "record", dead)
    outcome = metasum("train", *tiny, "--wandb", "offline", "--name", "tracked")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("W&B failed") == 1
    folder = tmp_path / "runs" / "rows+lines"
    kinds = [
        [json.loads(line)["kind"] for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("plain", "tracked")
    ]
    assert kinds[0] == kinds[1]
    weights = [(folder / name / "target.safetensors").read_bytes() for name in ("plain", "tracked")]
    assert weights[0] == weights[1]


def test_tracking_is_off_unless_asked_for_or_under_an_agent(monkeypatch):
    assert wandb_mode(TrackingConfig()) == "disabled"
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    assert wandb_mode(TrackingConfig()) == "online"
    assert wandb_mode(TrackingConfig(wandb="disabled")) == "disabled"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_mode(TrackingConfig()) == "offline"


def test_tensorboard_hears_every_number(metasum, tiny, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    assert metasum("train", *tiny, "--tensorboard").code == 0
    folder = tmp_path / "runs" / "rows+lines" / "metasum-seed0"
    events = reader.EventAccumulator(str(folder / "tensorboard")).Reload()
    result = json.loads((folder / "result.json").read_text())
    assert events.Scalars("target_after")[-1].value == pytest.approx(result["accuracy"]["target"]["after"], abs=1e-6)
    assert [event.step for event in events.Scalars("loss/sum")] == [2, 4, 6]


def test_tensorboard_that_is_not_installed_is_refused_before_anything_is_written(metasum, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    refused(metasum("train", *tiny, "--tensorboard"), 2, "metasum[tensorboard]")
    assert nothing_written(tmp_path)
