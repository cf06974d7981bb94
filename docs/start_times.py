"""What `metasum train` takes beside its training: its imports against `import torch`, and the smallest run whole.

    taskset -c 1 python docs/start_times.py --repeats 7

Every row is a process of its own; the rows take turns. Times are the processor's own, in seconds: the median, with the
least and the greatest, and the median of the ratios to `import torch` of the same turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RUN = ["train", "--steps", "1", "--width", "0.04", "--quiet", "--overwrite", "--out"]
NOTE = """
import atexit, sys
from metasum.entry import main

@atexit.register
def note():
    found = [name for name, module in list(sys.modules.items()) if name != "__main__" and vars(module).get("__file__")]
    open({file!r}, "w").write(chr(10).join(found))

sys.argv = {argv!r}
main()
"""
IMPORTS = """
import importlib, warnings
from metasum import third_party
warnings.simplefilter("ignore")
for name in open({file!r}).read().split():
    third_party.learn2learn() if name.startswith("learn2learn") else importlib.import_module(name)
"""


def imported_by(arguments: list[str], file: Path) -> str:
    """Code that imports, in its order, all that a command has imported at its end; `file` is where that is noted."""
    code = NOTE.format(file=str(file), argv=["metasum", *arguments])
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return IMPORTS.format(file=str(file))


def seconds(command: list[str]) -> float:
    """Of the processor, that a process takes from its start to its end."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_utime + usage.ru_stime


def rows(folder: Path) -> dict[str, list[str]]:
    """By what it is called: a command."""
    run = [*RUN, str(folder / "runs")]
    optimiser = "import torch; torch.optim.Adam([torch.zeros(1, requires_grad=True)])"
    code = {
        "`import torch`": "import torch",
        "and one of torch's optimisers, made": optimiser,
        "and Lightning Fabric": f"{optimiser}; import lightning_fabric",
        "all that `metasum train --no-report` imports": imported_by([*run, "--no-report"], folder / "without.txt"),
        "all that `metasum train` imports": imported_by(run, folder / "with.txt"),
    }
    commands = {name: [sys.executable, "-c", text] for name, text in code.items()}
    start = [sys.executable, "-m", "metasum", *run]
    return {**commands, "the run without its page": [*start, "--no-report"], "the run": start}


def main() -> None:
    """Takes turns, and prints a row of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        todo = rows(Path(folder))
        took: dict[str, list[float]] = {name: [] for name in todo}
        for _ in range(repeats):
            for name, command in todo.items():
                took[name].append(seconds(command))
    first = next(iter(took.values()))
    sys.stdout.write("| | seconds | of `import torch` |\n| --- | --- | --- |\n")
    for name, own in took.items():
        ratio = statistics.median(mine / torch for mine, torch in zip(own, first, strict=True))
        spread = f"{statistics.median(own):.2f} ({min(own):.2f} to {max(own):.2f})"
        sys.stdout.write(f"| {name} | {spread} | {ratio:.2f} |\n")


if __name__ == "__main__":
    main()
