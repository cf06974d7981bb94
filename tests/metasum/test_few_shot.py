"""`metasum few-shot` on a toy of twelve classes: runs, resuming, further questions, refusals."""

import json

import numpy as np
import pytest
import torch
from refusal import refused
from tiny import write_npz

from metasum.assembly.few_shot import few_shot
from metasum.baselines.few_shot import FEW_SHOT
from metasum.baselines.few_shot_references import Maml, Prototypical
from metasum.config import FewShotConfig
from metasum.errors import Interrupted
from metasum.training.few_shot import differences, episode_shares, mean_of
from metasum.training.progress import SilentDisplay
from metasum.types import Batch, FewShotEpisode


def toy_arrays(classes=15):
    """Class k is bright in column k."""
    rng = np.random.default_rng(0)

    def split(images):
        y = np.arange(classes).repeat(images)
        x = rng.integers(0, 60, (len(y), 16, 16), dtype=np.uint8)
        x[np.arange(len(y)), :, y] += 180
        return x, y

    return split(6), split(3)


@pytest.fixture
def flags(tmp_path):
    write_npz(tmp_path / "data" / "columns.npz", toy_arrays())
    write_npz(tmp_path / "data" / "others.npz", toy_arrays(12))
    return [
        *("--dataset", "columns", "--data-root", tmp_path / "data", "--out", tmp_path / "runs", "--ways", 2),
        *("--queries", 3, "--filters", 4, "--steps", 4, "--pretraining-steps", 4, "--episodes", 6, "--device", "cpu"),
        *("--validation-episodes", 3, "--evaluate-every", 2, "--checkpoint-every", 2, "--log-every", 1),
    ]


def folder(tmp_path, ways=2, shots=1):
    return tmp_path / "runs" / "few-shot" / f"columns-{ways}way-{shots}shot"


def test_all_learners_run_side_by_side_with_everything_asked_of_them(metasum, flags, tmp_path):
    more = ("--test-ways", "3", "--base-filters", "2,6", "--then", "others", "--then-steps", 2, "--json")
    outcome = metasum("few-shot", *flags, *more)
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert [row["learner"] for row in result["rows"]] == list(FEW_SHOT)
    for row in result["rows"]:
        assert 0 <= row["accuracy"]["mean"] <= 1
        assert row["accuracy"]["episodes"] == 6
        assert row["steps"] == (4 if FEW_SHOT[row["learner"]].meta_trains else 0)
    assert {row["learner"] for row in result["asked"]} == set(FEW_SHOT) - {"maml", "meta-transfer"}
    assert [row["filters"] for row in result["reparameterised"]] == [2, 6]
    assert {row["learner"] for row in result["then"]} == {"meta-networks", "meta-transfer", "maml", "prototypical"}
    means = {row["learner"]: row["accuracy"]["mean"] for row in result["rows"]}
    found = result["differences"]["maml"]["prototypical"]
    assert found["mean"] == pytest.approx(means["maml"] - means["prototypical"], abs=1e-5)
    assert result["differences"]["prototypical"]["maml"]["mean"] == -found["mean"]
    assert json.loads((folder(tmp_path) / "results.json").read_text()) == result
    page = (folder(tmp_path) / "report.html").read_text()
    assert all(name in page for name in (*FEW_SHOT, "Gone on with others", "untrained base network"))
    again = metasum("few-shot", *flags, *more)
    assert json.loads(again.out)["rows"] == result["rows"]
    assert "step" not in again.err  # everything was there
    assert metasum("report", folder(tmp_path)).code == 0


def test_the_table_shows_accuracy_with_its_interval(metasum, flags):
    outcome = metasum("few-shot", *flags, "--learner", "prototypical", "--shots", 2, "--seeds", 2)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("prototypical") == 2
    assert "±" in outcome.out
    assert "2-way 2-shot on columns" in outcome.out


@pytest.mark.parametrize("learner", ["meta-networks", "meta-transfer", "maml"])
def test_a_stopped_run_goes_on_bit_for_bit(flags, tmp_path, learner, monkeypatch):
    config = FewShotConfig(
        dataset="columns", data_root=str(tmp_path / "data"), ways=2, queries=3, filters=4, steps=4,
        pretraining_steps=3, episodes=4, validation_episodes=2, evaluate_every=0, checkpoint_every=1, device="cpu",
    )  # fmt: skip

    class Stopping(SilentDisplay):
        def stepped(self, step, **_):
            if step == 2:
                raise KeyboardInterrupt

    straight = few_shot(config, learners=[learner], out=tmp_path / "a")
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        few_shot(config, learners=[learner], out=tmp_path / "b", displays=Stopping)
    stopped = list((tmp_path / "b" / "few-shot").rglob("last.ckpt"))
    assert stopped
    resumed = few_shot(config, learners=[learner], out=tmp_path / "b")
    assert resumed.rows[0].accuracy == straight.rows[0].accuracy
    weights = [
        (tmp_path / run / "few-shot" / "columns-2way-1shot" / f"{learner}-seed0" / "learner.safetensors").read_bytes()
        for run in "ab"
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--learner", "mamml"), "maml"),
        (("--learner", "maml,maml"), "different learners"),
        (("--ways", 4), "2 classes to validate on"),
        (("--shots", 7), "takes 10 images"),
        (("--test-ways", "3,x"), "--test-ways"),
        (("--test-ways", "3", "--learner", "maml"), "--test-ways"),
        (("--test-ways", "4"), "3 classes to test on"),
        (("--base-filters", "8", "--learner", "maml"), "--base-filters"),
        (("--then", "columns"), "--then columns"),
        (("--then", "others", "--learner", "fine-tuning"), "--then"),
        (("--dataset", "kolumns"), "columns"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(metasum, flags, tmp_path, more, words):
    refused(metasum("few-shot", *flags, "--learner", "prototypical", *more), 2, words)
    assert not (tmp_path / "runs").exists()


def test_a_run_of_other_settings_is_not_gone_on_with(metasum, flags):
    assert metasum("few-shot", *flags, "--learner", "prototypical").code == 0
    refused(metasum("few-shot", *flags, "--learner", "prototypical", "--filters", 5), 2, "filters was 4, now 5")


def test_a_setting_that_a_run_does_not_read_may_change(metasum, flags):
    learners = ("--learner", "classifier-tuning,prototypical")
    assert metasum("few-shot", *flags, *learners).code == 0
    assert metasum("few-shot", *flags, *learners, "--inner-lr", 0.1, "--samples", 3).code == 0
    refused(metasum("few-shot", *flags, *learners, "--base-lr", 0.1), 2, "base_lr was")  # the trunk is as it was


def test_the_interval_is_students(monkeypatch):
    class Fixed:
        def eval(self):
            return self

        def logits(self, adaptation, images):
            return images

    episodes = [
        FewShotEpisode(None, Batch(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, wrong])), None)
        for wrong in (0, 1, 1)
    ]
    import contextlib

    found = mean_of(episode_shares(Fixed(), episodes, autocast=contextlib.nullcontext))
    assert found.mean == pytest.approx(2 / 3, abs=1e-6)
    assert found.interval == pytest.approx(4.302653 * 0.2886751 / 3**0.5, abs=1e-5)


def test_references_learn_the_toy(flags, tmp_path):
    """They tell columns apart after a few steps; chance is one in two."""
    config = FewShotConfig(
        dataset="columns", data_root=str(tmp_path / "data"), ways=2, queries=3, filters=8, steps=25, episodes=20,
        validation_episodes=2, evaluate_every=0, learning_rate=0.01, device="cpu",
    )  # fmt: skip
    result = few_shot(config, learners=["prototypical", "maml"], out=tmp_path / "runs")
    assert all(row.accuracy.mean > 0.7 for row in result.rows)


def test_maml_adapts_a_clone_and_prototypical_needs_no_number_of_ways():
    torch.manual_seed(0)
    batch = Batch(torch.randn(3, 1, 32, 32), torch.arange(3))
    maml = Maml(ways=3, filters=4, inner_steps=2)
    before = [p.clone() for p in maml.parameters()]
    answers = maml.eval().logits(batch, batch.images)
    assert answers.shape == (3, 3)
    assert all(torch.equal(a, b) for a, b in zip(before, maml.parameters(), strict=True))
    five = Batch(torch.randn(5, 1, 32, 32), torch.arange(5))
    assert Prototypical(filters=4).asked(5).logits(five, batch.images).shape == (3, 5)


def test_pairing_episodes_makes_the_interval_that_of_the_difference():
    hard = np.random.default_rng(0).uniform(0.2, 0.9, 200)  # episodes differ much more than learners do
    shares = {"first": [list(hard), list(hard + 0.02)], "second": [list(hard - 0.01), list(hard - 0.01)]}
    found = differences(shares)["first"]["second"]
    assert found.mean == pytest.approx(0.02)
    assert found.interval == pytest.approx(0, abs=1e-6)
    assert mean_of(shares["first"][0]).interval > 0.02
