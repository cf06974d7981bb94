"""Every way of training, and of learning from few examples, by name: dictionaries to read.

The methods of merging are in `metasum.merging.METHODS`.

A third package adds its own through the entry-point group `metasum.baselines` (a function without arguments that
calls `register`), a user through `register` in Python or in a `--plugin` file.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from metasum.config import Option, options_of
from metasum.errors import UsageError
from metasum.merging import GROUPS as METHOD_GROUPS
from metasum.merging import METHODS
from metasum.merging.method import Method
from metasum.plugins import registrar
from metasum.registry import Entry, Registry

if TYPE_CHECKING:
    from metasum.baselines.joint_training import JointTraining
    from metasum.learners.few_shot import FewShotLearner
    from metasum.learners.learner import Learner

TRAINED, ANCHORED, TWO_STARTS, ALL = "trained", "anchors", "two-starts", "all"
GROUPS = {
    TRAINED: "ways of training networks that are to be added",
    **{name: f"merged, {told}" for name, told in METHOD_GROUPS.items() if name != ANCHORED},
    TWO_STARTS: "merged, networks that were trained from two initialisations",
    ANCHORED: "no sum or merge, but what one could reach",
}
"""Kinds of learners, in words. The name of one stands for all its learners where several are asked for, ALL for all."""

LEARNERS: Registry[type[Learner]] = Registry(
    "learner",
    {
        "metasum": Entry("metasum.learners.joint:JointLearner"),
        "metasum-symmetric": Entry("metasum.learners.joint:SymmetricLearner"),
        "metasum-meta": Entry("metasum.learners.meta:MetaLearntLearner"),
        "slots": Entry("metasum.learners.slots:SlotsLearner"),
        "blocks": Entry("metasum.learners.blocks:BlocksLearner"),
        "quiet": Entry("metasum.learners.alone:QuietLearner"),
        "anchored": Entry("metasum.learners.alone:AnchoredLearner"),
        "sharpness-aware": Entry("metasum.learners.alone:SharpnessAwareLearner"),
        "tangent": Entry("metasum.learners.alone:TangentLearner"),
        "independent": Entry("metasum.baselines.independent:IndependentLearner"),
        "proximity": Entry("metasum.baselines.proximity:ProximityLearner"),
        "two-head": Entry("metasum.baselines.two_head:TwoHeadLearner", group=ANCHORED),
        "multi-input": Entry("metasum.baselines.multi_input:MultiInputLearner", group=ANCHORED),
        "meta-networks": Entry("metasum.baselines.meta_networks.pair:MetaNetworksLearner"),
        "meta-transfer": Entry("metasum.baselines.meta_transfer.pair:MetaTransferLearner"),
    },
    more="`metasum learners` lists them.",
)

ANCHORS: Registry[type[JointTraining]] = Registry(
    "anchor of an experiment",
    {"joint-training": Entry("metasum.baselines.joint_training:JointTraining", group=ANCHORED)},
)
"""What an experiment trains on all its targets together, and shows beside the learners."""

FEW_SHOT: Registry[type[FewShotLearner]] = Registry(
    "few-shot learner",
    {
        "meta-networks": Entry("metasum.baselines.meta_networks.learner:MetaNetworks"),
        "meta-transfer": Entry("metasum.baselines.meta_transfer.learner:MetaTransfer"),
        "maml": Entry("metasum.baselines.maml:Maml"),
        "prototypical": Entry("metasum.baselines.prototypical:Prototypical"),
        "fine-tuning": Entry("metasum.baselines.fine_tuning:FineTuning"),
        "from-scratch": Entry("metasum.baselines.fine_tuning:FromScratch"),
        "classifier-tuning": Entry("metasum.baselines.meta_transfer.learner:ClassifierTuning"),
    },
    more="`metasum learners` lists them.",
)


def _merging_learner(method: str, *, two_starts: bool) -> type[Learner]:
    from metasum.baselines.merging import merging_learner

    return merging_learner(METHODS[method], two_starts=two_starts)


def _add_merging_learners(method: str, source: str = "metasum") -> None:
    """The learners that train networks alone and merge them so: from one start and, where it makes sense, from two."""
    facts = METHODS[method]
    if facts.compared:
        home = partial(_merging_learner, method, two_starts=False)
        LEARNERS.add(method, Entry(home, source, facts.summary, facts.group()))
    if facts.two_starts:
        told = f"{facts.summary} From two initialisations."
        home = partial(_merging_learner, method, two_starts=True)
        LEARNERS.add(f"{method}-two-inits", Entry(home, source, told, TWO_STARTS))


for _method in METHODS:
    _add_merging_learners(_method)
LEARNERS.add("independent-two-inits", Entry("metasum.baselines.independent:TwoStartsLearner", group=TWO_STARTS))


def register(found: type[Learner] | type[Method] | type[FewShotLearner], *, source: str | None = None) -> None:
    """Adds a way of training, of learning from few examples, or of merging.

    With a method of merging comes the learner that trains networks alone and merges them so.

    Args:
        found: a class with its facts, settings and name.
        source: where it comes from, for listings [default: the plug-in that is being run, else "Python"].

    Raises:
        UsageError: the name is taken, a group's, or cannot be part of a folder's; or one of its settings has the name
            of another one that takes something else.
    """
    from metasum.learners.few_shot import FewShotLearner

    few_shot = issubclass(found, FewShotLearner)
    if found.name in (*GROUPS, ALL):
        raise UsageError(f"{found.name!r} is the name of a group of learners; take another.")
    source = source or registrar()
    for leaf in options_of(found.Config):
        for other in known_options(leaf.name, few_shot=few_shot):
            if (other.kind, other.many) != (leaf.kind, leaf.many):
                raise UsageError(f"{found.name}: another {leaf.flag} takes values of another kind; rename the setting.")
    if issubclass(found, Method):
        METHODS.add(found.name, Entry(lambda: found, source))
        _add_merging_learners(found.name, source)
    elif issubclass(found, FewShotLearner):
        FEW_SHOT.add(found.name, Entry(lambda: found, source))
    else:
        LEARNERS.add(found.name, Entry(lambda: found, source, group=ANCHORED if found.no_merge else ""))


def known_options(name: str, *, few_shot: bool = False) -> Iterator[Option]:
    """Every setting that is called so: of learners of pairs and methods of merging, or else of few-shot learners."""
    owners: list[Any] = [*FEW_SHOT.values()] if few_shot else [*LEARNERS.values(), *METHODS.values()]
    yield from (leaf for owner in owners for leaf in options_of(owner.Config) if leaf.name == name)


def learner_named(name: str) -> type[Learner]:
    """The learner called `name`; raises UsageError, with the nearest name, where there is none."""
    return LEARNERS.named(name)
