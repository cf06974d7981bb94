"""Which report belongs to a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from metasum.errors import CheckpointError
from metasum.few_shot.page import write_few_shot_report
from metasum.files import reading
from metasum.report.networks_page import write_networks_report
from metasum.report.run_page import write_meta_report, write_report
from metasum.report.study_pages import write_comparison_report, write_experiment_report
from metasum.report.sum_page import write_sum_report
from metasum.results.comparison import ComparisonResult
from metasum.results.experiment import ExperimentResult
from metasum.results.few_shot import FewShotResult, FewShotRun
from metasum.results.kinds import read_result
from metasum.results.meta import MetaResult
from metasum.results.networks import NetworksResult
from metasum.results.run import RunResult
from metasum.results.strangers import SumResult
from metasum.results.sweep import SweepResult
from metasum.sweeps.page import write_sweep_report
from metasum.training.run_folder import RunFolder

PAGES: dict[str, Callable[[Path], Path]] = {
    RunResult.kind: lambda folder: write_report(RunFolder.open(folder)),
    MetaResult.kind: lambda folder: write_meta_report(RunFolder.open(folder)),
    SumResult.kind: write_sum_report,
    ComparisonResult.kind: write_comparison_report,
    ExperimentResult.kind: write_experiment_report,
    FewShotResult.kind: write_few_shot_report,
    FewShotRun.kind: lambda folder: write_few_shot_report(folder.parent),  # its page is that of all learners
    SweepResult.kind: write_sweep_report,
    NetworksResult.kind: write_networks_report,
}
"""What draws the page of a folder, by the kind of result in it."""


def redraw(folder: Path) -> Path:
    """Draws `report.html` anew from the folder's files, and returns its path.

    Raises:
        CheckpointError: it is no folder of metasum's, or its files are missing or damaged.
    """
    file = next((folder / name for name in ("results.json", "result.json") if (folder / name).is_file()), None)
    if file is None:
        RunFolder.open(folder).read_json("result.json")  # says what is missing
        raise CheckpointError(f"{folder} holds no result.")
    with reading(folder):
        kind = read_result(file).kind
        if kind not in PAGES:
            raise CheckpointError(f"{file} holds a {kind}, which has no page of its own.")
        RunFolder(folder).check_weights()
        return PAGES[kind](folder)
