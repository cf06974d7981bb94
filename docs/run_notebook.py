"""Runs docs/metasum.ipynb from top to bottom and stores it with its outputs: `uv run python docs/run_notebook.py`.

`jupyter nbconvert --execute --inplace` was tried: it runs in docs/, where it leaves the runs that stop the next time,
and stores this machine's Python version and, unless told not to, times of day.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("metasum.ipynb")

notebook = nbformat.read(NOTEBOOK, as_version=4)
kept = {"kernelspec": {**notebook.metadata.kernelspec}, "language_info": {"name": "python"}}
with TemporaryDirectory() as folder:
    place = {"metadata": {"path": folder}}
    NotebookClient(notebook, kernel_name="python3", timeout=None, record_timing=False, resources=place).execute()
notebook.metadata = nbformat.from_dict(kept)  # the kernel tells of this machine's Python
nbformat.write(notebook, NOTEBOOK)
