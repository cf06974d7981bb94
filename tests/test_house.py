"""The plan of the house: who may import whom, and that importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from metasum.baselines.registry import FEW_SHOT, LEARNERS
from metasum.merging import METHODS
from metasum.run.request import COMMON

ROOT = Path(__file__).parent.parent
CORE = sorted(p for p in (ROOT / "metasum").rglob("*.py") if p.relative_to(ROOT).parts[1] not in ("tasks", "baselines"))
ROOMS = {
    "core": CORE,
    "tasks": sorted((ROOT / "tasks").glob("*.py")),
    "baselines": sorted((ROOT / "baselines").rglob("*.py")),
}
FLOORS = ["config", "results", "weights", "merging", "networks", "learners", "training", "report", "modules"]
TOP_FLOORS = [
    "run",
    "strangers",
    "study",
    "few_shot",
    "benchmark",
    "sweeps",
    "commands",
    "cli",
    "entry",
]  # they know everybody
GROUND = {
    "arguments",
    "types",
    "errors",
    "files",
    "npz",
    "plain_text",
    "locks",
    "ownership",
    "machine",
    "plugins",
    "registry",
    "third_party",
}


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


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "metasum").parts[0].removesuffix(".py")


def test_every_room_has_its_floor():
    assert {room_of(path) for path in CORE} - {"__init__", "__main__"} <= {*FLOORS, *TOP_FLOORS, *GROUND}


def test_the_core_imports_neither_tasks_nor_baselines():
    """That methods of merging have homes among the baselines is text in their registry."""
    for path in CORE:
        if room_of(path) not in TOP_FLOORS:
            assert not rooms_of(imported(path)) & {"tasks", "baselines"}, path


@pytest.mark.parametrize(("room", "other"), [("tasks", "baselines"), ("baselines", "tasks")])
def test_tasks_and_baselines_do_not_know_each_other_nor_the_top_floors(room, other):
    for path in ROOMS[room]:
        assert not rooms_of(imported(path)) & {other, *TOP_FLOORS}, path


def test_each_floor_imports_only_from_those_below():
    floors = FLOORS + TOP_FLOORS
    for path in CORE:
        room = room_of(path)
        if room in GROUND:
            assert rooms_of(imported(path)) <= GROUND, path
        elif room in floors:
            above = set(floors[floors.index(room) + 1 :])
            assert not rooms_of(imported(path, top_level_only=room in FLOORS)) & above, path


WORDS = {"sum", "average", "weighted", "task-arithmetic", "metasum", "quiet", "tangent"}  # they mean other things, too


def test_general_code_names_no_learner_and_no_method():
    """It asks the object for its facts. Names stand in the registries, in their own files and in texts for people."""
    names = {*LEARNERS, *METHODS, *FEW_SHOT} - WORDS - {*COMMON}  # settings that every run has
    for path in CORE:
        if room_of(path) in ("learners", "merging"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in names, f"{path} line {node.lineno}"


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


@pytest.mark.parametrize("listing", ["tasks", "learners", "methods"])
def test_listings_wait_for_no_pytorch(listing):
    statement = f"import io, metasum.cli as c; sys.argv = ['metasum', '{listing}']; sys.stdout = io.StringIO(); "
    statement += "c.main(); sys.stdout = sys.__stdout__"
    assert not modules_after(statement) & {"torch", "scipy", "matplotlib", "learn2learn"}


def test_learn2learn_is_itself_with_parts_that_come_when_they_are_used():
    statement = "from metasum import third_party; package = third_party.learn2learn()"
    before = modules_after(statement + "; package.clone_module, package.algorithms.MAML")
    assert not before & {"torchvision", "gym", "learn2learn.vision.datasets"}
    statement += "; import learn2learn.data.task_dataset, learn2learn as own, learn2learn.vision as vision"
    statement += "; assert own is package and vision.datasets.FullOmniglot is own.vision.datasets.FullOmniglot"
    statement += "; assert own.data.task_dataset is sys.modules['learn2learn.data.task_dataset']"
    assert {"torchvision", "learn2learn.vision.datasets"} <= modules_after(
        "import warnings; warnings.simplefilter('ignore'); " + statement
    )


def test_importing_everything_says_nothing_and_warns_of_nothing():
    names = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts) for p in CORE if p.name not in ("__main__.py", "resnet.py")
    ]
    names += [
        ".".join(("metasum", *path.relative_to(ROOT).with_suffix("").parts))
        for room in ("tasks", "baselines")
        for path in ROOMS[room]
    ]
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
