"""The report: one file, every figure, harmless whatever the data is called."""

import shutil
import subprocess
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


def test_one_file_with_every_figure_and_nothing_to_fetch(finished):
    text = (finished / "report.html").read_text()
    page = Page(text)
    assert page.tags.count("figure") == page.tags.count("svg") == 7
    assert "script" not in page.tags
    assert all(source.startswith("data:image/png;base64,") for source in page.fetched)
    assert page.tags.count("img") > 0, "images that the sum gets wrong"
    assert "url(http" not in text
    assert "@import" not in text
    for words in ("rows", "lines", "before", "after the sum", "prefers-color-scheme: dark", "width=device-width"):
        assert words in text
    assert "currentColor" in text
    assert "#010203" not in text, "ink is the page's"


def test_a_hostile_name_is_text(metasum, tiny, tmp_path):
    name = "<script>alert(1)<&x\"'>y"
    register_dataset(name, blob_arrays)
    outcome = metasum("train", *tiny, "--support", name, "--report")
    assert outcome.code == 0, outcome.err
    (path,) = (tmp_path / "runs").rglob("report.html")
    text = path.read_text()
    assert "script" not in Page(text).tags
    assert "<script>alert" not in text


def test_the_report_can_be_redrawn_and_is_the_same(metasum, finished):
    path = finished / "report.html"
    text = path.read_text()
    path.unlink()
    outcome = metasum("report", path.parent)
    assert outcome.code == 0
    assert str(path) in outcome.out
    assert path.read_text() == text


def test_a_run_without_an_analysis_says_so(metasum, finished):
    run = finished.parent / "independent-seed0"
    assert not (run / "analysis.json").exists()
    assert metasum("report", run).code == 0
    text = (run / "report.html").read_text()
    assert Page(text).tags.count("figure") == 4
    assert "made without a report" in text


def test_a_merging_run_has_the_layers_of_its_endpoints_and_no_curves(metasum, tiny, tmp_path):
    flags = [flag for flag in tiny if flag != "--no-report"]
    assert metasum("compare-baselines", *flags, "--learners", "independent,ties", "--no-tune", "--seeds", 1).code == 0
    run = tmp_path / "runs" / "rows+lines" / "ties-seed0"
    assert metasum("report", run, run.parent / "comparison").code == 0
    text = (run / "report.html").read_text()
    assert Page(text).tags.count("figure") == 2
    assert "were taken from" in text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_shows_every_figure_and_complains_of_nothing(metasum, tiny, tmp_path, theme):
    register_dataset("<script>alert(1)<", blob_arrays)
    flags = [flag for flag in tiny if flag not in ("--no-report", "rows")]
    flags.insert(flags.index("--target") + 1, "<script>alert(1)<")
    outcome = metasum("compare-baselines", *flags, "--learners", "metasum,ties", "--no-tune", "--seeds", 1)
    assert outcome.code == 0, outcome.err
    pages = sorted((tmp_path / "runs").rglob("report.html"))
    assert [page.parent.name for page in pages] == ["comparison", "metasum-seed0"]
    for page in pages:
        dark = ["--blink-settings=preferredColorScheme=0"] if theme == "dark" else []
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *dark]
        command += [
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=2000",
            "--dump-dom",
            page.as_uri(),
        ]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
        assert ":CONSOLE" not in shown.stderr
        dom = Page(shown.stdout)
        assert dom.tags.count("svg") == dom.tags.count("figure") == Page(page.read_text()).tags.count("figure") > 3
        assert "script" not in dom.tags


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


def test_meta_training_has_a_report_of_its_own(metasum, data_root, tmp_path):
    flags = ("--meta-batch-size", 4, "--inner-steps", 1, "--width", 0.04, "--evaluate-every", 1, "--device", "cpu")
    place = ("--data-root", data_root, "--out", tmp_path / "runs", "--name", "m")
    outcome = metasum("meta-train", "--meta-datasets", "rows", "--meta-steps", 2, "--log-every", 1, *flags, *place)
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "runs" / "meta" / "m"
    page = Page((folder / "report.html").read_text())
    assert page.tags.count("figure") == 2
    (folder / "report.html").unlink()
    assert metasum("report", folder).code == 0
    assert (folder / "report.html").is_file()
