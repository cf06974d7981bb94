"""Eight networks, each of a dataset of its own, merged by every method.

    python docs/eight_methods.py RUNS SEED OUT.json [METHOD …]

RUNS holds the folders that `metasum train --evaluate-on validation` left for the eight datasets (docs/results.md has
the commands). Merging sees 256 unlabelled training images of each. Settings that a method has candidates for are chosen
on 256 validation images of each, on which no network was trained. Accuracies are of 1,000 test images of each dataset:
with one network and one set of statistics for all, and with own heads and own statistics, where the task is known.
"""

import itertools
import json
import resource
import sys
import time
from pathlib import Path

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


def row(name, networks, base, data, keep):
    """What one method makes of the networks, with the settings that validation images prefer."""

    def accuracies(loaders, settings):
        method = METHODS[name](seed=0, **settings)
        found = metasum.compare(networks, loaders, methods=[method], images=data.merging, base=base, keep=keep)
        [one] = [row for row in found.rows if row.what in ("merged", "task known")]
        return (
            one.mean,
            {dataset: one.on[key].value for dataset, key in zip(DATASETS, one.on, strict=True)},
            one.seconds,
        )

    candidates = METHODS[name].candidates
    tried = [dict(zip(candidates, values, strict=True)) for values in itertools.product(*candidates.values())]
    chosen = max(tried, key=lambda settings: accuracies(data.validation, settings)[0]) if len(tried) > 1 else {}
    mean, on, seconds = accuracies(data.test, chosen)
    return {"mean": mean, "on": on, "seconds": seconds, "chosen": chosen}


def main(runs, seed, out, *methods):
    data, found = Data(), {}
    folders = [Path(runs) / f"{name}+cifar10" / f"independent-seed{seed}" for name in DATASETS]
    networks = [metasum.load_network(folder / "target.safetensors") for folder in folders]
    base = metasum.load_network(folders[0] / "initial.safetensors").state_dict()
    for heads, keep in (("summed", ()), ("own", OWN)):
        anchors = metasum.compare(networks, data.test, methods=["average"], images=data.merging, keep=keep)
        found[heads] = {
            row.name: {"mean": row.mean, "on": dict(zip(DATASETS, (m.value for m in row.on.values()), strict=True))}
            for row in anchors.rows
            if row.name in ("ensemble", "each alone, on its own data")
        }
        for name in methods or METHODS:
            started = time.perf_counter()
            try:
                found[heads][name] = row(name, networks, base, data, keep)
            except metasum.MetaSumError as error:
                found[heads][name] = {"refused": str(error)}
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            found[heads][name] |= {"with search": round(time.perf_counter() - started, 1), "peak GiB": round(peak, 2)}
            sys.stderr.write(f"{heads} {name} {found[heads][name].get('mean')}\n")
            Path(out).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
