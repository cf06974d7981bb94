"""Running statistics that tell another accuracy than recalibrated ones: one sentence, below every table."""

import dataclasses
from html import unescape
from pathlib import Path

import pytest

from metasum.report.page import _environment
from metasum.results import comparison_tables, experiment_tables, strangers_tables
from metasum.results.accuracy import BeforeAfter, Evaluation
from metasum.results.comparison import ComparisonRow, summarise
from metasum.results.experiment_summary import summarise as summarise_experiment
from metasum.results.exports import as_csv
from metasum.results.kinds import read_result
from metasum.results.run import accuracy_table
from metasum.results.settled import Alone, unsettled
from metasum.results.strangers import DatasetAccuracyAndAlone
from metasum.results.terminal import show

FIXTURES = Path(__file__).parents[2] / "fixtures" / "runs-format-1" / "results"


def old(kind):
    return read_result(FIXTURES / f"{kind}.json")


@pytest.mark.parametrize(
    ("recalibrated", "running", "told"),
    [(0.5, 0.49, False), (0.31, 0.3, False), (0.5, 0.489999, True), (0.3, 0.42, True), (0.5, None, False)],
)
def test_more_than_a_point_is_told(recalibrated, running, told):
    assert bool(unsettled([Alone("digits", recalibrated, running)])) is told


def test_who_has_the_same_numbers_shares_a_sentence():
    found = [Alone("independent", 0.5, 0.25), Alone("metasum", 0.75, 0.5), Alone("ties", 0.5, 0.25)]
    first, second = unsettled(found, on=" on digits")
    assert first.startswith("independent, ties on digits: alone 50.00% with recalibrated statistics, 25.00% with the ")
    assert second.startswith("metasum on digits: alone 75.00%")
    assert "\n" not in first


def shown_everywhere(capsys, table, words):
    """The words stand below the table on the terminal, and on the page."""
    show(None, as_json=False, parts=lambda _: [table])
    told = capsys.readouterr().out
    assert words in told
    assert told.index(words) > told.index("──")
    page = _environment().from_string("{% import 'parts.html.j2' as parts %}{{ parts.table(table) }}")
    assert words in unescape(page.render(table=table))


def test_a_run_tells_each_of_its_datasets(capsys):
    result = old("run")
    assert accuracy_table(result).notes == ()
    sides = Evaluation(BeforeAfter(0.5, 0.5, 0.25), BeforeAfter(0.5, 0.5, 0.5))
    table = accuracy_table(dataclasses.replace(result, accuracy=sides))
    (note,) = table.notes
    assert note.startswith(f"{result.target}: alone 50.00%")
    shown_everywhere(capsys, table, note)


def comparison_of(running):
    result = old("comparison")
    rows = [
        ComparisonRow("metasum", seed, "sum", Evaluation(*[BeforeAfter(0.75, 0.5, own)] * 2), 2.0, 1.0, 10, 5.0, "r")
        for seed, own in enumerate(running)
    ]
    return dataclasses.replace(result, rows=tuple(rows), summary=summarise(rows))


def test_a_comparison_tells_the_means_over_the_seeds(capsys):
    result = comparison_of([0.25, 0.75])
    assert type(result).from_json(result.to_json()) == result
    table = comparison_tables.side_table(result, "target")
    (note,) = table.notes
    words = f"metasum on {result.target}, mean over the seeds: alone 75.00% with recalibrated statistics, 50.00% with"
    assert note.startswith(words)
    shown_everywhere(capsys, table, words)
    assert "accuracy.target.before_running" in as_csv(comparison_tables.rows_table(result))
    assert result.to_json()["rows"][0]["accuracy"]["target"]["before_running"] == 0.25
    mixed = comparison_of([0.25, None])
    assert mixed.summary[0].target.before_running is None, "means would be of different seeds"
    for older in (old("comparison"), comparison_of([None, None])):
        assert not comparison_tables.side_table(older, "target").notes
        assert "before_running" not in as_csv(comparison_tables.rows_table(older))
        assert "before_running" not in str(older.to_json())


def test_an_experiment_tells_the_means_over_the_seeds(capsys):
    result = old("experiment")
    target = result.targets[0]
    assert "before_running" not in as_csv(experiment_tables.rows_table(result))
    assert not experiment_tables.target_table(result, target).notes

    def with_running(row):
        accuracy = {
            name: dataclasses.replace(own, before=0.75, before_running=0.25) for name, own in row.accuracy.items()
        }
        return dataclasses.replace(row, accuracy=accuracy)

    rows = tuple(map(with_running, result.rows))
    newer = dataclasses.replace(result, rows=rows, summary=summarise_experiment(rows))
    assert type(newer).from_json(newer.to_json()) == newer
    table = experiment_tables.target_table(newer, target)
    words = f"on {target}, mean over the seeds: alone 75.00% with recalibrated statistics, 25.00% with"
    (note,) = table.notes
    assert words in note
    assert [column.head for column in table.columns] == [
        column.head for column in experiment_tables.target_table(result, target).columns
    ]
    shown_everywhere(capsys, table, words)
    show(newer, as_json=False, parts=experiment_tables.experiment_parts)
    assert words in capsys.readouterr().out
    assert f"accuracy.{target}.before_running" in as_csv(experiment_tables.rows_table(newer))


def test_a_sum_tells_what_its_networks_do_alone(capsys):
    result = old("sum")
    assert not strangers_tables.sum_table(result).notes
    own = {"a": DatasetAccuracyAndAlone(0.5, 0.4, alone=0.75, alone_running=0.25)}
    newer = dataclasses.replace(result, accuracy=dataclasses.replace(result.accuracy, datasets=own))
    assert type(newer).from_json(newer.to_json()) == newer
    table = strangers_tables.sum_table(newer)
    shown_everywhere(capsys, table, "a: alone 75.00% with recalibrated statistics, 25.00% with")


def test_a_sum_that_keeps_statistics_is_told_beside_networks_with_theirs():
    result = old("sum")
    own = {"a": DatasetAccuracyAndAlone(0.5, 0.4, 0.6, alone=0.75, alone_running=0.65)}
    union = dataclasses.replace(result.accuracy.union, sum_own_statistics=0.6)
    kept = dataclasses.replace(result, accuracy=dataclasses.replace(result.accuracy, datasets=own, union=union))
    assert type(kept).from_json(kept.to_json()) == kept
    table = strangers_tables.sum_table(kept)
    assert [column.value(table.rows[0]) for column in table.columns] == ["a", 0.65, 0.6, 0.4, 0.5]
    assert table.columns[2].head == "sum, each network's own statistics"
    assert not table.notes
