"""Finished networks compared: alone, merged by each method, and as an ensemble."""

import itertools
import json
import math

import pytest
import torch
from users import AnswersAnObject, Trunk, classes, inputs, loader, same, seeded, snapshot

from metasum import compare, evaluate, merge
from metasum.errors import ArchitectureError, DivergenceError, StorageError, UsageError
from metasum.merging import METHODS
from metasum.merging.ties import TIES
from metasum.report import networks_page
from metasum.report.canvas import line_styles
from metasum.report.networks_page import write_networks_report
from metasum.results.exports import as_csv
from metasum.results.kinds import read_result
from metasum.results.networks import NetworksResult
from metasum.results.terminal import rich_table

DATA, IMAGES = [loader(1), loader(2)], [loader(3), loader(4)]


def networks():
    return [seeded(Trunk, seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def found():
    return compare(networks(), DATA, images=IMAGES, base=seeded(Trunk, 0))


def row_of(found, name):
    return next(row for row in found.rows if row.name == name)


def test_rows_are_networks_methods_and_the_ensemble(found):
    names = [row.name for row in found.rows]
    assert names[:3] == ["network 1", "network 2", "each alone, on its own data"]
    assert names[-1] == "ensemble"
    assert {*names[3:-1]} | {*found.left_out} == {*METHODS}
    assert found.left_out == {
        "weighted": "weighted takes one weight for each of the 2 networks, for instance weights=(0.3, 0.7)."
    }
    assert found.statistics == "recomputed on all images"


def test_each_is_measured_as_by_hand(found):
    first, second = networks()
    assert row_of(found, "network 1").on["data of network 2"] == evaluate(first, DATA[1])
    assert row_of(found, "each alone, on its own data").on["data of network 2"] == evaluate(second, DATA[1])
    merged = merge([first, second], "regmean", images=IMAGES)
    assert row_of(found, "regmean").on["data of network 1"] == evaluate(merged, DATA[0])
    with torch.no_grad():
        right = (first.eval()(inputs(1)) + second.eval()(inputs(1))).argmax(1) == classes(1)
    assert row_of(found, "ensemble").on["data of network 1"].accuracy == pytest.approx(float(right.double().mean()))
    assert {*found.lines} == {*found.datasets}
    tasks = merge([first, second], "emr", images=IMAGES, base=seeded(Trunk, 0))
    assert row_of(found, "emr").on["data of network 2"] == evaluate(tasks.for_task(1), DATA[1])


def test_what_is_no_merge_is_marked_and_stands_apart(found, tmp_path):
    kinds = [row.what for row in found.table.rows]
    assert {row.name for row in found.rows if row.what == "task known"} == {"emr", "tall-masks", "surgery"}
    assert kinds == sorted(kinds, key=["alone", "merged", "task known", "ensemble"].index)
    assert any(note.startswith("“task known” is no merge") for note in found.table.notes)
    assert "“task known” is no merge" in found.page(tmp_path / "page.html").read_text()
    assert {row["what"] for row in found.to_json()["rows"]} == {*kinds}
    assert "\nemr,task known," in as_csv(found.table)
    assert not any("task known" in note for note in compare(networks(), DATA, methods=["average"]).table.notes)


def test_the_task_is_known_where_each_network_has_data_of_its_own():
    base = seeded(Trunk, 0)
    found = compare(networks(), [("x", DATA[0]), ("y", DATA[1])], methods=["emr"], base=base)
    assert found.datasets == ("x", "y")
    assert {*row_of(found, "emr").on} == {"x", "y"}
    found = compare(networks(), {"x": DATA[0], "y": DATA[1]}, methods=["average", "emr"], base=base)
    assert found.left_out["emr"].startswith("emr has to know which network's data an input is of")


def test_it_is_a_table_for_everybody(found, tmp_path):
    table = found.table
    means = [row.mean for row in table.rows if row.what == "merged"]
    assert means == sorted(means, reverse=True)
    assert rich_table(table).row_count == len(found.rows)
    assert as_csv(table).splitlines()[0] == (
        "network,what,data of network 1,data of network 2,mean,seconds,data of network 1.loss,data of network 2.loss"
    )
    page = found.page(tmp_path / "deep" / "networks.html").read_text()
    assert "Along the line from network 1 to network 2" in page
    assert "Left out: weighted takes one weight" in page
    assert not any(word in page for word in ('src="http', "<link", "<script", "@import"))
    (tmp_path / "results.json").write_text(json.dumps(found.to_json()))
    assert read_result(tmp_path / "results.json") == found
    assert "regmean" in write_networks_report(tmp_path).read_text()


def test_what_is_missing_is_said_of_each_method():
    found = compare({"a": seeded(Trunk, 1), "b": seeded(Trunk, 2), "c": seeded(Trunk, 3)}, loader())
    assert found.networks == ("a", "b", "c")
    assert found.datasets == ("data",)
    assert found.lines == {}
    assert found.left_out["ties"].startswith("ties works on differences")
    assert found.left_out["fisher"].startswith("fisher looks at images")
    assert found.left_out["slerp"] == "slerp takes 2 networks, not 3."
    assert found.statistics.startswith("the mean of the networks' own")
    assert [column.head for column in found.table.on("terminal")] == ["network", "what", "data", "seconds"]


def test_methods_are_called_by_what_was_set():
    found = compare(
        networks(), {"x": loader()}, methods=["average", TIES(density=0.5), TIES(density=1.0)], base=seeded(Trunk, 0)
    )
    assert [row.name for row in found.rows][2:-1] == ["average", "ties (density=0.5)", "ties (density=1.0)"]
    assert found.left_out == {}


def test_networks_with_heads_are_measured_with_their_own():
    pair = [seeded(Trunk, 1, 3), seeded(Trunk, 2, 7)]
    data = [loader(1, of=3), loader(2, of=7)]
    before = snapshot(*pair)
    found = compare(pair, data, keep="head.*", methods=["average", "weight-matching", "side-by-side"])
    assert same(snapshot(*pair), before)
    assert [row.name for row in found.rows] == ["each alone, on its own data", "average", "weight-matching"]
    assert "side-by-side makes a network of another architecture" in found.left_out["side-by-side"]
    task = merge(pair, keep="head.*").for_task(1)
    assert row_of(found, "average").on["data of network 2"] == evaluate(task, data[1])
    assert "Each network keeps head.* for itself, and is measured with its own." in found.table.notes


def test_any_metric_and_any_batch(tmp_path):
    pair = [seeded(AnswersAnObject, seed) for seed in (1, 2)]
    batches = [("id", inputs(), inputs(1, size=4))]
    found = compare(
        pair,
        {"rows": batches},
        forward=lambda net, batch: net(batch[1]).logits,
        metric=lambda outputs, targets: -(outputs - targets).square().mean(),
        methods=["average"],
    )
    assert row_of(found, "average").on["rows"].value < 0
    assert "network 1" in found.page(tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": [loader()]}, "data= takes a loader for each of the 2 networks in a list, not 1"),
        ({"data": {"x": loader()}, "keep": "head.*"}, "with keep= each network has a head of its own"),
        ({"data": iter([])}, "data= holds an iterator"),
        ({"images": [iter([]), loader()]}, "images= holds an iterator"),
        ({"images": [loader()]}, "images= takes a loader for each of the 2 networks"),
        ({"methods": ["tise"]}, "did you mean 'ties'"),
    ],
)
def test_what_makes_no_comparison_is_one_sentence(change, words):
    with pytest.raises(UsageError, match=words):
        compare(networks(), **{"data": DATA, **change})


def test_networks_that_differ_are_said_once():
    with pytest.raises(ArchitectureError, match=r"'head.weight' is \[4, 5\] float64 in network 1 and \[7, 5\]"):
        compare([seeded(Trunk, 1), seeded(Trunk, 2, 7)], DATA)


def test_a_page_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the folder"):
        NetworksResult.page(None, tmp_path / "file" / "networks.html")


def test_the_page_says_whose_statistics_the_line_has(found, tmp_path):
    page = found.page(tmp_path / "with.html").read_text()
    assert "both ends included, batch-norm statistics are recomputed" in page
    plain = compare(networks(), DATA, methods=["average"])
    assert plain.lines["data of network 1"].recalibrated is False
    page = plain.page(tmp_path / "without.html").read_text()
    assert "Batch-norm statistics lie on the line" in page
    dry = compare([seeded(AnswersAnObject, seed) for seed in (1, 2)], {"x": loader()}, methods=["average"])
    assert dry.lines["x"].recalibrated is None
    assert "tatistics" not in dry.page(tmp_path / "dry.html").read_text()


def test_a_dataset_has_one_colour_on_the_page(found):
    (_, _, dots), (_, _, line) = networks_page._figures(found)
    used = list(itertools.islice(line_styles(), 3))
    for picture in (dots, line):
        assert all(style["color"] in picture for style in used[:2])
        assert used[2]["color"] not in picture


def test_where_no_method_merges_there_is_no_comparison():
    with pytest.raises(UsageError, match=r"no method merges these networks: regmean looks at .*images=.* ties works"):
        compare(networks(), DATA, methods=["regmean", "ties"])
    partly = compare(networks(), DATA, methods=["regmean", "average"])
    assert {*partly.left_out} == {"regmean"}
    assert compare(networks(), DATA, methods=[]).rows[-1].name == "ensemble"


def test_nan_among_the_data_is_an_error_of_that_data():
    bad = inputs(1)
    bad[3, 0] = torch.nan
    with pytest.raises(DivergenceError, match="sick: a network answers with NaN"):
        compare(networks(), {"well": DATA[0], "sick": [(bad, classes(1))]}, methods=["average"])
    images = [IMAGES[0], [bad]]
    with pytest.raises(DivergenceError, match="images of network 2: running_mean of a batch norm becomes NaN"):
        merge(networks(), images=images)
    with pytest.raises(DivergenceError, match="running_mean of a batch norm becomes NaN"):
        compare(networks(), DATA, images=images, methods=["side-by-side"])
    trio, data = [seeded(Trunk, seed) for seed in (1, 2, 3)], {"x": loader()}
    left_out = compare(trio, data, images=[*images, loader()], methods=["average", "side-by-side"]).left_out
    assert "NaN" in left_out["average"]


def test_a_metric_that_is_no_number_is_no_result():
    with pytest.raises(DivergenceError, match="data of network 1: metric= answers with NaN, which is no result"):
        compare(networks(), DATA, methods=["average"], metric=lambda outputs, targets: math.nan)


def test_what_is_said_of_many_methods_is_said_once():
    found = compare(networks(), {"x": loader()}, methods=["ties", "average", "dare", "fisher", "magmax"])
    assert found.table.notes[:2] == (
        "Left out: ties, dare, magmax. Each works on differences from a common start: give it as base=.",
        "Left out: fisher looks at images of each network's data: give a loader for each as images=[…].",
    )
