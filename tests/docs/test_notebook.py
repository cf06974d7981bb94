"""docs/metasum.ipynb runs from top to bottom, and is stored as a reader should find it."""

import re
from pathlib import Path

import pytest

nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
NOTEBOOK = Path(__file__).parents[2] / "docs" / "metasum.ipynb"
# What comes behind the cell of parameters here: little of everything.
QUICK = """
import torch
from metasum.tasks import task
from metasum.training import analysis

SETTINGS, META_STEPS = {"steps": 4, "width": 0.04}, 3
analysis.POINTS, analysis.LINE_BATCHES, analysis.LINE_IMAGES = 3, 1, 100
task.EVALUATION_BATCH = 32  # of calibration images, too
torch.set_num_threads(1)
"""
ACCURACIES = re.compile(r"(\S+) +alone +\d+\.\d% +in the sum +\d+\.\d%")


@pytest.fixture
def stored():
    return nbformat.read(NOTEBOOK, as_version=4)


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def shows_what_it_should(notebook):
    assert {output.get("name", "stdout") for output in outputs(notebook)} == {"stdout"}, "nothing warns"
    printed = "".join(output.get("text", "") for output in outputs(notebook))
    pair, other = ["digits", "letters"], ["inverted-digits", "letters"]
    assert ACCURACIES.findall(printed) == [*pair, *pair, "digits", "printed-digits", *other]
    assert re.search(r"one network for all images: \d+\.\d%", printed)
    assert re.search(r"loss of the average: first \d+\.\d\d, last \d+\.\d\d", printed)
    pictures = [output for output in outputs(notebook) if "image/png" in output.get("data", {})]
    assert len(pictures) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_runs_from_top_to_bottom(stored, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")  # this environment's kernel, whatever the user has
    (at,) = (index for index, cell in enumerate(stored.cells) if "parameters" in cell.metadata.get("tags", ()))
    stored.cells.insert(at + 1, nbformat.v4.new_code_cell(QUICK))
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(stored, kernel_name="python3", timeout=240, resources=place).execute()
    shows_what_it_should(stored)
    folders = {path.parent.relative_to(tmp_path / "runs").as_posix() for path in tmp_path.rglob("result.json")}
    assert folders == {
        "digits+letters/independent-seed0",
        "digits+letters/metasum-seed0",
        "digits+letters/slots-seed0",
        "printed-digits+letters/slots-seed0",
        "sums/digits+printed-digits-sum",
        "inverted-digits+letters/metasum-seed0",
    }


def test_it_is_stored_with_its_outputs_and_without_traces_of_a_machine(stored):
    shows_what_it_should(stored)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any("execution" in cell.metadata for cell in stored.cells), "no times of day"
    assert set(stored.metadata) == {"kernelspec", "language_info"}
    assert not re.search(r"/(home|root|tmp|Users|work)\b", NOTEBOOK.read_text(encoding="utf-8"))
    assert NOTEBOOK.stat().st_size < 400_000
