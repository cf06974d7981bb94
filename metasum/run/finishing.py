"""What a trained run leaves behind: accuracies, networks, result.json and its report."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from metasum.files import write_json
from metasum.learners.learner import TrainedLearner
from metasum.report.run_page import write_report
from metasum.results.accuracy import AfterSum
from metasum.results.run import RunResult
from metasum.run.plan import Plan
from metasum.training.analysis import analyse
from metasum.training.evaluation import Evaluator, FinalEvaluation
from metasum.training.harness import Harness
from metasum.training.memory import peak_bytes
from metasum.training.run_folder import RunFolder
from metasum.types import Sides


@dataclass(frozen=True)
class Trained:
    """What a run's training took; of a run that merges another's networks, what that one's took."""

    steps: int
    seconds: float
    images_per_second: float
    endpoints: str | None = None
    """The folder's name of that other run."""
    coefficients: tuple[float, ...] | None = None
    """Those that were learned for the sum."""


def finish(
    harness: Harness[TrainedLearner, Evaluator],
    plan: Plan,
    trained: Trained,
    *,
    keep_weights: bool,
    report: bool,
) -> RunResult:
    """Measures on all held-out images, saves the networks, and writes result.json last: it marks the run finished.

    With `report`, analysis.json is written, too, for the page.
    """
    learner, run = harness.learner, harness.run
    harness.display.note("measuring on all held-out images …")
    started = time.perf_counter()
    final = harness.evaluator.everything(learner)
    operator = learner.operators[0]
    if trained.endpoints is None:
        harness.record_final(final.accuracy)
    if keep_weights:
        _save_networks(run, final, plan.architecture, operator, merged_only=trained.endpoints is not None)
    if report:
        names = Sides(plan.data.target, plan.data.support)
        write_json(run.path / "analysis.json", analyse(final, harness.evaluator.tasks, names).plain())
    result = RunResult(
        learner=plan.learner,
        target=plan.data.target,
        support=plan.data.support,
        seed=plan.seed,
        steps=trained.steps,
        seconds=trained.seconds,
        images_per_second=trained.images_per_second,
        endpoints=trained.endpoints,
        coefficients=trained.coefficients,
        evaluation_seconds=round(harness.evaluation_seconds + time.perf_counter() - started, 2),
        sum_seconds=round(final.sum_seconds, 2),
        peak_bytes=peak_bytes(harness.fabric.device),
        operator=operator,
        accuracy=final.accuracy,
        after_by_operator={name: AfterSum(**shares) for name, shares in final.after_by_operator.items()},
        evaluated_on=plan.data.evaluate_on,
        run=str(run.path),
    )
    write_json(run.path / "result.json", result.to_json())
    return result


def _save_networks(run: RunFolder, final: FinalEvaluation, build: str, operator: str, *, merged_only: bool) -> None:
    """Target and support, and the sum as it was measured on the target, each with its buffers."""
    for side, network in () if merged_only else final.alone._asdict().items():
        run.save_weights(side, network.state_dict(), architecture=build)
    run.save_weights("summed", final.summed.target.state_dict(), architecture=build, operator=operator)


def reported(run: RunFolder, result: RunResult, report: bool) -> RunResult:
    """The result, once report.html is there (where it is wanted); `run` is where the folder is now."""
    if report and not (run.path / "report.html").is_file():
        write_report(run)
    return replace(result, run=str(run.path))
