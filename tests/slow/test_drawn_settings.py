"""Settings drawn at random, of methods and of runs: what is asked for runs two steps, or is refused in a sentence."""

import functools
import math
import os
import shutil
import sys

import pytest
from refusal import check_sentence
from tiny import images, labels, small_network

import metasum
from metasum.baselines.registry import LEARNERS
from metasum.config import options_of
from metasum.errors import MetaSumError
from metasum.merging import METHODS
from metasum.modules.tasks import MergedTasks
from metasum.run.request import COMMON
from metasum.weights.parameters import unfinite
from metasum.weights.storage import load_weights

hypothesis = pytest.importorskip("hypothesis")
from drawn import drawn, some_of, st  # noqa: E402 (it needs Hypothesis)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
EXAMPLES = int(os.environ.get("EXAMPLES", "100"))
QUICK = {"width": 0.04, "steps": 2, "batch_size": 8, "calibration_batches": 1, "device": "cpu", "num_classes": 4}
QUICK |= {"evaluate_images": 16, "target": "rows", "support": "lines", "report": False}
FIXED = {"devices", "num_nodes", "fsdp", "learner", "data_root", "target", "support", "steps", "width", "seed"}
FIXED |= {name for name in COMMON if name.startswith(("wandb", "tensorboard"))} | {"device", "num_classes"}
"""Settings that are not drawn: of processes, places and services, and what makes a run long."""


def trying(examples):
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


class Tally:
    """How many were taken, and how many refused."""

    def __init__(self):
        self.taken = self.refused = 0

    def refuse(self, error):
        check_sentence(error)
        self.refused += 1

    def told(self, what):
        assert self.taken > self.refused / 20, "hardly anything was taken"
        print(f"{self.taken + self.refused} {what} were tried, {self.taken} ran", file=sys.__stderr__)


@functools.cache
def networks():
    return [small_network(0).float(), small_network(1).float(), small_network(2).float()]


@st.composite
def merges(draw):
    name = draw(st.sampled_from(sorted(METHODS)))
    return name, draw(some_of(options_of(METHODS[name].Config))), draw(st.integers(0, 2**62))


@pytest.mark.filterwarnings("error")
def test_settings_of_methods():
    loaders = [[(images(8, seed=seed).float(), labels(8))] for seed in range(2)]
    tally = Tally()

    @trying(EXAMPLES * 2)
    @hypothesis.given(merges())
    def merged(drawn_merge):
        name, settings, seed = drawn_merge
        base = networks()[2] if METHODS[name].needs_base or METHODS[name].takes_base else None
        try:
            found = metasum.merge(networks()[:2], name, images=loaders, base=base, seed=seed, **settings)
        except MetaSumError as error:
            tally.refuse(error)
            return
        tally.taken += 1
        for network in found.tasks if isinstance(found, MergedTasks) else [found]:
            assert unfinite(network) is None
            assert network(images(3).float()).isfinite().all()

    merged()
    tally.told("merges")


@st.composite
def runs(draw):
    name = draw(st.sampled_from(sorted(LEARNERS)))
    common = [option for option in COMMON.values() if option.name not in FIXED]
    own = draw(some_of(options_of(LEARNERS[name].Config), at_most=3))
    given_common = draw(some_of(common, most=16, at_most=3))
    return {"learner": name, "seed": draw(drawn(COMMON["seed"])), **given_common, **own}


@pytest.mark.filterwarnings("error")
def test_settings_of_runs(data_root, tmp_path):
    tally = Tally()

    @trying(EXAMPLES)
    @hypothesis.given(runs())
    def trained(given):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        try:
            asked = {name: value for name, value in QUICK.items() if name != "report"} | given
            request = metasum.settings(**asked, data_root=str(data_root))
            result = metasum.train(request, out=tmp_path / "runs", name="a", report=False)
        except MetaSumError as error:
            tally.refuse(error)
            return
        tally.taken += 1
        for side in result.accuracy.sides():
            assert all(0 <= number <= 1 for number in (side[1].before, side[1].after))
        assert math.isfinite(result.seconds)
        for file in (tmp_path / "runs" / "rows+lines" / "a").glob("*.safetensors"):
            assert all(own.isfinite().all() for own in load_weights(file).values() if own.is_floating_point())

    trained()
    tally.told("runs")
