"""metasum's VGG16 at a quarter of its width on CIFAR-10, merged by ways of matching: docs/reproductions.md.

python docs/deep_vgg.py train FOLDER SEED…      a network for each seed, a minute each on one core
python docs/deep_vgg.py merge FOLDER SEED…      what each method makes of all of them, measured on test images
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from deep_mlp import merge_all, say
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from metasum.networks.vgg import VGG16

BATCH, STEPS, WIDTH, SEEN, TESTED = 125, 250, 0.25, 2000, 4000


def make() -> nn.Module:
    return VGG16(in_channels=3, width=WIDTH, dropout=0.0).to(memory_format=torch.channels_last)


def cifar10(split: str) -> TensorDataset:
    with np.load(".data/cifar10.npz") as file:
        images = torch.from_numpy(file[f"x_{split}"]).permute(0, 3, 1, 2).float().div(255).sub(0.47).div(0.25)
        return TensorDataset(images, torch.from_numpy(file[f"y_{split}"]).long().flatten())


def trained(seed: int) -> nn.Module:
    """SGD with one cycle up to a learning rate of 0.1, in bfloat16 where PyTorch allows; images are mirrored."""
    torch.manual_seed(seed)
    network, (images, labels) = make(), cifar10("train").tensors
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=STEPS)
    for own in torch.randperm(len(images))[: STEPS * BATCH].split(BATCH):
        batch = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, images[own].flip(3), images[own])
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(batch)
        nn.functional.cross_entropy(logits.float(), labels[own]).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def loaded(file: Path) -> nn.Module:
    network = make()
    network.load_state_dict(torch.load(file, weights_only=True))
    return network.eval()


def main() -> None:
    task, folder, *seeds = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if task == "train":
        for seed in seeds:
            started = time.process_time()
            torch.save(trained(int(seed)).state_dict(), Path(folder, f"{seed}.pt"))
            say(seed=int(seed), seconds=round(time.process_time() - started))
        return
    networks = {int(seed): loaded(Path(folder, f"{seed}.pt")) for seed in seeds}
    methods = ("average", "weight-matching", "activation-matching")
    images = DataLoader(Subset(cifar10("train"), range(SEEN)), 500)
    merge_all(networks, images, DataLoader(Subset(cifar10("test"), range(TESTED)), 500), methods)


if __name__ == "__main__":
    main()
