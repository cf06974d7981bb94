"""The claim itself, on real images: MetaSum's accuracy survives the sum, plain training's does not."""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("METASUM_DATA", Path(__file__).parents[2] / ".data"))
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not all((ROOT / f"{name}.npz").is_file() for name in ("mnist", "usps", "kannada", "cifar10")),
        reason=f"no real images in {ROOT}",
    ),
]


def trained(metasum, tmp_path, *flags):
    outcome = metasum(
        *("train", "--target", "mnist", "--support", "cifar10", "--data-root", ROOT, "--out", tmp_path, "--json"),
        *("--width", 0.125, "--steps", 200, "--learning-rate", 1e-3, "--evaluate-every", 0, "--no-report"),
        *("--evaluate-on", "validation", "--device", "cpu", *flags),
    )
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)["accuracy"]


def test_mnist_survives_the_sum_with_cifar10_when_the_sum_was_learnt_and_only_then(metasum, tmp_path):
    learnt = trained(metasum, tmp_path)
    assert learnt["target"]["before"] > 0.9
    assert learnt["target"]["after"] > learnt["target"]["before"] - 0.03
    plain = trained(metasum, tmp_path, "--learner", "independent")
    assert plain["target"]["before"] > 0.9
    assert plain["target"]["after"] < learnt["target"]["after"] - 0.2


def test_the_symmetric_sum_keeps_both(metasum, tmp_path):
    learnt = trained(metasum, tmp_path, "--symmetric")
    assert learnt["target"]["after"] > 0.85
    assert learnt["support"]["after"] > 0.2
    assert learnt["support"]["after"] > learnt["support"]["before"] - 0.05


@pytest.mark.timeout(900)
def test_strangers_that_look_alike_keep_their_accuracy_side_by_side(metasum, tmp_path):
    flags = ["--targets", "usps,kannada", "--support", "cifar10", "--learners", "independent,blocks", "--no-tune"]
    flags += ["--width", 0.125, "--steps", 150, "--learning-rate", 0.002, "--seeds", 1, "--evaluate-every", 0]
    outcome = metasum(
        "experiment", *flags, "--data-root", ROOT, "--out", tmp_path, "--device", "cpu", "--no-report", "--json"
    )
    assert outcome.code == 0, outcome.err
    kept = {row["learner"]: row["accuracy"] for row in json.loads(outcome.out)["rows"]}
    for target in ("usps", "kannada"):
        assert kept["blocks"][target]["before"] > 0.9
        assert kept["blocks"][target]["retention"] > 0.95
        assert kept["independent"][target]["retention"] < kept["blocks"][target]["retention"] - 0.1
