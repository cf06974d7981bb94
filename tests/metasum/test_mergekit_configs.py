"""`metasum merge CONFIG.yml`: what it reads, what comes out, what it refuses, what it leaves behind."""

import json
import textwrap
from pathlib import Path
from unittest import mock

import pytest
import torch
from checkpoints import save, save_sharded
from llamas import family, llama_folder, llama_state
from mergekit_runs import CONFIGS, text_of
from refusal import refused
from safetensors import safe_open
from safetensors.torch import load_file

from metasum.errors import Cancelled, StorageError, UsageError
from metasum.merging.mergekit.layers import depths, is_beginning, layer_of, moved
from metasum.merging.mergekit.merging import merge_config
from metasum.merging.mergekit.parameters import Parameter
from metasum.merging.mergekit.reading import parsed, read_yaml


@pytest.fixture
def models(tmp_path, monkeypatch):
    """`base` and `a`, `b`, `c` in the current folder."""
    monkeypatch.chdir(tmp_path)
    family(tmp_path)
    return tmp_path


MADE = {"base", "a", "b", "c", "c.yml"}


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in MADE)


def merged(text: str, output: str = "out.safetensors", **settings):
    """The tensors that a file's text makes."""
    Path("c.yml").write_text(textwrap.dedent(text))
    merge_config("c.yml", output, **settings)
    return load_file(output if output.endswith(".safetensors") else Path(output, "model.safetensors"))


def weights(*names: str) -> list[dict]:
    return [load_file(Path(name, "model.safetensors")) for name in names]


# what a parameter is


def of(setting, tensor="model.layers.0.mlp.up_proj.weight", t=0.0, **facts):
    return Parameter("weight", "number", **facts).of_tensor([{}, {"weight": setting}], tensor=tensor, t=t, place="x")


@pytest.mark.parametrize(
    ("setting", "t", "value"),
    [
        (1, 0.3, 1.0),
        ("1e-3", 0.3, 0.001),
        ([0, 1], 0.25, 0.25),
        ([0, 0.3, 0.7, 1], 0.5, 0.5),
        ([1, 0.7, 0.1], 1.0, 0.1),
        ([2], 0.7, 2.0),
        ([{"filter": "mlp", "value": 3}, {"value": 4}], 0.0, 3.0),
        ([{"filter": "self_attn", "value": 3}, {"filter": "*", "value": [4, 6]}], 0.5, 5.0),
        ({"filter": "mlp", "value": 7}, 0.0, 7.0),
        ([{"filter": "self_attn", "value": 3}], 0.0, 9.0),
        ([], 0.0, 9.0),
    ],
)
def test_a_parameter_is_a_value_a_gradient_or_filters(setting, t, value):
    assert of(setting, t=t, default=9.0) == pytest.approx(value)


def test_the_narrowest_scope_that_says_something_counts():
    scopes = [{"weight": [{"filter": "self_attn", "value": 1}]}, {"weight": None}, {"weight": 2}, {"weight": 3}]
    weight = Parameter("weight", "number", required=True)
    assert weight.of_tensor(scopes, tensor="model.layers.0.self_attn.q", t=0, place="x") == 1
    assert weight.of_tensor(scopes, tensor="model.layers.0.mlp.up", t=0, place="x") == 2
    with pytest.raises(UsageError, match="says no weight for 'norm'"):
        weight.of_tensor(scopes[:1], tensor="norm", t=0, place="x")


def test_flags_take_one_of_a_gradient():
    flag = Parameter("normalize", "flag")
    assert flag.of_tensor([{"normalize": [True, False, "yes"]}], tensor="", t=0.6, place="x") is False
    assert flag.of_tensor([{"normalize": "true"}], tensor="", t=0, place="x") is True


# which layer a tensor belongs to


def test_layers_are_told_by_the_first_number_in_a_name():
    assert layer_of("model.layers.12.experts.3.w1.weight") == ("model.layers", 12)
    assert layer_of("0.weight") == ("", 0)
    assert layer_of("conv1.weight") is None
    assert moved("model.layers.12.experts.3.w1.weight", 7) == "model.layers.7.experts.3.w1.weight"
    assert moved("10.weight", 0) == "0.weight"
    assert depths(["a.0.w", "a.4.w", "b.1.w", "norm"]) == {"a": 5, "b": 2}
    before = ["model.embed_tokens.weight", "transformer.wte.weight", "bert.embeddings.LayerNorm.bias"]
    behind = ["lm_head.weight", "model.norm.weight", "embed_out.weight", "transformer.ln_f.bias"]
    assert [is_beginning(name) for name in before + behind] == [True] * 3 + [False] * 4


def test_gradients_run_over_the_layers(models):
    result = merged("""
        models:
          - {model: a, parameters: {weight: [0, 1]}}
          - {model: b, parameters: {weight: [{filter: mlp, value: 2}, {value: 0.5}]}}
        merge_method: linear
        parameters: {normalize: false}
    """)
    a, b = weights("a", "b")
    for name, tensor in result.items():
        layer = layer_of(name)
        first, second = 0 if layer is None else layer.number / 2, 2 if "mlp" in name else 0.5
        torch.testing.assert_close(tensor, first * a[name] + second * b[name])


# slices


def test_slices_are_stacked_and_counted_anew(models):
    result = merged(text_of("passthrough"), "out")
    a, b = weights("a", "b")
    sources = [(a, 0), (a, 1), (b, 1), (b, 2), (a, 2)]
    assert depths(result) == {"model.layers": 5}
    assert result.keys() == llama_state(0, 5).keys()
    for name, tensor in result.items():
        layer = layer_of(name)
        own, number = sources[layer.number] if layer else (a, 0)
        scale = 1.0
        if layer and own is b:
            scale = 0.0 if "o_proj" in name else (0.5, 2.0)[layer.number - 2] if "down_proj" in name else 1.0
        assert torch.equal(tensor, scale * own[moved(name, number)])
    assert json.loads(Path("out/config.json").read_text())["num_hidden_layers"] == 5


def test_what_stands_outside_the_layers_is_the_first_slices_or_the_last_ones(models):
    result = merged("""
        slices:
          - sources: [{model: a, layer_range: [0, 1]}]
          - sources: [{model: b, layer_range: [2, 3]}]
        merge_method: passthrough
    """)
    a, b = weights("a", "b")
    assert torch.equal(result["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    assert torch.equal(result["lm_head.weight"], b["lm_head.weight"])
    assert torch.equal(result["model.norm.weight"], b["model.norm.weight"])


def test_kinds_of_layers_follow_their_layers(models):
    for name, kinds in (("x", "pqr"), ("y", "stu")):
        llama_folder(models / name, llama_state(1), layer_types=list(kinds))
    merged(text_of("passthrough").replace("model: a", "model: x").replace("model: b", "model: y"), "out")
    assert json.loads(Path("out/config.json").read_text())["layer_types"] == ["p", "q", "t", "u", "r"]


# what is read and written


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_bits_on_any_number_of_threads_and_in_any_spans(models, name):
    whole = merged(text_of(name), threads=1)
    with mock.patch("metasum.merging.disk.sections.LARGEST_SPAN", 64):
        cut = merged(text_of(name), overwrite=True, threads=3)
    assert whole.keys() == cut.keys()
    for tensor, own in whole.items():
        assert torch.equal(own, cut[tensor])


def test_what_is_drawn_depends_on_the_seed(models):
    first, second, third = (merged(text_of("dare_linear"), f"{seed}.safetensors", seed=seed) for seed in (0, 1, 2))
    assert not torch.equal(first["lm_head.weight"], second["lm_head.weight"])
    assert not torch.equal(second["lm_head.weight"], third["lm_head.weight"])


def test_dropped_at_random_the_mean_stays(models):
    """Of many seeds: entries are dropped with their chance, and what stays is brought to the old sum of magnitudes."""
    text = "models: [{model: a, parameters: {weight: 1, density: 0.3}}]\nbase_model: base\nmerge_method: %s"
    start, own = (state["model.embed_tokens.weight"] for state in weights("base", "a"))
    for method in ("dare_linear", "della_linear"):
        found = []
        for seed in range(40):
            delta = merged(text % method, overwrite=True, seed=seed)["model.embed_tokens.weight"] - start
            torch.testing.assert_close(delta.abs().sum(), (own - start).abs().sum(), rtol=1e-4, atol=0)
            found.append(delta != 0)
        kept = torch.stack(found).float().mean()
        assert abs(kept - 0.3) < 4 * (0.3 * 0.7 / (40 * start.numel())) ** 0.5


def test_models_are_files_shards_or_folders(models):
    (a, b) = weights("a", "b")
    torch.save(a, models / "a.pt")
    save_sharded(models / "sharded", b)
    text = "models: [{model: a.pt, parameters: {weight: 1}}, {model: sharded, parameters: {weight: 3}}]\n"
    result = merged(text + "merge_method: linear", "out")
    torch.testing.assert_close(result["lm_head.weight"], (a["lm_head.weight"] + 3 * b["lm_head.weight"]) / 4)
    assert sorted(path.name for path in Path("out").iterdir()) == ["mergekit_config.yml", "model.safetensors"]


def test_a_folder_has_all_that_belongs_to_the_base(models):
    (models / "base" / "tokenizer.json").write_text("the tokenizer")
    (models / "base" / "LICENSE").write_text("mine")
    (models / "base" / "README.md").write_text("of another model")
    (models / "a" / "generation_config.json").write_text("not the base's")
    merged(text_of("ties", "bfloat16"), "out")
    names = {path.name for path in Path("out").iterdir()}
    assert names == {
        *("LICENSE", "config.json", "mergekit_config.yml", "model.safetensors", "tokenizer.json"),
        "tokenizer_config.json",
    }
    assert json.loads(Path("out/config.json").read_text())["torch_dtype"] == "bfloat16"
    assert Path("out/mergekit_config.yml").read_text() == text_of("ties", "bfloat16")
    with safe_open("out/model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert json.loads(file.metadata()["merge"])["method"] == "ties"
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert left(models) == ["out"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_what_belongs_to_the_base_and_cannot_be_read_is_told(metasum, models, name):
    path = models / "base" / name
    path.unlink(missing_ok=True)
    path.symlink_to(path)  # a right that is missing does not stop root
    Path("c.yml").write_text(text_of("ties"))
    refused(metasum("merge", "c.yml", "-o", "out"), 1, str(Path("base") / name))
    assert left(models) == []


def test_out_dtype_is_what_is_written(models):
    text = text_of("linear", "float32") + "out_dtype: float16\n"
    assert {tensor.dtype for tensor in merged(text).values()} == {torch.float16}


def test_the_command_says_what_it_did(metasum, models):
    Path("c.yml").write_text(text_of("linear"))
    outcome = metasum("merge", "c.yml", "-o", "out", "--json", "--threads", 2)
    result = json.loads(outcome.out)
    assert result["method"] == "linear"
    assert result["files"] == ["a", "b", "c"]
    assert result["output"] == "out"
    assert result["parameters"] == sum(tensor.numel() for tensor in llama_state(0).values())
    assert outcome.err == ""


def test_a_parameter_that_the_method_does_not_read_is_told(metasum, models):
    Path("c.yml").write_text(text_of("karcher"))
    outcome = metasum("merge", "c.yml", "-o", "out.safetensors")
    assert outcome.code == 0
    assert outcome.err == "c.yml: weight says nothing to karcher.\n"


# what is refused

PAIR = "models: [{model: a}, {model: b}]\n"
WEIGHED = "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n"
LINEAR = WEIGHED + "merge_method: linear\n"
REFUSED = {
    "a hub's name": (LINEAR.replace("model: b", "model: org/b"), "no folder or file 'org/b'; nothing is downloaded"),
    "LoRA": (LINEAR.replace("model: b", "model: b+lora"), "'b+lora' is not taken: LoRA adapters are not applied here"),
    "a mapping for a model": (LINEAR.replace("model: b", "model: {path: b}"), "named by its folder or file"),
    "tokenizer_source": (
        LINEAR + "tokenizer_source: union",
        "tokenizer_source is not taken: tokenizers are not merged",
    ),
    "tokenizer": (LINEAR + "tokenizer: {source: base}", "tokenizer is not taken: tokenizers are not merged"),
    "chat_template": (LINEAR + "chat_template: auto", "chat_template is not taken: tokenizers are not merged"),
    "modules": (LINEAR + "modules: {}", "modules is not taken: models of several modules"),
    "a mixture": ("gate_mode: hidden\nbase_model: a", "gate_mode is not taken: mixtures of experts"),
    "an unknown key": (LINEAR + "dtyp: float32", "unknown key in c.yml 'dtyp'; did you mean 'dtype'?"),
    "an unknown key of a model": (
        LINEAR.replace("{model: b,", "{model: b, wight: 2,"),
        "unknown key in c.yml, model 2",
    ),
    "an unknown parameter": (LINEAR + "parameters: {densty: 1}", "unknown parameter in c.yml 'densty'"),
    "an unknown method": (PAIR + "merge_method: tie", "unknown merge_method in c.yml 'tie'; did you mean 'ties'?"),
    "two methods": (PAIR + "merge_method: [ties, linear]", "unknown merge_method in c.yml"),
    "ever more layers": (
        "slices:\n- &s {sources: [{model: a, layer_range: [0, 3]}]}\n" + "- *s\n" * 4000 + "merge_method: passthrough",
        "c.yml asks for 12003 layers",
    ),
    "no method": (PAIR, "c.yml says no merge_method"),
    "models and slices": (LINEAR + "slices: []", "c.yml says both models and slices"),
    "neither": ("merge_method: linear", "c.yml says neither models nor slices"),
    "no models": ("models: []\nmerge_method: linear", "models is a list with at least one entry"),
    "a key twice": (LINEAR + "merge_method: ties", "c.yml says 'merge_method' twice"),
    "an unknown dtype": (LINEAR + "dtype: float8", "unknown dtype in c.yml 'float8'"),
    "no weight": (PAIR + "merge_method: linear", "c.yml, a says no weight for 'lm_head.weight'"),
    "a weight that is none": (LINEAR.replace("weight: 1}}]", "weight: x}}]"), "weight is a number, not 'x'"),
    "no finite weight": (LINEAR.replace("weight: 1}}]", "weight: .nan}}]"), "weight cannot be nan"),
    "a filter of another form": (
        LINEAR.replace("weight: 1}}]", "weight: [{filtr: x}]}}]"),
        "weight is a value, a list",
    ),
    "weights of 0": (LINEAR.replace("weight: 1", "weight: 0"), "the weights add up to 0"),
    "no flag": (LINEAR + "parameters: {normalize: perhaps}", "normalize is true or false, not 'perhaps'"),
    "no base": (WEIGHED + "merge_method: ties", "c.yml: this merge_method needs a base_model"),
    "no model but the base": ("models: [{model: a}]\nbase_model: a\nmerge_method: ties", "takes at least 1 model(s)"),
    "three for slerp": (PAIR + "base_model: c\nmerge_method: slerp\nparameters: {t: 0}", "takes exactly 1 model(s)"),
    "two for passthrough": (PAIR + "merge_method: passthrough", "takes exactly 1 model(s), not 2"),
    "one for model_stock": (PAIR + "base_model: a\nmerge_method: model_stock", "takes at least 2 model(s) beside"),
    "t beyond 1": (
        PAIR + "base_model: a\nmerge_method: slerp\nparameters: {t: 1.5}",
        "t is between 0 (the base_model)",
    ),
    "negative weights on a sphere": (WEIGHED.replace("1}}]", "-1}}]") + "merge_method: nuslerp", "no negative weight"),
    "epsilon too large": (
        WEIGHED + "base_model: base\nmerge_method: della\nparameters: {density: 0.1, epsilon: 0.3}",
        "density 0.1 with epsilon 0.3",
    ),
    "a model twice": ("models: [{model: a}, {model: a}]\nmerge_method: karcher", "names a twice in one merge"),
    "too many layers": (
        "slices: [{sources: [{model: a, layer_range: [1, 4]}]}]\nmerge_method: passthrough",
        "c.yml, slice 1: a has 3 layers, and layer_range [1, 4] goes beyond",
    ),
    "no range": ("slices: [{sources: [{model: a}]}]\nmerge_method: passthrough", "layer_range is [first, end]"),
    "layers backwards": (
        "slices: [{sources: [{model: a, layer_range: [2, 1]}]}]\nmerge_method: passthrough",
        "layer_range is [first, end]",
    ),
    "sources of other depths": (
        "slices: [sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 2]}]]\nmerge_method: karcher",
        "sources of 1 and 2 layers",
    ),
    "a slice without its base": (
        "slices: [{sources: [{model: a, layer_range: [0, 1]}]}]\nbase_model: base\nmerge_method: task_arithmetic",
        "c.yml, slice 1 has no source of its base_model base",
    ),
    "no YAML": ("models: [", "c.yml is not YAML"),
    "a list": ("- a", "c.yml says no merge"),
    "nothing": ("", "c.yml says no merge"),
    "an object": ("a: !!python/object/apply:os.system [ls]", "c.yml is not YAML"),
    "a text for parameters": (LINEAR + "parameters: many", "parameters is a mapping, not 'many'"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("output", ["out", "out.safetensors"])
def test_a_request_that_makes_no_sense_is_refused_in_one_sentence(metasum, models, name, output):
    text, words = REFUSED[name]
    Path("c.yml").write_text(text)
    refused(metasum("merge", "c.yml", "-o", output), 2, words)
    assert left(models) == []


def test_layers_in_several_lists_are_not_cut(metasum, models):
    save(models / "x.safetensors", {"encoder.0.w": torch.ones(2), "decoder.0.w": torch.ones(2)})
    text = "slices: [{sources: [{model: x.safetensors, layer_range: [0, 1]}]}]\nmerge_method: passthrough"
    Path("c.yml").write_text(text)
    refused(metasum("merge", "c.yml", "-o", "out"), 2, "x.safetensors has 2 lists of layers (decoder, encoder)")


def test_models_of_several_dtypes_need_one(metasum, models):
    save(models / "half.safetensors", {name: tensor.half() for name, tensor in weights("b")[0].items()})
    Path("c.yml").write_text(LINEAR.replace("model: b", "model: half.safetensors"))
    refused(metasum("merge", "c.yml", "-o", "out"), 1, "float32 in a and", "dtype or out_dtype says what to write then")
    assert merged(Path("c.yml").read_text() + "dtype: float16")["lm_head.weight"].dtype == torch.float16


def test_models_of_another_depth_are_refused(metasum, models):
    llama_folder(models / "deep", llama_state(5, 4))
    Path("c.yml").write_text(LINEAR.replace("model: b", "model: deep"))
    refused(metasum("merge", "c.yml", "-o", "out"), 1, "'model.layers.3.", "missing in a")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["c.yml", "a"], "c.yml names its models itself; leave a out"),
        (["c.yml", "--base", "base"], "--base says nothing beside c.yml"),
        (["c.yml", "--density", "0.3"], "--density says nothing beside c.yml"),
        (["c.yml", "--dtype", "float32"], "--dtype says nothing beside c.yml"),
        (["c.yml", "--skip", "lm_head*"], "--skip says nothing beside c.yml"),
        (["c.yml", "--layers", "*=1"], "--layers says nothing beside c.yml"),
        (["c.yml", "--model", "m.py:make"], "--model says nothing beside c.yml"),
        (["nowhere.yml"], "cannot read nowhere.yml"),
        (["average"], "FILE… is missing"),
    ],
)
def test_flags_that_the_file_says_itself_are_refused(metasum, models, arguments, words):
    Path("c.yml").write_text(LINEAR)
    refused(metasum("merge", *arguments, "-o", "out.safetensors"), 2, words)


# YAML that means no good


def test_aliases_are_bounded():
    bomb = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 40))
    with pytest.raises(UsageError, match="more than 100000 values, with its aliases written out"):
        parsed(bomb, "x")
    merging = "a0: &a0 {k: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 30)
    )
    with pytest.raises(UsageError, match="more than 100000 values"):
        parsed(merging, "x")
    with pytest.raises(UsageError, match="an alias holds itself"):
        parsed("a: &a [*a]", "x")
    assert parsed("a: &a {weight: 1}\nb: *a\nc: {<<: *a, d: 2}", "x")["c"] == {"weight": 1, "d": 2}


def test_depth_and_size_are_bounded(tmp_path):
    with pytest.raises(UsageError, match="nested too deeply"):
        parsed("a: " + "[" * 50_000, "x")
    (tmp_path / "large.yml").write_text("#" * (2**20 + 1))
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        read_yaml(tmp_path / "large.yml")
    (tmp_path / "latin.yml").write_bytes(b"a: \xe9")
    with pytest.raises(UsageError, match="cannot read"):
        read_yaml(tmp_path / "latin.yml")


# places to write


def test_a_folder_is_replaced_only_where_it_was_merged(metasum, models):
    merged(LINEAR, "out")
    Path("out/mine.txt").write_text("of somebody's")
    refused(metasum("merge", "c.yml", "-o", "out"), 2, "out is there already")
    assert metasum("merge", "c.yml", "-o", "out", "--overwrite").code == 0
    refused(metasum("merge", "c.yml", "-o", "a", "--overwrite"), 2, "a is no folder that metasum merged")
    Path("empty").mkdir()
    refused(metasum("merge", "c.yml", "-o", "empty", "--overwrite"), 2, "empty is no folder that metasum merged")
    refused(metasum("merge", "c.yml", "-o", "nowhere/out"), 2, "there is no folder nowhere")
    assert left(models) == ["empty", "out"]
    Path("c.yml").write_text(LINEAR.replace("model: a", "model: out"))
    refused(metasum("merge", "c.yml", "-o", "out", "--overwrite"), 2, "is one of the files to be merged")


def test_nothing_is_left_of_what_failed(models, monkeypatch):
    Path("c.yml").write_text(text_of("ties"))
    with pytest.raises(Cancelled):
        merge_config("c.yml", "out", cancelled=lambda: True)
    assert left(models) == []
    merge_config("c.yml", "out")
    before = Path("out/model.safetensors").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("metasum.merging.mergekit.folder.Path.write_bytes", full)
    with pytest.raises(StorageError, match="cannot write out: No space left on device"):
        merge_config("c.yml", "out", overwrite=True)
    assert left(models) == ["out"]
    assert Path("out/model.safetensors").read_bytes() == before


def test_what_a_killed_merge_left_is_removed_by_the_next(models):
    for name in (".out.0123abcd.partial", ".other.0123abcd.partial"):
        Path(name).mkdir()
        Path(name, ".lock").touch()
        Path(name, "model.safetensors").write_bytes(b"half")
    merged(LINEAR, "out")
    assert left(models) == [".other.0123abcd.partial", "out"]
