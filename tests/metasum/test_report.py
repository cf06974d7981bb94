"""The report: one file, every figure, harmless whatever the data is called."""

from html.parser import HTMLParser

import pytest
import torch
from tiny import blob_arrays

from metasum.tasks import register_dataset
from metasum.weights.geometry import layer_geometry


class Page(HTMLParser):
    """Counts elements and notes what would be fetched."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.fetched = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.fetched += [v for k, v in attributes if k in ("src", "href", "xlink:href") and not v.startswith("#")]


def page_of(metasum, tiny, tmp_path, *flags):
    outcome = metasum("train", *tiny, *flags, "--report")
    assert outcome.code == 0, outcome.err
    (path,) = (tmp_path / "runs").rglob("report.html")
    return path.read_text()


def test_one_file_with_every_figure_and_nothing_to_fetch(metasum, tiny, tmp_path):
    text = page_of(metasum, tiny, tmp_path)
    page = Page(text)
    assert page.tags.count("figure") == page.tags.count("svg") == 4
    assert "script" not in page.tags
    assert page.fetched == []
    assert "url(http" not in text
    assert "@import" not in text
    for words in ("rows", "lines", "before", "after the sum", "prefers-color-scheme: dark", "width=device-width"):
        assert words in text
    assert "currentColor" in text
    assert "#010203" not in text, "ink is the page's"


@pytest.mark.parametrize("name", ["<script>alert(1)<", "a&b", "x\"'>y"])
def test_a_hostile_name_is_text(metasum, tiny, tmp_path, name):
    register_dataset(name, blob_arrays)
    text = page_of(metasum, tiny, tmp_path, "--support", name)
    assert "script" not in Page(text).tags
    assert "<script>alert" not in text


def test_the_report_can_be_redrawn_and_is_the_same(metasum, tiny, tmp_path):
    text = page_of(metasum, tiny, tmp_path)
    (path,) = (tmp_path / "runs").rglob("report.html")
    path.unlink()
    outcome = metasum("report", path.parent)
    assert outcome.code == 0
    assert str(path) in outcome.out
    assert path.read_text() == text


def test_layer_geometry_against_the_definition():
    first = {"a.weight": torch.tensor([[3.0, 0.0]]), "a.bias": torch.ones(2), "z.weight": torch.zeros(1, 2)}
    second = {"a.weight": torch.tensor([[1.0, 1.0]]), "a.bias": torch.ones(2), "z.weight": torch.ones(1, 2)}
    layer, zero = layer_geometry(first, second)
    assert layer.name == "a"
    assert layer.cosine == pytest.approx(0.5**0.5)
    assert layer.norm_ratio == pytest.approx(3 / 2**0.5)
    assert zero.cosine is None
    assert zero.norm_ratio == 0
    (scaled,) = layer_geometry({"w": 1e-30 * torch.ones(2, 2)}, {"w": torch.ones(2, 2)})
    assert scaled.cosine == pytest.approx(1), "tiny weights are weights"
