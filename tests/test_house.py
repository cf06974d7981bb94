"""The plan of the house: who may import whom, and that importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = sorted(p for p in (ROOT / "metasum").rglob("*.py") if p.relative_to(ROOT).parts[1] not in ("tasks", "baselines"))
ROOMS = {
    "core": CORE,
    "tasks": sorted((ROOT / "tasks").glob("*.py")),
    "baselines": sorted((ROOT / "baselines").glob("*.py")),
}
TOP_FLOOR = {"cli", "commands", "assembly", "sweeps", "benchmark"}  # they alone know everybody
FLOORS = ["weights", "merging", "networks", "learners", "training", "report", "study"]


def imported(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    assert not {name.split(".")[0] for name in names} & {"tasks", "baselines"}, f"{path}: metasum.tasks is meant"
    return names


def rooms_of(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("metasum.") and len(name.split(".")) > 1}


def test_there_is_something_to_check():
    assert len(CORE) > 20
    assert all(len(files) >= 3 for files in ROOMS.values())


def test_the_core_imports_neither_tasks_nor_baselines():
    for path in CORE:
        if path.relative_to(ROOT / "metasum").parts[0].removesuffix(".py") not in TOP_FLOOR:
            assert not rooms_of(imported(path)) & {"tasks", "baselines"}, path


@pytest.mark.parametrize(("room", "other"), [("tasks", "baselines"), ("baselines", "tasks")])
def test_tasks_and_baselines_do_not_know_each_other_nor_the_top_floor(room, other):
    for path in ROOMS[room]:
        assert not rooms_of(imported(path)) & ({other} | TOP_FLOOR), path


def test_each_floor_imports_only_from_those_below():
    for path in CORE:
        parts = path.relative_to(ROOT / "metasum").parts
        if len(parts) == 1 or parts[0] not in FLOORS:
            continue
        above = set(FLOORS[FLOORS.index(parts[0]) + 1 :]) | TOP_FLOOR
        assert not rooms_of(imported(path, top_level_only=True)) & above, path


@pytest.mark.parametrize("package", ["learn2learn", "higher", "torchvision", "wandb", "matplotlib", "pydantic"])
def test_slow_packages_are_imported_where_they_are_used(package):
    for files in ROOMS.values():
        for path in files:
            slow = {name for name in imported(path, top_level_only=True) if name.split(".")[0] == package}
            assert not slow or path.name == "resnet.py", path  # a module that is itself imported where it is used


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    return set(run.stdout.split())


def test_help_waits_for_no_heavy_package():
    statement = "import io, metasum.cli as c; sys.argv = ['metasum', '--help']; sys.stdout = io.StringIO(); "
    statement += "c.main(); sys.stdout = sys.__stdout__"
    assert not modules_after(statement) & {"torch", "numpy", "rich", "matplotlib", "jinja2"}


def test_importing_everything_says_nothing_and_warns_of_nothing():
    names = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts) for p in CORE if p.name not in ("__main__.py", "resnet.py")
    ]
    names += [f"metasum.{room}.{p.stem}" for room in ("tasks", "baselines") for p in ROOMS[room]]
    statement = "import " + ", ".join(name.removesuffix(".__init__") for name in names)
    loaded = modules_after(statement)
    assert "metasum.training.harness" in loaded
    assert not loaded & {"learn2learn", "higher", "torchvision", "wandb", "matplotlib"}


def test_the_links_lead_to_the_rooms():
    for room in ("tasks", "baselines"):
        link = ROOT / "metasum" / room
        assert link.is_symlink()
        assert link.resolve() == ROOT / room
    assert not list((ROOT / "tests").rglob("__init__.py"))
