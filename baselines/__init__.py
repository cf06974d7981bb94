"""Everything MetaSum is compared with. Imported as `metasum.baselines`."""

from metasum.baselines.registry import LearnerEntry, learner_named, register

__all__ = ["LearnerEntry", "learner_named", "register"]
