"""The meta-learnt initialisation that a pair starts from: given, there already, or to be learnt first."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from metasum.config import flag_of, options_of
from metasum.config.sections import OptimisationConfig
from metasum.errors import UsageError
from metasum.files import reading
from metasum.ownership import in_turn
from metasum.run.meta_plan import meta_datasets
from metasum.run.meta_training import meta_train
from metasum.run.plan import Plan
from metasum.run.request import COMMON, Request
from metasum.training.progress import Display, SilentDisplay
from metasum.training.wandb_runs import TrackerTroubles
from metasum.weights.storage import read_metadata

# how the pair's weights move says nothing of how the initialisation is learnt
OF_THE_PAIR = {leaf.name for leaf in options_of(OptimisationConfig)} - {"device", "precision"}


def learnt_initialisation(
    plan: Plan,
    request: Request,
    *,
    out: Path,
    download: bool = False,
    display: Display | None = None,
    troubles: TrackerTroubles | None = None,
) -> Plan:
    """The plan with a meta-learnt initialisation: the file in `--init`, else what `meta_train` leaves in `out`.

    A finished meta-training of the same settings is taken as it is, an unfinished one is continued; where another
    process is at it, that one is waited for.
    """
    if plan.network.init is not None:
        check_given(plan, request)
        return plan
    meta_datasets(request, held_out=[plan.data.target])
    shape = {"width": plan.network.width, "num_classes": plan.network.num_classes}
    own = request.without("wandb_name", *OF_THE_PAIR).having(**shape)  # the name is the pair's W&B run's
    again = partial(meta_train, own, out=out, resume=None, download=download, display=display, troubles=troubles)
    result = in_turn(again, (display or SilentDisplay()).note)
    learnt = out / "meta" / Path(result.run).name / "initial.safetensors"  # the folder may have moved since
    return plan.having(init=str(learnt), init_seed=0)


def check_given(plan: Plan, request: Request) -> None:
    """Raises UsageError where `--init` has seen the target, or comes with settings of a meta-training not to be run."""
    for name in request.given:
        if name not in COMMON and name not in ("operator", "scaling", "backend"):
            raise UsageError(f"{flag_of(name)} says nothing where --init brings what was meta-learnt.")
    init = Path(str(plan.network.init))
    with reading(init):
        told = plan.data.target in json.loads(read_metadata(init).get("meta_datasets", "[]"))
    if told:
        raise UsageError(f"--init {init} was meta-learnt on {plan.data.target!r}, the target, among others.")
