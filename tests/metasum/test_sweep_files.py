"""W&B's sweep files: what they mean here is what they mean to W&B's own schema and sampler."""

import importlib
import random
import warnings

import pytest
from fake_trial import GRID, write
from refusal import refused

from metasum.sweeps.distributions import EDGE, parameter
from metasum.sweeps.hyperband import hyperband
from metasum.sweeps.sweep_file import read_sweep_file


@pytest.fixture(scope="module")
def wandb():
    """W&B's package of schema, sampler and early stopping (development group only)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sweeps = pytest.importorskip("sweeps")
        for module in ("grid_search", "hyperband_stopping", "params"):
            importlib.import_module(f"sweeps.{module}")
    return sweeps


QUANTILES = [EDGE, 0.01, 0.1, 0.2, 0.26, 0.3, 0.45, 0.5, 0.55, 0.7, 0.74, 0.8, 0.9, 0.99, 1 - EDGE]


@pytest.mark.parametrize(
    "asked",
    [
        {"distribution": "uniform", "min": 2, "max": 6},
        {"min": 0.5, "max": 1.5},
        {"min": 1, "max": 1.5},
        {"min": 1.0, "max": 3.0},
        {"distribution": "q_uniform", "min": 0, "max": 2, "q": 1},
        {"distribution": "q_uniform", "min": 0.1, "max": 1},
        {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25},
        {"distribution": "log_uniform", "min": -2, "max": 1},
        {"distribution": "log_uniform_values", "min": 0.1, "max": 10},
        {"distribution": "q_log_uniform", "min": 0, "max": 3, "q": 2},
        {"distribution": "q_log_uniform_values", "min": 1, "max": 100},
        {"distribution": "inv_log_uniform", "min": 0, "max": 2},
        {"distribution": "inv_log_uniform_values", "min": 0.1, "max": 10},
        {"distribution": "normal"},
        {"distribution": "normal", "mu": 3, "sigma": 2},
        {"distribution": "q_normal", "mu": 0, "sigma": 5, "q": 2},
        {"distribution": "log_normal", "mu": 0.3, "sigma": 0.5},
        {"distribution": "q_log_normal", "mu": 1, "sigma": 0.5, "q": 0.5},
        {"distribution": "beta", "a": 2, "b": 5},
        {"distribution": "q_beta", "a": 2, "b": 2, "q": 0.1},
        {"values": ["a", None, 3], "probabilities": [0.25, 0.5, 0.25]},
        {"values": ["a", "b"], "probabilities": [0.3, 0.7], "distribution": "categorical_w_probabilities"},
    ],
    ids=lambda asked: str(asked.get("distribution")),
)
def test_the_value_at_each_quantile_is_that_of_wandbs_sampler(wandb, asked):
    theirs, ours = wandb.params.HyperParameter("x", asked), parameter("x", asked)
    for quantile in QUANTILES:
        value = theirs.ppf(quantile)
        assert ours.at(quantile) == (value if isinstance(value, str | None) else pytest.approx(float(value), rel=1e-9))


def test_a_rounded_uniform_has_half_the_chance_at_its_ends():
    one = parameter("x", {"distribution": "q_uniform", "min": 0, "max": 2, "q": 1})
    drawn = [one.at((place + 0.5) / 400) for place in range(400)]
    assert [drawn.count(value) for value in (0, 1, 2)] == [100, 200, 100]


@pytest.mark.parametrize("asked", [{"min": 2, "max": 5}, {"values": [1, "a", None, 2.5]}, {"value": 3}])
def test_what_is_counted_has_the_values_of_wandbs_sampler(wandb, asked):
    theirs = wandb.params.HyperParameter("x", asked)
    seen = dict.fromkeys(theirs.ppf((place + 0.5) / 40) for place in range(40))
    assert list(parameter("x", asked).choices) == list(seen)


def test_optuna_draws_over_the_whole_of_every_kind():
    optuna = pytest.importorskip("optuna")

    def draws(asked):
        study, one = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)), parameter("x", asked)
        return [one.suggested(study.ask()) for _ in range(60)]

    for value in (None, True, 3, 0.5, "mnist"):
        assert draws({"value": value})[0] == value
    assert set(draws({"values": [None, False, "a"]})) == {None, False, "a"}
    assert set(draws({"min": 2, "max": 5})) == {2, 3, 4, 5}
    found = draws({"min": 2.0, "max": 6.0})
    assert 2 < min(found) < 2.5
    assert 5.5 < max(found) < 6


@pytest.mark.parametrize(
    "parameters",
    [
        {"b": {"values": [2, 1]}, "a": {"min": 0, "max": 2}, "c": {"value": "w"}},
        {"x": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25}},
        {"x": {"distribution": "q_uniform", "min": 1, "max": 4}},
        {"x": {"values": [1, 1, 1.0, 2]}, "flag": {"values": [True, False]}},
    ],
)
def test_a_grid_has_the_runs_of_wandbs_in_the_same_order(wandb, tmp_path, parameters):
    file = read_sweep_file(write(tmp_path, parameters=parameters))
    runs = wandb.grid_search.grid_search_next_runs([], {"method": "grid", "parameters": parameters}, n=99)
    theirs = [{name: value["value"] for name, value in run.config.items()} for run in runs if run is not None]
    ours = [file.combination(place) for place in range(file.grid_size)]
    assert ours == theirs


@pytest.mark.parametrize(
    "asked",
    [
        {"min_iter": 1, "eta": 2},
        {"min_iter": 2, "eta": 1.5, "strict": False},
        {"min_iter": 3},
        {"max_iter": 27, "s": 2, "eta": 3},
        {"max_iter": 9, "s": 10, "strict": False},
        {"max_iter": 8, "s": 2, "eta": 2, "min_iter": 1},
    ],
)
@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_hyperband_ends_the_runs_that_wandbs_ends(wandb, asked, goal):
    draw, asked, sign = random.Random(0), {"type": "hyperband"} | asked, 1 if goal == "minimize" else -1
    config = {"metric": {"name": "m", "goal": goal}, "early_terminate": asked}
    for _ in range(30):
        histories = [[draw.random() for _ in range(draw.randrange(1, 12))] for _ in range(draw.randrange(1, 9))]
        runs = [
            wandb.SweepRun(name=str(place), state="running", history=[{"m": value} for value in values])
            for place, values in enumerate(histories)
        ]
        theirs = {int(run.name) for run in wandb.hyperband_stopping.hyperband_stop_runs(runs, config)}
        lower = [[sign * value for value in values] for values in histories]
        assert {place for place, own in enumerate(lower) if hyperband(asked).stops(own, lower)} == theirs


@pytest.mark.parametrize(
    "changes",
    [
        {"controller": {"type": "local"}},
        {"controller": {"type": "cloud"}},
        {"kind": "sweep", "apiVersion": "1", "image_uri": "here/there", "job": "a", "entity": "b", "project": "c"},
        {"scheduler": {"engine": "wandb"}},
        {"name": "a", "description": "b", "program": "train.py"},
        {"metric": {"name": "mean_after", "impute": "worst", "impute_while_running": "best", "target": 1}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_keys_of_wandbs_service_are_taken(wandb, tmp_path, changes):
    assert wandb.config.cfg.schema_violations_from_proposed_config(GRID | changes) == []
    assert read_sweep_file(write(tmp_path, **changes)).grid_size == 3


def test_every_key_of_wandbs_schema_is_known_here(wandb):
    from metasum.sweeps.sweep_file import FREE, KEYS, SERVICE

    theirs = set(wandb.config.schema.sweep_config_jsonschema["properties"])
    assert theirs == {*KEYS, *FREE, *SERVICE, "metrics"}  # which belongs to its method custom


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "gird"}, "did you mean 'grid'"),
        ({"command": ["python", "train.py", "${args}"]}, "metasum train or metasum meta-train"),
        ({"command": ["metasum", "train", "${args_json}"]}, "${args_json}"),
        ({"command": None}, "metasum train or metasum meta-train"),
        ({"metric": None, "method": "bayes"}, "no metric"),
        ({"metric": {"name": "a", "goal": "most"}}, "unknown goal 'most'"),
        ({"parameters": {"x": {"min": 0.5, "max": 1}}}, "a grid needs values"),
        ({"parameters": {"x": {}}}, "neither value"),
        ({"parameters": {"x": {"parameters": {"y": {"value": 1}}}}}, "nested"),
        ({"parameters": {"x": {"distribution": "unifrom", "min": 0, "max": 1}}}, "did you mean 'uniform'"),
        (
            {"parameters": {"x": {"value": 1, "probabilities": [1]}}},
            "'probabilities'",
        ),
        ({"method": "random", "parameters": {"x": {"values": [1, 2], "probabilities": [1]}}}, "2 values"),
        ({"method": "random", "parameters": {"x": {"values": [1, 2], "probabilities": [0.5, 0.6]}}}, "shares of 1"),
        ({"parameters": {"x": {"values": [1, 2], "probabilities": [0.5, 0.5]}}}, "a grid needs values"),
        ({"parameters": {"x": {"min": 3, "max": 3}}}, "no range of integers"),
        ({"parameters": {"x": {"min": 0, "max": True}}}, "max is True, not a number"),
        ({"method": "random", "parameters": {"x": {"min": "1e-3", "max": 1}}}, "write 1.0e-3"),
        ({"method": "random", "parameters": {"x": {"distribution": "q_normal", "q": 0}}}, "not greater than 0"),
        ({"method": "random", "parameters": {"x": {"distribution": "normal", "mu": 2, "sigma": -1}}}, "2 and -1"),
        ({"parameters": {}}, "no parameters"),
        ({"run_cap": True}, "run_cap"),
        ({"method": "custom"}, "unknown method"),
        ({"metrics": [{"name": "a"}, {"name": "b"}]}, "'metrics'"),
        ({"scheduler": {"engine": "optuna"}}, "unknown scheduler"),
        ({"kind": "job"}, "unknown kind"),
        ({"controller": {"type": "remote"}}, "unknown controller"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 1, "s": 2}}, "leaves no evaluation"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1}}, "eta must be greater than 1"),
        ({"parameters": {"x": {"distribution": "uniform", "min": 3}}}, "needs 'max'"),
        ({"method": "random", "parameters": {"x": {"distribution": "uniform", "min": 3, "max": 1}}}, "no sense"),
        (
            {"method": "random", "parameters": {"x": {"distribution": "log_uniform_values", "min": 0, "max": 1}}},
            "no sense",
        ),
        ({"early_terminate": {"type": "median"}}, "hyperband only"),
        ({"early_terminate": {"type": "hyperband"}}, "min_iter"),
        ({"metric": {"name": "a", "target": "much"}}, "target is 'much', not a number"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": "x"}}, "eta is 'x', not a number"),
        ({"erly_terminate": {}}, "did you mean 'early_terminate'"),
        ({"method": "random"}, "--count"),
    ],
)
def test_what_a_file_cannot_ask_for_is_refused_by_name(metasum, tmp_path, changes, words):
    refused(metasum("sweep", write(tmp_path, **changes), "--out", tmp_path / "runs"), 2, words)
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_none_is_refused(metasum, tmp_path):
    refused(metasum("sweep", tmp_path / "none.yaml"), 2, "none.yaml")
    (tmp_path / "bad.yaml").write_text("method: [")
    refused(metasum("sweep", tmp_path / "bad.yaml"), 2, "not YAML")


def test_a_wide_range_of_integers_takes_no_room(tmp_path):
    changes = {"method": "random", "parameters": {"x": {"min": 0, "max": 2**40}}}
    (one,) = read_sweep_file(write(tmp_path, **changes)).parameters
    assert isinstance(one.choices, range)
