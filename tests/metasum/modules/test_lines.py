"""The line between two networks, and its barrier."""

import math

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from users import Trunk, inputs, loader, same, seeded, snapshot

from metasum import evaluate, line
from metasum.errors import ArchitectureError, UsageError
from metasum.results.modules import LineBetweenModules, Measured
from metasum.weights.parameters import parameters_of


def test_points_lie_between_the_networks_and_the_ends_are_theirs():
    first, second = seeded(Trunk, 1).train(), seeded(Trunk, 2)
    before = snapshot(first, second)
    found = line(first, second, loader(), points=5)
    assert same(snapshot(first, second), before)
    assert found.alphas == (0, 0.25, 0.5, 0.75, 1)
    assert (found.points[0], found.points[-1]) == (evaluate(first, loader()), evaluate(second, loader()))
    quarter = seeded(Trunk, 1)
    with torch.no_grad():
        for own, end in zip(
            (*quarter.parameters(), *quarter.buffers()), (*second.parameters(), *second.buffers()), strict=True
        ):
            if own.is_floating_point():
                own.lerp_(end, 0.25)
    assert found.points[1] == evaluate(quarter, loader())


def test_statistics_are_of_the_images_where_there_are_any():
    first, second = seeded(Trunk, 1), seeded(Trunk, 2)
    seen = []
    found = line(first, second, loader(), points=3, images=loader(5))
    middle = parameters_of(first)["trunk.0.weight"] * 0.5 + parameters_of(second)["trunk.0.weight"] * 0.5

    def forward(network, batch):
        seen.append((network.trunk[0].weight.clone(), network.trunk[1].running_mean.clone(), network))
        return network(batch[0])

    line(first, second, [(inputs(), torch.zeros(20).long())], points=3, images=loader(5), forward=forward)
    weight, mean, network = seen[-5]  # at the middle point, after three batches
    torch.testing.assert_close(weight, middle)
    torch.testing.assert_close(mean, network.trunk[0](inputs(5)).detach().mean(0))
    assert found != line(first, second, loader(), points=3)


def course(*losses, metric=False):
    points = [Measured(1, metric=-loss) if metric else Measured(1, 1 - loss / 10, loss) for loss in losses]
    return LineBetweenModules(tuple(i / (len(losses) - 1) for i in range(len(losses))), tuple(points))


def test_the_barrier_is_the_highest_point_over_the_mean_of_both_ends():
    assert course(1, 5, 3).barrier == 3
    assert course(1, 5, 3).error_barrier == pytest.approx(0.3)
    assert course(1, 5, 3, metric=True).barrier == 3
    assert course(2, 0, 2).barrier == 0
    assert math.isnan(course(2, math.nan, 2).barrier)


@pytest.mark.parametrize("metric", [False, True])
def test_it_is_drawn(metric):
    figure = course(1, 5, 3, metric=metric).figure()
    assert isinstance(figure, Figure)
    assert [len(axes.lines[0].get_xdata()) for axes in figure.axes] == ([3] if metric else [3, 3])


def test_what_has_no_line_is_one_sentence():
    with pytest.raises(UsageError, match="3 to 1001 points"):
        line(nn.Linear(6, 2), nn.Linear(6, 2), loader(), points=2)
    with pytest.raises(ArchitectureError, match=r"'weight' is \[2, 6\] float32 in network 1"):
        line(nn.Linear(6, 2), nn.Linear(6, 3), loader())
    with pytest.raises(UsageError, match="data is an iterator"):
        line(seeded(Trunk, 1), seeded(Trunk, 2), iter(list(loader())))
