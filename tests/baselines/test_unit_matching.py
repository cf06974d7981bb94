"""Weight matching of checkpoint files: the hidden units of MLP blocks, found by their names, whatever the layout."""

import subprocess
import sys
import textwrap
from unittest import mock

import pytest
import torch
from checkpoints import save
from refusal import refused
from safetensors.torch import load_file
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import gelu, silu

from metasum import MergeConfig, merge_files
from metasum.baselines.mlp_blocks import blocks_in
from metasum.baselines.unit_matching import UnitMatching
from metasum.errors import ArchitectureError
from metasum.merging.memory import merge_parameters
from metasum.merging.tensors import Part

WIDTH, HIDDEN = 6, 10


def drawn(shapes, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {name: (torch.randn(shape, generator=generator) / 2).to(dtype) for name, shape in shapes.items()}


def linear(one, two, rows, columns, bias=True):
    biases = {f"{one}.bias": (rows,), f"{two}.bias": (columns,)} if bias else {}
    return {f"{one}.weight": (rows, columns), f"{two}.weight": (columns, HIDDEN), **biases}


GATED = {"gate_proj.weight": (HIDDEN, WIDTH), "up_proj.weight": (HIDDEN, WIDTH), "down_proj.weight": (WIDTH, HIDDEN)}
SHAPES = {
    "llama": GATED,
    "fused": {"gate_up_proj.weight": (2 * HIDDEN, WIDTH), "down_proj.weight": (WIDTH, HIDDEN)},
    "gpt-2": {
        "c_fc.weight": (WIDTH, HIDDEN),
        "c_fc.bias": (HIDDEN,),
        "c_proj.weight": (HIDDEN, WIDTH),
        "c_proj.bias": (WIDTH,),
    },
    "gpt-2 without bias": {"c_fc.weight": (WIDTH, HIDDEN), "c_proj.weight": (HIDDEN, WIDTH)},
    "gpt-2's names": linear("c_fc", "c_proj", HIDDEN, WIDTH),
    "opt": linear("fc1", "fc2", HIDDEN, WIDTH),
    "t5": linear("wi", "wo", HIDDEN, WIDTH, bias=False),
    "t5 1.1": {"wi_0.weight": (HIDDEN, WIDTH), "wi_1.weight": (HIDDEN, WIDTH), "wo.weight": (WIDTH, HIDDEN)},
    "neox": linear("dense_h_to_4h", "dense_4h_to_h", HIDDEN, WIDTH),
    "mixtral": {"w1.weight": (HIDDEN, WIDTH), "w3.weight": (HIDDEN, WIDTH), "w2.weight": (WIDTH, HIDDEN)},
    "bert": linear("intermediate.dense", "output.dense", HIDDEN, WIDTH),
    "torch": linear("linear1", "linear2", HIDDEN, WIDTH),
}
BESIDE = {"ln.weight": (WIDTH,), "attn.c_proj.weight": (WIDTH, WIDTH), "attention.output.dense.weight": (WIDTH, WIDTH)}


def decoder(kind, seed=0, dtype=torch.float32):
    """Two blocks, and what is no MLP."""
    shapes = {"embed.weight": (17, WIDTH)}
    for layer in range(2):
        shapes |= {f"h.{layer}.{name}": shape for name, shape in BESIDE.items()}
        shapes |= {f"h.{layer}.mlp.{name}": shape for name, shape in SHAPES[kind].items()}
    return drawn(shapes, seed, dtype)


def transposed(kind):
    return kind in ("gpt-2", "gpt-2 without bias")


def axis_of(kind, name):
    """Along which of a tensor's axes hidden units are; None where there are none."""
    layer, _, part = name.rpartition(".")
    if "mlp" not in name or f"{layer.split('.mlp.')[1]}.weight" not in SHAPES[kind]:
        return None
    reads = layer.rpartition(".")[2] in ("down_proj", "c_proj", "fc2", "wo", "dense_4h_to_h", "w2", "linear2")
    reads |= layer.endswith("output.dense")
    if part == "bias":
        return None if reads else 0
    return int(reads != transposed(kind))


def shuffled(kind, state, seed=3):
    """The same network, the hidden units of each block in another order."""
    moved = dict(state)
    for layer in range(2):
        order = torch.randperm(HIDDEN, generator=torch.Generator().manual_seed(seed + layer))
        for name, tensor in state.items():
            axis = axis_of(kind, name) if name.startswith(f"h.{layer}.") else None
            if axis is not None:
                index = torch.cat([order, order + HIDDEN]) if tensor.shape[axis] == 2 * HIDDEN else order
                moved[name] = tensor.index_select(axis, index)
    return moved


def run(kind, state, x):
    """Both blocks on `[n, width]`, each added to the stream, written by hand."""
    for layer in range(2):
        own = {name.split(".mlp.")[1]: t.float() for name, t in state.items() if name.startswith(f"h.{layer}.mlp.")}
        weights = {name.rpartition(".")[0]: tensor for name, tensor in own.items() if name.endswith("weight")}
        weights = {name: tensor.T if transposed(kind) else tensor for name, tensor in weights.items()}
        last = next(name for name, matrix in weights.items() if len(matrix) == WIDTH)
        writers = [name for name in weights if name != last]
        hidden = [x @ weights[name].T + own.get(f"{name}.bias", torch.tensor(0.0)) for name in writers]
        if kind == "fused":
            hidden = hidden[0].chunk(2, dim=-1)
        hidden = silu(hidden[0]) * hidden[1] if len(hidden) == 2 else gelu(hidden[0])
        x = x + hidden @ weights[last].T + own.get(f"{last}.bias", torch.tensor(0.0))
    return x


def merged(states, folder, **settings):
    files = [save(folder / f"{number}.safetensors", state) for number, state in enumerate(states)]
    merge_files("weight-matching", files, folder / "out.safetensors", settings=MergeConfig(**settings), overwrite=True)
    return load_file(folder / "out.safetensors")


@pytest.mark.parametrize("kind", SHAPES)
def test_permuted_units_come_back(tmp_path, kind):
    first = decoder(kind)
    second = shuffled(kind, first)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    x = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(run(kind, second, x), run(kind, first, x))
    result = merged([first, second], tmp_path)
    for name, tensor in first.items():
        torch.testing.assert_close(result[name], tensor)
    torch.testing.assert_close(run(kind, result, x), run(kind, first, x))


@pytest.mark.parametrize("kind", ["llama", "gpt-2", "fused", "opt"])
def test_three_networks_against_the_formula_written_plainly(tmp_path, kind):
    states = [decoder(kind, seed) for seed in range(3)]
    expected = [dict(state) for state in states]
    for layer in range(2):
        names = [name for name in states[0] if name.startswith(f"h.{layer}.") and axis_of(kind, name) is not None]
        for own in expected[1:]:
            rows = {name: [s[name].movedim(axis_of(kind, name), 0) for s in (states[0], own)] for name in names}
            parts = [[t.reshape(-1, HIDDEN, t.shape[1:].numel()) for t in pair] for pair in rows.values()]
            gain = sum(a @ b.T for one, two in parts for a, b in zip(one, two, strict=True))
            order = torch.from_numpy(linear_sum_assignment(gain.double().numpy(), maximize=True)[1])
            for name in names:
                axis = axis_of(kind, name)
                many = own[name].shape[axis] // HIDDEN
                own[name] = own[name].index_select(axis, torch.cat([order + k * HIDDEN for k in range(many)]))
    result = merged(states, tmp_path)
    for name in states[0]:
        torch.testing.assert_close(result[name], sum(own[name] for own in expected) / 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("threads", [1, 3])
def test_files_and_memory_give_the_same_bits(tmp_path, dtype, threads):
    states = [decoder("llama", seed, dtype) for seed in range(3)]
    with mock.patch("metasum.merging.disk.sections.LARGEST_SPAN", 7):
        result = merged(states, tmp_path, threads=threads)
    for name, tensor in merge_parameters(UnitMatching(), states).items():
        assert torch.equal(result[name], tensor)
    assert list(result) == sorted(states[0])


def test_equal_files_stay_as_they_are(tmp_path):
    state = decoder("gpt-2")
    state = {name: torch.zeros_like(tensor) if "h.1" in name else tensor for name, tensor in state.items()}
    for name, tensor in merged([state, state], tmp_path).items():
        assert torch.equal(tensor, state[name])


def test_it_is_never_further_from_the_first_than_the_average_is(tmp_path):
    states = [decoder("t5", seed) for seed in range(2)]
    result, plain = merged(states, tmp_path), merge_parameters(UnitMatching().__class__(), states)
    apart = sum(float((result[name] - states[0][name]).square().sum()) for name in result)
    average = sum(float(((states[1][name] - states[0][name]) / 2).square().sum()) for name in plain)
    assert apart < average


def test_what_is_left_out_stays_the_first_files_and_fits_what_is_merged(tmp_path):
    first = decoder("llama")
    result = merged([first, shuffled("llama", first)], tmp_path, skip=("*gate_proj*",))
    for name, tensor in first.items():
        torch.testing.assert_close(result[name], tensor)


def parts(**shapes):
    return [Part(name, shape, torch.float32) for name, shape in shapes.items()]


def test_blocks_that_cannot_be_told_are_refused():
    mlp = {f"mlp.{name}": shape for name, shape in GATED.items()}
    assert [(block.name, block.size) for block in blocks_in(parts(**mlp))] == [("mlp.", HIDDEN)]
    with pytest.raises(ArchitectureError, match=r"'mlp.norm.weight', \[10\], is beside 'mlp.down_proj.weight'"):
        blocks_in(parts(**mlp, **{"mlp.norm.weight": (HIDDEN,)}))
    with pytest.raises(ArchitectureError, match=r"'mlp.up_proj.weight', \[9, 6\], and 'mlp.down_proj.weight'"):
        blocks_in(parts(**mlp | {"mlp.up_proj.weight": (9, WIDTH)}))
    with pytest.raises(ArchitectureError, match=r"'mlp.up_proj.weight', \[30, 6\]"):
        blocks_in(parts(**mlp | {"mlp.up_proj.weight": (30, WIDTH)}))
    blocks_in(parts(**mlp, **{"self_attn.norm.weight": (HIDDEN,)}))


def test_files_without_a_block_are_refused_in_a_sentence(metasum, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a", "b")):
        save(tmp_path / f"{name}.safetensors", drawn({"c_proj.weight": (4, 4), "head.weight": (3, 4)}, seed))
    outcome = metasum("merge", "weight-matching", "a.safetensors", "b.safetensors", "-o", "out.safetensors")
    refused(outcome, 1, "there is no MLP block to be matched", "gate_proj, up_proj, gate_up_proj beside down_proj")
    assert not (tmp_path / "out.safetensors").exists()
    metasum_help = metasum("merge", "--help").out
    assert metasum_help.count("weight-matching  ") == 2  # for files, and with --model


MEMORY = textwrap.dedent("""
    import re, sys
    from pathlib import Path
    import numpy.random, scipy.optimize, torch
    peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
    torch.set_num_threads(1)
    before = peak()
    from metasum import MergeConfig, merge_files
    merge_files("weight-matching", sys.argv[1:], "out.safetensors", overwrite=True, settings=MergeConfig(threads=2))
    print(peak() - before)
""")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_holds_a_block_and_not_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shapes = {f"h.{k}.mlp.fc{n}.weight": s for k in range(24) for n, s in ((1, (512, 2048)), (2, (2048, 512)))}
    first = drawn(shapes | {"embed.weight": (40_000, 1024)}, 0)
    files = [save(tmp_path / f"{number}.safetensors", first) for number in range(2)]
    run = subprocess.run([sys.executable, "-c", MEMORY, *map(str, files)], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 100e6 < sum(tensor.nbytes for tensor in first.values()) / 3
