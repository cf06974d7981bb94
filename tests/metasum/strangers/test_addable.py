"""Which finished runs may be added: places that learners give to networks, told by the learners' facts."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from metasum.baselines.registry import learner_named, register
from metasum.config import NoSettings, option
from metasum.errors import UsageError
from metasum.learners.joint import JointLearner
from metasum.run.plan import planned
from metasum.strangers.runs import FinishedRun, check_addable

COMMON = {"seed": 0, "batch_size": 8, "width": 0.1, "num_classes": 4, "steps": 1, "learning_rate": 0.1}


def run(folder, learner="metasum", **own):
    """A run that never was, with a network of one layer."""
    torch.manual_seed(0)
    plan = planned(learner_named(learner), {**COMMON, **own})
    return FinishedRun(Path(folder), plan, nn.Linear(2, 2), {}, "same start", "data", ())


def test_networks_in_slots_need_the_same_number_of_slots_and_another_slot_each():
    first, second, whole = run("a", "slots", slot=0), run("b", "slots", slot=1), run("whole")
    check_addable([first, second, whole])
    check_addable([whole, whole])
    with pytest.raises(UsageError, match="a and c both have --slot 0; train one of them with another"):
        check_addable([first, second, run("c", "slots", slot=0)])
    with pytest.raises(UsageError, match="a has --slots 2 and c has --slots 3: their parts overlap"):
        check_addable([first, whole, run("c", "slots", slot=1, slots=3)])


def test_the_rule_goes_by_facts_and_not_by_names():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class SeatConfig(NoSettings):
        seat: int = option(0, "Which.")
        seats: int = option(4, "How many.")

    class Seated(JointLearner):
        name, Config, numbered, places = "seated", SeatConfig, "seat", "seats"

    register(Seated)
    check_addable([run("a", "seated", seat=0), run("b", "seated", seat=1), run("c", "slots", slot=0)])
    with pytest.raises(UsageError, match="a and b both have --seat 3"):
        check_addable([run("a", "seated", seat=3), run("b", "seated", seat=3)])
    with pytest.raises(UsageError, match="a has --seats 4 and b has --seats 5"):
        check_addable([run("a", "seated"), run("b", "seated", seat=1, seats=5)])


def test_nobody_knows_the_facts_of_a_learner_that_is_not_registered():
    plan = dataclasses.replace(run("a").plan, learner="gone", own=SimpleNamespace(slot=0))
    gone = dataclasses.replace(run("a"), plan=plan)
    check_addable([gone, gone])
