"""What slots are taught to be quiet on: near misses of their own images, and further datasets."""

import json

import pytest
import torch
from refusal import nothing_written, refused
from tiny import images, labels, small_network

from metasum import MetaSum
from metasum.learners import near_misses as kinds
from metasum.learners.near_misses import KINDS, near_misses
from metasum.learners.slots import SlotsConfig, SlotsLearner
from metasum.types import Batch


@pytest.mark.parametrize("kind", KINDS)
def test_every_near_miss_changes_its_image(kind):
    torch.manual_seed(0)
    own = torch.randn(6, 1, 32, 32)
    made = kind(own)
    assert made.shape == own.shape
    assert made.isfinite().all()
    assert not any(torch.equal(one, other) for one in made for other in own)


def test_pieces_are_the_images_own():
    own = torch.arange(2 * 16.0).reshape(2, 1, 4, 4)
    assert torch.equal(kinds._quarters(own).flatten(1).sort().values, own.flatten(1))
    halves = kinds._halves(own)
    assert torch.equal(halves[0].flatten()[:2], own[0].flatten()[:2]), "the first half"
    assert torch.equal(halves[0].flatten()[-2:], own[1].flatten()[-2:]), "the other image's second half"
    assert torch.equal(kinds._laid_over(own)[0], own[1])


@pytest.mark.parametrize("count", [0, 1, 7, 20])
def test_as_many_are_made_as_were_asked_for(count):
    assert near_misses(torch.randn(3, 1, 32, 32), count).shape == (count, 1, 32, 32)


class Source:
    """Images of one grey, which remember that they were drawn."""

    def __init__(self):
        self.drawn = 0

    def __len__(self):
        return 5

    def training_batch(self, indices, generator):
        self.drawn += len(indices)
        return Batch(torch.full((len(indices), 1, 8, 8), 7.0).double(), indices)


def test_shares_are_equal_and_all_kinds_are_normalised_together():
    learner = SlotsLearner(MetaSum(small_network(0)), SlotsConfig(quiet_on=("own", "grey")))
    source = Source()
    learner.read_further({"grey": source})
    own, partner = images(36, seed=1), images(36, seed=2)
    foreign = learner._foreign(own, partner)
    assert foreign.shape == (72, *own.shape[1:])
    assert source.drawn == 8, "one of nine kinds: seven near misses, the partner, the dataset"
    assert sum(torch.equal(one, other) for one in foreign for other in partner) == 8
    target, support = Batch(own, labels(36, seed=1)), Batch(partner, labels(36, seed=2))
    torch.manual_seed(0)
    terms = learner.training_step(target, support)
    assert set(terms) == {"target", "target_quiet", "support", "support_quiet"}
    assert int(learner.networks.target[1].num_batches_tracked) == 1, "own and foreign images are one batch"


@pytest.mark.parametrize(
    ("targets", "support", "given", "quiet_on"),
    [
        (["mnist", "svhn"], "cifar10", {}, ("own", "letters", "glyphs")),
        (["digits", "printed-digits"], "letters", {}, ("own", "glyphs")),
        (["digits", "glyphs"], "letters", {}, ("own",)),
        (["digits", "glyphs"], "letters", {"quiet_weight": 0.0}, ()),
    ],
)
def test_by_default_networks_are_quiet_on_all_that_is_always_there_and_that_none_is_trained_on(
    targets, support, given, quiet_on
):
    assert SlotsLearner.for_strangers(targets, {**given, "support": support}) == {"quiet_on": quiet_on}


def test_networks_become_quiet_on_what_they_are_told_to(metasum, tiny, tmp_path):
    command = ["train", *tiny, "--learner", "slots", "--quiet-on", "own,letters", "--no-report", "--json"]
    outcome = metasum(*command)
    assert outcome.code == 0, outcome.err
    config = json.loads((tmp_path / "runs" / "rows+lines" / "slots-seed0" / "config.json").read_text())
    assert set(config["further_data"]) == {"letters"}
    assert config["settings"]["own"]["quiet_on"] == ["own", "letters"]
    again = metasum(*command, "--resume")
    assert again.code == 0, again.err
    assert json.loads(again.out)["accuracy"] == json.loads(outcome.out)["accuracy"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--quiet-on", "own,lines"), "'lines' is one of the pair's own datasets"),
        (("--quiet-on", "own,rows"), "'rows' is one of the pair's own datasets"),
        (("--quiet-on", "nowhere"), "nowhere"),
        (("--quiet-on", "own,none"), "none goes with nothing else"),
        (("--quiet-on", "own", "--quiet-weight", 0), "--quiet-on says nothing with --quiet-weight 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(metasum, tiny, tmp_path, flags, told):
    refused(metasum("train", *tiny, "--learner", "slots", *flags), 2, told)
    assert nothing_written(tmp_path)


def test_strangers_cannot_train_on_one_anothers_data(metasum, tiny, tmp_path):
    flags = [
        *tiny[tiny.index("--data-root") :],
        "--targets",
        "digits,letters",
        "--support",
        "rows",
        "--learners",
        "slots",
    ]
    outcome = metasum("experiment", *flags, "--quiet-on", "own,letters", "--num-classes", 26, "--no-tune")
    refused(outcome, 2, "'letters' is")
    assert nothing_written(tmp_path)
