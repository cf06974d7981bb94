"""What the tests share: clean registries, a tiny data root, the command line in this process."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tiny import TINY, blob_arrays, write_npz

from metasum import cli, plugins, settings, train
from metasum.baselines.registry import FEW_SHOT, LEARNERS
from metasum.merging import METHODS
from metasum.networks.build import NETWORKS
from metasum.tasks import registry as tasks
from metasum.training import layout, layout_trial

KNOWN_TO_FAIL = torch.nn.Conv2d(4, 8, 1, stride=2, bias=False)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c() -> None:
    """Heard in every process that a test starts; a shell has those in its background ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """What a test registers is gone after it."""
    registries: list[dict] = [tasks.DATASETS, tasks.PAIRS, LEARNERS.entries, METHODS.entries, NETWORKS]
    registries.append(FEW_SHOT.entries)
    before = [dict(registry) for registry in registries]
    plugins._called.clear()
    plugins._done.clear()
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """A data root with two tiny datasets, `rows` and `lines`."""
    root = tmp_path / "data"
    write_npz(root / "rows.npz", blob_arrays(0))
    write_npz(root / "lines.npz", blob_arrays(1))
    return root


@pytest.fixture(scope="session")
def _channels_last_fault(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """What is wrong with the convolution that some processors get wrong, on this one; a cache for this session."""
    os.environ["METASUM_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    fault, _ = layout.ask_probe(layout.request_for(list(layout.convolutions_of(KNOWN_TO_FAIL, (8, 4, 8, 8)))))
    return fault


@pytest.fixture(autouse=True)
def _layouts_known(_channels_last_fault: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that are not about layouts check and try none of theirs: one stands for all."""
    monkeypatch.setattr(layout, "ask_probe", lambda request: (_channels_last_fault, True))
    monkeypatch.setattr(layout_trial, "tried", lambda network, where: layout.CHANNELS_LAST)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def metasum(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs the command line in this process."""
    monkeypatch.delenv("METASUM_DEBUG", raising=False)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["metasum", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def tiny(data_root: Path, tmp_path: Path) -> list[object]:
    """The flags of such a training, without a report."""
    flags = [word for name, value in TINY.items() for word in ("--" + name.replace("_", "-"), value)]
    place = ["--data-root", data_root, "--out", tmp_path / "runs"]
    return [*flags[:4], *place, *flags[4:], "--no-report"]


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory, _channels_last_fault: str | None) -> Path:
    """A folder of runs that are trained once in a session; take `finished`, which is a copy."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finished")
    for name, seed in (("rows", 0), ("lines", 1)):
        write_npz(folder / "data" / f"{name}.npz", blob_arrays(seed))
    request = settings(**TINY, data_root=str(folder / "data"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(layout, "ask_probe", lambda request: (_channels_last_fault, True))
        patched.setattr(layout_trial, "tried", lambda network, where: layout.CHANNELS_LAST)
        train(request, out=folder / "runs")
        train(request.having(learner="independent"), out=folder / "runs", report=False)
        train(request.having(target="lines", support="rows"), out=folder / "runs", report=False)
    return folder / "runs"


@pytest.fixture
def finished(finished_once: Path, data_root: Path, tmp_path: Path) -> Path:
    """The folder `rows+lines/metasum-seed0` in tmp_path/runs: a finished run with the settings `tiny`, and its report.

    Beside it are `rows+lines/independent-seed0` and `lines+rows/metasum-seed0`, without reports.
    """
    shutil.copytree(finished_once, tmp_path / "runs")
    return tmp_path / "runs" / "rows+lines" / "metasum-seed0"


@pytest.fixture
def unfinished(finished: Path) -> Path:
    """The same run, stopped before its networks were measured."""
    (finished / "result.json").unlink()
    return finished


@pytest.fixture
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No W&B key, and no sweep's agent."""
    for name in ("WANDB_API_KEY", "WANDB_SWEEP_ID", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where a key would be looked for
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


@pytest.fixture
def rng() -> Iterator[torch.Generator]:
    return torch.Generator().manual_seed(0)


def pytest_collection_finish() -> None:
    """Whatever is imported by now stays: collections of garbage, one at the start of every run, need not look at it."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()
