"""The reference: every public name is on it, with an example that is Python and, where it needs no run, works."""

import ast
import doctest
import importlib.util
import inspect
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import images, labels, small_network
from torch import nn
from torch.nn.functional import cross_entropy

import metasum

ROOT = Path(__file__).parents[2]
NEED_A_RUN = {"Request", "SumRequest", "load_network", "sum_runs", "sweep", "train"}


def example_of(name):
    """The lines behind the prompts of a public name's docstring."""
    found = doctest.DocTestParser().get_examples(inspect.getdoc(getattr(metasum, name)) or "")
    return "".join(example.source for example in found)


@pytest.mark.parametrize("name", metasum.__all__)
def test_every_public_name_has_an_example_that_uses_it(name):
    source = example_of(name)
    assert "\n    Example:\n" in "\n" + inspect.getsource(getattr(metasum, name)), "the site shows it as a section"
    if inspect.isfunction(getattr(metasum, name)):
        assert name in {getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(ast.parse(source))}


def headed(seed=0):
    """A small network whose last layer is called head."""
    *body, head = small_network(seed)
    return nn.Sequential(OrderedDict([*((str(place), layer) for place, layer in enumerate(body)), ("head", head)]))


def what_examples_know():
    batches = [(images(), labels()), (images(seed=3), labels(seed=3))]
    own = ("model", "network", "permuted", "merged")
    finished = ("first", "second", "net_a", "net_b", "digits", "letters")
    loaders = ("loader", "loader_a", "loader_b", "test_loader", "train_loader", "digit_loader", "letter_loader")
    loaders += ("test_a", "test_b", "train_a", "train_b")
    return {
        **{name: getattr(metasum, name) for name in metasum.__all__},
        "metasum": metasum,
        **{name: small_network(seed, norm=False) for seed, name in enumerate(("mlp_a", "mlp_b"))},
        "torch": torch,
        "nn": nn,
        "cross_entropy": cross_entropy,
        "images": images(),
        "x_t": images(seed=1),
        "x_s": images(seed=2),
        "labels": labels(),
        "y_t": labels(seed=1),
        "y_s": labels(seed=2),
        **{name: headed() for name in own},
        **{name: headed(seed) for seed, name in enumerate(finished)},
        **dict.fromkeys(loaders, batches),
    }


@pytest.mark.parametrize("name", sorted({*metasum.__all__} - NEED_A_RUN))
def test_examples_work(name, tmp_path, monkeypatch):
    """On small networks, loaders of a few images with labels, and three files, by the names that examples use."""
    monkeypatch.chdir(tmp_path)
    for seed, file in enumerate(("start", "a", "b")):
        save_file(headed(seed).state_dict(), tmp_path / f"{file}.safetensors")
    source = example_of(name)
    if name == "MetaSum":
        source = source.replace("nn.Linear(1024, 10)", "nn.Linear(64, 4).double()")
    if name == "SweepConfig":
        source = source.splitlines()[0]
    exec(compile(source, name, "exec"), what_examples_know())


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
