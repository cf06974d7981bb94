"""Few-shot learners side by side on the same episodes: the command's course."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from metasum.assembly.few_shot_cells import FewShotCells
from metasum.baselines.few_shot import FEW_SHOT, few_shot_named
from metasum.baselines.meta_networks.learner import MetaNetworks
from metasum.config.few_shot import FewShotConfig, numbers
from metasum.errors import UsageError
from metasum.files import write_json
from metasum.learners.few_shot import FewShotLearner
from metasum.ownership import in_turn
from metasum.plugins import load_entry_points
from metasum.results.accuracy import EpisodeAccuracy
from metasum.results.few_shot import (
    FewShotResult,
    FewShotRun,
    FewShotSummary,
    OtherBaseNetwork,
    OtherWays,
    SecondDatasetResult,
    SecondDatasetRow,
)
from metasum.tasks.few_shot import load_few_shot
from metasum.training.description import describe_surroundings
from metasum.training.few_shot import differences
from metasum.training.progress import Display, SilentDisplay


def few_shot(
    config: FewShotConfig | None = None,
    *,
    learners: Sequence[str] | None = None,
    seeds: int = 1,
    out: Path | str = "runs",
    download: bool = False,
    displays: Callable[[], Display] = SilentDisplay,
) -> FewShotResult:
    """Meta-trains learners on some classes of a dataset, and measures all on the same episodes of others.

    Finished runs are taken as they are, unfinished ones are continued, so that calling it again goes on.

    Args:
        config: the settings.
        learners: names [default: all].
        seeds: how many, counted up from `config.seed`.
        out: the runs are in `<out>/few-shot/<dataset>-<ways>way-<shots>shot`, and the results.
        download: fetch a dataset that is not there.
        displays: makes what is told about each run's progress.

    Returns:
        What results.json holds.

    Raises:
        MetaSumError: its subclass and sentence say what is wrong.
    """
    config = config or FewShotConfig()
    load_entry_points()
    names = list(FEW_SHOT) if learners is None else list(learners)
    _check(config, names)
    root = Path(config.data_root)
    dataset = load_few_shot(config.dataset, root=root, download=download)
    second = None if config.then is None else load_few_shot(config.then, root=root, download=download)
    folder = Path(out) / "few-shot" / f"{config.dataset}-{config.ways}way-{config.shots}shot"
    cells = FewShotCells(config, dataset, folder=folder, displays=displays)
    there = None if second is None else cells.on(second)
    for ways in numbers("--test-ways", config.test_ways, minimum=2):  # refuses, before anything is trained
        cells.episodes(config.evaluate_on, ways=ways)
    rows, asked, reparameterised, then = (
        list[FewShotRun](),
        list[OtherWays](),
        list[OtherBaseNetwork](),
        list[SecondDatasetRow](),
    )
    for seed in range(config.seed, config.seed + seeds):
        for name in names:
            result, model = cells.run(name, seed)
            rows.append(result)
            asked += [OtherWays(name, seed, *found) for found in _asked(cells, model)]
            reparameterised += [OtherBaseNetwork(name, seed, *found) for found in _reparameterised(cells, model)]
            if there is not None and few_shot_named(name).meta_trains:
                gone_on = in_turn(partial(_then, cells, there, model, name, seed), displays().note)
                then.append(SecondDatasetRow(name, seed, result.accuracy, **vars(gone_on)))
    study = FewShotResult(
        dataset=config.dataset,
        ways=config.ways,
        shots=config.shots,
        classes={part: len(classes) for part, classes in dataset.classes.items()},
        rows=tuple(rows),
        summary=tuple(FewShotSummary.of([row for row in rows if row.learner == name]) for name in names),
        differences=differences(_shares_by_learner(cells, rows)),
        asked=tuple(asked),
        reparameterised=tuple(reparameterised),
        then=tuple(then),
        second_dataset=config.then,
        evaluated_on=config.evaluate_on,
        settings=dataclasses.asdict(config),
        data={"name": dataset.name, "source": dataset.source, "checksum": dataset.checksum},
        **describe_surroundings(),
        few_shot=str(folder),
    )
    write_json(folder / "results.json", study.to_json())
    from metasum.report.few_shot_page import write_few_shot_report

    write_few_shot_report(folder)
    return study


def _check(config: FewShotConfig, names: Sequence[str]) -> None:
    if not names or len(set(names)) < len(names):
        raise UsageError("--learner takes different learners, separated by commas.")
    for name in names:
        few_shot_named(name)
    if config.base_filters is not None and "meta-networks" not in names:
        raise UsageError("--base-filters says nothing without learner meta-networks.")
    if config.then is not None and not any(few_shot_named(name).meta_trains for name in names):
        raise UsageError("--then says nothing to learners that do not meta-train.")
    if config.test_ways is not None and set(names) <= {"maml", "meta-transfer"}:
        raise UsageError("--test-ways: maml and meta-transfer can only be asked what they were trained for.")


def _asked(cells: FewShotCells, model: FewShotLearner) -> list[tuple[int, EpisodeAccuracy]]:
    """Ways and accuracy with other numbers of ways than it was trained with, where it can be asked."""
    rows = []
    for ways in numbers("--test-ways", cells.config.test_ways, minimum=2):
        other = cells.seeded(partial(model.asked, ways))
        if other is not None:
            rows.append((ways, cells.measure(other, ways=ways)))
    return rows


def _reparameterised(cells: FewShotCells, model: FewShotLearner) -> list[tuple[int, EpisodeAccuracy]]:
    """Filters, and accuracy of a trained meta learner that writes the fast weights of untrained base networks."""
    if not isinstance(model, MetaNetworks):
        return []
    rows = []
    for filters in numbers("--base-filters", cells.config.base_filters, minimum=1):
        other = cells.seeded(partial(model.reparameterised, filters))
        rows.append((filters, cells.measure(other)))
    return rows


def _then(cells: FewShotCells, there: FewShotCells, model: FewShotLearner, name: str, seed: int) -> SecondDatasetResult:
    """Goes on with meta-training on a second dataset; accuracy on both, before and after."""
    config = cells.config
    rate = config.learning_rate or few_shot_named(name).learning_rate
    own = dataclasses.replace(config, seed=seed, steps=config.then_steps, learning_rate=rate)
    with cells.opened(f"{name}-seed{seed}-then-{there.dataset.name}", own, name, model, there.dataset) as run:
        if run.finished:
            return run.result(SecondDatasetResult)
        new_before = there.measure(model)
        there.train(model, run, own)
        result = SecondDatasetResult(cells.measure(model), new_before, there.measure(model), str(run.path))
        run.save_weights("learner", model.state_dict())
        write_json(run.path / "result.json", result.to_json())
    return result


def _shares_by_learner(cells: FewShotCells, rows: Sequence[FewShotRun]) -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {}
    for row in rows:
        found.setdefault(row.learner, []).append(cells.shares(row))
    return found
