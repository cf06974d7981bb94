"""Networks fine-tuned on eight datasets from one pretrained start, merged by methods for that: docs/reproductions.md.

python docs/eight_tasks.py FOLDER      two minutes on one core; FOLDER keeps the networks

The trunk is merged, each dataset keeps its head. A method's settings are chosen by the mean accuracy on 500 validation
images of each dataset; test images are looked at once, in the end.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from torch import nn

import metasum
from metasum.baselines.joint_training import JointTraining
from metasum.tasks.loading import load_dataset
from metasum.tasks.sampler import JointSampler
from metasum.tasks.task import ImageTask

ROOT = Path(".data")
PRETRAINED_ON = ("cifar10", "letters")
TASKS = ("mnist", "svhn", "usps", "kannada", "notmnist", "fashionmnist", "digits", "printed-digits")
WIDTH, BATCH, PRETRAINING, FINE_TUNING = 512, 64, 2000, 300
VALIDATION, TEST, UNLABELLED = 500, 2000, 512
HEAD = "7.*"
SCALINGS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0)
ROWS = {
    "average": [{}],
    **{name: [{"scaling": own} for own in SCALINGS] for name in ("task-arithmetic", "ties", "consensus")},
    **{name: [{"scaling": own} for own in SCALINGS] for name in ("tsv-m", "iso-c", "iso-cts")},
    "adamerging": [{"adamerging_start": own} for own in (0.1, 0.3)],
    "regmean": [{}],
}


def make() -> nn.Module:
    """Three hidden layers: matrices, as the papers have, and no running statistics. 26 outputs, for letters."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (1024, WIDTH, WIDTH):
        layers += [nn.Linear(inputs, WIDTH), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 26))


def task(name: str, evaluate_on: str = "validation") -> ImageTask:
    return ImageTask(load_dataset(name, root=ROOT), evaluate_on=evaluate_on)


def train(network: nn.Module, names: tuple[str, ...], steps: int, rate: float) -> nn.Module:
    """Adam, the learning rate falling to 0; of several datasets with a head for each."""
    head = frozenset(own for own, _ in network.named_parameters() if own.startswith(HEAD[:-1]))
    joint = JointTraining(network, names, head=head)
    sampler = JointSampler(list(map(task, names)), batch_sizes=[BATCH] * len(names), generator=torch.Generator())
    optimizer = torch.optim.Adam(joint.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        joint.training_step(*next(sampler))
        optimizer.step()
        schedule.step()
    return network.eval()


def kept(folder: Path, name: str, make_it) -> nn.Module:
    """The network in a file, where it is there; else made, and written."""
    network, file = make(), folder / f"{name}.pt"
    if not file.exists():
        torch.save(make_it().state_dict(), file)
    network.load_state_dict(torch.load(file, weights_only=True))
    return network.eval()


def accuracies(networks: list[nn.Module], data: list[list]) -> list[float]:
    """In %."""
    return [100 * metasum.evaluate(own, batches).accuracy for own, batches in zip(networks, data, strict=True)]


def say(row: str, found: list[float], **more: object) -> None:
    told = {"row": row, "mean": round(sum(found) / len(found), 2), "each": [round(own, 1) for own in found], **more}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    start = kept(folder, "start", lambda: train(make(), PRETRAINED_ON, PRETRAINING, 1e-3))

    def tuned(name: str) -> nn.Module:
        network = make()
        network.load_state_dict(start.state_dict())
        network[7].reset_parameters()
        return train(network, (name,), FINE_TUNING, 3e-4)

    networks = [kept(folder, name, lambda name=name: tuned(name)) for name in TASKS]
    chosen_on = [list(task(name).evaluation(VALIDATION)) for name in TASKS]
    tested_on = [list(task(name, "test").evaluation(TEST)) for name in TASKS]
    images = [list(torch.cat(list(task(name).calibration(2)))[:UNLABELLED].split(32)) for name in TASKS]
    say("datasets", [0.0], tasks=TASKS)
    say("the networks alone", accuracies(networks, tested_on))
    for method, candidates in ROWS.items():
        best: tuple[float, dict, list[nn.Module], float] = (-1.0, {}, [], 0.0)
        for settings in candidates:
            began = time.process_time()
            merged = metasum.merge(networks, method, base=start, images=images, keep=HEAD, **settings)
            seconds, tasks = time.process_time() - began, [merged.for_task(index) for index in range(len(TASKS))]
            score = sum(accuracies(tasks, chosen_on))
            best = max(best, (score, settings, tasks, seconds), key=lambda each: each[0])
        _, settings, tasks, seconds = best
        say(method, accuracies(tasks, tested_on), chosen=settings, seconds=round(seconds, 1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
