"""Every sweep file is one to W&B, and asks for options that there are."""

import importlib.metadata
import json
from pathlib import Path

import pytest
import yaml

from metasum.cli import metasum as group

FILES = sorted((Path(__file__).parent.parent / "wandb_sweeps").glob("*.yaml"))

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def validator():
    """W&B's own schema of sweep files, read from the files of its package `sweeps`, of which nothing runs."""
    jsonschema = pytest.importorskip("jsonschema")  # both in the development group, not in requirements.txt
    try:
        files = importlib.metadata.files("sweeps")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package sweeps, with W&B's schema, is not installed")
    (schema,) = [file for file in files if file.name == "schema.json"]
    return jsonschema.Draft7Validator(json.loads(schema.read_text()))


def test_there_are_sweeps():
    assert FILES


@every_file
def test_every_file_is_a_sweep_by_wandbs_schema(path, validator):
    assert [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text()))] == []


@pytest.mark.parametrize(
    ("section", "broken", "word"),
    [
        ("method", "gird", "'gird'"),
        ("metric", {"name": "mean_after", "goal": "up"}, "'up'"),
        ("parameters", {"seed": {"value": 0, "values": [0, 1]}}, "'values'"),
        ("parameters", {"seed": {"distribution": "log_uniform_values", "min": 0, "max": 1}}, "'distribution'"),
        ("comand", ["metasum"], "'comand'"),
    ],
)
def test_that_schema_refuses_a_broken_sweep(section, broken, word, validator):
    sweep = yaml.safe_load(FILES[0].read_text()) | {section: broken}
    (error,) = validator.iter_errors(sweep)
    assert word in error.message


@every_file
def test_every_parameter_is_an_option_of_the_command(path):
    sweep = yaml.safe_load(path.read_text())
    program, command, arguments = sweep["command"]
    assert (program, arguments) == ("metasum", "${args}")
    options = {parameter.name for parameter in group.commands[command].params}
    assert set(sweep["parameters"]) <= options


def test_a_run_with_arguments_as_an_agent_writes_them(metasum, tiny):
    outcome = metasum("train", *tiny, "--target=rows", "--support=lines", "--seed=2", "--json")
    assert json.loads(outcome.out)["seed"] == 2
