"""The meta-learnt initialisation that a pair starts from: given, there already, or to be learnt first."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from metasum.assembly.meta_training import meta_datasets, meta_train
from metasum.config import OptimisationConfig, TrainConfig, changed, flat
from metasum.errors import UsageError
from metasum.ownership import in_turn
from metasum.training.progress import Display, SilentDisplay
from metasum.training.wandb_runs import Troubles
from metasum.weights.storage import read_metadata


def learnt_initialisation(
    config: TrainConfig,
    *,
    out: Path,
    download: bool = False,
    display: Display | None = None,
    troubles: Troubles | None = None,
) -> TrainConfig:
    """`config` with a meta-learnt initialisation: the file in `--init`, else what `meta_train` leaves in `out`.

    A finished meta-training of the same settings is taken as it is, an unfinished one is continued, and one that
    another process is at is waited for.
    """
    if config.network.init is not None:
        _check_given(config)
        return config
    meta_datasets(config, held_out=[config.data.target])
    where = {name: getattr(config.optimisation, name) for name in ("device", "precision")}
    tracking = dataclasses.replace(config.tracking, wandb_name=None)  # which is the pair's
    own = dataclasses.replace(config, optimisation=OptimisationConfig(**where), tracking=tracking)
    display = display or SilentDisplay()
    result = in_turn(
        lambda: meta_train(own, out=out, resume=None, download=download, display=display, troubles=troubles),
        display.note,
    )
    learnt = out / "meta" / Path(result.run).name / "initial.safetensors"  # the folder may have moved since
    return changed(config, init=str(learnt), init_seed=0)


def _check_given(config: TrainConfig) -> None:
    """Raises UsageError where `--init` has seen the target, or comes with settings of a meta-training not to be run."""
    now, default = flat(config), flat(TrainConfig())
    for field in (*dataclasses.fields(config.meta), *dataclasses.fields(config.objective)):
        if now[field.name] != default[field.name]:
            raise UsageError(f"--{field.name.replace('_', '-')} says nothing where --init brings what was meta-learnt.")
    init = Path(str(config.network.init))
    if config.data.target in json.loads(read_metadata(init).get("meta_datasets", "[]")):
        raise UsageError(f"--init {init} was meta-learnt on {config.data.target!r}, the target, among others.")
