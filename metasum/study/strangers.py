"""Step 3 of an experiment as cells: the target networks of runs that never met are added, and measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from metasum.baselines.registry import learner_named
from metasum.config import options_of
from metasum.merging import METHODS
from metasum.results.surroundings import Failed, Settings, Tuned
from metasum.study.engine.cell import Cell, Failure
from metasum.study.outcomes import Outcomes
from metasum.study.request import Study, in_words
from metasum.study.strangers_sum import Measurement, StrangersSum
from metasum.study.training import Choose, run_name


def strangers_cells(study: Study) -> list[Cell]:
    """Learner by learner: trials on validation images and the choice where settings are open, then seed by seed."""
    return [cell for learner in study.learners for cell in (*_trials(study, learner), *_measurements(study, learner))]


def measurement_name(study: Study, learner: str, seed: int) -> str:
    """The name of the cell that measures the sum of a learner's target networks."""
    return study.short(study.place / f"{learner}-seed{seed}")


def choice_name(study: Study, learner: str) -> str:
    """The name of the cell that chooses how a learner's target networks are merged."""
    return f"{study.short(study.place)}: settings of {learner}"


def strangers_score(found: Measurement) -> float:
    """The score of a trial: all targets count alike."""
    shares = [on.sum for on in found.accuracy.datasets.values()]
    return sum(shares) / len(shares)


def _trials(study: Study, learner: str) -> list[Cell]:
    """Of a merging method: on the networks that were trained without the validation images."""
    endpoints, candidates = learner_named(learner).endpoints, study.candidates(learner)
    if endpoints is None or not candidates:
        return []
    seed, tried = study.seeds[0], dict[str, Settings]()
    runs = tuple(study.run_path(target, endpoints, seed, validation=True) for target in study.targets)
    needs = tuple(run_name(study, target, endpoints, seed, validation=True) for target in study.targets)
    cells = []
    for candidate in candidates:
        path = study.place / f"validation-{learner}-{in_words(candidate)}"
        tried[study.short(path)] = candidate
        cells.append(Cell(study.short(path), _sum(study, learner, path, runs, candidate), needs))
    return [*cells, Cell(choice_name(study, learner), Choose(tried, strangers_score), after=tuple(tried))]


def _measurements(study: Study, learner: str) -> list[Cell]:
    choice = choice_name(study, learner) if _trials(study, learner) else None
    cells = []
    for seed in study.seeds:
        path = study.place / f"{learner}-seed{seed}"
        runs = tuple(study.run_path(target, learner, seed) for target in study.targets)
        work = dataclasses.replace(
            _sum(study, learner, path, runs), choice=choice, line=study.looked_into(learner, seed)
        )
        needs = tuple(run_name(study, target, learner, seed) for target in study.targets)
        cells.append(Cell(study.short(path), work, needs, () if choice is None else (choice,)))
    return cells


def _sum(
    study: Study, learner: str, path: Path, runs: tuple[Path, ...], candidate: Settings | None = None
) -> StrangersSum:
    operator, given = operator_of(study, learner), {**study.request.given, **(candidate or {})}
    own = {leaf.name: given[leaf.name] for leaf in options_of(METHODS.named(operator).Config) if leaf.name in given}
    return StrangersSum(path.with_name(f"{path.name}.json"), runs, operator, own, study.request)


def operator_of(study: Study, learner: str) -> str:
    """What adds a learner's target networks: its own method, or what was asked for, or what its pairs are added by."""
    facts = learner_named(learner)
    if facts.method is not None:
        return facts.method
    default = next((leaf.default for leaf in options_of(facts.Config) if leaf.name == "operator"), "sum")
    return str({"operator": default, **study.request.given, **facts.preset}["operator"])


def strangers_tuning(study: Study, outcomes: Outcomes) -> dict[str, Tuned]:
    """Under each merging learner's name what was chosen for strangers, where something could be tried."""
    found = {name: outcomes.get(choice_name(study, name)) for name in study.learners}
    return {name: tuned for name, tuned in found.items() if isinstance(tuned, Tuned) and tuned.tried}


def strangers_failures(study: Study, outcomes: Outcomes) -> list[Failed]:
    """The sums that failed by themselves; where a run did, that is told of the run."""
    found = []
    for learner in study.learners:
        for seed in study.seeds:
            outcome = outcomes[measurement_name(study, learner, seed)]
            if isinstance(outcome, Failure) and outcome.because is None:
                found.append(Failed(learner, seed, outcome.error, f"{learner}-seed{seed}"))
    return found
