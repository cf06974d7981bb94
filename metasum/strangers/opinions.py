"""What networks think of one another's datasets, and what adding their logits would give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from metasum.networks.cutting import in_blocks
from metasum.results.strangers import Opinion, Opinions
from metasum.strangers.runs import FinishedRun
from metasum.types import Task
from metasum.weights.guesses import guesses


def opinions_of(runs: Sequence[FinishedRun], tasks: Mapping[str, Task]) -> Opinions:
    """Every run's network, alone and with its own statistics, on the held-out images of every dataset.

    Args:
        runs: finished runs; their networks are in eval mode.
        tasks: each dataset by name.
    """
    labels = {name: torch.cat([batch.labels.cpu() for batch in task.evaluation()]) for name, task in tasks.items()}
    logits = [_on_all(in_blocks(run.network), tasks) for run in runs]
    owner = {run.target: index for index, run in reversed(list(enumerate(runs)))}  # the first on each dataset
    found = []
    for index, (run, name) in enumerate(zip(runs, _names(runs), strict=True)):
        for dataset in tasks:
            own = owner.get(dataset)
            others = run.target in tasks and run.target != dataset
            found.append(
                Opinion(
                    network=name,
                    dataset=dataset,
                    loudness=round(float(_centred(logits[index][dataset]).abs().mean()), 4),
                    auroc=_auroc(logits[index][run.target], logits[index][dataset]) if others else None,
                    pair=None if own is None else _share_right(_added(logits, {own, index}, dataset), labels[dataset]),
                )
            )
    all_runs = range(len(runs))
    ensemble = {name: _share_right(_added(logits, all_runs, name), labels[name]) for name in tasks}
    return Opinions(ensemble, tuple(found))


def _names(runs: Sequence[FinishedRun]) -> list[str]:
    """Their targets; the folder's name where several have one target."""
    times = Counter(run.target for run in runs)
    return [run.target if times[run.target] == 1 else run.folder.name for run in runs]


def _on_all(network: nn.Module, tasks: Mapping[str, Task]) -> dict[str, Tensor]:
    """Logits `[images, classes]` on each dataset's held-out images, on the CPU."""
    with torch.inference_mode():
        return {
            name: torch.cat([network(batch.images).float().cpu() for batch in task.evaluation()])
            for name, task in tasks.items()
        }


def _added(logits: Sequence[Mapping[str, Tensor]], which: Iterable[int], dataset: str) -> Tensor:
    return torch.stack([logits[index][dataset] for index in which]).sum(dim=0)


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(dim=1, keepdim=True)


def _share_right(logits: Tensor, labels: Tensor) -> float:
    return round(float((guesses(logits) == labels).double().mean()), 6)


def _auroc(own: Tensor, foreign: Tensor) -> float:
    """How often an image of one's own has a larger greatest centred logit than a foreign one; 0.5 is by chance."""
    from scipy.stats import rankdata

    scores = torch.cat([_centred(logits).amax(dim=1) for logits in (own, foreign)])
    ranks = rankdata(scores.numpy())[: len(own)]
    return round(float((ranks.sum() - len(own) * (len(own) + 1) / 2) / (len(own) * len(foreign))), 6)
