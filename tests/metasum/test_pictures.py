"""Pictures of things that users name: names of any length leave the axes their room."""

import re

import pytest

from metasum.few_shot.page import _lines
from metasum.report.canvas import LONGEST, short
from metasum.report.figures import accuracy_dots, layer_figures, line_curves, sum_curves
from metasum.results.accuracy import Spread
from metasum.results.pictures import LayerGeometry
from metasum.sweeps.page import _bars, parallel_coordinates

COUNT = 4


def names(length):
    """Paths that begin and end alike, as those of checkpoints do."""
    return [f"/models/{place}{'x' * length}/seed{place}/model.pt" for place in range(COUNT)]


def dots(names):
    rows = {name: {on: Spread(0.5, 0.1) for on in names} for name in names}
    return accuracy_dots(rows, series={name: f"on {name}" for name in names})


def curves(names):
    return line_curves({name: ([0.0, 1.0], [0.5, 0.6]) for name in names}, ends=(names[0], names[1]))


def layers(names):
    found = [LayerGeometry(name=name, cosine=0.1, norm_ratio=1.0) for name in names]
    return layer_figures(dict.fromkeys(names, found), "two", angle="", length="", ratio="a / b")[0][2]


PICTURES = {
    "dots": dots,
    "line": curves,
    "layers": layers,
    "sum over steps": lambda names: sum_curves({name: ([0, 100], [0.5, 0.6]) for name in names}),
    "few-shot": lambda names: _lines({name: [(0, 0.5), (100, 0.6)] for name in names}, "step"),
    "bars": lambda names: _bars(dict.fromkeys(names, 0.25)),
    "coordinates": lambda names: parallel_coordinates(
        [dict.fromkeys(names, name) | {"score": 0.5} for name in names], [*names, "score"], best_high=True
    ),
}


@pytest.mark.parametrize("picture", PICTURES)
def test_long_names_are_shortened_and_the_axes_keep_their_room(picture):
    drawn = PICTURES[picture](names(300))  # a warning that the axes collapsed would be an error here
    texts = re.findall(r"<text[^>]*>(.*?)</text>", drawn, re.S)
    assert texts, picture
    assert max(map(len, texts)) <= 2 * LONGEST + 20, picture
    assert all(short(name) in drawn for name in names(300)[:2]), picture


@pytest.mark.parametrize("picture", PICTURES)
def test_short_names_stay(picture):
    drawn = PICTURES[picture](["rows", "lines", "mnist-and-svhn", "a/b"])
    assert "…" not in drawn
    assert all(name in drawn for name in ("rows", "lines")), picture


def test_shortened_names_differ_where_the_names_do():
    assert len({short(name) for name in names(300)}) == COUNT
    assert all(len(short(name)) == LONGEST for name in names(300))
