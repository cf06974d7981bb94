"""Everything metasum is compared with, one idea a file."""

from metasum.baselines.registry import learner_named, register

__all__ = ["learner_named", "register"]
