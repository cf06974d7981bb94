"""`wandb agent` itself runs every sweep file: its choices arrive, and W&B hears the metric."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import blob_arrays, write_npz
from wandb_server import WandbServer

from metasum.config import flat, from_dict
from metasum.training.tracking import scalars

FILES = sorted((Path(__file__).parents[2] / "wandb_sweeps").glob("*.yaml"))
SECONDS = 300  # that an agent may take

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * SECONDS)]

SMALL = {
    "train": {"steps": 2, "batch_size": 8, "calibration_batches": 1, "width": 0.04, "report": False},
    "meta-train": {"meta_steps": 2, "meta_batch_size": 4, "width": 0.04},
}
"""What makes a training small; of the sweeps' own parameters, only `meta_steps` is among it."""

SCRIPT = """#!/bin/sh
exec "{python}" "{house}/bin/main.py" "$@"
"""

MAIN = """
import os
from pathlib import Path

from metasum.cli import main

run = Path.home() / os.environ["WANDB_RUN_ID"]
run.with_suffix(".pid").write_text(str(os.getpid()))
code = 0
try:
    main()
except SystemExit as error:
    code = error.code or 0
    raise
finally:
    run.with_suffix(".code").write_text(str(code))
"""


@pytest.fixture(scope="module", autouse=True)
def _agents():
    command = [sys.executable, "-m", "wandb", "agent", "--help"]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "No such command" in asked.stderr:
        pytest.skip("this wandb has no command `agent`")
    assert asked.returncode == 0, asked.stderr


def furnish(house):
    """Puts the command `metasum` into a home, and tiny datasets under the names that the sweeps ask for."""
    for seed, name in enumerate(("mnist", "cifar10", "svhn", "letters")):
        write_npz(house / "data" / f"{name}.npz", blob_arrays(seed))
    (house / "plugin.py").write_text("from metasum.tasks.registry import DATASETS\n\nDATASETS.pop('letters')\n")
    script = house / "bin" / "metasum"
    script.parent.mkdir()
    script.write_text(SCRIPT.format(python=sys.executable, house=house))
    script.chmod(0o755)
    (house / "bin" / "main.py").write_text(MAIN)


def agent(house, server, count, **more):
    """Runs an agent to its end; returns what it printed. Whatever is left of its runs is killed.

    Args:
        house: a furnished home.
        server: where it asks for runs.
        count: so many at most.
        more: of its environment.
    """
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    wandb = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40, "WANDB_ERROR_REPORTING": "false"}
    path = f"{house / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**kept, **wandb, "PATH": path, "HOME": str(house), "OMP_NUM_THREADS": "1", **more}
    started = [sys.executable, "-m", "wandb", "agent", "--count", str(count), "entity/project/sweep"]
    with open(house / "agent.txt", "w") as log:
        try:
            subprocess.run(started, cwd=house, env=environment, stdout=log, stderr=log, timeout=SECONDS, check=True)
        finally:
            for run in house.glob("*.pid"):
                if not run.with_suffix(".code").exists():
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(int(run.read_text()), signal.SIGKILL)
    return (house / "agent.txt").read_text()


def command(house, sweep, **more):
    """A sweep's command, where the home's datasets are and what else to append to it."""
    places = ["--device=cpu", f"--data-root={house / 'data'}", f"--plugin={house / 'plugin.py'}"]
    return [*sweep["command"], *places, *(f"--{name}={value}" for name, value in more.items())]


def swept(house, sweep, runs):
    """Lets an agent do the runs of a sweep, made small; returns the server, and each run's settings and result.

    Args:
        house: an empty folder.
        sweep: what its file holds.
        runs: ids, and the arguments that each is sent with.
    """
    furnish(house)
    small = SMALL[sweep["command"][1]]
    with WandbServer(sweep | {"command": command(house, sweep, **small)}, runs) as server:
        said = agent(house, server, len(runs))
    assert server.faults == []
    found = {}
    for run, arguments in runs.items():
        assert (house / f"{run}.code").read_text() == "0", said
        assert server.exit_code(run) == 0, said
        (tracked,) = (house / "runs").glob(f"**/wandb/run-*-{run}")
        folder = tracked.parents[1]
        settings = flat(from_dict(json.loads((folder / "config.json").read_text())["settings"]))
        found[run] = settings, json.loads((folder / "result.json").read_text())
        for name, value in arguments.items():
            assert settings[name] == small.get(name, value), name
    return server, found


def choice(parameters, *, last):
    """The first or last value of each parameter; a value near the lower or upper end of a range."""

    def chosen(parameter):
        if "distribution" in parameter:
            assert parameter["distribution"] == "log_uniform_values"
            share = 0.9 if last else 0.1
            return parameter["min"] ** (1 - share) * parameter["max"] ** share
        return parameter["value"] if "value" in parameter else parameter["values"][-1 if last else 0]

    return {name: chosen(parameter) for name, parameter in parameters.items()}


def two_choices(path):
    """A sweep file's content, and two runs of it."""
    sweep = yaml.safe_load(path.read_text())
    runs = {f"{path.stem}-{end}": choice(sweep["parameters"], last=end == "last") for end in ("first", "last")}
    return sweep, runs


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_agent_runs_every_sweep_file(path, tmp_path):
    sweep, runs = two_choices(path)
    assert len({json.dumps(arguments) for arguments in runs.values()}) == 2
    server, found = swept(tmp_path, sweep, runs)
    for run, (_, result) in found.items():
        metric = sweep.get("metric", {"name": "target_after"})["name"]
        value = scalars({"kind": "evaluation", "accuracy": result["accuracy"]})[metric]
        assert server.summary(run)[metric] == pytest.approx(value)
        assert any(line.get(metric) == pytest.approx(value) for line in server.history(run))


def test_none_whole_floats_and_booleans_arrive_through_an_agent(tmp_path):
    sweep = yaml.safe_load(next(path for path in FILES if path.stem == "support").read_text())
    sent = {"target": "mnist", "support": "svhn", "symmetric": True, "clip": None, "log_every": 1.0, "seed": 3.0}
    _, found = swept(tmp_path, sweep, {"kinds": sent})
    settings, result = found["kinds"]
    assert [repr(settings[name]) for name in ("symmetric", "clip", "log_every", "seed")] == ["True", "None", "1", "3"]
    assert result["seed"] == 3


def test_a_run_that_its_agent_stops_early_is_no_failure_to_it(tmp_path):
    furnish(tmp_path)
    sweep = yaml.safe_load(next(path for path in FILES if path.stem == "support").read_text())
    sweep["command"] = command(tmp_path, sweep, **SMALL["train"] | {"steps": 10**6})
    with WandbServer(sweep, {"early": {"target": "mnist", "support": "svhn"}}, early=True) as server:
        said = agent(tmp_path, server, 2, WANDB_AGENT_MAX_INITIAL_FAILURES="1")
    assert server.faults == []
    assert "the state is saved" in said
    assert (tmp_path / "early.code").read_text() == "0", said
    assert "failed" not in said
