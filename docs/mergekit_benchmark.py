"""`metasum merge CONFIG.yml` beside mergekit on the same files: each method's seconds of one thread, in one process.

    python docs/mergekit_benchmark.py --folder /tmp/llamas --layers 8 --dtype bfloat16

Needs mergekit beside this Python. Makes a base and two models near it in the folder, and merges them by every method,
in turns. Seconds are the processor's, so that other processes on the machine count less.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import click
import torch
import yaml
from safetensors.torch import save_file

from metasum.merging.mergekit.merging import merge_config
from metasum.merging.mergekit.methods import RECIPES

HIDDEN, INNER, WORDS = 512, 1408, 8000


def make(folder: Path, layers: int, dtype: torch.dtype) -> None:
    """A base, a and b."""
    each = {f"self_attn.{side}_proj": (HIDDEN, HIDDEN) for side in "qkvo"}
    each |= {"mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}
    shapes = {f"model.layers.{n}.{name}.weight": shape for n in range(layers) for name, shape in each.items()}
    shapes |= {f"model.layers.{n}.{side}_layernorm.weight": (HIDDEN,) for n in range(layers) for side in NORMS}
    shapes |= {"model.embed_tokens.weight": (WORDS, HIDDEN), "lm_head.weight": (WORDS, HIDDEN)}
    shapes["model.norm.weight"] = (HIDDEN,)
    start = {name: 0.02 * torch.randn(shape) for name, shape in shapes.items()}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "vocab_size": WORDS}
    config |= {"intermediate_size": INNER, "num_attention_heads": 8, "num_hidden_layers": layers}
    for number, name in enumerate(("base", "a", "b")):
        own = {k: (v + 0.002 * number * torch.randn(v.shape)).to(dtype) for k, v in start.items()}
        (folder / name).mkdir(parents=True)
        save_file(own, folder / name / "model.safetensors", metadata={"format": "pt"})
        (folder / name / "config.json").write_text(json.dumps(config))


NORMS = ("input", "post_attention")


def asked(folder: Path, method: str, layers: int) -> dict[str, object]:
    """A file's content; every density is 0.5."""
    models = [str(folder / name) for name in ("a", "b")]
    if method == "passthrough":
        slices = [{"sources": [{"model": model, "layer_range": [0, layers]}]} for model in models]
        return {"merge_method": method, "slices": slices}
    recipe = RECIPES[method]
    found: dict[str, object] = {"merge_method": method}
    values = {"weight": 0.5, "density": 0.5, "t": 0.4, "select_topk": 0.5}
    found["parameters"] = {own.name: values[own.name] for own in recipe.parameters if own.name in values}
    if recipe.base == "needed":
        found["base_model"] = str(folder / "base")
    if recipe.base_first:
        models = models[:1]
    return found | {"models": [{"model": model} for model in models]}


def seconds(work: Callable[[], object]) -> float:
    """That the processor works."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", default=",".join(RECIPES), help="some of them, separated by commas")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["HF_HUB_OFFLINE"] = "1"
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    torch.set_num_threads(1)
    make(given.folder, given.layers, getattr(torch, given.dtype))
    options = MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False)
    file, ours, theirs = (given.folder / name for name in ("c.yml", "ours", "theirs"))
    click.echo(f"{'method':<18}{'metasum':>9}{'mergekit':>10}{'ratio':>8}")
    for method in given.methods.split(","):
        content = asked(given.folder, method, given.layers)
        file.write_text(yaml.safe_dump(content))
        pairs = []
        for _ in range(given.repeats):
            for output in (ours, theirs):
                shutil.rmtree(output, ignore_errors=True)
            own = seconds(lambda: merge_config(file, ours, threads=1))
            config = MergeConfiguration.model_validate(content)
            pairs.append((own, seconds(lambda config=config: run_merge(config, str(theirs), options))))
        mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
        click.echo(f"{method:<18}{mine:>9.2f}{other:>10.2f}{other / mine:>8.1f}")


if __name__ == "__main__":
    main()
