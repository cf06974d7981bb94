"""`wandb agent` itself runs a sweep file: its choices arrive, and W&B hears the metric. Other tests run every file."""

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

from metasum.run.description import plan_of
from metasum.training.tracking import scalars

FILE = Path(__file__).parents[2] / "wandb_sweeps" / "sum_weight.yaml"
SECONDS = 300  # that an agent may take

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * SECONDS)]

SMALL = {"steps": 2, "batch_size": 8, "calibration_batches": 1, "width": 0.04, "report": False}
"""What makes a training small."""

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
    for seed, name in enumerate(("mnist", "cifar10", "svhn")):
        write_npz(house / "data" / f"{name}.npz", blob_arrays(seed))
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
    places = ["--device=cpu", f"--data-root={house / 'data'}"]
    return [*sweep["command"], *places, *(f"--{name}={value}" for name, value in more.items())]


def test_an_agent_runs_a_sweep_file(tmp_path):
    furnish(tmp_path)
    sweep = yaml.safe_load(FILE.read_text())
    sent = {name: parameter.get("value", 0.5) for name, parameter in sweep["parameters"].items()}
    sent |= {"clip": None, "log_every": 1.0, "seed": 3.0}
    with WandbServer(sweep | {"command": command(tmp_path, sweep, **SMALL)}, {"run": sent}) as server:
        said = agent(tmp_path, server, 1)
    assert server.faults == []
    assert (tmp_path / "run.code").read_text() == "0", said
    assert server.exit_code("run") == 0, said
    (tracked,) = (tmp_path / "runs").glob("**/wandb/run-*-run")
    folder = tracked.parents[1]
    settings = plan_of(json.loads((folder / "config.json").read_text())).flat()
    assert {name: settings[name] for name in sent} == sent
    accuracy = json.loads((folder / "result.json").read_text())["accuracy"]
    value = scalars({"kind": "evaluation", "accuracy": accuracy})["mean_after"]
    assert server.summary("run")["mean_after"] == pytest.approx(value)
    assert any(line.get("mean_after") == pytest.approx(value) for line in server.history("run"))


def test_a_run_that_its_agent_stops_early_is_no_failure_to_it(tmp_path):
    furnish(tmp_path)
    sweep = yaml.safe_load(FILE.read_text())
    sweep["command"] = command(tmp_path, sweep, **SMALL | {"steps": 10**6})
    with WandbServer(sweep, {"early": {"target": "mnist", "support": "svhn"}}, early=True) as server:
        said = agent(tmp_path, server, 2, WANDB_AGENT_MAX_INITIAL_FAILURES="1")
    assert server.faults == []
    assert "the state is saved" in said
    assert (tmp_path / "early.code").read_text() == "0", said
    assert "failed" not in said
