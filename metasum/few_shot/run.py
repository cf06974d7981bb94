"""Few-shot learners side by side on the same episodes: one call for all of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metasum.few_shot.conclusion import conclude
from metasum.few_shot.page import write_few_shot_report
from metasum.few_shot.request import FewShotRequest
from metasum.few_shot.study import plan_study
from metasum.files import write_json
from metasum.plugins import load_entry_points
from metasum.results.few_shot import FewShotResult
from metasum.study.engine.display import SilentStudy, StudyDisplay
from metasum.study.engine.sequential import Engine, Sequential


def few_shot(
    request: FewShotRequest | None = None,
    *,
    learners: Sequence[str] | None = None,
    seeds: int = 1,
    out: Path | str = "runs",
    download: bool = False,
    report: bool = True,
    engine: Engine | None = None,
    display: StudyDisplay | None = None,
) -> FewShotResult:
    """Meta-trains learners on some classes of a dataset, and measures all on the same episodes of others.

    Finished runs are taken as they are, unfinished ones are continued, so that calling it again goes on.

    Args:
        request: the settings that were given.
        learners: names [default: all that are registered].
        seeds: how many, counted up from `seed`.
        out: the runs are in `<out>/few-shot/<dataset>-<ways>way-<shots>shot`, and the results.
        download: fetch a dataset that is not there.
        report: draw report.html, too.
        engine: runs the cells [default: one after the other].
        display: what is told about progress [default: nothing].

    Returns:
        What results.json holds; what failed is in its `failed`.

    Raises:
        MetaSumError: its subclass and sentence say what is wrong; what can be known is known before anything is
            trained. Or nothing has come out of the whole study: the first failure's sentence.
    """
    load_entry_points()
    study = plan_study(request or FewShotRequest(), learners, seeds=seeds, out=Path(out), download=download)
    outcomes = (engine or Sequential()).run(study.cells(), display=display or SilentStudy())
    result = conclude(study, outcomes)
    write_json(study.folder / "results.json", result.to_json())
    if report:
        write_few_shot_report(study.folder)
    return result
