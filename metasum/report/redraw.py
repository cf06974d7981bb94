"""Which report belongs to a folder."""

from __future__ import annotations

from pathlib import Path

from metasum.files import read_json
from metasum.report.few_shot_page import write_few_shot_report
from metasum.report.run_page import write_meta_report, write_report
from metasum.report.study_pages import write_comparison_report, write_experiment_report, write_sum_report
from metasum.training.run_folder import RunFolder


def redraw(folder: Path) -> Path:
    """Draws `report.html` anew from the folder's files, and returns its path.

    Raises:
        CheckpointError: it is no folder of metasum's, or its files are missing or damaged.
    """
    if (folder / "results.json").is_file():
        results = read_json(folder / "results.json")
        if "few_shot" in results:
            return write_few_shot_report(folder)
        if "sweep" in results:
            from metasum.sweeps.page import write_sweep_report

            return write_sweep_report(folder)
        return write_experiment_report(folder) if "experiment" in results else write_comparison_report(folder)
    if (folder / "result.json").is_file() and not (folder / "config.json").is_file():
        return write_sum_report(folder)
    run = RunFolder.open(folder)
    result = run.read_json("result.json")
    if "interval" in result.get("accuracy", {}):  # of a few-shot learner: its page is that of all
        return write_few_shot_report(folder.parent)
    return write_meta_report(run) if "initial" in result else write_report(run)
