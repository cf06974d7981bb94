"""Every sweep file asks for options that there are."""

import json
from pathlib import Path

import pytest
import yaml

from metasum.cli import metasum as group

FILES = sorted((Path(__file__).parent.parent / "wandb_sweeps").glob("*.yaml"))


def test_there_are_sweeps():
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_parameter_is_an_option_of_the_command(path):
    sweep = yaml.safe_load(path.read_text())
    program, command, arguments = sweep["command"]
    assert (program, arguments) == ("metasum", "${args}")
    options = {parameter.name for parameter in group.commands[command].params}
    assert set(sweep["parameters"]) <= options


def test_a_run_with_arguments_as_an_agent_writes_them(metasum, tiny):
    outcome = metasum("train", *tiny, "--target=rows", "--support=lines", "--seed=2", "--json")
    assert json.loads(outcome.out)["seed"] == 2
