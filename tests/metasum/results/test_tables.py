"""One declaration of a table, on the terminal, in CSV, on the page and in W&B."""

import csv
import io
import json
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest

from metasum.report.page import _environment
from metasum.results import comparison_tables, experiment_tables, few_shot_tables, strangers_tables, sweep_tables
from metasum.results.accuracy import EpisodeAccuracy, Spread
from metasum.results.exports import as_csv, fields_by_learner, wandb_table
from metasum.results.kinds import read_result
from metasum.results.table import GIBIBYTES, NUMBER, PERCENT, POINTS, SHARE, Aside, Column, Kind, Table
from metasum.results.terminal import show

FIXTURES = Path(__file__).parents[2] / "fixtures" / "runs-format-1" / "results"


@dataclass(frozen=True)
class Line:
    learner: str
    after: Spread
    change: float | None
    bytes: int


TABLE = Table(
    (
        Column("learner", lambda row: Aside(row.learner, "(ours)")),
        Column("after, %", lambda row: row.after, SHARE, name="accuracy.target.after", accent=True),
        Column("change", lambda row: row.change, POINTS, page_head="change, points"),
        Column(
            "GiB", lambda row: row.bytes, GIBIBYTES, name="bytes", only="page", link=lambda row: f"{row.learner}.html"
        ),
        Column("bytes", lambda row: row.bytes, NUMBER, only="csv"),
    ),
    (Line("<a>", Spread(0.5, 0.125), -0.25, 2**30), Line("b", Spread(None, None), None, 2**31)),
    "two learners",
)


class Grid(HTMLParser):
    """The cells of a page's tables, row by row, and their classes."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.styles, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
            self.styles.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.styles[-1].append(dict(attributes).get("class", ""))
        if tag == "a":
            self.links.append(dict(attributes)["href"])

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")


class Wandb:
    """What is used of W&B."""

    @dataclass
    class Table:
        columns: list
        data: list


def on_page(table):
    source = '{% import "parts.html.j2" as parts %}{{ parts.table(declared) }}'
    return _environment().from_string(source).render(declared=table)


def on_terminal(table, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    show({}, as_json=False, parts=lambda _: [table])
    return capsys.readouterr().out.splitlines()


def test_terminal(capsys, monkeypatch):
    title, *lines = on_terminal(TABLE, capsys, monkeypatch)
    assert title == "two learners"
    assert [line.split() for line in lines if "learner" in line] == [["learner", "after,", "%", "change"]]
    assert any(line.split() == ["<a>", "(ours)", "50.00", "±", "12.50", "-25.00"] for line in lines)
    assert any(line.split() == ["b", "(ours)", "–", "–"] for line in lines)


def test_page():
    text = on_page(TABLE)
    grid = Grid(text)
    assert grid.rows == [
        ["learner", "after, %", "change, points", "GiB"],
        ["<a> (ours)", "50.00 ± 12.50", "-25.00", "1.00"],
        ["b (ours)", "–", "–", "2.00"],
    ]
    assert grid.styles == [["", "n", "n", "n"], *[["", "n after", "n", "n"]] * 2]
    assert grid.links == ["<a>.html", "b.html"]
    assert "<a>" not in text, "what rows are called is text"
    assert 'class="headline"' in text


def test_csv():
    rows = list(csv.DictReader(io.StringIO(as_csv(TABLE))))
    assert rows[0] == {
        "learner": "<a> (ours)",
        "accuracy.target.after.mean": "0.5",
        "accuracy.target.after.std": "0.125",
        "change": "-0.25",
        "bytes": str(2**30),
    }
    assert rows[1]["change"] == rows[1]["accuracy.target.after.mean"] == ""


def test_wandb():
    table = wandb_table(Wandb, TABLE)
    assert table.columns == ["learner", "target_after", "target_after_std", "change"]
    assert table.data == [["<a> (ours)", 0.5, 0.125, -0.25], ["b (ours)", None, None, None]]
    fields = fields_by_learner(TABLE)
    assert fields == {"<a> (ours)/target_after": 0.5, "<a> (ours)/target_after_std": 0.125, "<a> (ours)/change": -0.25}
    assert wandb_table(Wandb, TABLE.only("learner", "change")).columns == ["learner", "change"]


@pytest.mark.parametrize(
    ("kind", "value", "terminal", "page"),
    [
        (PERCENT, 0.98764, "98.76%", "98.76\u00a0%"),
        (PERCENT, EpisodeAccuracy(0.5, 0.01, 9), "50.00% ± 1.00", "50.00\u00a0% ± 1.00"),
        (POINTS, EpisodeAccuracy(0.5, 0.01, 9), "+50.00 ± 1.00", "+50.00 ± 1.00"),
        (SHARE, Spread(0.5, None), "50.00", "50.00"),
        (SHARE, None, "–", "–"),
        (PERCENT, "", "", ""),
        (Kind(".4f", page_spec=".4g"), 0.5, "0.5000", "0.5"),
    ],
)
def test_how_numbers_are_written(kind, value, terminal, page):
    assert (kind.text(value, "terminal"), kind.text(value, "page")) == (terminal, page)


def tables():
    """Every table of the studies in the fixtures."""
    comparison, experiment = (read_result(FIXTURES / f"{name}.json") for name in ("comparison", "experiment"))
    yield from (comparison_tables.side_table(comparison, side) for side in ("target", "support"))
    yield from (comparison_tables.costs_table(comparison), comparison_tables.summary_table(comparison))
    yield from (comparison_tables.rows_table(comparison), experiment_tables.rows_table(experiment))
    yield from (experiment_tables.target_table(experiment, target) for target in experiment.targets)
    yield from (experiment_tables.union_table(experiment), experiment_tables.summary_table(experiment))
    few_shot, sweep = (read_result(FIXTURES / f"{name}.json") for name in ("few-shot", "sweep"))
    yield from (few_shot_tables.learners_table(few_shot), few_shot_tables.asked_table(few_shot))
    yield from (few_shot_tables.then_table(few_shot), few_shot_tables.differences_table(few_shot))
    yield from (sweep_tables.best_table(sweep), sweep_tables.all_table(sweep), sweep_tables.trials_table(sweep))
    yield sweep_tables.closer_table(sweep, lambda trial: None)
    summed = read_result(FIXTURES / "sum.json")
    yield from (strangers_tables.sum_table(summed), strangers_tables.operators_table(summed))


def test_every_table_can_be_shown_everywhere(capsys, monkeypatch):
    for table in tables():
        lines = on_terminal(table, capsys, monkeypatch)
        assert max(map(len, lines)) <= max(80, len(table.title))
        assert len(Grid(on_page(table)).rows) == 1 + len(table.rows)
        assert len(list(csv.reader(io.StringIO(as_csv(table))))) == 1 + len(table.rows)
        told = wandb_table(Wandb, table)
        assert len(told.data) == len(table.rows)
        assert all(len(row) == len(told.columns) for row in told.data)
        json.dumps(told.data)


def test_the_dotted_names_of_csv_stay():
    comparison = read_result(FIXTURES / "comparison.json")
    names = as_csv(comparison_tables.rows_table(comparison)).splitlines()[0].split(",")
    sides = [f"accuracy.{s}.{m}" for s in ("target", "support") for m in ("before", "after", "drop", "retention")]
    costs = ["seconds", "sum_seconds", "peak_bytes", "images_per_second"]
    assert names == ["learner", "seed", "operator", *sides, *costs, "run", "no_merge", "heads"]
    experiment = read_result(FIXTURES / "experiment.json")
    names = as_csv(experiment_tables.rows_table(experiment)).splitlines()[0].split(",")
    assert names[:4] == ["learner", "seed", "seconds", "peak_bytes"]
    union = [f"accuracy.union.{what}" for what in ("sum_union_statistics", "mean_of_datasets")]
    assert names[-4:] == [*union, "no_merge", "heads"]


def test_no_template_has_columns_by_hand():
    for path in Path("metasum/report/templates").glob("*.j2"):
        assert ("<t" in path.read_text().replace("<title", "")) == (path.name == "parts.html.j2"), path.name
        if path.name == "parts.html.j2":
            assert path.read_text().count("<table") == 1
