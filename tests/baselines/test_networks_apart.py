"""Networks from different initialisations, trained on one dataset: matched channels beat their plain average."""

from functools import cache
from pathlib import Path

import pytest
from apart import trained

from metasum import recalibrate
from metasum.baselines.activation_matching import ActivationMatching
from metasum.baselines.pleas import PLeaS
from metasum.baselines.weight_matching import WeightMatching
from metasum.baselines.zipit import ZipIt
from metasum.merging.endpoints import Endpoint
from metasum.merging.memory import merge
from metasum.tasks.loading import load_dataset
from metasum.tasks.task import ImageTask
from metasum.training.confusion import accuracy
from metasum.weights.composition import average_parameters
from metasum.weights.parameters import with_parameters


@cache
def task():
    return ImageTask(load_dataset("digits", root=Path()))


@cache
def apart(seeds, norm):
    """The networks, and how many digits their plain average gets right."""
    ends = [Endpoint(trained(seed, task(), norm), list(task().calibration(4))) for seed in seeds]
    return ends, right(ends, average_parameters([end.parameters for end in ends]), norm)


def right(ends, parameters, norm):
    network = with_parameters(ends[0].network, parameters)
    return accuracy(recalibrate(network, task().calibration(4)) if norm else network, task().evaluation())


@pytest.mark.parametrize(("seeds", "norm"), [((1, 2), True), ((3, 4), True), ((1, 2), False)])
@pytest.mark.parametrize("method", [WeightMatching, ActivationMatching, ZipIt, PLeaS])
def test_matching_beats_the_plain_average_of_networks_from_different_initialisations(method, seeds, norm):
    ends, average = apart(seeds, norm)
    assert right(ends, merge(method(), ends, ends[0].parameters), norm) > average + 0.15
