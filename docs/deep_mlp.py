"""REPAIR's batch-norm MLP of ten hidden layers on MNIST, merged by every way of matching: docs/reproductions.md.

python docs/deep_mlp.py train FOLDER SEED…      a network for each seed, some minutes each
python docs/deep_mlp.py merge FOLDER SEED…      what each method makes of all of them, measured on test images
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import metasum

BATCH, EPOCHS, WARM_UP = 2000, 50, 5
METHODS = ("average", "weight-matching", "activation-matching", "merge-many", "c2m3")


def make(hidden: int = 128, layers: int = 10) -> nn.Module:
    """The notebook's network: a first layer and ten more, each with batch norm and no bias."""
    sizes = [784, *[hidden] * (layers + 1)]
    parts = [
        part
        for one, two in pairwise(sizes)
        for part in (nn.Linear(one, two, bias=False), nn.BatchNorm1d(two), nn.ReLU())
    ]
    return nn.Sequential(nn.Flatten(), *parts, nn.Linear(hidden, 10))


def mnist(split: str) -> TensorDataset:
    """Images as the notebook has them, not augmented."""
    with np.load(".data/mnist.npz") as file:
        images = torch.from_numpy(file[f"x_{split}"]).float().sub(33.32).div(78.58)
        return TensorDataset(images, torch.from_numpy(file[f"y_{split}"]).long())


def trained(seed: int) -> nn.Module:
    """SGD, learning rate 0.05, momentum 0.9: five epochs up from 0, and down to 0 at the end of fifty."""
    torch.manual_seed(seed)
    network, (images, labels) = make(), mnist("train").tensors
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    steps = len(images) // BATCH
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: float(np.interp(step, [0, WARM_UP * steps, EPOCHS * steps], [0, 1, 0]))
    )
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
            scheduler.step()
    return network.eval()


def train(folder: Path, seed: int) -> None:
    started = time.perf_counter()
    torch.save(trained(seed).state_dict(), folder / f"{seed}.pt")
    sys.stdout.write(f"seed {seed}: {time.perf_counter() - started:.0f} s\n")
    sys.stdout.flush()


def loaded(folder: Path, seed: int) -> nn.Module:
    network = make()
    network.load_state_dict(torch.load(folder / f"{seed}.pt", weights_only=True))
    return network.eval()


def merge_all(
    networks: Mapping[int, nn.Module],
    images: DataLoader,
    tested: DataLoader | TensorDataset,
    methods: Sequence[str] = METHODS,
) -> None:
    """A line of JSON for each network, and for each method and choice of networks, with accuracies on test images."""
    for seed, network in networks.items():
        say(networks=[seed], accuracy=metasum.evaluate(network, tested).accuracy)
    for chosen in [*combinations(networks, 2), *([tuple(networks)] if len(networks) > 2 else [])]:
        for method in methods:
            started = time.perf_counter()
            network = merged([networks[seed] for seed in chosen], method, images)
            seconds = time.perf_counter() - started
            plain = metasum.evaluate(network, tested).accuracy
            reset = metasum.evaluate(metasum.recalibrate(network, images), tested).accuracy
            say(networks=chosen, method=method, seconds=round(seconds, 1), averaged_statistics=plain, recomputed=reset)


def merged(networks: Sequence[nn.Module], method: str, images: DataLoader) -> nn.Module:
    """With the mean of the networks' running statistics."""
    if method == "activation-matching":
        first, *others = networks
        settings = {"method": method, "images": images, "merging_images": 10_000}
        networks = [first, *(metasum.align(other, to=first, **settings) for other in others)]
        method = "average"
    return metasum.merge(networks, method)


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main() -> None:
    task, folder, *seeds = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if task == "train":
        for seed in seeds:
            train(Path(folder), int(seed))
    else:
        networks = {int(seed): loaded(Path(folder), int(seed)) for seed in seeds}
        merge_all(networks, DataLoader(mnist("train"), BATCH), mnist("test"))


if __name__ == "__main__":
    main()
