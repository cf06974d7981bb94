"""What networks say of one another's datasets."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from metasum.results.experiment_summary import OpinionSpread
from metasum.results.strangers import Opinion, Opinions
from metasum.strangers.opinions import _auroc, opinions_of
from metasum.types import Batch


class Saying(nn.Module):
    """Logits by the brightness of an image, which says whose it is."""

    def __init__(self, own, other):
        super().__init__()
        self.table = nn.Parameter(torch.tensor([own, other]))

    def forward(self, images):
        return self.table[images[:, 0, 0, 0].long()]


class Dataset:
    """Ten images of one brightness, all of class 0."""

    def __init__(self, brightness):
        self.images = torch.full((10, 1, 2, 2), float(brightness))

    def evaluation(self, limit=None):
        yield Batch(self.images[:5], torch.zeros(5).long())
        yield Batch(self.images[5:], torch.zeros(5).long())


def run(target, *said):
    return SimpleNamespace(target=target, folder=Path(f"{target}-run"), network=Saying(*said).eval())


def test_a_loud_stranger_costs_what_its_logits_turn_over():
    first = run("a", [2.0, 0.0, 0.0], [0.0, 9.0, 0.0])  # right on a, loud and wrong on b
    second = run("b", [0.0, 0.5, 0.5], [3.0, 0.0, 0.0])
    found = opinions_of([first, second], {"a": Dataset(0), "b": Dataset(1)})
    said = {(each.network, each.dataset): each for each in found.each}
    assert found.ensemble == {"a": 1.0, "b": 0.0}
    assert [said[name, name].pair for name in "ab"] == [1.0, 1.0], "alone"
    assert said["a", "b"].pair == 0.0
    assert said["b", "a"].pair == 1.0
    assert said["a", "b"].loudness == pytest.approx((6 + 3 + 3) / 3)
    assert said["a", "a"].auroc is None
    assert said["a", "b"].auroc == 0.0, "louder on the other's images than on its own"
    assert said["b", "a"].auroc == 1.0


def test_runs_on_one_dataset_go_by_their_folders_and_a_dataset_of_nobodys_has_no_pair():
    runs = [run("a", [1.0, 0.0], [0.0, 1.0]), run("a", [0.0, 1.0], [0.0, 1.0])]
    runs[1].folder = Path("other")
    found = opinions_of(runs, {"a": Dataset(0), "c": Dataset(1)})
    assert {each.network for each in found.each} == {"a-run", "other"}
    assert [each.pair for each in found.each if each.dataset == "c"] == [None, None]


def test_auroc_is_the_share_of_pairs_in_order_and_half_by_chance():
    own, foreign = torch.tensor([[3.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    assert _auroc(own, foreign) == 0.75
    assert _auroc(own, own) == 0.5


def test_over_seeds_the_worst_opinion_comes_first_and_kept_is_of_each_seeds_own_accuracy():
    def seed(alone, beside):
        says = lambda network, dataset, pair: Opinion(network, dataset, 0.1, None, pair)  # noqa: E731
        return Opinions(
            {}, (says("a", "a", alone), says("a", "b", beside), says("b", "a", alone), says("b", "b", alone))
        )

    first, second = OpinionSpread.all_of([seed(0.8, 0.4), seed(0.5, 0.5)])
    assert (first.network, first.dataset, first.kept.mean) == ("a", "b", 0.75)
    assert (second.network, second.dataset, second.kept.mean) == ("b", "a", 1.0)
