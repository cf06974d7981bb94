"""More datasets for `--plugin`: every real one turned by 90°, and all of them as one, "everything".

They are made of what lies in .data (`--data-root .data`) and of the embedded ones.
"""

from functools import partial
from pathlib import Path

import torch

from metasum.tasks import register_dataset
from metasum.tasks.loading import load_dataset
from metasum.tasks.task import ImageTask

REAL = ("mnist", "svhn", "usps", "kannada", "notmnist", "fashionmnist", "digits", "printed-digits")


def arrays(name, change):
    """The splits of a dataset with its images changed."""
    dataset = load_dataset(name, root=Path(".data"))
    return tuple((change(split.images).numpy(), split.labels.numpy()) for split in (dataset.train, dataset.test))


def turned(name):
    return arrays(name, lambda images: images.rot90(dims=(2, 3)).permute(0, 2, 3, 1))


def everything():
    """Grey images 32x32, 8,000 of each dataset to train on, brought to one mean and one contrast."""
    train, test = [], []
    for name in REAL:
        task = ImageTask(load_dataset(name, root=Path(".data")))
        train.append(task.training_batch(torch.arange(8000) % len(task), torch.default_generator))
        test += task.evaluation(1000)
    return tuple(
        (torch.cat([pixels(b.images) for b in part]), torch.cat([b.labels for b in part])) for part in (train, test)
    )


def pixels(images):
    return (images[:, 0] * 45 + 90).clamp(0, 255).to(torch.uint8)


for name in REAL:
    register_dataset(f"{name}-turned", partial(turned, name), summary=f"{name}, turned by 90°")
register_dataset("everything", everything, summary="all real ones, grey")
