"""What a stranger gets: what the wheel and the sdist hold, and the wheel at work where learn2learn is not installed."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest
import yaml

import metasum

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="setuptools builds the package"),
]
ROOT = Path(__file__).parents[2]
SOURCES = [p for room in ("metasum", "tasks", "baselines") for p in (ROOT / room).rglob("*.py")]
BUILT = """
import sys
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""


def build(what: str, source: Path, out: Path) -> Path:
    """The file that setuptools makes of a source folder."""
    run = subprocess.run(
        [sys.executable, "-c", BUILT, what, str(out)], cwd=source, capture_output=True, text=True, check=True
    )
    return out / run.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Made from a copy of what is checked in, as git lists it: building leaves folders behind."""
    source, out = tmp_path_factory.mktemp("source") / "metasum", tmp_path_factory.mktemp("sdist")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        place = source / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place, follow_symlinks=False)
    return build("build_sdist", source, out)


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Made from the sdist, as pip does where there is no wheel."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return build("build_wheel", unpacked, tmp_path_factory.mktemp("wheel"))


def names_in_sdist(sdist) -> set[str]:
    with tarfile.open(sdist) as archive:
        assert not [member.name for member in archive if member.issym()], "tasks and baselines are folders of their own"
        return {str(PurePosixPath(*PurePosixPath(member.name).parts[1:])) for member in archive if member.isfile()}


def test_both_have_every_module_and_what_modules_read(sdist, wheel):
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    modules = {
        str(PurePosixPath("metasum", *path.relative_to(ROOT).parts[path.relative_to(ROOT).parts[0] == "metasum" :]))
        for path in SOURCES
    }
    data = {f"metasum/report/templates/{p.name}" for p in (ROOT / "metasum/report/templates").glob("*.j2")}
    data |= {"metasum/py.typed", "metasum/tasks/py.typed", "metasum/baselines/py.typed", "metasum/tasks/digits.npz"}
    assert len(modules) > 300
    assert len(data) > 10
    for names in (in_wheel, names_in_sdist(sdist)):
        assert modules | data <= names
    licence = {name for name in in_wheel if name.endswith("licenses/LICENSE")}
    assert licence
    assert {name.split("/")[0] for name in in_wheel} == {"metasum", f"metasum-{metasum.__version__}.dist-info"}


def test_the_sdist_has_what_its_reader_wants_and_no_tests(sdist):
    names = names_in_sdist(sdist)
    assert {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "SECURITY.md", "setup.cfg"} <= names
    assert not [name for name in names if name.startswith(("tests", "docs", "runs", ".data"))]


def test_what_cites_it_names_its_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == metasum.__version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert f"## {metasum.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A virtual environment with the wheel, which sees this one's packages, but neither its metasum nor learn2learn."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    names = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", scheme="venv", vars=names))
    (site / "others.pth").write_text(
        f"{sysconfig.get_path('purelib')}\n"
    )  # a path only: its own .pth files are not read
    (site / "sitecustomize.py").write_text('import sys\nsys.modules["learn2learn"] = None\n')
    return folder / "bin" / "metasum"


def test_the_wheel_trains_and_merges_without_learn2learn(installed, tmp_path):
    def run(*words):
        told = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run([installed, *words], cwd=tmp_path, env=told, capture_output=True, text=True, check=False)

    assert run("--version").stdout.split()[-1] == metasum.__version__
    trained = run("train", "--steps", "2", "--width", "0.05", "--device", "cpu", "--json")
    assert trained.returncode == 0, trained.stderr
    assert "learn2learn is not installed" in trained.stderr
    result = json.loads(trained.stdout)
    assert result["steps"] == 2
    folder = tmp_path / result["run"]
    description = json.loads((folder / "config.json").read_text())
    assert description["versions"]["metasum"] == metasum.__version__
    assert (folder / "report.html").stat().st_size > 10_000
    merged = run(
        "merge", "average", folder / "target.safetensors", folder / "support.safetensors", "-o", "m.safetensors"
    )
    assert merged.returncode == 0, merged.stderr
    assert (tmp_path / "m.safetensors").is_file()
