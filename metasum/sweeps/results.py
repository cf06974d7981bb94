"""What a sweep has found so far."""

from __future__ import annotations

from pathlib import Path

from metasum.results.sweep import SweepResult, Trial
from metasum.sweeps.claim import is_lost
from metasum.sweeps.queue import TrialQueue
from metasum.sweeps.sweep_file import SweepFile


def results_of(file: SweepFile, queue: TrialQueue, *, importances: bool, folder: Path) -> SweepResult:
    """What results.json in the sweep's folder holds; with `importances`, how much each parameter matters, too."""
    trials = queue.trials()
    rows = []
    for trial in sorted(trials, key=lambda trial: trial.user_attrs["place"]):
        if is_lost(trial):
            continue
        notes = trial.user_attrs
        rows.append(
            Trial(
                place=notes["place"],
                trial=trial.number,
                state=trial.state.name.lower(),
                values=notes.get("values", {}),
                score=trial.value if file.metric else None,
                trial_seconds=notes.get("seconds"),
                numbers=notes.get("numbers", {}),
                run=notes.get("run"),
                error=notes.get("error"),
            )
        )
    return SweepResult(
        name=queue.study.study_name,
        question=file.question,
        command=tuple(file.command),
        method=file.method,
        metric=file.metric,
        arguments=tuple(queue.study.user_attrs["arguments"]),
        count=queue.count,
        lost=sum(is_lost(trial) for trial in trials),
        trials=tuple(rows),
        best=_best(file, rows),
        importances=_importances(file, queue) if importances else {},
        sweep=str(folder),
    )


def _best(file: SweepFile, rows: list[Trial]) -> tuple[int, ...]:
    """Places of finished trials, the best first; none without a metric."""
    if file.metric is None:
        return ()
    finished = [
        (file.metric.sign * row.score, row.place) for row in rows if row.state == "complete" and row.score is not None
    ]
    return tuple(place for _, place in sorted(finished, key=lambda found: found[0]))


def _importances(file: SweepFile, queue: TrialQueue) -> dict[str, float]:
    """By parameter, its share of the metric's variance over the trials (functional ANOVA); {} where none can be had."""
    import optuna

    if file.metric is None or len({trial.value for trial in queue.trials() if trial.state.name == "COMPLETE"}) < 2:
        return {}
    try:
        found = optuna.importance.get_param_importances(
            queue.study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
    except (ValueError, RuntimeError):
        return {}
    return {name: round(float(share), 4) for name, share in found.items()}
