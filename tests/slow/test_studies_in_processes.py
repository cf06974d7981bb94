"""`--jobs 2`: the cells of a study in processes of their own give the same bits, and know what plug-ins register."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny import blob_arrays, write_npz

pytestmark = pytest.mark.slow

PLUGIN = """
import dataclasses
import numpy as np
from metasum.baselines import register
from metasum.baselines.independent import IndependentLearner
from metasum.config import option
from metasum.learners.settings import OperatorConfig
from metasum.tasks import register_dataset

@dataclasses.dataclass(frozen=True, kw_only=True)
class GentleConfig(OperatorConfig):
    factor: float = option(1.0, "Factor on every gradient.", above=0)

class Gentle(IndependentLearner):
    name, summary, Config = "gentle", "Goes slowly.", GentleConfig
    candidates = {"factor": (0.1, 0.9)}

    def training_step(self, target, support, *, backward):
        return super().training_step(target, support, backward=lambda loss: backward(self.config.factor * loss))

def spots():
    rng, labels = np.random.default_rng(5), np.arange(96) % 4
    images = rng.integers(0, 80, (96, 8, 8), dtype=np.uint8)
    images[np.arange(96), labels, labels] += 150
    return (images, labels), (images[:48], labels[:48])

register(Gentle)
register_dataset("spots", spots)
"""


@pytest.fixture
def study(metasum, tiny, data_root, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_npz(data_root / "third.npz", blob_arrays(2))
    (tmp_path / "plugin.py").write_text(PLUGIN)
    without = {"--target", "rows", "--out", tmp_path / "runs"}
    flags = [*(flag for flag in tiny if flag not in without), "--memory-format", "contiguous", "--json"]
    flags += ["--plugin", tmp_path / "plugin.py"]

    def run(command, out, *more):
        outcome = metasum(command, *flags, "--out", tmp_path / out, *more)
        assert outcome.code == 0, outcome.err
        return json.loads(outcome.out)

    return run


def same_weights(first, second):
    files = sorted(path.relative_to(first) for path in first.rglob("*.safetensors"))
    assert files == sorted(path.relative_to(second) for path in second.rglob("*.safetensors"))
    for file in files:
        ours, theirs = load_file(first / file), load_file(second / file)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), file
    return len(files)


def numbers(rows):
    return [(row["learner"], row["seed"], row["accuracy"]) for row in rows]


def test_an_experiment_is_the_same_bit_for_bit(study, tmp_path):
    flags = ("--targets", "spots,third", "--learners", "slerp,gentle", "--seeds", 2)
    one, two = (study("experiment", f"jobs{jobs}", *flags, "--jobs", jobs) for jobs in (1, 2))
    assert len(one["rows"]) == 4
    assert numbers(one["rows"]) == numbers(two["rows"])
    assert one["tuning"] == two["tuning"]
    assert set(one["tuning"]["spots"]) == {"slerp", "gentle"}
    assert one["summary"][0]["accuracy"] == two["summary"][0]["accuracy"]
    assert same_weights(tmp_path / "jobs1", tmp_path / "jobs2") > 30


def test_so_is_a_comparison_with_a_meta_learnt_start(study, tmp_path):
    flags = ("--target", "spots", "--learners", "metasum-meta,gentle,average", "--seeds", 2, "--no-tune")
    flags += ("--factor", 0.5, "--meta-steps", 1, "--meta-batch-size", 4)
    one, two = (study("compare-baselines", f"jobs{jobs}", *flags, "--jobs", jobs) for jobs in (1, 2))
    assert numbers(one["rows"]) == numbers(two["rows"])
    assert same_weights(tmp_path / "jobs1", tmp_path / "jobs2") > 15
