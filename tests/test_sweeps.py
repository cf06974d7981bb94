"""Every sweep file is one to W&B, and asks for options that there are."""

import importlib.metadata
import json
from pathlib import Path

import click
import pytest
import yaml
from tiny import blob_arrays, write_npz

from metasum.cli import metasum as group
from metasum.run.description import plan_of
from metasum.sweeps.sweep_file import read_sweep_file
from metasum.tasks import registry
from metasum.training.tracking import scalars

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
    asked = group.commands[command]
    options = {parameter.name for parameter in asked.get_params(click.Context(asked))}
    assert set(sweep["parameters"]) <= options


SMALL = {
    "train": {"steps": 2, "batch_size": 8, "calibration_batches": 1, "width": 0.04, "report": False},
    "meta-train": {"meta_steps": 2, "meta_batch_size": 4, "width": 0.04},
}
"""What makes a training small; of the sweeps' own parameters, only `meta_steps` is among it."""


@every_file
def test_every_file_runs_with_arguments_as_an_agent_writes_them(metasum, tmp_path, path):
    file = read_sweep_file(path)
    small = SMALL[file.command[0]]
    values = {one.name: one.at(0.9) if one.at else one.choices[-1] for one in file.parameters}
    registry.DATASETS.pop("letters")
    for seed, name in enumerate(("mnist", "cifar10", "svhn", "letters")):
        write_npz(tmp_path / f"{name}.npz", blob_arrays(seed))
    places = {"device": "cpu", "data_root": tmp_path, "out": tmp_path / "runs"}
    outcome = metasum(*file.arguments(values | small | places), "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    settings = plan_of(json.loads((Path(result["run"]) / "config.json").read_text())).flat()
    found = {name: settings[name] for name in values}
    found = {name: ",".join(value) if isinstance(value, tuple) else value for name, value in found.items()}
    assert found == values | {name: small[name] for name in small if name in values}
    metric = file.metric.name if file.metric else "target_after"
    assert metric in scalars({"kind": "evaluation", "accuracy": result["accuracy"]})


def test_none_whole_floats_and_booleans_arrive(metasum, tiny):
    sent = ["--symmetric=True", "--clip=None", "--log_every=1.0", "--seed=3.0", "--target=rows", "--support=lines"]
    outcome = metasum("train", *tiny, *sent, "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    settings = plan_of(json.loads((Path(result["run"]) / "config.json").read_text())).flat()
    assert [repr(settings[name]) for name in ("symmetric", "clip", "log_every", "seed")] == ["True", "None", "1", "3"]
