"""metasum experiment: three steps, one table."""

import dataclasses
import json
import shutil

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file
from tiny import blob_arrays, write_npz

from metasum import settings
from metasum.baselines import register
from metasum.baselines.independent import IndependentLearner
from metasum.baselines.registry import LEARNERS
from metasum.merging.emr import EMR
from metasum.merging.endpoints import Endpoint
from metasum.merging.memory import networks_for_tasks
from metasum.strangers.runs import open_run
from metasum.study import strangers
from metasum.study.experimenting import experiment as run_experiment
from metasum.study.experimenting import refusal
from metasum.study.request import StudyRequest
from metasum.training.confusion import accuracy
from metasum.weights.statistics import recalibrate


@pytest.fixture
def experiment(metasum, tiny, data_root):
    write_npz(data_root / "third.npz", blob_arrays(2))
    flags = [flag for flag in tiny if flag not in ("--target", "rows")]

    def run(*more, command="experiment", learners="independent,metasum,slerp"):
        targets = ("--targets", "rows,third") if command == "experiment" else ()
        return metasum(command, *targets, *flags, "--seeds", 1, "--learners", learners, *more)

    return run


TINY = {"width": 0.04, "steps": 6, "batch_size": 8, "evaluate_every": 3, "checkpoint_every": 2, "log_every": 2}
TINY |= {"device": "cpu", "calibration_batches": 1, "dropout": 0.1, "memory_format": "contiguous"}


@pytest.fixture(scope="module")
def done_once(tmp_path_factory):
    """The folder of runs of a finished experiment, without choices and pages."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("experiment")
    for seed, name in enumerate(("rows", "lines", "third")):
        write_npz(folder / "data" / f"{name}.npz", blob_arrays(seed))
    request = settings(support="lines", data_root=str(folder / "data"), **TINY)
    asked = StudyRequest(request=request, learners=("independent", "metasum", "slerp"), seeds=1, tuned=False)
    run_experiment(dataclasses.replace(asked, out=folder / "runs", report=False), ("rows", "third"))
    return folder / "runs"


@pytest.fixture
def done(done_once, tmp_path):
    """A copy of its own: `experiment("--no-tune")` finds it finished."""
    shutil.copytree(done_once, tmp_path / "runs")
    return tmp_path / "runs"


def test_one_table_answers_before_after_and_after_the_stranger(experiment, tmp_path):
    outcome = experiment("--json", "--no-tune", "--seeds", 2, "--steps", 2, "--report")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    place = tmp_path / "runs" / "experiments" / "rows+third+lines"
    assert json.loads((place / "results.json").read_text()) == result
    assert [(r["learner"], r["seed"]) for r in result["rows"]] == [
        (name, seed) for name in ("independent", "metasum", "slerp") for seed in (0, 1)
    ]
    for row in result["rows"]:
        assert set(row["accuracy"]) == {"rows", "third", "union"}
        for target in ("rows", "third"):
            run = tmp_path / "runs" / f"{target}+lines" / f"{row['learner']}-seed{row['seed']}" / "result.json"
            own = json.loads(run.read_text())["accuracy"]["target"]
            assert row["accuracy"][target]["before"] == own["before"]
            assert row["accuracy"][target]["after"] == own["after"]
    assert result["summary"][0]["accuracy"]["rows"]["stranger"].keys() == {"mean", "std"}
    assert set(result["lines"]) == {"independent", "metasum"}
    text = (place / "report.html").read_text()
    assert text.count("<figure>") == 4
    assert "+ stranger" in text


def test_the_stranger_column_is_what_metasum_sum_says(done, experiment, metasum, tmp_path):
    rows = json.loads(experiment("--no-tune", "--json").out)["rows"]
    for row in rows:
        trained = "independent" if row["learner"] == "slerp" else row["learner"]
        runs = [tmp_path / "runs" / f"{target}+lines" / f"{trained}-seed0" for target in ("rows", "third")]
        operator = "slerp" if row["learner"] == "slerp" else "sum"
        flags = ("--operator", operator, "--out", tmp_path / "s", "--name", row["learner"], "--no-report", "--json")
        outcome = metasum("sum", *runs, *flags)
        found = json.loads(outcome.out)["accuracy"]
        for target in ("rows", "third"):
            stranger = row["accuracy"][target]["stranger"]
            assert stranger == found[target]["sum"]
            assert row["accuracy"][target]["retention"] == pytest.approx(stranger / row["accuracy"][target]["before"])
            assert row["accuracy"][target]["stranger_union_statistics"] == found[target]["sum_union_statistics"]
        assert row["accuracy"]["union"] == found["union"]


def test_strangers_whose_task_is_known_are_marked(done, experiment, tmp_path):
    outcome = experiment("--no-tune", learners="average,emr")
    assert outcome.code == 0, outcome.err
    assert "task known" in outcome.out
    place = tmp_path / "runs" / "experiments" / "rows+third+lines"
    result = json.loads((place / "results.json").read_text())
    assert [row.get("no_merge") for row in result["rows"]] == [None, "task known"]
    assert [row.get("no_merge") for row in result["summary"]] == [None, "task known"]
    assert "no_merge" in (place / "results.csv").read_text().splitlines()[0]
    runs = [open_run(tmp_path / "runs" / f"{target}+lines" / "independent-seed0") for target in ("rows", "third")]
    tasks = strangers.tasks_of(runs, ["rows", "third"], data_root=None, device=torch.device("cpu"), download=False)
    networks = networks_for_tasks(EMR(), [Endpoint(run.network, []) for run in runs], dict(runs[0].initial))
    for network, (target, task) in zip(networks, tasks.items(), strict=True):
        recalibrate(network, task.calibration(1))
        assert result["rows"][1]["accuracy"][target]["stranger"] == accuracy(network, task.evaluation())


def test_going_on_repeats_nothing(done, experiment):
    files = [*done.rglob("result.json"), *(done / "experiments").rglob("*-seed0.json")]
    before = {file: file.stat().st_mtime_ns for file in files}
    assert len(before) == 6 + 3
    again = experiment("--no-tune")
    assert again.code == 0
    assert {file: file.stat().st_mtime_ns for file in files} == before
    assert "adding the networks" not in again.err


def test_it_shares_its_runs_with_compare_baselines(done, experiment):
    outcome = experiment("--no-tune", "--target", "rows", command="compare-baselines")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("is finished already") == 3


def test_strangers_are_tuned_on_validation_images_too(experiment, tmp_path):
    result = json.loads(experiment("--json").out)
    tried = result["tuning"]["strangers"]["slerp"]["tried"]
    assert [trial["settings"] for trial in tried] == [{"position": p} for p in (0.3, 0.5, 0.7)]
    chosen = result["tuning"]["strangers"]["slerp"]["chosen"]
    assert max(trial["score"] for trial in tried) == next(t["score"] for t in tried if t["settings"] == chosen)
    place = tmp_path / "runs" / "experiments" / "rows+third+lines"
    identities = [json.loads(file.read_text())["identity"] for file in place.glob("validation-slerp-*.json")]
    assert len(identities) == 3
    assert {identity["evaluate_on"] for identity in identities} == {"validation"}
    final = json.loads((place / "slerp-seed0.json").read_text())["identity"]
    assert final["evaluate_on"] == "test"
    assert final["merging"]["position"] == chosen["position"]


def test_the_operator_asked_for_is_the_one_that_strangers_meet_under(experiment, tmp_path):
    assert experiment("--no-tune", "--operator", "average", "--steps", 2, learners="metasum").code == 0
    place = tmp_path / "runs" / "experiments" / "rows+third+lines"
    assert json.loads((place / "metasum-seed0.json").read_text())["identity"]["operator"] == "average"


def test_three_targets(experiment, data_root):
    write_npz(data_root / "fourth.npz", blob_arrays(1))
    outcome = experiment(
        "--no-tune", "--targets", "rows,third,fourth", "--steps", 1, "--json", learners="independent,average"
    )
    assert outcome.code == 0, outcome.err
    assert set(json.loads(outcome.out)["rows"][0]["accuracy"]) == {"rows", "third", "fourth", "union"}


def test_a_sum_that_fails_leaves_the_others(done, experiment, monkeypatch):
    (done / "experiments" / "rows+third+lines" / "slerp-seed0.json").unlink()
    monkeypatch.setattr("metasum.merging.slerp.on_the_arc", lambda *_, **__: 1 / 0)
    outcome = experiment("--no-tune", "--json")
    assert outcome.code == 1
    result = json.loads(outcome.out)
    assert [row["learner"] for row in result["rows"]] == ["independent", "metasum"]
    assert "ZeroDivisionError" in result["failed"][0]["error"]


def test_data_that_moved_is_found_where_the_flag_says(done, experiment, data_root, tmp_path):
    data_root.rename(tmp_path / "moved")
    (tmp_path / "runs" / "experiments" / "rows+third+lines" / "independent-seed0.json").unlink()
    assert experiment("--no-tune", "--data-root", tmp_path / "moved", learners="independent").code == 0


def test_a_sum_that_fails_is_told_of_its_own_seed_and_leaves_the_other_seeds(experiment, monkeypatch):
    merge = strangers.merge_runs

    def failing(runs, *more):
        return 1 / 0 if runs[0].plan.seed == 1 else merge(runs, *more)

    monkeypatch.setattr(strangers, "merge_runs", failing)
    outcome = experiment("--no-tune", "--seeds", 3, "--steps", 1, "--json", learners="independent")
    assert outcome.code == 1
    result = json.loads(outcome.out)
    assert [(failed["seed"], failed["run"]) for failed in result["failed"]] == [(1, "independent-seed1")]
    assert [row["seed"] for row in result["rows"]] == [0, 2]


def test_the_picture_of_the_first_seed_shows_the_first_seed(experiment, tmp_path):
    flags = ("--no-tune", "--steps", 2, "--report", "--json")
    assert experiment(*flags, "--seed", 1, learners="independent").code == 0
    lines = json.loads(experiment(*flags, "--seed", 0, "--seeds", 2, learners="independent").out)["lines"]
    place = tmp_path / "runs" / "experiments" / "rows+third+lines"
    kept = [json.loads((place / f"independent-seed{seed}.json").read_text())["line"] for seed in (0, 1)]
    assert kept[0] != kept[1]
    assert lines["independent"] == kept[0]


def test_a_failed_run_leaves_the_others(experiment):
    class Unlucky(IndependentLearner):
        name, summary = "unlucky", "Fails on one target."

        def training_step(self, target, support, **keywords):
            steps.append(target)
            if len(steps) > 6:  # the second target's
                raise RuntimeError("not this one")
            return super().training_step(target, support, **keywords)

    steps = []
    register(Unlucky)
    outcome = experiment("--no-tune", "--json", learners="unlucky,independent")
    assert outcome.code == 1
    result = json.loads(outcome.out)
    assert [row["learner"] for row in result["rows"]] == ["independent"]
    assert [cell["learner"] for cell in result["failed"]] == ["unlucky"]


def test_heads_are_made_of_one_size(experiment, data_root, tmp_path):
    write_npz(data_root / "third.npz", blob_arrays(2, classes=5))
    assert experiment("--no-tune", learners="independent").code == 0
    config = json.loads((tmp_path / "runs" / "rows+lines" / "independent-seed0" / "config.json").read_text())
    assert config["settings"]["network"]["num_classes"] == 5


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--operator", "learned"), "strangers have none"),
        (("--slots", 2, "--density", 0.5), "--slots says nothing to any of the learners"),
        (("--targets", "rows"), "takes two or more different datasets"),
        (("--targets", "rows,rows"), "takes two or more different datasets"),
        (("--learners", "average-two-inits"), "learner 'average-two-inits' gives the support another initialisation"),
        (("--learners", "slerp", "--targets", "rows,third,lines"), "learner 'slerp' does not merge 3 networks"),
        (("--statistics", "target"), "recalibrated statistics"),
        (("--targets", "rows,union"), "cannot be called 'union'"),
        (("--learners", "nobody"), "unknown learner 'nobody'"),
        (("--targets", "rows,thirdd"), "unknown dataset 'thirdd'"),
    ],
)
def test_what_makes_no_experiment_is_said_before_anything_is_written(experiment, tmp_path, flags, words):
    refused(experiment(*flags), 2, words)
    assert not (tmp_path / "runs").exists()


def test_targets_of_slots_are_numbered_so_that_they_can_be_added(experiment, metasum, tmp_path):
    outcome = experiment("--no-tune", "--json", learners="slots")
    assert outcome.code == 0, outcome.err
    runs = [tmp_path / "runs" / "rows+lines" / "slots-seed0", tmp_path / "runs" / "third+lines" / "slots-seed0-slot1"]
    found = [json.loads((run / "config.json").read_text())["settings"]["own"]["slot"] for run in runs]
    assert found == [0, 1]
    first, second = (load_file(run / "target.safetensors") for run in runs)
    assert not any((first[name] * second[name]).any() for name in first if name.endswith("weight"))
    assert metasum("sum", *runs, "--out", tmp_path / "s").code == 0


def test_more_targets_than_slots_are_refused_before_anything_is_written(metasum, tiny, data_root, tmp_path):
    for index, name in enumerate(("third", "fourth")):
        write_npz(data_root / f"{name}.npz", blob_arrays(index))
    flags = [flag for flag in tiny if flag not in ("--target", "rows")]
    outcome = metasum("experiment", "--targets", "rows,third,fourth", *flags, "--learners", "slots", "--no-tune")
    refused(outcome, 2, "--slots 2")
    assert not (tmp_path / "runs").exists()


def test_a_meta_learnt_initialisation_never_sees_a_target(experiment, tmp_path):
    fast = ("--no-tune", "--meta-steps", 2, "--meta-batch-size", 4)
    outcome = experiment(*fast, "--json", learners="metasum-meta")
    assert outcome.code == 0, outcome.err
    (meta,) = (tmp_path / "runs" / "meta").iterdir()
    assert set(json.loads((meta / "config.json").read_text())["data"]) == {"lines"}
    for target in ("rows", "third"):
        start = load_file(tmp_path / "runs" / f"{target}+lines" / "metasum-meta-seed0" / "initial.safetensors")
        learnt = load_file(meta / "initial.safetensors")
        assert all(torch.equal(start[name], learnt[name]) for name in learnt)
    refused(experiment(*fast, "--meta-datasets", "lines,third", learners="metasum-meta"), 2, "'third'", "never seen")


def test_an_experiment_numbers_its_targets_by_itself(experiment):
    refused(experiment("--slot", 1, learners="slots"), 2, "--slot")


def test_by_default_only_learners_that_can_take_all_targets_run():
    assert {"slots", "slerp"} <= set(default_learners(2))
    assert not {"slots", "slerp"} & set(default_learners(3))
    assert "slots" in default_learners(3, slots=4)
    assert not {name for name in default_learners(2) if name.endswith("-two-inits")}


def default_learners(targets, **given):
    return [name for name in LEARNERS if refusal(name, targets, settings(**given)) is None]


def test_a_moved_folder_goes_on(done, experiment, tmp_path):
    done.rename(tmp_path / "old")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "old").rglob("*-seed0*/result.json")}
    outcome = experiment("--no-tune", "--report", "--out", tmp_path / "old", "--json", learners="slerp,independent")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert {path: path.stat().st_mtime_ns for path in files} == files, "nothing was trained"
    assert len(result["rows"]) == 2
    assert result["experiment"] == str(tmp_path / "old" / "experiments" / "rows+third+lines")
    assert set(result["lines"]) == {"independent"}, "it is measured where it was not asked for before"
    assert not (tmp_path / "runs").exists()


def test_a_measurement_of_the_last_release_is_taken_as_it_is(done, experiment):
    file = done / "experiments" / "rows+third+lines" / "slerp-seed0.json"
    known = json.loads(file.read_text())
    assert known["identity"]["merging"] == {"position": 0.5}
    known["identity"]["merging"] |= {"density": 0.2, "drop_rate": 0.5, "scaling": 0.4, "merging_images": 1024}
    file.write_text(json.dumps(known))
    assert "adding the networks" not in experiment("--no-tune", learners="slerp").err
    known["identity"]["merging"]["position"] = 0.3
    file.write_text(json.dumps(known))
    assert "adding the networks" in experiment("--no-tune", learners="slerp").err


@pytest.mark.parametrize("place", [("opinions", "each", 0, "network"), ("opinions", "ensemble"), ("accuracy",)])
def test_a_measurement_that_tells_of_other_datasets_is_damaged(done, experiment, place):
    file = done / "experiments" / "rows+third+lines" / "slerp-seed0.json"
    inner = measurement = json.loads(file.read_text())
    for key in place[:-1]:
        inner = inner[key]
    inside = inner[place[-1]]
    inner[place[-1]] = "elsewhere" if isinstance(inside, str) else {"elsewhere": inside["rows"], **inside}
    file.write_text(json.dumps(measurement))
    outcome = experiment("--learners", "independent,slerp", "--no-tune")
    assert outcome.code == 1
    assert f"{file} is damaged: it is not of the datasets rows, third" in outcome.err
