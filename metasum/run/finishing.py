"""What a trained run leaves behind: accuracies, networks, result.json and its report."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from metasum.files import write_json
from metasum.learners.learner import TrainedLearner
from metasum.run.plan import Plan
from metasum.training.analysis import analyse
from metasum.training.evaluation import Evaluator, FinalEvaluation
from metasum.training.harness import Harness
from metasum.training.memory import peak_bytes
from metasum.training.run_folder import RunFolder
from metasum.types import Sides


def finish(
    harness: Harness[TrainedLearner, Evaluator],
    plan: Plan,
    trained: dict[str, Any],
    *,
    keep_weights: bool,
    report: bool,
) -> dict[str, Any]:
    """Measures on all held-out images, saves the networks, and writes result.json last: it marks the run finished.

    Args:
        harness: its training is over.
        plan: of the run.
        trained: what training took; with "endpoints", networks are those of another run.
        keep_weights: save them.
        report: write analysis.json, too, for the report.
    """
    learner, run = harness.learner, harness.run
    harness.display.note("measuring on all held-out images …")
    started = time.perf_counter()
    final = harness.evaluator.everything(learner)
    operator = learner.operators[0]
    if "endpoints" not in trained:
        harness.record_final(final.accuracy)
    if keep_weights:
        _save_networks(run, final, plan.architecture, operator, merged_only="endpoints" in trained)
    if report:
        write_json(
            run.path / "analysis.json",
            analyse(final, harness.evaluator.tasks, Sides(plan.data.target, plan.data.support)),
        )
    result = {
        "learner": plan.learner,
        "target": plan.data.target,
        "support": plan.data.support,
        "seed": plan.seed,
        **trained,
        "evaluation_seconds": round(harness.evaluation_seconds + time.perf_counter() - started, 2),
        "sum_seconds": round(final.sum_seconds, 2),
        "peak_bytes": peak_bytes(harness.fabric.device),
        "operator": operator,
        "accuracy": asdict(final.accuracy),
        "after_by_operator": final.after_by_operator,
        "evaluated_on": plan.data.evaluate_on,
        "run": str(run.path),
    }
    write_json(run.path / "result.json", result)
    return result


def _save_networks(run: RunFolder, final: FinalEvaluation, build: str, operator: str, *, merged_only: bool) -> None:
    """Target and support, and the sum as it was measured on the target, each with its buffers."""
    for side, network in () if merged_only else final.alone._asdict().items():
        run.save_weights(side, network.state_dict(), architecture=build)
    run.save_weights("summed", final.summed.target.state_dict(), architecture=build, operator=operator)


def reported(run: RunFolder, result: dict[str, Any], report: bool) -> dict[str, Any]:
    """The result, once report.html is there (where it is wanted)."""
    if report and not (run.path / "report.html").is_file():
        from metasum.report.run_page import write_report

        write_report(run)
    return result
