"""compare-baselines: one table, equal terms, resumable, and no test image chooses anything."""

import csv
import json

import pytest
import torch
from refusal import refused
from safetensors.torch import load_file

from metasum import settings
from metasum.baselines import register
from metasum.baselines.independent import IndependentLearner
from metasum.baselines.registry import LEARNERS
from metasum.errors import MetaSumError, UsageError
from metasum.results.accuracy import BeforeAfter, Evaluation, Spread
from metasum.results.comparison import ComparisonRow, summarise
from metasum.study.checks import check, study_of
from metasum.study.comparing import compare as compare_in_python
from metasum.study.engine.processes import Processes
from metasum.study.engine.sequential import Sequential
from metasum.study.request import StudyRequest
from metasum.tasks import PairSampler, TaskPair, register_dataset, register_pair


@pytest.fixture
def compare(metasum, tiny):
    return lambda *more: metasum("compare-baselines", *tiny, "--seeds", 1, "--no-tune", *more)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "rows+lines"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_learner_lands_in_one_table(compare, folder):
    outcome = compare("--json", "--report", "--meta-steps", 1, "--meta-batch-size", 4)
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert [row["learner"] for row in result["rows"]] == [row["learner"] for row in result["summary"]] == list(LEARNERS)
    for row in result["rows"]:
        assert set(row) >= {"learner", "seed", "accuracy", "seconds", "peak_bytes", "images_per_second"}
        for side in ("target", "support"):
            accuracy = row["accuracy"][side]
            assert accuracy["drop"] == pytest.approx(accuracy["before"] - accuracy["after"])
    for row in result["summary"]:
        assert set(row["target"]["before"]) == set(row["support"]["after"]) == {"mean", "std"}
    comparison = folder / "comparison"
    assert json.loads((comparison / "results.json").read_text()) == result
    assert {row["run"] for row in result["rows"]} == {f"../{name}-seed0" for name in LEARNERS}
    lines = list(csv.DictReader((comparison / "results.csv").read_text().splitlines()))
    assert len(lines) == len(result["rows"])
    assert float(lines[0]["accuracy.target.after"]) == result["rows"][0]["accuracy"]["target"]["after"]
    text = (comparison / "report.html").read_text()
    assert all(name in text for name in LEARNERS)


def test_rows_that_are_no_merges_are_marked_everywhere(compare, folder):
    learners = "average,emr,multi-input,adamerging,regmean-plus-plus"
    outcome = compare("--learners", learners, "--adamerging-steps", 2, "--report")
    assert outcome.code == 0, outcome.err
    assert "No merge, but what one could reach: “task known” has a network for each dataset" in outcome.out
    known = {"emr": "task known", "multi-input": "joint training"}
    result = json.loads((folder / "comparison" / "results.json").read_text())
    for rows in (result["rows"], result["summary"]):
        assert {row["learner"]: row["no_merge"] for row in rows if "no_merge" in row} == known
    lines = csv.DictReader((folder / "comparison" / "results.csv").read_text().splitlines())
    told = {line["learner"]: line["no_merge"] for line in lines}
    assert told == dict.fromkeys(learners.split(","), "") | known
    page = (folder / "comparison" / "report.html").read_text()
    assert "“joint training” is trained on all the data together" in page
    merged = json.loads((folder / "emr-seed0" / "result.json").read_text())
    assert merged["endpoints"] == "independent-seed0"
    plain = compare("--learners", "average", "--json")
    assert '"no_merge"' not in plain.out


def test_seeds_are_counted_up_and_sorted_by_learner(compare):
    result = json.loads(compare("--learners", "independent,average", "--seed", 4, "--seeds", 2, "--json").out)
    found = [(row["learner"], row["seed"]) for row in result["rows"]]
    assert found == [("independent", 4), ("independent", 5), ("average", 4), ("average", 5)]
    assert result["summary"][0]["seeds"] == [4, 5]


def test_merging_methods_take_the_networks_that_independent_trained(compare, folder):
    assert compare("--learners", "ties,average").code == 0
    independent = folder / "independent-seed0"
    before = json.loads((independent / "result.json").read_text())
    for name in ("ties", "average"):
        merged = json.loads((folder / f"{name}-seed0" / "result.json").read_text())
        assert merged["endpoints"] == "independent-seed0"
        assert merged["accuracy"]["target"]["before"] == before["accuracy"]["target"]["before"]
        assert not (folder / f"{name}-seed0" / "metrics.jsonl").exists(), "it trained nothing"
        assert not (folder / f"{name}-seed0" / "target.safetensors").exists(), "it keeps no second copy"
    weights = {n: load_file(independent / f"{n}.safetensors")["classifier.7.weight"] for n in ("target", "support")}
    summed = load_file(folder / "average-seed0" / "summed.safetensors")["classifier.7.weight"]
    torch.testing.assert_close(summed, (weights["target"] + weights["support"]) / 2)


def test_networks_of_other_settings_are_not_merged(compare, folder):
    assert compare("--learners", "independent").code == 0
    outcome = compare("--learners", "slerp", "--learning-rate", 0.01)
    assert outcome.code == 1
    assert "independent-seed0 with other settings: learning_rate was 0.0005, now 0.01" in outcome.out
    assert not (folder / "slerp-seed0" / "result.json").exists()


def test_a_run_that_was_made_without_a_report_has_no_curves(compare, metasum, tiny, folder):
    assert metasum("train", *tiny, "--learner", "independent").code == 0
    assert compare("--learners", "ties,metasum,independent", "--report").code == 0
    found = json.loads((folder / "comparison" / "results.json").read_text())
    assert [row["learner"] for row in found["rows"]] == ["ties", "metasum", "independent"], "as they were named"
    assert set(found["first_seed"]) == {"metasum"}


def test_a_merging_learner_trained_by_itself_is_the_same(compare, metasum, tiny, folder):
    assert compare("--learners", "regmean").code == 0
    assert metasum("train", *tiny, "--learner", "regmean", "--name", "alone").code == 0
    ours, theirs = (load_file(folder / name / "summed.safetensors") for name in ("alone", "regmean-seed0"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_all_see_the_same_batches_in_the_same_order_from_the_same_start(compare, folder, monkeypatch):
    seen = []
    draw = PairSampler.__next__

    def noted(sampler):
        episode = draw(sampler)
        seen.append((episode.target.images.sum(), episode.support.images.sum(), episode.target.labels.tolist()))
        return episode

    monkeypatch.setattr(PairSampler, "__next__", noted)
    names = ("metasum", "independent", "two-head", "proximity")
    assert compare("--learners", ",".join(names)).code == 0
    assert len(seen) == 6 * len(names)
    assert len({str(batch) for batch in seen[:6]}) == 6
    assert all(seen[6 * k : 6 * k + 6] == seen[:6] for k in range(len(names)))
    starts = [load_file(folder / f"{name}-seed0" / "initial.safetensors") for name in names]
    assert all(torch.equal(start[name], starts[0][name]) for start in starts for name in start)


def test_finished_cells_are_skipped_and_unfinished_ones_continued(compare, folder):
    assert compare("--learners", "metasum,independent").code == 0
    before = (folder / "metasum-seed0" / "result.json").stat().st_mtime_ns
    (folder / "independent-seed0" / "result.json").unlink()
    outcome = compare("--learners", "metasum,independent,slerp")
    assert outcome.code == 0, outcome.err
    assert (folder / "metasum-seed0" / "result.json").stat().st_mtime_ns == before
    assert "metasum-seed0 is finished already" in outcome.err
    assert "step 2/6" not in outcome.err, "the unfinished run went on from its last step"
    assert (folder / "slerp-seed0" / "result.json").exists()


def register_unlucky(error):
    class Unlucky(IndependentLearner):
        name, summary = "unlucky", "Fails."

        def training_step(self, target, support, **keywords):
            raise error

    register(Unlucky)


@pytest.mark.parametrize("error", [MetaSumError("no luck today"), RuntimeError("a bug"), MemoryError()])
def test_a_failed_run_is_reported_and_does_not_take_the_rest_down(compare, folder, error):
    register_unlucky(error)
    outcome = compare("--learners", "unlucky,independent", "--json")
    assert outcome.code == 1
    result = json.loads(outcome.out)
    (failed,) = result["failed"]
    assert (failed["learner"], failed["seed"], failed["run"]) == ("unlucky", 0, "../unlucky-seed0")
    assert [row["learner"] for row in result["rows"]] == ["independent"]
    assert str(error).split("\n")[0] in failed["error"]
    assert "a run failed, unlucky-seed0" in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err
    assert not (folder / "comparison" / "report.html").exists()


def test_where_everything_fails_there_is_still_a_page(compare, folder):
    register_unlucky(RuntimeError("a bug"))
    outcome = compare("--learners", "unlucky", "--report")
    assert outcome.code == 1
    assert "every run failed" in outcome.out
    assert "unlucky" in (folder / "comparison" / "report.html").read_text()


def test_settings_are_chosen_on_validation_images_only(metasum, tiny, folder):
    outcome = metasum("compare-baselines", *tiny, "--seeds", 1, "--learners", "task-arithmetic,slerp", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    tuned = result["tuning"]["task-arithmetic"]
    scores = {trial["settings"]["scaling"]: trial["score"] for trial in tuned["tried"]}
    assert set(scores) == set(LEARNERS["task-arithmetic"].candidates["scaling"])
    assert scores[tuned["chosen"]["scaling"]] == max(scores.values())
    trials = [json.loads(p.read_text()) for p in (folder / "validation").glob("*/config.json")]
    assert len(trials) == 1 + len(scores) + 3
    assert {trial["settings"]["data"]["evaluate_on"] for trial in trials} == {"validation"}
    final = json.loads((folder / "task-arithmetic-seed0" / "config.json").read_text())["settings"]
    assert final["own"]["scaling"] == tuned["chosen"]["scaling"]
    assert final["data"]["evaluate_on"] == "test"
    assert not list((folder / "validation").glob("task-arithmetic*/*.safetensors")), "trials keep no networks"
    assert not list(folder.rglob("report.html"))


def test_a_setting_given_by_hand_is_not_tuned(metasum, tiny, folder):
    flags = ("--seeds", 1, "--learners", "slerp", "--position", 0.5, "--json")
    assert json.loads(metasum("compare-baselines", *tiny, *flags).out)["tuning"] == {}
    config = json.loads((folder / "slerp-seed0" / "config.json").read_text())
    assert config["settings"]["own"]["position"] == 0.5


def test_failing_endpoints_are_trained_once_and_named_once(compare):
    outcome = compare("--learners", "independent,ties,slerp,average", "--learning-rate", 1e30, "--json")
    failed = json.loads(outcome.out)["failed"]
    assert sorted(cell["learner"] for cell in failed) == ["average", "independent", "slerp", "ties"]
    assert "diverged" in failed[0]["error"]
    assert {cell["error"] for cell in failed[1:]} == {
        f"it needs rows+lines/independent-seed0, which failed: {failed[0]['error']}"
    }


def test_the_settings_shown_are_those_that_ran(compare):
    shown = json.loads(compare("--learners", "independent", "--json").out)["settings"]
    assert shown["network"]["num_classes"] == 4
    assert shown["optimisation"]["learning_rate"] == 5e-4


def test_two_initialisations_are_two_whatever_the_first(compare, folder):
    assert compare("--learners", "independent-two-inits", "--init-seed", 1).code == 0
    config = json.loads((folder / "independent-two-inits-seed0" / "config.json").read_text())["settings"]["network"]
    assert (config["init_seed"], config["support_init_seed"]) == (1, 2)


def test_a_setting_of_one_learner_leaves_the_others_alone(compare, folder):
    assert compare("--learners", "metasum,proximity", "--proximity", 0.3, "--symmetric").code == 0
    config = json.loads((folder / "metasum-seed0" / "config.json").read_text())["settings"]
    assert config["own"]["symmetric"] is True
    config = json.loads((folder / "proximity-seed0" / "config.json").read_text())["settings"]
    assert config["own"]["proximity"] == 0.3
    assert "symmetric" not in config["own"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--learners", "metasum,tiess"), "did you mean 'ties'?"),
        (("--learners", "metasum,metasum"), "names 'metasum' twice"),
        (("--learners", ","), "names nobody"),
        (("--learners", "metasum", "--density", 0.3), "--density says nothing to any of the learners"),
        (("--seeds", 0), "--seeds"),
        (("--learners", "ties", "--support-init-seed", 3), "needs one initialisation"),
        (("--learners", "metasum,proximity", "--proximity-weights", "1,2"), "--proximity-weights"),
        (("--learners", "ties", "--operator", "average"), "--operator says nothing to any of the learners"),
        (("--learners", "tangent", "--norm", "batch"), "--norm says nothing to any of the learners tangent"),
        (("--learners", "metasum", "--wandb-tags", "a" * 65), "W&B takes tags of 1 to 64 characters"),
        (("--learners", "slots", "--operator", "task-arithmetic"), "--operator"),
        (("--learners", "metasum-meta", "--meta-datasets", "rows"), "'rows', a target"),
        (("--learners", "metasum-meta", "--meta-datasets", "rowz"), "unknown dataset 'rowz'"),
        (("--learners", "metasum", "--precision", "16-mixed"), "--precision 16-mixed needs a GPU"),
        (("--jobs", 0), "--jobs"),
        (("--learners", "ties", "--statistics", "target"), "merged networks have recalibrated ones"),
        (("--num-classes", 2), "--num-classes 2 is too few"),
        (("--target", "rowz"), "unknown dataset 'rowz'"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_written(compare, tmp_path, flags, words):
    refused(compare(*flags), 2, words)
    assert not (tmp_path / "runs").exists()


def test_the_table_fits_a_narrow_terminal(compare, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    outcome = compare("--learners", "metasum,weight-matching-two-inits")
    assert "weight-matching-two-inits" in outcome.out
    assert "rows (target), % of test images" in outcome.out


def row_of(learner, seed, before, after):
    sides = Evaluation(*[BeforeAfter(before, after)] * 2)
    return ComparisonRow(learner, seed, "sum", sides, 2.0, 1.0, 10, 5.0, "r")


def test_the_summary_is_mean_and_sample_deviation():
    rows = [row_of("a", seed, 0.8, after) for seed, after in enumerate((0.4, 0.6, 0.8))]
    (row,) = summarise([*rows])
    assert (row.target.after.mean, row.target.after.std) == pytest.approx((0.6, 0.2))
    assert row.target.retention.mean == pytest.approx(0.75)
    assert row.support.drop.mean == pytest.approx(0.2)
    assert row.seeds == (0, 1, 2)
    assert row_of("a", 0, 0.0, 0.1).accuracy.target.retention is None
    assert Spread.of([0.5]) == Spread(0.5, None)
    assert Spread.of([0.5, None]) == Spread(0.5, None)
    assert Spread.of([None]) == Spread(None, None)


def test_a_learner_that_cannot_take_the_network_does_not_stop_the_others(compare):
    outcome = compare("--learners", "slots,independent", "--norm", "group", "--json")
    assert outcome.code == 1
    result = json.loads(outcome.out)
    assert [row["learner"] for row in result["rows"]] == ["independent"]
    assert "normalises several channels" in result["failed"][0]["error"]
    refused(compare("--learners", "slots", "--norm", "group"), 1, "normalises several channels")


def test_a_moved_folder_goes_on_and_tells_the_runs_where_they_are_now(metasum, tiny, tmp_path):
    command = ("compare-baselines", *tiny, "--seeds", 1, "--report")
    assert metasum(*command, "--learners", "independent,slerp").code == 0
    (tmp_path / "runs").rename(tmp_path / "old")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "old").rglob("result.json")}
    outcome = metasum(*command, "--learners", "independent,slerp,average", "--out", tmp_path / "old", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert {path: path.stat().st_mtime_ns for path in files} == files, "nothing was repeated"
    assert result["comparison"] == str(tmp_path / "old" / "rows+lines" / "comparison")
    assert [row["run"] for row in result["rows"]] == [f"../{n}-seed0" for n in ("independent", "slerp", "average")]
    assert all((tmp_path / "old" / "rows+lines" / "comparison" / row["run"]).is_dir() for row in result["rows"])
    assert set(result["first_seed"]) == {"independent"}, "what was looked into is found"
    assert not (tmp_path / "runs").exists()


def test_what_only_this_python_process_knows_is_refused_where_others_are_to_run_it(data_root, tmp_path):
    class Own(IndependentLearner):
        name, summary = "own", "Of this process."

    def asked(learner="metasum", target="rows"):
        given = {"data_root": str(data_root), "target": target, "support": "lines", "width": 0.04, "device": "cpu"}
        request = StudyRequest(request=settings(**given), learners=(learner,), seeds=1, out=tmp_path / "runs")
        return request, study_of(request, learners=(learner,), targets=(target,), place=tmp_path / "runs")

    register(Own)
    register_dataset("mine", lambda: 1 / 0)
    for learner, target, words in (("own", "rows", "learner 'own'"), ("metasum", "mine", "dataset 'mine'")):
        with pytest.raises(UsageError, match=f"^{words} is registered in this Python process only"):
            compare_in_python(asked(learner, target)[0], engine=Processes(2))
    assert check(asked("own")[1], Sequential())["rows"].learner == "own"
    register_pair(TaskPair("rows", "lines"))
    with pytest.raises(UsageError, match=r"^pair 'rows\+lines' is registered in this Python process only"):
        check(asked()[1], Processes(2))
    assert not (tmp_path / "runs").exists()
