"""Methods of merging as objects: what they say of themselves, and that a new one needs one class."""

import dataclasses
import textwrap

import pytest
import torch
from checkpoints import save, state_of
from safetensors.torch import load_file
from tiny import small_network

from metasum import MetaSum, merge_files
from metasum.baselines.registry import LEARNERS, register
from metasum.config import Checked, option, options_of
from metasum.errors import UsageError
from metasum.merging import METHODS
from metasum.merging.endpoints import Endpoint
from metasum.merging.memory import merge, merge_parameters
from metasum.merging.tensors import Chunk, TensorMethod, Tensors
from metasum.merging.ties import TIES


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoudestConfig(Checked):
    """Settings of `loudest`."""

    margin: float = option(1.0, "How much larger another network's largest entry has to be.", minimum=1)


class Loudest(TensorMethod):
    """Each tensor of the network in which its largest entry is largest."""

    name = "loudest"
    summary = "Takes each tensor whole from one network."
    Config = LoudestConfig
    whole_tensors = True
    layered = "margin"
    two_starts = True

    def formula(self, tensors: Tensors):
        def merged(chunk: Chunk):
            assert all(value.numel() == chunk.part.entries for value in chunk.values)
            best = chunk.values[0]
            for other in chunk.values[1:]:
                if other.abs().max() > self.setting(chunk.part.name) * best.abs().max():
                    best = other
            return best

        return merged


@pytest.fixture
def loudest(monkeypatch):
    for registry in (METHODS, LEARNERS):
        monkeypatch.setattr(registry, "entries", dict(registry.entries))
    register(Loudest)
    return Loudest


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is(name):
    method = METHODS.named(name)
    assert method.name == name
    assert method.summary.endswith(".")
    assert dataclasses.is_dataclass(method.Config)
    names = {leaf.name for leaf in options_of(method.Config)}
    assert method.candidates.keys() <= names
    assert method.layered is None or method.layered in names
    for setting, values in method.candidates.items():
        for value in values:
            assert getattr(method(**{setting: value}).config, setting) == value


def test_every_method_has_its_learner():
    for name, method in METHODS.items():
        assert (name in LEARNERS) is method.compared
        assert (f"{name}-two-inits" in LEARNERS) is method.two_starts
        if method.compared:
            assert LEARNERS[name].Config is method.Config


def test_every_method_is_in_the_list_of_methods(metasum):
    listed = metasum("methods").out
    for name, method in METHODS.items():
        assert name in listed
        assert method.summary.split()[0] in listed


def test_a_new_method_merges_files_and_networks(loudest, tmp_path):
    states = [state_of(seed) for seed in (1, 2)]
    files = [save(tmp_path / f"{number}.safetensors", state) for number, state in enumerate(states)]
    merge_files("loudest", files, tmp_path / "out.safetensors")
    result = load_file(tmp_path / "out.safetensors")
    for name, tensor in merge_parameters(Loudest(), states).items():
        assert torch.equal(result[name], tensor)
    for name in ("conv.weight", "head.weight", "conv.bias"):
        expected = max((state[name] for state in states), key=lambda tensor: float(tensor.abs().max()))
        assert torch.equal(result[name], expected)
    first = merge_parameters(Loudest(layers=[("conv.*", 1e6), ("head.*", 1e6)]), states)
    assert torch.equal(first["head.weight"], states[0]["head.weight"])
    with pytest.raises(UsageError, match=r"--layers cnv: no parameter is called so"):
        merge(Loudest(layers=[("cnv", 2.0)]), [Endpoint(small_network(seed), []) for seed in (1, 2)], {})


def test_a_new_method_is_a_learner(loudest):
    assert {"loudest", "loudest-two-inits"} <= LEARNERS.keys()
    assert LEARNERS["loudest-two-inits"].endpoints == "independent-two-inits"
    learner = LEARNERS["loudest"](MetaSum(small_network(0)), LoudestConfig())
    assert learner.operators == ("loudest",)


def test_what_contradicts_another_method_is_not_registered(loudest):
    class Again(Loudest):
        pass

    class Other(Loudest):
        name = "other"
        Config = dataclasses.make_dataclass("OtherConfig", [("density", int, option(1, "Another."))], frozen=True)

    with pytest.raises(UsageError, match="there is a merging method 'loudest' already"):
        register(Again)
    with pytest.raises(UsageError, match="other: another --density takes values of another kind"):
        register(Other)
    assert "other" not in LEARNERS


def test_a_plugin_s_method_merges_files(metasum, tmp_path, monkeypatch):
    for registry in (METHODS, LEARNERS):
        monkeypatch.setattr(registry, "entries", dict(registry.entries))
    plugin = tmp_path / "first.py"
    plugin.write_text(
        textwrap.dedent("""
        from metasum.baselines import register
        from metasum.merging.tensors import TensorMethod

        class First(TensorMethod):
            name, summary = "first", "The first network."

            def formula(self, tensors):
                return lambda chunk: chunk.values[0]

        register(First)
        """)
    )
    pair = [save(tmp_path / f"{seed}.safetensors", state_of(seed)) for seed in (1, 2)]
    outcome = metasum("merge", "first", *pair, "-o", tmp_path / "out.safetensors", "--plugin", plugin)
    assert outcome.code == 0, outcome.err
    assert torch.equal(load_file(tmp_path / "out.safetensors")["head.weight"], state_of(1)["head.weight"])


def test_what_a_method_is_made_of_is_checked():
    with pytest.raises(UsageError, match="--density must be at most 1, not 3"):
        TIES(density=3.0)
    with pytest.raises(UsageError, match="did you mean 'per-tensor'"):
        TIES(trim="per-tensors")
    with pytest.raises(UsageError, match="unknown setting of ties 'densty'; did you mean 'density'"):
        TIES(densty=0.3)
    with pytest.raises(UsageError, match="--scaling must be greater than 0"):
        TIES(layers=[("*", -1.0)])
    with pytest.raises(TypeError, match="abstract"):
        TensorMethod()


def test_images_that_are_not_there_are_missed():
    ends = [Endpoint(small_network(seed).eval(), []) for seed in (1, 2)]
    with pytest.raises(UsageError, match="regmean looks at images"):
        merge(METHODS.named("regmean")(), ends, {})
