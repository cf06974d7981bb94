"""A third party's way of training and method of merging do what the project's own do."""

import json
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[2] / "docs" / "example_plugin.py"
TINY = ("--width", 0.02, "--batch-size", 4, "--repeats", 1, "--device", "cpu")


@pytest.fixture
def run(metasum):
    def run(*arguments):
        outcome = metasum(*arguments, "--plugin", PLUGIN, "--json")
        assert outcome.code == 0, outcome.err
        return json.loads(outcome.out)

    return run


def test_its_learner_is_trained_with_its_settings(run, tiny):
    result = run("train", *tiny, "--learner", "noisy", "--noise", 0.2, "--noise-share", 1)
    own = json.loads((Path(result["run"]) / "config.json").read_text())["settings"]["own"]
    assert (own["noise"], own["noise_share"], own["operator"]) == (0.2, 1.0, "sum")


def test_its_method_has_a_learner(run, tiny):
    assert run("train", *tiny, "--learner", "damped", "--damping", 0.5)["learner"] == "damped"


def test_its_method_is_listed_with_its_setting(run):
    (method,) = (row for row in run("methods")["methods"] if row["name"] == "damped")
    assert method["settings"] == ["damping"]


def test_its_learner_is_timed_with_its_settings(run):
    (row,) = run("benchmark", *TINY, "--learner", "noisy", "--noise", 0.2, "--noise-share", 1)["rows"]
    assert (row["learner"], row["passes"]) == ("noisy", 2)


def test_settings_of_its_learner_are_said_to_nobody_else(metasum):
    outcome = metasum("benchmark", *TINY, "--plugin", PLUGIN, "--noise", 0.2)
    assert outcome.code == 2
    assert "--noise says nothing to learner 'metasum', only to noisy" in outcome.err


def test_its_merged_learner_is_timed_as_the_one_that_it_trains_like(metasum):
    outcome = metasum("benchmark", *TINY, "--plugin", PLUGIN, "--learner", "damped")
    assert outcome.code == 2
    assert "learner 'damped' trains as 'independent' does; time that one" in outcome.err


def test_what_an_entry_point_registers_is_timed_too(metasum, monkeypatch):
    from metasum.plugins import run_plugin

    class EntryPoint:
        name, value = "noisy", "example:register"

        def load(self):
            return lambda: run_plugin(PLUGIN)

    monkeypatch.setattr(
        "metasum.plugins.entry_points", lambda group: [EntryPoint()] if group == "metasum.baselines" else []
    )
    outcome = metasum("benchmark", *TINY, "--learner", "noisy", "--noise-share", 0, "--json")
    assert outcome.code == 0, outcome.err
    assert [row["learner"] for row in json.loads(outcome.out)["rows"]] == ["noisy"]
