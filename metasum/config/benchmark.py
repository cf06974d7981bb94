"""What `metasum benchmark` takes."""

from __future__ import annotations

import dataclasses

from metasum.config.choices import DEVICES, PRECISIONS
from metasum.options import Checked, option


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(Checked):
    """What `metasum benchmark` times."""

    learner: str = option(
        "metasum", "Whose step: joint MetaSum's, or meta-training's.", choices=("metasum", "metasum-meta")
    )
    inner_steps: int = option(5, "Steps that each clone takes apart (metasum-meta).", unit="steps", minimum=1)
    backends: str = option("learn2learn,torch,higher", "Backends to time, separated by commas.")
    width: float = option(1.0, "Factor on every channel count and hidden size.", above=0)
    batch_size: int = option(64, "Images of each dataset in a step.", unit="images", minimum=2)
    repeats: int = option(5, "Timed rounds; each times the plain passes and every backend's step.", minimum=1)
    precision: str = option("32", "Arithmetic of forward and backward.", choices=PRECISIONS)
    device: str = option("auto", "Where to run; auto takes a GPU where there is one.", choices=DEVICES)
