"""Two residual networks, each trained on five of CIFAR-10's classes, and what merging makes of them.

    python docs/five_and_five.py .data/cifar10.npz networks 3

trains two networks for each of three seeds, keeps them in the folder `networks` (they are read from there the next
time), and writes a table beside them: table.md. Each network keeps its head of five classes. "Own" is accuracy among a
network's own five classes, the mean of both; "all ten" takes the larger of both heads' logits. Accuracies are on test
images; merging sees training images.
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import metasum

EPOCHS, BATCH, WIDTH = 5, 100, 16
ROWS = {
    "weight matching": ("weight-matching", {}, ["head.*"]),
    "activation matching": ("activation-matching", {}, ["head.*"]),
    "RegMean": ("regmean", {}, ["head.*"]),
    "PLeaS": ("pleas", {}, ["head.*"]),
    "ZipIt!": ("zipit", {}, ["head.*"]),
    "ZipIt!, α = 0.0001, β = 0.075": ("zipit", {"zip_alpha": 1e-4, "zip_beta": 0.075}, ["head.*"]),
    "ZipIt! up to the second of three stages": ("zipit", {}, ["third.*", "head.*"]),
    "ZipIt! up to the first of three stages": ("zipit", {}, ["second.*", "third.*", "head.*"]),
}


class Block(nn.Module):
    """Two convolutions and the way round them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.two, self.last = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.way = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        return (self.last(self.two(self.norm(self.one(x)).relu())) + self.way(x)).relu()


class Net(nn.Module):
    """Three stages on a quarter of the pixels; images are uint8, as they are in the file but channels first."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.first, self.second = Block(width, width, 1), Block(width, 2 * width, 2)
        self.third, self.head = Block(2 * width, 4 * width, 2), nn.Linear(4 * width, 5)

    def forward(self, x):
        x = x.float().div(255).sub(0.47).div(0.25)
        return self.head(self.third(self.second(self.first(self.stem(x)))).mean((2, 3)))


def trained(images, labels, seed):
    torch.manual_seed(seed)
    network = Net().train()
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps)
    for _ in range(EPOCHS):
        for own in torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]:
            batch = images[own].flip(3) if torch.rand(()) < 0.5 else images[own]
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(batch), labels[own]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def accuracies(tasks, tests):
    """Own classes and all ten, of a network for each half."""
    with torch.no_grad():
        logits = [
            [torch.cat([task(b) for b in images.split(500)]) for task in tasks] for images, _ in tests
        ]  # by half of the images, and by network
    own = [float((logits[i][i].argmax(1) == labels).float().mean()) for i, (_, labels) in enumerate(tests)]
    both = [
        float((torch.cat(logits[i], 1).argmax(1) == labels + 5 * i).float().mean())
        for i, (_, labels) in enumerate(tests)
    ]
    return 100 * statistics.mean(own), 100 * statistics.mean(both)


def one_seed(arrays, seed, folder):
    classes = torch.randperm(10, generator=torch.Generator().manual_seed(seed)).chunk(2)

    def half(split, own):
        images, labels = (torch.from_numpy(arrays[f"{what}_{split}"]) for what in "xy")
        places = (labels[:, None] == own[None]).int()
        chosen = places.any(1)
        return images[chosen].permute(0, 3, 1, 2).contiguous(), places[chosen].argmax(1)

    trains, tests = ([half(split, own) for own in classes] for split in ("train", "test"))
    networks = []
    for index, (images, labels) in enumerate(trains):
        path, network = folder / f"{seed}-{index}.pt", Net().eval()
        if not path.exists():
            torch.save(trained(images, labels, 2 * seed + index).state_dict(), path)
        network.load_state_dict(torch.load(path, weights_only=True))
        networks.append(network)
    yield "the networks alone, as an ensemble", (*accuracies(networks, tests), 0.0)
    loaders = [list(images[:4000].split(100)) for images, _ in trains]
    for name, (method, settings, keep) in ROWS.items():
        start = time.perf_counter()
        merged = metasum.merge(networks, method, images=loaders, keep=keep, **settings)
        seconds = time.perf_counter() - start
        yield name, (*accuracies([merged.for_task(0), merged.for_task(1)], tests), seconds)


def main(file, folder, seeds):
    Path(folder).mkdir(exist_ok=True)
    with np.load(file) as opened:
        arrays = dict(opened)
    found = {}
    for seed in range(int(seeds)):
        for name, values in one_seed(arrays, seed, Path(folder)):
            found.setdefault(name, []).append(values)
        Path(folder, "table.md").write_text("\n".join(table(found)) + "\n")


def table(found):
    yield "| | own five, % | all ten, % | seconds |\n| --- | --- | --- | --- |"
    for name, values in found.items():
        own, both, seconds = zip(*values, strict=True)
        cells = [f"{statistics.mean(each):.1f} ± {statistics.pstdev(each):.1f}" for each in (own, both)]
        yield f"| {name} | {' | '.join(cells)} | {statistics.mean(seconds):.1f} |"


if __name__ == "__main__":
    main(*sys.argv[1:])
