"""From runs and sums to the table that answers the question: before, after the partner, after the stranger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metasum.spread import retention, spread


def row_of(results: Sequence[Mapping[str, Any]], met: Mapping[str, Any]) -> dict[str, Any]:
    """One learner and seed.

    Args:
        results: of its run on each target.
        met: what `Ground.measure` says of the sum of their target networks.

    Returns:
        "learner", "seed", "seconds" (of all trainings), "peak_bytes" (of the greediest) and "accuracy" in [0, 1]: for
        each target "before" and "after"
        (the sum with the support), "stranger" (the sum with the network it never met, with statistics of that
        dataset), "retention" (its share of "before") and "stranger_union_statistics"; under "union" what the sum does
        on all targets' images.
    """
    accuracy: dict[str, Any] = {
        result["target"]: {
            **result["accuracy"]["target"],
            "stranger": met[result["target"]]["sum"],
            "retention": retention(result["accuracy"]["target"]["before"], met[result["target"]]["sum"]),
            "stranger_union_statistics": met[result["target"]]["sum_union_statistics"],
        }
        for result in results
    }
    accuracy["union"] = dict(met["union"])
    return {
        "learner": results[0]["learner"],
        "seed": results[0]["seed"],
        "seconds": sum(result["seconds"] for result in results),
        "peak_bytes": max(result["peak_bytes"] for result in results),
        "accuracy": accuracy,
    }


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each learner, in the order in which they first appear: mean and standard deviation over its seeds."""
    summary = []
    for learner in dict.fromkeys(row["learner"] for row in rows):
        own = [row for row in rows if row["learner"] == learner]
        accuracy = {
            name: {key: spread(row["accuracy"][name][key] for row in own) for key in values}
            for name, values in own[0]["accuracy"].items()
        }
        summary.append(
            {
                "learner": learner,
                "seeds": [row["seed"] for row in own],
                "accuracy": accuracy,
                "seconds": spread(row["seconds"] for row in own),
            }
        )
    return summary
