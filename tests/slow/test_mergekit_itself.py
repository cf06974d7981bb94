"""`metasum merge CONFIG.yml` against mergekit itself, in this process, on tiny models. Its import takes long."""

import json
from pathlib import Path

import pytest
import torch
from llamas import family
from mergekit_runs import CONFIGS, mergekits, text_of
from safetensors.torch import load_file

from metasum.merging.mergekit.merging import merge_config
from metasum.merging.mergekit.methods import RECIPES

pytestmark = pytest.mark.slow
SELECTING = ("ties", "breadcrumbs", "sce selected", "della")
"""Of entries alike in size, many in bfloat16, mergekit keeps (or ranks high) some, metasum all (or the later ones)."""


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def both(name: str, *, models: torch.dtype, dtype: str = "") -> tuple[dict, dict]:
    """What metasum and mergekit make of one file."""
    family(Path(), dtype=models)
    Path("c.yml").write_text(text_of(name, dtype))
    merge_config("c.yml", "ours")
    theirs = mergekits(text_of(name, dtype), Path("theirs"))
    ours = load_file("ours/model.safetensors")
    assert ours.keys() == theirs.keys()
    assert {name: tensor.dtype for name, tensor in ours.items()} == {name: own.dtype for name, own in theirs.items()}
    return ours, theirs


def test_every_method_is_among_the_files():
    text = "".join(map(text_of, CONFIGS))
    assert all(f"merge_method: {method}\n" in text for method in RECIPES)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_result_is_mergekits(name):
    ours, theirs = both(name, models=torch.float32)
    for tensor, own in ours.items():
        torch.testing.assert_close(own, theirs[tensor], atol=2.5e-7, rtol=1e-6, msg=lambda text: f"{tensor}: {text}")  # noqa: B023


@pytest.mark.parametrize("name", [name for name in CONFIGS if not name.startswith(SELECTING)])
def test_the_result_of_bfloat16_is_mergekits_in_float32(name):
    ours, theirs = both(name, models=torch.bfloat16, dtype="float32")
    for tensor, own in ours.items():
        torch.testing.assert_close(own, theirs[tensor], atol=2.5e-7, rtol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_most_of_bfloat16_is_mergekits(name):
    """It computes in bfloat16 there: entries are within its rounding, but for those that selections take apart."""
    ours, theirs = both(name, models=torch.bfloat16)
    differences = torch.cat([(ours[tensor] - own).float().abs().flatten() for tensor, own in theirs.items()])
    assert (differences > 0.03 * max(float(own.abs().max()) for own in theirs.values())).float().mean() < 0.01


def test_configurations_have_mergekits_layers_and_dtype():
    both("passthrough", models=torch.float32, dtype="bfloat16")
    ours, theirs = (json.loads(Path(folder, "config.json").read_text()) for folder in ("ours", "theirs"))
    assert ours["num_hidden_layers"] == theirs["num_hidden_layers"] == 5
    assert ours["torch_dtype"] == theirs.get("dtype", theirs.get("torch_dtype")) == "bfloat16"


def test_transformers_reads_the_folder():
    transformers = pytest.importorskip("transformers")
    family(Path())
    Path("c.yml").write_text(text_of("passthrough"))
    merge_config("c.yml", "ours")
    model = transformers.AutoModelForCausalLM.from_pretrained("ours")
    assert torch.equal(
        model.model.layers[3].mlp.up_proj.weight, load_file("b/model.safetensors")["model.layers.2.mlp.up_proj.weight"]
    )
    assert model(torch.arange(5)[None]).logits.isfinite().all()
