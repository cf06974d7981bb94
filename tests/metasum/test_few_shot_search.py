"""`metasum few-shot --tune`: the same search for every learner, on validation classes."""

import json
import math
import pickle

import numpy as np
import pytest
from refusal import refused
from tiny import write_npz

from metasum.baselines.prototypical import Prototypical
from metasum.baselines.registry import FEW_SHOT, register
from metasum.config import NoSettings, options_of
from metasum.errors import UsageError
from metasum.few_shot.config import MetaTrainingConfig
from metasum.few_shot.request import FewShotRequest
from metasum.few_shot.run import few_shot
from metasum.few_shot.study import plan_study
from metasum.learners.few_shot import FewShotLearner
from metasum.study.engine.cell import ordered
from metasum.study.engine.display import SilentStudy
from metasum.training.progress import SilentDisplay


@pytest.fixture
def asked(tmp_path):
    """Tiny settings; class k of the toys is bright in column k."""
    for number, name in enumerate(("columns", "others")):
        rng = np.random.default_rng(number)
        y = np.arange(15).repeat(6)
        x = rng.integers(0, 60, (len(y), 16, 16), dtype=np.uint8)
        x[np.arange(len(y)), :, y] += 90
        write_npz(tmp_path / "data" / f"{name}.npz", ((x, y), (x[::2], y[::2])))

    def of(**more):
        return FewShotRequest({
            "dataset": "columns", "data_root": str(tmp_path / "data"), "ways": 2, "queries": 3, "filters": 4,
            "episodes": 4, "validation_episodes": 3, "device": "cpu", "tune": True, **more,
        })  # fmt: skip

    return of


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "few-shot" / "columns-2way-1shot"


def config(run):
    return json.loads((run / "config.json").read_text())["settings"]


def test_every_learner_has_the_same_budget(asked):
    """As many trials of as many steps, whatever their grids look like; --help tells this number, too."""
    assert {math.prod(map(len, learner.candidates.values())) for learner in FEW_SHOT.values()} == {6}
    study = plan_study(asked(tune_steps=7), list(FEW_SHOT), seeds=2)
    trials = {name: study.trials(name) for name in FEW_SHOT}
    assert {len(found) for found in trials.values()} == {6}
    assert {trial.course.trying(trial.candidate).plan.loop().optimisation.steps for trial in trials["maml"]} == {7}
    assert len({trial.name for found in trials.values() for trial in found}) == 6 * len(FEW_SHOT)


@pytest.mark.parametrize("name", FEW_SHOT)
def test_the_defaults_are_among_the_candidates_so_that_a_search_does_not_lose_them(name):
    learner = FEW_SHOT[name]
    defaults = {leaf.name: leaf.default for leaf in (*options_of(MetaTrainingConfig), *options_of(learner.Config))}
    defaults["learning_rate"] = learner.learning_rate
    assert all(defaults[setting] in values for setting, values in learner.candidates.items())


def test_the_plan_has_trials_of_the_first_seed_and_a_choice_that_all_seeds_wait_for(asked):
    study = plan_study(asked(then="others", inner_lr=0.4, test_ways=(3,)), ["maml", "fine-tuning"], seeds=2)
    cells = {cell.name: cell for cell in ordered(study.cells())}
    trials = [name for name in cells if name.startswith("validation/maml")]
    assert trials == [f"validation/maml-seed0-learning_rate={rate}" for rate in (0.001, 0.003)]
    assert cells["settings of maml"].after == tuple(trials)
    for seed in (0, 1):
        assert cells[f"maml-seed{seed}"].after == ("settings of maml",)
        assert cells[f"maml-seed{seed}-then-others"].after == ("settings of maml",)
        assert cells[f"fine-tuning-seed{seed}-asked"].after == ("settings of fine-tuning",)
    tried = [cell for name, cell in cells.items() if name.startswith("validation/fine-tuning")]
    assert len(tried) == 6
    assert {cell.needs for cell in tried} == {("pretrained-seed0",)}
    for cell in cells.values():  # --jobs sends them
        assert type(pickle.loads(pickle.dumps(cell.work))) is type(cell.work)


class Told(SilentStudy, SilentDisplay):
    """Keeps what is trained."""

    def __init__(self):
        self.trained = []

    def started(self, cell):
        return self

    def begin(self, title, **_):
        self.trained += [title] if isinstance(title, str) else []  # else it is a number of cells


def test_the_best_on_validation_classes_is_what_all_seeds_and_all_that_follows_run_with(
    asked, tmp_path, folder, monkeypatch
):
    rates = (0.02, 0.05, 0.1)  # none is the default
    monkeypatch.setattr(Prototypical, "candidates", {"learning_rate": rates})
    request = asked(steps=3, tune_steps=2, evaluate_every=2, then="others", then_steps=1)
    result = few_shot(request, learners=["prototypical"], seeds=2, out=tmp_path / "runs")
    tuned = result.tuning["prototypical"]
    assert [tried.settings for tried in tuned.tried] == [{"learning_rate": rate} for rate in rates]
    best = max(tried.score for tried in tuned.tried)
    assert tuned.chosen == next(tried.settings for tried in tuned.tried if tried.score == best)
    for name in ("prototypical-seed0", "prototypical-seed1", "prototypical-seed0-then-others"):
        assert config(folder / name)["learning_rate"] == tuned.chosen["learning_rate"]
    for trial in sorted((folder / "validation").iterdir()):
        own = config(trial)
        assert (own["steps"], own["evaluate_on"], own["episodes"]) == (2, "validation", 3)
    assert result.settings["prototypical"]["learning_rate"] == tuned.chosen["learning_rate"]
    assert "Chosen on validation classes" in (folder / "report.html").read_text()
    told = Told()
    again = few_shot(request, learners=["prototypical"], seeds=2, out=tmp_path / "runs", display=told)
    assert told.trained == []
    assert (again.tuning, again.rows, again.then) == (result.tuning, result.rows, result.then)


def test_a_trial_takes_no_more_steps_than_the_run_and_stops_as_it_does(asked):
    (first, *_) = asked(steps=5).candidates("prototypical")
    plan = asked(steps=5).trying(first).plan("prototypical", 0)
    assert (plan.meta_training.steps, plan.updates.evaluate_every) == (5, 0)
    plan = asked(patience=2, evaluate_every=10).trying(first).plan("prototypical", 0)
    assert (plan.meta_training.steps, plan.updates.evaluate_every, plan.updates.patience) == (300, 10, 2)


def test_learners_without_meta_training_choose_theirs_on_one_trunk(asked, tmp_path, folder, metasum):
    given = {**asked(pretraining_steps=2).given, "base_steps": 2}
    flags = [part for name, value in given.items() if name != "tune" for part in (f"--{name.replace('_', '-')}", value)]
    more = ("--tune", "--learner", "fine-tuning,classifier-tuning", "--out", tmp_path / "runs", "--no-report")
    outcome = metasum("few-shot", *flags, *more)
    assert outcome.code == 0, outcome.err
    assert "chosen on 3 episodes of validation classes" in outcome.out
    result = json.loads((folder / "results.json").read_text())
    assert list(result["tuning"]) == ["fine-tuning", "classifier-tuning"]
    for name, tuned in result["tuning"].items():
        assert [list(tried["settings"]) for tried in tuned["tried"]] == [["base_lr"]] * 3  # base_steps were given
        assert config(folder / f"{name}-seed0")["base_lr"] == tuned["chosen"]["base_lr"]
    assert len(list(folder.glob("**/pretrained-*"))) == 1


def test_a_candidate_that_fails_is_told_of_and_not_chosen(asked, tmp_path, folder):
    in_the_way = folder / "validation" / "prototypical-seed0-learning_rate=0.0003"
    in_the_way.mkdir(parents=True)
    (in_the_way / "diary.txt").write_text("mine")
    result = few_shot(asked(steps=1), learners=["prototypical"], out=tmp_path / "runs", report=False)
    assert len(result.tuning["prototypical"].tried) == 5
    assert [failed.run for failed in result.failed] == ["validation/prototypical-seed0-learning_rate=0.0003"]
    assert len(result.rows) == 1


def test_other_steps_are_known_before_anything_is_trained(asked, tmp_path):
    few_shot(asked(steps=2), learners=["prototypical"], out=tmp_path / "runs", report=False)
    with pytest.raises(UsageError, match="steps was 2, now 3"):
        few_shot(asked(steps=3), learners=["prototypical"], out=tmp_path / "runs", report=False)


class Foreign(FewShotLearner):
    name, summary, Config, candidates = "foreign", "Wants more steps.", NoSettings, {"steps": (1, 2)}

    def logits(self, adaptation, images):
        raise NotImplementedError


def test_candidates_are_a_learners_own_settings(asked, tmp_path):
    register(Foreign)
    with pytest.raises(UsageError, match="'foreign': candidates for 'steps', which is no setting of its own"):
        few_shot(asked(), learners=["foreign"], out=tmp_path / "runs")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--tune-steps", 5), "--tune-steps says nothing without --tune"),
        (("--tune", "--learning-rate", 0.1), "--tune has nothing to choose"),
        (("--tune", "--tune-steps", 5, "--learner", "from-scratch"), "--tune-steps says nothing to learner"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(metasum, tmp_path, more, words):
    refused(metasum("few-shot", "--learner", "prototypical", "--out", tmp_path / "runs", *more), 2, words)
    assert not (tmp_path / "runs").exists()
