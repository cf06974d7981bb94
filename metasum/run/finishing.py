"""What a trained run leaves behind: accuracies, networks, result.json and its report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from metasum.errors import DivergenceError
from metasum.files import write_json
from metasum.learners.networks import MetaSum
from metasum.learners.trainable import TrainedLearner
from metasum.networks.beside import metadata_of
from metasum.report.run_page import write_report
from metasum.results.accuracy import AfterSum
from metasum.results.run import RunResult
from metasum.run.plan import Plan
from metasum.training.analysis import analyse
from metasum.training.evaluation import Evaluator
from metasum.training.harness import Harness
from metasum.training.memory import peak_bytes
from metasum.training.run_folder import RunFolder
from metasum.types import Sides
from metasum.weights.parameters import unfinite


def finish(
    harness: Harness[TrainedLearner, Evaluator],
    plan: Plan,
    networks: MetaSum,
    endpoints: RunFolder | None,
    *,
    keep_weights: bool,
    report: bool,
) -> RunResult:
    """Measures on all held-out images, saves the networks, and writes result.json last: it marks the run finished.

    Args:
        harness: its training is over.
        plan: of the run.
        networks: the pair, with the coefficients that were learned for its sum.
        endpoints: the run whose networks these are, where they were not trained here; what that took is told.
        keep_weights: save networks that were trained here, and the sum as it was measured on the target.
        report: write analysis.json, too, for the page.
    """
    learner, run = harness.learner, harness.run
    took, learned = (harness, networks.coefficients) if endpoints is None else (endpoints.result(RunResult), None)
    harness.display.note("measuring on all held-out images …")
    started = time.perf_counter()
    final = harness.evaluator.everything(learner)
    _check_finite({"target network": final.alone.target, "support network": final.alone.support})
    _check_finite({f"{learner.operators[0]} on the {side}": own for side, own in final.summed._asdict().items()})
    operator = learner.operators[0]
    if endpoints is None:
        harness.record_final(final.accuracy)
    if keep_weights and endpoints is None:
        for side, network in final.alone._asdict().items():
            run.save_weights(side, network.state_dict(), architecture=plan.architecture)
    if keep_weights:
        summed = final.summed.target
        metadata = {"architecture": plan.architecture, "operator": operator, **metadata_of(summed)}
        run.save_weights("summed", summed.state_dict(), **metadata, **({"heads": "own"} if final.own_heads else {}))
    if report:
        names = Sides(plan.data.target, plan.data.support)
        write_json(run.path / "analysis.json", analyse(final, harness.evaluator.tasks, names).plain())
    result = RunResult(
        learner=plan.learner,
        target=plan.data.target,
        support=plan.data.support,
        seed=plan.seed,
        steps=took.steps,
        seconds=round(took.seconds, 2),
        images_per_second=round(took.images_per_second, 1),
        endpoints=None if endpoints is None else endpoints.path.name,
        coefficients=None if learned is None else tuple(learned.tolist()),
        evaluation_seconds=round(harness.evaluation_seconds + time.perf_counter() - started, 2),
        sum_seconds=round(final.sum_seconds, 2),
        peak_bytes=peak_bytes(harness.fabric.device),
        operator=operator,
        statistics=final.statistics,
        heads=plan.evaluation.heads,
        accuracy=final.accuracy,
        after_by_operator={name: AfterSum(**shares) for name, shares in final.after_by_operator.items()},
        evaluated_on=plan.data.evaluate_on,
        run=str(run.path),
    )
    write_json(run.path / "result.json", result.to_json())
    return result


def _check_finite(networks: Mapping[str, nn.Module]) -> None:
    """Raises DivergenceError where a network has NaN or infinite weights or statistics: it is no result."""
    for what, network in networks.items():
        if name := unfinite(network):
            raise DivergenceError(f"the {what} has NaN or infinite numbers in {name!r}; try a lower learning rate.")


def reported(run: RunFolder, result: RunResult, report: bool) -> RunResult:
    """The result, once report.html is there (where it is wanted); `run` is where the folder is now."""
    if report and not (run.path / "report.html").is_file():
        write_report(run)
    return replace(result, run=str(run.path))
