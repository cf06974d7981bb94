"""`metasum merge` beside mergekit 0.1.5 and `cp`, on made-up checkpoints: seconds, and memory above a bare interpreter.

    python docs/merge_benchmark.py --folder /tmp/big --gigabytes 2 --dtype bfloat16

Needs mergekit's `mergekit-pytorch` beside this Python, or named by --mergekit, and room for six checkpoints. Each
command is a process of its own, timed from its start to its end, and once more until all that it wrote is on the disk;
the commands take turns, and what is not yet on the disk is written there before each. --cold has the inputs read from
the disk, too: the kernel is told to forget them before each command.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple, TextIO, TypeVar

import click

T = TypeVar("T")
HIDDEN, INNER, WORDS = 2048, 5632, 32000


def shapes(gigabytes: float, itemsize: int) -> dict[str, tuple[int, ...]]:
    """A decoder with as many layers as that size has room for."""
    layer = {f"attention.{name}.weight": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "o")}
    layer |= {f"mlp.{name}.weight": (INNER, HIDDEN) for name in ("gate", "up")}
    layer |= {"mlp.down.weight": (HIDDEN, INNER), "norm.weight": (HIDDEN,)}
    each = sum(math.prod(shape) for shape in layer.values())
    count = max(1, round((gigabytes * 1e9 / itemsize - WORDS * HIDDEN) / each))
    layers = {f"layers.{index}.{name}": shape for index in range(count) for name, shape in layer.items()}
    return {"embedding.weight": (WORDS, HIDDEN), **layers}


def make(paths: list[Path], gigabytes: float, dtype_name: str) -> None:
    """A base, and two checkpoints near it."""
    import torch
    from safetensors.torch import save_file

    dtype = getattr(torch, dtype_name)
    for number, path in enumerate(paths):
        state = {}
        for index, (name, shape) in enumerate(shapes(gigabytes, dtype.itemsize).items()):
            tensor = torch.randn(shape, generator=torch.Generator().manual_seed(index)).mul_(0.02)
            if number:
                generator = torch.Generator().manual_seed(1000 * number + index)
                tensor += torch.randn(shape, generator=generator).mul_(0.002)
            state[name] = tensor.to(dtype)
        save_file(state, path)


class Taken(NamedTuple):
    """What a command took."""

    seconds: float
    """From its start to its end."""
    stored: float
    """Seconds from its start until all is on the disk."""
    processor: float
    """Seconds of a core."""
    peak: int
    """Bytes that the process held at most."""


def run(command: list[str], log: TextIO) -> Taken:
    """Runs a command to its end.

    A child starts with its parent's peak: this process holds little, and imports torch in others only.
    """
    os.sync()
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=log, stderr=log)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status
    if status:
        raise SystemExit(f"{' '.join(command)} failed; see {log.name}")
    ended = time.perf_counter()
    os.sync()
    processor = usage.ru_utime + usage.ru_stime
    return Taken(ended - started, time.perf_counter() - started, processor, usage.ru_maxrss * 1024)


def forget(paths: list[Path]) -> None:
    """Has the kernel drop what it holds of these files."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def elsewhere(function: Callable[..., T], *arguments: object) -> T:
    """Calls a function in another process, which ends with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def commands(folder: Path, paths: list[Path], mergekit: str) -> dict[str, list[str]]:
    base, a, b = map(str, paths)
    ours = [sys.executable, "-m", "metasum", "merge"]
    end = ["--quiet", "-o", str(folder / "metasum.safetensors")]
    models = [{"model": a, "parameters": {"weight": 1.0}}, {"model": b, "parameters": {"weight": 1.0}}]
    linear = {"merge_method": "linear", "models": models}
    settings = {"density": 0.2, "lambda": 0.4}
    ties = {"merge_method": "ties", "models": models, "base_model": base, "parameters": settings}
    for name, config in (("linear", linear), ("ties", ties)):  # JSON is YAML
        (folder / f"{name}.yaml").write_text(json.dumps(config))
    theirs = {name: [mergekit, str(folder / f"{name}.yaml"), str(folder / "mergekit")] for name in ("linear", "ties")}
    return {
        "python -c 'import torch'": [sys.executable, "-c", "import torch"],
        "cp of both files": [str(shutil.which("cp")), a, b, str(folder / "copies")],
        "metasum merge average": [*ours, "average", a, b, *end],
        "mergekit-pytorch, linear": theirs["linear"],
        "metasum merge ties": [*ours, "ties", a, b, "--base", base, *end],
        "metasum merge ties --trim per-tensor": [*ours, "ties", a, b, "--base", base, "--trim", "per-tensor", *end],
        "mergekit-pytorch, ties": theirs["ties"],
    }


def difference(folder: Path) -> float:
    """Share of the entries in which metasum's and mergekit's last results differ, in the first few tensors.

    Rounding in the files' dtype is no difference. TIES leaves some: of entries as large as the last one that it keeps,
    mergekit keeps an exact number, metasum all.
    """
    from safetensors import safe_open

    ours = safe_open(folder / "metasum.safetensors", framework="pt")
    theirs = {}
    for path in (folder / "mergekit").glob("*.safetensors"):
        shard = safe_open(path, framework="pt")
        theirs |= dict.fromkeys(shard.keys(), shard)
    differing = entries = 0
    for name in list(ours.keys())[:8]:
        mine, other = ours.get_tensor(name).float(), theirs[name].get_tensor(name).float()
        differing += int(((mine - other).abs() > 0.01 * other.abs() + 1e-5).sum())
        entries += mine.numel()
    return differing / entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder; what is made there is deleted")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of each checkpoint")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--cold", action="store_true", help="have the inputs read from the disk each time")
    parser.add_argument("--mergekit", default=str(Path(sys.executable).with_name("mergekit-pytorch")))
    parser.add_argument("--without", action="append", default=[], help="leave out the commands that are called so")
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    try:
        measure(given)
    finally:
        shutil.rmtree(given.folder)


def measure(given: argparse.Namespace) -> None:
    """Makes the checkpoints, lets the commands take turns, shows seconds (the median) and memory (the most)."""
    paths = [given.folder / f"{name}.safetensors" for name in ("base", "a", "b")]
    elsewhere(make, paths, given.gigabytes, given.dtype)
    todo = commands(given.folder, paths, given.mergekit)
    names = [name for name in todo if not any(word in name for word in given.without)]
    took: dict[str, list[Taken]] = {name: [] for name in names}
    for name in names * given.repeats:
        clear(given.folder, keep_merged="mergekit" in name)
        if given.cold:
            forget(paths)
        with (given.folder / "log.txt").open("w") as log:
            own = run(todo[name], log)
        took[name].append(own)
        click.echo(f"{name}: {own.seconds:.1f} s, on the disk in {own.stored:.1f} s, {own.peak / 2**20:.0f} MiB")
        if "mergekit" in name and (given.folder / "metasum.safetensors").exists():
            click.echo(f"  {elsewhere(difference, given.folder):.2%} of the entries differ from metasum's")
    show(took, f"{paths[0].stat().st_size / 1e9:.2f} GB of {given.dtype}{', cold' if given.cold else ''}")


def clear(folder: Path, *, keep_merged: bool) -> None:
    """Removes what the commands before have written; mergekit's result is compared with metasum's, which may stay."""
    for written in ("copies", "mergekit"):
        shutil.rmtree(folder / written, ignore_errors=True)
    (folder / "copies").mkdir()
    if not keep_merged:
        (folder / "metasum.safetensors").unlink(missing_ok=True)


def show(took: dict[str, list[Taken]], what: str) -> None:
    """The medians, and the most memory, as a table."""
    bare = max(own.peak for own in took["python -c 'import torch'"])
    click.echo(f"\n{what}\n\n| command | seconds | on the disk | processor | MiB above torch |\n|{' --- |' * 5}")
    for name, every in took.items():
        seconds, stored, processor, _ = (statistics.median(column) for column in zip(*every, strict=True))
        above = (max(own.peak for own in every) - bare) / 2**20
        click.echo(f"| {name} | {seconds:.1f} | {stored:.1f} | {processor:.1f} | {above:.0f} |")


if __name__ == "__main__":
    main()
