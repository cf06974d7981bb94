"""Merged files hold, bit for bit, what merging in memory gives, however they are cut and on however many threads."""

import dataclasses
import json
from unittest import mock

import pytest
import torch
from checkpoints import merged_in_memory, save, save_sharded, state_of
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import small_network

from metasum import merge_files
from metasum.merging import METHODS as METHODS_BY_NAME
from metasum.merging.disk.config import MergeConfig
from metasum.merging.draws import BLOCK, kept_entries
from metasum.merging.endpoints import Endpoint
from metasum.merging.kinds import statistics_among
from metasum.merging.memory import merge, merge_parameters
from metasum.merging.plain import Weighted
from metasum.merging.selection import Selection, just_below
from metasum.merging.tensors import TensorMethod
from metasum.networks.build import load_network
from metasum.weights.composition import average_parameters

WRITTEN_DOWN = {  # methods that the fixtures have in plain words, bit for bit
    "sum": {},
    "average": {},
    "weighted": {"weights": (0.3, 1.3)},
    "slerp": {},
    "task-arithmetic": {},
    "ties": {},
    "ties per-tensor": {"trim": "per-tensor"},
    "dare": {},
    "dare then ties": {"dare_then": "ties"},
}
METHODS = WRITTEN_DOWN | {
    "breadcrumbs": {},
    "breadcrumbs elected": {"elect": True, "density": 0.5, "outliers": 0.1},
    "della": {},
    "della added": {"elect": False},
    "sce": {},
    "sce selected": {"density": 0.3},
    "magmax": {},
    "model-stock": {},
    "tsv-m": {},
    "iso-c": {},
    "iso-cts": {},
    "consensus": {},
    "pcb": {},
    "wudi": {"wudi_steps": 3},
    "karcher": {},
    "multislerp": {},
    "multislerp weighted": {"weights": (1.0, 3.0)},
    "nuslerp": {"weights": (1.0, 3.0)},
    "nuslerp rows": {"vectors": "rows"},
    "nuslerp columns": {"vectors": "columns"},
}


def made(method, **settings):
    """The method of that name, with settings of its own, a seed, or layers."""
    return METHODS_BY_NAME.named(method.split()[0])(**METHODS[method] | settings)


def merged(method, files, output, *, piece=None, **settings):
    """The result of a merge, in as many threads and spans as the settings say."""
    names = {field.name for field in dataclasses.fields(MergeConfig)}
    config = MergeConfig(**{name: settings.pop(name) for name in names & settings.keys()})
    own = made(method, **settings)
    base = files[0].with_name("base.safetensors") if own.needs_base else None
    with mock.patch("metasum.merging.disk.sections.LARGEST_SPAN", piece or 1 << 17):
        merge_files(own, files, output, base=base, settings=config)
    return load_file(output)


def same(ours, theirs):
    assert list(ours) == list(ours | theirs)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert ours[name].shape == tensor.shape, name
        assert torch.equal(ours[name], tensor), name


@pytest.fixture
def files(tmp_path):
    for seed, name in enumerate(("base", "a", "b")):
        save(tmp_path / f"{name}.safetensors", state_of(seed))
    return [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]


@pytest.mark.parametrize("method", WRITTEN_DOWN)
@pytest.mark.parametrize(("threads", "piece"), [(1, None), (4, None), (1, 64), (4, 13)])
def test_the_same_bits_as_in_memory(tmp_path, files, method, threads, piece):
    result = merged(method, files, tmp_path / "out.safetensors", threads=threads, piece=piece)
    same(result, merged_in_memory(method, [state_of(1), state_of(2)], state_of(0)))


@pytest.mark.parametrize(
    ("method", "count"),
    [(method, 3) for method in WRITTEN_DOWN if method not in ("slerp", "weighted")]
    + [(method, 1) for method in ("task-arithmetic", "ties", "dare")],
)
def test_any_number_of_files(tmp_path, files, method, count):
    save(tmp_path / "c.safetensors", state_of(3))
    files = [*files, tmp_path / "c.safetensors"][:count]
    states = [state_of(seed) for seed in (1, 2, 3)][:count]
    result = merged(method, files, tmp_path / "out.safetensors", piece=100)
    same(result, merged_in_memory(method, states, state_of(0)))


def mixed(seed):
    """A float32, a bfloat16 and a float16 tensor in one file."""
    state = state_of(seed)
    return state | {"conv.weight": state["conv.weight"].bfloat16(), "head.weight": state["head.weight"].half()}


@pytest.mark.parametrize("method", WRITTEN_DOWN)
def test_each_tensor_keeps_its_dtype_and_is_computed_in_float32(tmp_path, method):
    states = [mixed(seed) for seed in range(3)]
    for state, name in zip(states, ("base", "a", "b"), strict=True):
        save(tmp_path / f"{name}.safetensors", state)
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    same(merged(method, files, tmp_path / "out.safetensors", piece=50), merged_in_memory(method, states[1:], states[0]))


@pytest.mark.parametrize("method", WRITTEN_DOWN)
def test_float64_is_computed_in_float64(tmp_path, method):
    states = [state_of(seed, dtype=torch.float64) for seed in range(3)]
    for state, name in zip(states, ("base", "a", "b"), strict=True):
        save(tmp_path / f"{name}.safetensors", state)
    result = merged(method, [tmp_path / "a.safetensors", tmp_path / "b.safetensors"], tmp_path / "o.safetensors")
    same(result, merged_in_memory(method, states[1:], states[0], wide=torch.float64))


def test_float32_and_float64_in_one_file_are_trimmed_together(tmp_path):
    states = [state_of(seed) for seed in range(3)]
    for state, name in zip(states, ("base", "a", "b"), strict=True):
        state["conv.weight"] = state["conv.weight"].double() / 3
        save(tmp_path / f"{name}.safetensors", state)
    result = merged("ties", [tmp_path / "a.safetensors", tmp_path / "b.safetensors"], tmp_path / "o.safetensors")
    expected = merged_in_memory("ties", states[1:], states[0], wide=torch.float64)
    for name, tensor in expected.items():
        torch.testing.assert_close(result[name], tensor)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_another_dtype(tmp_path, files, dtype):
    result = merged("average", files, tmp_path / "out.safetensors", dtype=dtype, skip=["scale"], piece=31)
    states = [state_of(1), state_of(2)]
    wide = torch.float64 if dtype == "float64" else torch.float32
    widened = [{name: tensor.to(wide) for name, tensor in state.items()} for state in states]
    expected = merged_in_memory("average", widened, widened[0], wide=wide)
    for name, tensor in result.items():
        if states[0][name].is_floating_point():
            value = states[0][name] if name == "scale" else expected[name]
            assert torch.equal(tensor, value.to(getattr(torch, dtype))), name
        else:
            assert torch.equal(tensor, states[0][name])


def test_files_of_different_dtypes_merge_where_one_is_asked_for(tmp_path, files):
    save(tmp_path / "half.safetensors", state_of(2, dtype=torch.bfloat16))
    result = merged("average", [files[0], tmp_path / "half.safetensors"], tmp_path / "o.safetensors", dtype="float32")
    expected = (state_of(1)["head.weight"] + state_of(2, dtype=torch.bfloat16)["head.weight"].float()) / 2
    assert torch.equal(result["head.weight"], expected)


def test_float8(tmp_path):
    states = [{"w": torch.randn(40, generator=torch.Generator().manual_seed(seed))} for seed in (1, 2)]
    for state, name in zip(states, "ab", strict=True):
        state["w"] = state["w"].to(torch.float8_e4m3fn)
        save(tmp_path / f"{name}.safetensors", state)
    result = merged("average", [tmp_path / "a.safetensors", tmp_path / "b.safetensors"], tmp_path / "o.safetensors")
    expected = ((states[0]["w"].float() + states[1]["w"].float()) / 2).to(torch.float8_e4m3fn)
    assert torch.equal(result["w"].float(), expected.float())


def as_pytorch(path, state):
    torch.save(state, path)
    return path


def views(state):
    """The same values in tensors that are transposed, or share a storage with others."""
    storage = torch.cat([state["conv.bias"], state["head.weight"].flatten()])
    transposed = state["conv.weight"].permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert not transposed.is_contiguous()
    return state | {
        "conv.weight": transposed,
        "conv.bias": storage[:7],
        "head.weight": torch.nn.Parameter(storage[7:].view(33, 48)),
    }


INPUTS = {
    "index": lambda folder, state: save_sharded(folder, state),
    "sharded folder": lambda folder, state: save_sharded(folder, state).parent,
    "folder": lambda folder, state: (folder.mkdir(), save(folder / "model.safetensors", state))[1].parent,
    "pytorch": lambda folder, state: as_pytorch(folder.with_suffix(".pt"), state),
    "state_dict": lambda folder, state: as_pytorch(folder.with_suffix(".ckpt"), {"state_dict": state, "epoch": 3}),
    "pytorch views": lambda folder, state: as_pytorch(folder.with_suffix(".bin"), views(state)),
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("located", [True, False])
@pytest.mark.parametrize("piece", [None, 17])
def test_every_kind_of_input(tmp_path, files, kind, located, piece, monkeypatch):
    if not located:  # as where there is no /proc
        monkeypatch.setattr("metasum.merging.disk.pytorch.locate", lambda path, tensors: {})
    inputs = [INPUTS[kind](tmp_path / f"in{seed}", state_of(seed)) for seed in (1, 2)]
    result = merged("average", inputs, tmp_path / "out.safetensors", piece=piece)
    same(result, merged_in_memory("average", [state_of(1), state_of(2)], state_of(0)))
    mixed = merged("average", [inputs[0], files[1]], tmp_path / "mixed.safetensors", piece=piece)
    same(mixed, result)


def parameters_saved(tmp_path, count=2):
    networks = [small_network(seed).eval() for seed in range(count + 1)]
    ends = [Endpoint(network, []) for network in networks]
    for end, name in zip(ends, ("base", "a", "b", "c"), strict=False):
        save(tmp_path / f"{name}.safetensors", end.parameters)
    return ends[1:], ends[0].parameters, [tmp_path / f"{name}.safetensors" for name in "abc"[:count]]


WHOLE = {  # methods, and the kinds of files that they are defined on: bfloat16 ones are computed in float32
    f"{method}, {str(dtype).removeprefix('torch.')}": (method, dtype)
    for method in METHODS
    for dtype in (torch.float32, torch.float64, torch.bfloat16)
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("threads", [1, 2])
def test_files_and_memory_give_the_same_bits(tmp_path, kind, threads):
    """Of a tensor that is cut into spans, small ones, statistics and integers."""
    method, dtype = WHOLE[kind]

    def state(seed):
        wide = torch.randn(200_000, generator=torch.Generator().manual_seed(seed))
        floats = {"wide": wide.view(400, 500), **normalised(seed), **state_of(seed)}
        return {name: t.to(dtype) if t.is_floating_point() else t for name, t in floats.items()}

    states = [state(seed) for seed in range(3)]
    for own, name in zip(states, ("base", "a", "b"), strict=True):
        save(tmp_path / f"{name}.safetensors", own)
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    on_disk = merged(method, files, tmp_path / "out.safetensors", piece=1 << 16, threads=2)
    own, before = made(method), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        in_memory = merge_parameters(own, states[1:], states[0] if own.needs_base else None)
    finally:
        torch.set_num_threads(before)
    assert list(in_memory) == list(states[1])
    same(on_disk, in_memory)


STREAMED = [method for method in METHODS if not METHODS_BY_NAME.named(method.split()[0]).whole_tensors]


@pytest.mark.parametrize("method", [method for method in STREAMED if method not in WRITTEN_DOWN])
@pytest.mark.parametrize("piece", [13, 64])
def test_the_same_bits_wherever_tensors_are_cut(tmp_path, files, method, piece):
    result = merged(method, files, tmp_path / "out.safetensors", piece=piece, threads=3)
    same(result, merge_parameters(made(method), [state_of(1), state_of(2)], state_of(0)))


def test_every_method_of_tensors_is_compared_with_files():
    of_tensors = {name for name, method in METHODS_BY_NAME.items() if issubclass(method, TensorMethod)}
    assert of_tensors == {method.split()[0] for method in METHODS}


@pytest.mark.parametrize("method", ["task-arithmetic", "ties", "dare", "slerp"])
def test_finished_networks_merge_as_their_files_do(tmp_path, method):
    ends, initial, files = parameters_saved(tmp_path)
    before = [end.network.state_dict() for end in ends]
    before = [{name: tensor.clone() for name, tensor in state.items()} for state in before]
    same(merged(method, files, tmp_path / "out.safetensors", piece=7), merge(made(method), ends, initial))
    for end, state in zip(ends, before, strict=True):
        same(end.network.state_dict(), state)


def test_the_average_is_the_operators(tmp_path):
    ends, _, files = parameters_saved(tmp_path, 3)
    result = merged("average", files, tmp_path / "out.safetensors")
    for name, tensor in average_parameters([end.parameters for end in ends]).items():
        assert torch.equal(result[name], tensor)


@pytest.mark.parametrize("density", [0.2, 0.7])
def test_ties_per_tensor_is_mergekits(tmp_path, files, density):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparsify = pytest.importorskip("mergekit.sparsify")  # in the development group, not in requirements.txt
        from mergekit.merge_methods.generalized_task_arithmetic import get_mask
    result = merged("ties", files, tmp_path / "o.safetensors", density=density, trim="per-tensor", scaling=0.7)
    for name, start in state_of(0).items():
        if not start.is_floating_point() or not start.numel():
            continue
        deltas = torch.stack([sparsify.magnitude(state_of(seed)[name] - start, density) for seed in (1, 2)])
        kept = deltas * get_mask(deltas, method="sum")
        count = (kept != 0).sum(0).clamp(min=1)
        torch.testing.assert_close(result[name], start + 0.7 * kept.sum(0) / count)


@pytest.mark.parametrize(("weights", "same_bits"), [((0.5, 0.5), True), ((0.6, 0.4), False)])
def test_weighted_is_mergekits_linear_but_for_one_rounding(weights, same_bits):
    """docs/merging.md says so."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = pytest.importorskip("mergekit.merge_methods.base")  # in the development group only
        from mergekit.merge_methods.linear import linear_merge
    generator = torch.Generator().manual_seed(0)
    pair = [torch.randn(30_000, generator=generator) for _ in range(2)]
    (theirs,) = linear_merge([base.TensorGroup.from_tensors(pair)], parameters={"weight": list(weights)})
    sets = [{"w": tensor} for tensor in pair]
    ours = merge_parameters(Weighted(weights=weights), sets)["w"]
    assert torch.equal(ours, theirs) == same_bits
    assert 0.2 < float((ours != theirs).float().mean()) < 0.35 or same_bits
    sizes = sum(weight * tensor.abs() for weight, tensor in zip(weights, pair, strict=True))
    assert bool(((ours - theirs).abs() <= torch.finfo(torch.float32).eps * sizes).all())


def test_task_arithmetic_at_one_over_n_is_the_average(tmp_path, files):
    one = merged("task-arithmetic", files, tmp_path / "one.safetensors", scaling=0.5)
    other = merged("average", files, tmp_path / "other.safetensors")
    for name, tensor in other.items():
        torch.testing.assert_close(one[name], tensor)


@pytest.mark.parametrize("position", [0.0, 1.0])
def test_the_ends_of_an_arc(tmp_path, files, position):
    result = merged("slerp", files, tmp_path / "out.safetensors", position=position)
    for name, tensor in state_of(1 + int(position)).items():
        if tensor.is_floating_point():
            torch.testing.assert_close(result[name], tensor)


def test_ties_keeps_everything_at_density_1(tmp_path):
    states = [{"w": torch.arange(40.0) * (-1) ** seed, "v": torch.ones(3)} for seed in range(3)]
    for state, name in zip(states, ("base", "a", "b"), strict=True):
        save(tmp_path / f"{name}.safetensors", state)
    result = merged(
        "ties",
        [tmp_path / "a.safetensors", tmp_path / "b.safetensors"],
        tmp_path / "out.safetensors",
        density=1.0,
        scaling=1.0,
        piece=9,
    )
    torch.testing.assert_close(result["w"], -states[0]["w"])


def test_dare_drops_as_often_as_asked_and_by_its_seed_alone(tmp_path, files):
    kept = kept_entries(5, 2 * BLOCK, drop_rate=0.9, seed=1, name="w", network=0)
    assert float(kept.float().mean()) == pytest.approx(0.1, abs=0.003)
    pieces = [kept_entries(5 + at, 1000, drop_rate=0.9, seed=1, name="w", network=0) for at in range(0, 5000, 1000)]
    assert torch.equal(torch.cat(pieces), kept[:5000])
    for changed in ({"seed": 2}, {"name": "v"}, {"network": 1}):
        other = kept_entries(5, 1000, **{"drop_rate": 0.9, "seed": 1, "name": "w", "network": 0} | changed)
        assert not torch.equal(other, kept[:1000])
    assert kept_entries(0, 1000, drop_rate=0.0, seed=0, name="w", network=0).all()
    one, again, other = (
        merged("dare", files, tmp_path / f"{number}.safetensors", seed=seed) for number, seed in enumerate((0, 0, 1))
    )
    same(one, again)
    assert not torch.equal(one["head.weight"], other["head.weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "vector",
    [
        torch.randn(3001, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        torch.randn(3001, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).bfloat16(),  # many alike
        torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e-41,
        torch.tensor([0.0, 0.0, 1e-45, torch.inf, 3e38, 1.0, 1.0]),
    ],
)
def test_the_kth_largest_is_found_exactly(vector, dtype):
    magnitudes = vector.to(dtype).abs()
    for kept in {1, 2, len(vector) // 5 + 1, len(vector) - 1, len(vector)}:
        selection = Selection([kept, kept], dtype)
        while not selection.finished:
            for part in magnitudes.split(700):
                selection.count(0, part)
                selection.count(1, 2 * part)
            selection.narrow()
        expected = float(magnitudes.kthvalue(len(vector) - kept + 1).values)
        assert selection.values == [expected, float(torch.tensor(expected, dtype=dtype) * 2)]


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 3e-39])
def test_just_below(value):
    near = torch.tensor(just_below(value, torch.float32))
    assert float(near) < value <= float(near.nextafter(torch.tensor(torch.inf)))


def test_patterns_choose_what_is_merged(tmp_path, files):
    first, second = state_of(1), state_of(2)
    result = merged("sum", files, tmp_path / "o.safetensors", only=("conv.*", "scale"), skip=("*.bias",))
    for name in ("conv.weight", "scale"):
        assert torch.equal(result[name], first[name] + second[name])
    for name in ("conv.bias", "head.weight"):
        assert torch.equal(result[name], first[name])


def test_what_is_skipped_may_differ(tmp_path, files):
    other = state_of(2) | {"head.weight": torch.zeros(3, 3), "head.more": torch.zeros(2)}
    save(files[1], other)
    result = merged("sum", files, tmp_path / "out.safetensors", skip=["head.*"])
    assert torch.equal(result["head.weight"], state_of(1)["head.weight"])
    assert "head.more" not in result


def test_ties_trims_only_what_it_merges(tmp_path, files):
    result = merged("ties", files, tmp_path / "out.safetensors", only=["head.*"])
    states = [{"head.weight": state_of(seed)["head.weight"]} for seed in range(3)]
    assert torch.equal(result["head.weight"], merged_in_memory("ties", states[1:], states[0])["head.weight"])


def test_layers_have_settings_of_their_own(tmp_path, files):
    layers = [("*", (0.5, 0.5)), ("conv.*", (1.0, 0.0)), ("*.bias", (0.0, 2.0))]
    result = merged("weighted", files, tmp_path / "o.safetensors", layers=layers)
    first, second = state_of(1), state_of(2)
    assert torch.equal(result["conv.weight"], first["conv.weight"])
    assert torch.equal(result["conv.bias"], 2 * second["conv.bias"])
    assert torch.equal(result["head.weight"], 0.5 * first["head.weight"] + 0.5 * second["head.weight"])
    for method, usual in (("task-arithmetic", {}), ("ties", {"density": 1.0}), ("dare", {"drop_rate": 0.0})):
        one, other = (
            merged(method, files, tmp_path / f"{number}-{method}.safetensors", **usual, **given)
            for number, given in enumerate(({"layers": [("conv.*", 0.9)]}, {"scaling": 0.9}))
        )
        assert torch.equal(one["conv.weight"], other["conv.weight"])
        assert not torch.equal(one["head.weight"], other["head.weight"])
    arc = merged("slerp", files, tmp_path / "arc.safetensors", layers=[("head.*", 1.0)])
    torch.testing.assert_close(arc["head.weight"], second["head.weight"])
    assert not torch.allclose(arc["conv.weight"], second["conv.weight"])


def test_the_file_says_what_it_is_made_of(tmp_path, files):
    save(files[0], state_of(1), architecture="{}")
    merged("ties", files, tmp_path / "out.safetensors", density=0.3, skip=["scale"])
    with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        told = file.metadata()
    assert told["architecture"] == "{}"
    what = json.loads(told["merge"])
    assert what["method"] == "ties"
    assert [file["name"] for file in what["files"]] == [str(file) for file in files]
    assert what["files"][0]["bytes"] == files[0].stat().st_size
    assert what["base"]["name"] == str(tmp_path / "base.safetensors")
    assert what["settings"] == {"density": 0.3, "scaling": 0.4, "trim": "whole", "dtype": "keep"}
    assert what["skip"] == ["scale"]
    assert what["metasum"]


def test_tensors_lie_at_multiples_of_their_items_size(tmp_path):
    state = {"byte": torch.ones(3, dtype=torch.uint8), "half": torch.ones(3).half(), "wide": torch.ones(3).double()}
    for name in "ab":
        save(tmp_path / f"{name}.safetensors", state)
    merged("sum", [tmp_path / "a.safetensors", tmp_path / "b.safetensors"], tmp_path / "out.safetensors")
    data = (tmp_path / "out.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert [name for name in header if name != "__metadata__"] == ["wide", "half", "byte"]


def test_a_merged_network_of_metasum_is_a_network(metasum, tiny, tmp_path):
    metasum("train", *tiny, "--quiet")
    run = tmp_path / "runs" / "rows+lines" / "metasum-seed0"
    pair = [run / "target.safetensors", run / "support.safetensors"]
    merge_files("average", pair, tmp_path / "out.safetensors")
    parameters = [dict(load_network(file).named_parameters()) for file in pair]
    for name, parameter in load_network(tmp_path / "out.safetensors").named_parameters():
        assert torch.equal(parameter, (parameters[0][name] + parameters[1][name]) / 2)


def normalised(seed, *, spread=1.0):
    """A layer and its batch norm, whose statistics dwarf its weights; the variance is 0.1 times `seed`."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "conv.weight": torch.randn(16, 24, generator=generator) * spread,
        "bn.weight": torch.randn(16, generator=generator) * spread,
        "bn.running_mean": 100 * torch.randn(16, generator=generator),
        "bn.running_var": torch.full((16,), 0.1 * seed if seed else 1.0),
        "old.weight": torch.randn(16, generator=generator) * spread,
        "old.mean": 100 * torch.randn(16, generator=generator),
        "old.var": torch.full((16,), 0.1 * seed if seed else 1.0),
    }


def normalised_files(tmp_path, **given):
    for seed, name in enumerate(("base", "a", "b")):
        save(tmp_path / f"{name}.safetensors", normalised(seed, **given))
    return [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]


STATISTICS = ("bn.running_mean", "bn.running_var", "old.mean", "old.var")


@pytest.mark.parametrize("method", METHODS)
def test_statistics_are_averaged_whatever_the_method(tmp_path, method):
    result = merged(method, normalised_files(tmp_path), tmp_path / "out.safetensors", piece=5)
    first, second = normalised(1), normalised(2)
    for name in STATISTICS:
        assert torch.equal(result[name], (first[name] + second[name]) / 2)


@pytest.mark.parametrize("method", METHODS)
def test_statistics_do_not_change_what_becomes_of_weights(tmp_path, method):
    files = normalised_files(tmp_path)
    whole = merged(method, files, tmp_path / "whole.safetensors")
    for number, name in enumerate(("base", "a", "b")):
        state = {key: tensor for key, tensor in normalised(number).items() if key not in STATISTICS}
        save(tmp_path / f"{name}.safetensors", state)
    for name, tensor in merged(method, files, tmp_path / "weights.safetensors").items():
        assert torch.equal(whole[name], tensor), name


def test_what_is_called_mean_is_a_statistic_only_beside_a_weight_of_its_shape():
    shapes = {"a.mean": (3,), "a.weight": (3,), "b.mean": (3,), "b.weight": (4,), "c.var": (3, 3), "running_var": (2,)}
    assert statistics_among(shapes | {"c.weight": (3, 3)}) == {"a.mean", "running_var"}


def test_that_statistics_were_averaged_is_said(metasum, tmp_path):
    pair = normalised_files(tmp_path)
    outcome = metasum("merge", "sum", *pair, "-o", tmp_path / "out.safetensors")
    assert "4 running means and variances were averaged" in outcome.out
    with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["merge"])["statistics"] == "4 tensors averaged"
    flags = ["--skip", "*running_*", "--skip", "old.*", "--overwrite"]
    outcome = metasum("merge", "sum", *pair, "-o", tmp_path / "out.safetensors", *flags)
    assert "averaged" not in outcome.out
    assert torch.equal(load_file(tmp_path / "out.safetensors")["bn.running_var"], normalised(1)["bn.running_var"])
