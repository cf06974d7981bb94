"""What several networks, and their sum, are measured by: datasets, their union, the line between, mistakes."""

import pytest
import torch
from tiny import blob_arrays, images, small_network, write_npz

from metasum import recalibrate
from metasum.strangers.measuring import measure
from metasum.tasks import ImageTask, load_dataset
from metasum.tasks.task import UnionTask
from metasum.training.analysis import interpolate, mistakes
from metasum.training.confusion import accuracy, confusion
from metasum.types import Batch


def test_a_union_calibrates_on_equal_parts(data_root):
    small = write_npz(data_root / "small.npz", blob_arrays(3, train=20, test=8))
    assert small.is_file()
    own = {name: ImageTask(load_dataset(name, root=data_root)) for name in ("rows", "small")}
    union = UnionTask(list(own.values()))
    (batch,) = union.calibration(4)
    rows, few = (next(iter(task.calibration(4))) for task in own.values())
    assert torch.equal(batch, torch.cat([rows[:20], few]))
    assert sum(len(labels) for _, labels in union.evaluation()) == 48 + 8
    assert sum(len(labels) for _, labels in union.evaluation(5)) == 10


class Twisted:
    """A task on given images."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def evaluation(self, limit=None):
        yield Batch(self.x[:limit], self.y[:limit])

    def calibration(self, batches):
        yield self.x


def test_a_network_is_measured_with_each_datasets_statistics_and_with_the_unions():
    network = small_network(3)
    first, second = (
        Twisted(images(30, seed=1), torch.zeros(30).long()),
        Twisted(images(10, seed=2) * 5 + 3, torch.ones(10).long()),
    )
    measured = measure(dict.fromkeys("ab", network), {"a": first, "b": second}, 4)
    found = measured.accuracy.plain()
    for name, task in (("a", first), ("b", second)):
        assert found[name]["sum"] == accuracy(recalibrate(small_network(3), [task.x]), task.evaluation())
    deployed = recalibrate(small_network(3), [torch.cat([first.x[:10], second.x])])
    shares = [accuracy(deployed, task.evaluation()) for task in (first, second)]
    assert [found[name]["sum_union_statistics"] for name in ("a", "b")] == shares
    assert found["union"]["mean_of_datasets"] == pytest.approx(sum(shares) / 2)
    assert found["union"]["sum_union_statistics"] == pytest.approx((30 * shares[0] + 10 * shares[1]) / 40)
    assert torch.equal(measured.networks["a"][1].running_mean, deployed[1].running_mean), "the union's statistics"


def test_a_confusions_rows_are_what_images_are_and_its_columns_what_they_are_taken_for():
    logits = torch.eye(3)[torch.tensor([1, 1, 2, 0])]
    found = confusion(
        torch.nn.Identity(), [Batch(logits[:2], torch.tensor([0, 1])), Batch(logits[2:], torch.ones(2).long())]
    )
    assert found.tolist() == [[0, 1, 0], [1, 1, 1], [0, 0, 0]]


def test_the_line_ends_at_the_networks():
    first, second = small_network(1), small_network(2)
    task = Twisted(images(40), torch.randint(4, (40,), generator=torch.Generator().manual_seed(0)))
    line = interpolate(first, second, {"a": task})
    assert line.alphas[0] == 0
    assert line.alphas[-1] == 1
    ends = [accuracy(recalibrate(small_network(seed), [task.x]), task.evaluation()) for seed in (2, 1)]
    assert [line.accuracy["a"][0], line.accuracy["a"][-1]] == ends
    assert torch.equal(first[1].running_mean, small_network(1)[1].running_mean), "the ends are copies"


def test_mistakes_are_what_the_sum_gets_wrong_and_first_what_was_right():
    before, after = small_network(1).eval(), small_network(2).eval()
    x = images(60)
    guesses = before(x).argmax(1), after(x).argmax(1)
    found = mistakes(before, after, Twisted(x, guesses[0].clone()))
    assert len(found) == min(12, int((guesses[0] != guesses[1]).sum()))
    assert all(item.label == item.before != item.after for item in found)
    wrong = mistakes(before, after, Twisted(x, (guesses[1] + 1) % 4))
    rights = [item.label == item.before for item in wrong]
    assert rights == sorted(rights, reverse=True)
