"""What is trained on. Imported as `metasum.tasks`."""

from metasum.tasks.distribution import TaskDistribution, Variations
from metasum.tasks.pairs import Recipe, TaskPair
from metasum.tasks.registry import load_dataset, register_dataset, register_pair
from metasum.tasks.sampler import PairSampler
from metasum.tasks.task import ImageTask

__all__ = [
    "ImageTask",
    "PairSampler",
    "Recipe",
    "TaskDistribution",
    "TaskPair",
    "Variations",
    "load_dataset",
    "register_dataset",
    "register_pair",
]
