"""The reference: every public name is on it, with an example that is Python and, where it needs no run, works."""

import ast
import doctest
import importlib.util
import inspect
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import images, labels, small_network
from torch.nn.functional import cross_entropy

import metasum

ROOT = Path(__file__).parents[2]
# Those whose examples need nothing but two small networks, a batch of images with labels, and three files.
AT_ONCE = {
    *("MetaSum", "MergeConfig", "SumRequest", "SweepConfig", "average_parameters", "functional_call", "merge_files"),
    *("recalibrate", "settings", "sum_parameters"),
}


def example_of(name):
    """The lines behind the prompts of a public name's docstring."""
    found = doctest.DocTestParser().get_examples(inspect.getdoc(getattr(metasum, name)) or "")
    return "".join(example.source for example in found)


@pytest.mark.parametrize("name", metasum.__all__)
def test_every_public_name_has_an_example_that_uses_it(name):
    source = example_of(name)
    assert "\n    Example:\n" in "\n" + inspect.getsource(getattr(metasum, name)), "the site shows it as a section"
    if name != "Request":  # which `settings` makes
        used = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
        assert name in used


@pytest.mark.parametrize("name", sorted(AT_ONCE))
def test_examples_work(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, file in enumerate(("start", "a", "b")):
        save_file({**small_network(seed).state_dict(), "head.weight": torch.ones(2)}, tmp_path / f"{file}.safetensors")
    batch = {"images": images(), "x_t": images(seed=1), "x_s": images(seed=2)}
    known = {"labels": labels(), "y_t": labels(seed=1), "y_s": labels(seed=2), "cross_entropy": cross_entropy}
    networks = {"model": small_network(), "first": small_network(1), "second": small_network(2)}
    public = {each: getattr(metasum, each) for each in metasum.__all__}
    source = example_of(name)
    if name == "MetaSum":
        source = source.replace("nn.Linear(1024, 10)", "nn.Linear(64, 4).double()")
    if name == "SweepConfig":
        source = source.splitlines()[0]
    exec(compile(source, name, "exec"), {"torch": torch, "nn": torch.nn, **batch, **known, **networks, **public})


def test_the_reference_page_has_every_public_name():
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site_pages.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    text = pages.reference()
    for name in metasum.__all__:
        assert f"::: {pages.HOMES[name]}.{name}" in text
    assert "| `skip` | `()` |" in text
    assert pages.PLACE in (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


def test_every_page_is_on_the_site():
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert pages == set(re.findall(r"[\w-]+\.md", settings[settings.index("nav:") : settings.index("validation:")]))
