"""Eight networks, each of a dataset of its own, merged by every method.

    python docs/eight_methods.py RUNS SEED OUT.json [CHOSEN.json] [METHOD …]

RUNS holds the folders that `metasum train --evaluate-on validation` left for the eight datasets (docs/results.md has
the commands). Merging sees 256 unlabelled training images of each. Settings that a method has candidates for are chosen
on 256 validation images of each, on which no network was trained. Accuracies are of 1,000 test images of each dataset:
with one network and one set of statistics for all, and with own heads and own statistics, where the task is known.
Networks may come from one start or each from its own; methods that need a common one are refused then.
"""

import itertools
import json
import resource
import sys
import time
from pathlib import Path
from statistics import fmean

import torch

import metasum
from metasum.merging import METHODS
from metasum.tasks.loading import load_dataset
from metasum.tasks.task import ImageTask

DATASETS = ("mnist", "svhn", "usps", "kannada", "notmnist", "fashionmnist", "digits", "printed-digits")
OWN = ("classifier.*", "*running_mean", "*running_var", "*num_batches_tracked")


class Data:
    """Every dataset's images: to merge with, to choose settings on, and to be measured on at the end."""

    def __init__(self):
        datasets = [load_dataset(name, root=Path(".data")) for name in DATASETS]
        held_out = [ImageTask(dataset, evaluate_on="validation") for dataset in datasets]
        self.merging = [[next(iter(task.calibration(1)))] for task in held_out]
        self.validation = [labelled(task, 256) for task in held_out]
        self.test = [labelled(ImageTask(dataset), 1000) for dataset in datasets]


def labelled(task, limit):
    return [(batch.images, batch.labels) for batch in task.evaluation(limit)]


def merged(name, settings, networks, base, data, keep):
    """A network for each dataset, all the same one without heads of their own."""
    method = METHODS[name](seed=0, **settings)
    found = metasum.merge(networks, method, images=data.merging, base=base, keep=keep)
    each = hasattr(found, "for_task")
    return [found.for_task(index) if each else found for index in range(len(DATASETS))]


def accuracies(networks, loaders):
    """Of each dataset, by its name."""
    pairs = zip(networks, loaders, strict=True)
    return dict(zip(DATASETS, (metasum.evaluate(own, loader).accuracy for own, loader in pairs), strict=True))


def row(name, asked, data, chosen):
    """What one method makes of the networks, with the settings that validation images prefer."""
    candidates = METHODS[name].candidates
    tried = [dict(zip(candidates, values, strict=True)) for values in itertools.product(*candidates.values())]
    if chosen is None:
        chosen = max(tried, key=lambda s: fmean(accuracies(merged(name, s, *asked), data.validation).values()))
    started = time.perf_counter()
    networks = merged(name, chosen, *asked)
    seconds = round(time.perf_counter() - started, 1)
    on = accuracies(networks, data.test)
    return {"mean": fmean(on.values()), "on": on, "seconds": seconds, "chosen": chosen}


def main(runs, seed, out, *options):
    """As options: FILE.json of another seed, whose choices are taken; or names of methods."""
    chosen = next((json.loads(Path(file).read_text()) for file in options if file.endswith(".json")), {})
    methods = [name for name in options if not name.endswith(".json")] or list(METHODS)
    data, found = Data(), {}
    folders = [Path(runs) / f"{name}+cifar10" / f"independent-seed{seed}" for name in DATASETS]
    networks = [metasum.load_network(folder / "target.safetensors") for folder in folders]
    starts = [metasum.load_network(folder / "initial.safetensors").state_dict() for folder in folders]
    shared = all(torch.equal(own[name], starts[0][name]) for own in starts for name in own)
    base = starts[0] if shared else None  # methods that work on differences from it are refused without
    for heads, keep in (("summed", ()), ("own", OWN)):
        rows = found[heads] = {}
        if heads == "summed":
            rows["alone"] = {"on": (on := accuracies(networks, data.test)), "mean": fmean(on.values())}
            both = metasum.merge(networks, "side-by-side")
            rows["ensemble"] = {"on": (on := accuracies([both] * len(DATASETS), data.test)), "mean": fmean(on.values())}
        for name in methods:
            own = chosen.get(heads, {}).get(name, {}).get("chosen")
            try:
                rows[name] = row(name, (networks, base, data, keep), data, own)
            except metasum.MetaSumError as error:
                rows[name] = {"refused": str(error)}
            rows[name]["peak GiB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
            sys.stderr.write(f"{heads} {name} {rows[name].get('mean', rows[name].get('refused'))}\n")
            Path(out).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
