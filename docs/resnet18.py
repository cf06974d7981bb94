"""torchvision's ResNet-18 from two initialisations on CIFAR-10: `python docs/resnet18.py .data/cifar10.npz FOLDER`.

Trains both for two epochs (FOLDER keeps them: some 7 minutes each on one core), then aligns, merges and walks the line
between them, prints what your_networks.md says, and draws resnet18.svg.
"""

import sys
from pathlib import Path

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

import metasum

HERE = Path(__file__).parent
COLOURS = {"as they are": "#6f7782", "weight-matching": "#2e86ab", "activation-matching": "#d1495b"}


def say(*words):
    click.echo(" ".join(map(str, words)))


def part(file, split):
    images = torch.from_numpy(file[f"x_{split}"]).permute(0, 3, 1, 2).float().div(255).sub(0.47).div(0.25)
    return TensorDataset(images, torch.from_numpy(file[f"y_{split}"]).long().flatten())


def trained(seed, train, kept, epochs=2):
    torch.manual_seed(seed)
    network = resnet18(num_classes=10)
    if kept.exists():
        return metasum.load_checkpoint(network, kept).eval()
    loader = DataLoader(train, batch_size=100, shuffle=True)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=epochs * len(loader))
    for _ in range(epochs):
        for images, labels in loader:
            mirrored = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
            optimizer.zero_grad()
            cross_entropy(network(mirrored), labels).backward()
            optimizer.step()
            schedule.step()
    torch.save(network.state_dict(), kept)
    return network.eval()


def main(data, folder):
    with np.load(data) as file:
        train, test = part(file, "train"), part(file, "test")
    a, b = (trained(seed, train, Path(folder) / f"resnet{seed}.pt") for seed in (0, 1))
    test_loader = DataLoader(test, batch_size=250)
    some = DataLoader(torch.utils.data.Subset(train, range(5000)), batch_size=250)  # for matching and statistics
    say("alone", metasum.evaluate(a, test_loader), metasum.evaluate(b, test_loader))
    say("average", metasum.evaluate(metasum.merge([a, b]), test_loader))
    say("recalibrated", metasum.evaluate(metasum.merge([a, b], images=[some, some]), test_loader))
    others = {"as they are": b}
    for method in ("weight-matching", "activation-matching"):
        others[method] = metasum.align(b, to=a, images=some, method=method)
        say(method, "the same function to", metasum.same_function(b, others[method], test_loader))
        say(method, metasum.evaluate(metasum.merge([a, others[method]], images=[some, some]), test_loader))
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, other in others.items():
        walked = metasum.line(a, other, test_loader, images=some)
        say(name, "barrier", walked.barrier, "nats")
        axes.plot(
            walked.alphas, [100 * share for share in walked.accuracy], marker="o", color=COLOURS[name], label=name
        )
    axes.set(xlabel="from one network (0) to the other (1)", ylabel="test accuracy, %", ylim=(0, 80))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(HERE / "resnet18.svg", metadata={"Date": None})


main(*sys.argv[1:])
