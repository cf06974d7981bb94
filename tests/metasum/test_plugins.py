"""A plug-in of a few lines: a learner with two settings, a method with one, a network; and all that follows."""

import json

import pytest
import torch
from refusal import nothing_written, refused
from safetensors.torch import load_file
from tiny import without_dropout

from metasum import load_network
from metasum.plugins import run_plugin
from metasum.weights.storage import read_metadata

PLUGIN = """
import dataclasses
from metasum.baselines import register
from metasum.baselines.independent import IndependentLearner
from metasum.config import Checked, option
from metasum.merging.tensors import TensorMethod
from metasum.networks.build import register_network
from metasum.learners.settings import OperatorConfig
from torch import nn

@dataclasses.dataclass(frozen=True, kw_only=True)
class LoudConfig(OperatorConfig):
    loudness: float = option(2.0, "Factor on the target's loss.", above=0)
    echo: int = option(1, "How often each term is told.", minimum=1)

class Loud(IndependentLearner):
    name, summary, Config = "loud", "Independent training, louder.", LoudConfig
    candidates = {"loudness": (1.0, 4.0)}

    def training_step(self, target, support, *, backward):
        terms = super().training_step(target, support, backward=lambda loss: backward(self.config.loudness * loss))
        return terms | {f"echo_{n}": terms["target"] for n in range(self.config.echo)}

@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstConfig(Checked):
    share: float = option(0.75, "Share of the first network.", minimum=0, maximum=1)

class First(TensorMethod):
    name, summary, Config = "first", "Mostly the first network.", FirstConfig

    def formula(self, tensors):
        def merged(chunk):
            first, *others = chunk.values
            return self.config.share * first + (1 - self.config.share) * sum(others)
        return merged

register(Loud)
register(First)

def perceptron(config, in_channels):
    size = max(1, int(64 * config.width))
    return nn.Sequential(nn.Flatten(), nn.Linear(1024 * in_channels, size), nn.Tanh(),
                         nn.Linear(size, config.num_classes))

register_network("perceptron", perceptron)
"""


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    return path


def config_of(tmp_path, name):
    return json.loads((tmp_path / "runs" / "rows+lines" / name / "config.json").read_text())["settings"]


def test_settings_of_a_plugins_learner_are_flags(metasum, tiny, tmp_path, plugin):
    shown = "".join(metasum("train", "--plugin", plugin, "--help").out.split())
    assert "Factoronthetarget'sloss." in shown
    assert "Howofteneachtermistold." in shown
    outcome = metasum("train", *tiny, "--learner", "loud", "--loudness", 3, "--echo=2.0", "--json")
    assert outcome.code == 0, outcome.err
    own = config_of(tmp_path, "loud-seed0")["own"]
    assert (own["loudness"], own["echo"]) == (3.0, 2)
    lines = (tmp_path / "runs" / "rows+lines" / "loud-seed0" / "metrics.jsonl").read_text()
    assert "echo_1" in lines


def test_they_are_refused_for_other_learners_and_out_of_range(metasum, tiny, tmp_path, plugin):
    refused(metasum("train", *tiny, "--loudness", 3), 2, "No such option", "--loudness")
    refused(metasum("train", *tiny, "--plugin", plugin, "--loudness", 3), 2, "--loudness says nothing", "'metasum'")
    refused(metasum("train", *tiny, "--learner", "loud", "--loudness", 0), 2, "--loudness must be greater than 0")
    assert nothing_written(tmp_path)


def test_a_plugins_method_is_a_learner_a_method_of_files_and_an_operator_of_sums(metasum, tiny, tmp_path, plugin):
    asked = ("--plugin", plugin, "--learner", "first", "--share", 1.0)
    outcome = metasum("train", *tiny, *asked)
    assert outcome.code == 0, outcome.err
    assert config_of(tmp_path, "first-seed0")["own"] == {"share": 1.0}
    run = tmp_path / "runs" / "rows+lines" / "first-seed0"
    files = [run / "target.safetensors", run / "support.safetensors"]
    own = load_file(files[0])
    merged = load_file(run / "summed.safetensors")
    assert all(torch.equal(merged[name], own[name]) for name in own if name.endswith(("weight", "bias")))
    out = tmp_path / "merged.safetensors"
    outcome = metasum("merge", "first", *files, "--share", 1, "-o", out)
    assert outcome.code == 0, outcome.err
    assert torch.equal(load_file(out)["classifier.7.weight"], own["classifier.7.weight"])
    assert "share" in metasum("methods").out
    refused(metasum("train", *tiny, "--share", 0.5), 2, "--share says nothing to learner 'metasum'")


def test_a_registered_network_trains_and_is_read_back(metasum, tiny, tmp_path, plugin):
    flags = [*without_dropout(tiny), "--network", "perceptron"]
    refused(metasum("train", *flags), 2, "unknown network 'perceptron'")
    outcome = metasum("train", *flags, "--plugin", plugin)
    assert outcome.code == 0, outcome.err
    run = tmp_path / "runs" / "rows+lines" / "metasum-seed0"
    for name in ("initial", "target", "support", "summed"):
        file = run / f"{name}.safetensors"
        assert json.loads(read_metadata(file)["architecture"])["network"] == "perceptron"
        network = load_network(file)
        stored = load_file(file)
        assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == {
            key: tuple(tensor.shape) for key, tensor in stored.items()
        }
        assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 4)
    initial, target = (load_file(run / f"{name}.safetensors") for name in ("initial", "target"))
    assert 0 < (initial["1.weight"] - target["1.weight"]).abs().max() < 0.1, "it is what training started from"
    outcome = metasum("evaluate", run / "summed.safetensors", "--on", "rows", "--data-root", tiny[5])
    assert outcome.code == 0, outcome.err


def test_without_its_plugin_such_a_network_is_refused_by_name(metasum, tiny, tmp_path, plugin):
    assert metasum("train", *without_dropout(tiny), "--network", "perceptron", "--plugin", plugin).code == 0
    from metasum.networks.build import NETWORKS

    del NETWORKS["perceptron"]
    file = tmp_path / "runs" / "rows+lines" / "metasum-seed0" / "target.safetensors"
    outcome = metasum("evaluate", file, "--on", "rows", "--data-root", tiny[5])
    refused(outcome, outcome.code or 1, "perceptron")


def test_a_file_that_is_named_again_is_run_once(metasum, tiny, plugin, monkeypatch):
    monkeypatch.chdir(plugin.parent)
    for named in (plugin, "plugin.py", plugin.parent / "." / "plugin.py"):
        outcome = metasum("methods", "--plugin", plugin, "--plugin", named)
        assert outcome.code == 0, outcome.err
    run_plugin(plugin)


NAMES = {
    "learner": "register(Loud)",
    "merging method": "register(First)",
    "network": "register_network('perceptron', print)",
    "dataset": "register_dataset('dots', print)",
    "pair": "register_pair(TaskPair('dots', 'digits', Recipe()))",
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_of_two_files_is_refused_with_both(metasum, tmp_path, kind):
    start = PLUGIN[: PLUGIN.index("register(Loud)")] + (
        "from metasum.tasks import Recipe, TaskPair, register_dataset, register_pair\n"
    )
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(start + NAMES[kind])
    outcome = metasum("methods", "--plugin", tmp_path / "one.py", "--plugin", tmp_path / "two.py")
    refused(outcome, 2, f"there is a {kind} ", "one.py", "two.py registers it again")
