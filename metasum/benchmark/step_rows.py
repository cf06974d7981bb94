"""Steps of learners against the plain passes that they amount to, and one step in several settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from metasum.benchmark.conditions import Conditions
from metasum.benchmark.joint_steps import joint_steps
from metasum.benchmark.learner_steps import LearnerSteps
from metasum.benchmark.racing import MatrixProduct, Time, Work, race
from metasum.benchmark.steps import operations, plain_passes
from metasum.learners.joint import JointLearner
from metasum.results.benchmark import SettingRow, StepRow
from metasum.training.memory import peak_bytes, reset_peak

_MINIMUM, _PRODUCT = "plain passes", "matrix product"
_DTYPES = {"32": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def step_rows(learner: LearnerSteps, backends: Sequence[str], *, usual_shapes: bool) -> list[StepRow]:
    """The learner's step in each of the backends, and its loss in the usual shapes, against plain passes.

    Args:
        learner: whose steps they are.
        backends: to time it in, where it reads a backend.
        usual_shapes: whether to time these, too.
    """
    conditions = learner.conditions
    reset_peak(conditions.device)
    own = learner.own(backends)
    first = next(iter(own.values()))
    steps: dict[str, Work] = {**own, **(learner.usual() if usual_shapes else {})}
    network, batch, fabric = learner.plain_network(first), conditions.batches[0], conditions.fabric
    first()  # whatever differs in a first step is behind it: of learners with phases the last one is timed
    done = operations(first)
    passes = done / operations(plain_passes(network, batch, 1, fabric))
    minimum = plain_passes(network, batch, max(1, round(passes)), fabric)
    product = MatrixProduct(_DTYPES[conditions.setting.precision], conditions.device)
    work: dict[str, Work] = {_MINIMUM: minimum, _PRODUCT: product, **steps}
    times = race(work, repeats=conditions.repeats, device=conditions.device)
    scale, rate = minimum.count / passes, product.operations / times[_PRODUCT].seconds

    def row(name: str, time: Time) -> StepRow:
        low, high = time.ratio_range
        return StepRow(
            conditions.setting,
            learner=learner.plan.learner,
            backend=name,
            passes=round(passes, 4),
            step_seconds=time.seconds,
            minimum_seconds=times[_MINIMUM].seconds / scale,
            ratio=time.ratio * scale,
            ratio_range=(low * scale, high * scale),
            to_first=time.against(times[next(iter(steps))]),
            images_per_second=learner.images / time.seconds,
            operations_per_second=done / time.seconds,
            of_matrix_rate=done / time.seconds / rate,
            peak_bytes=peak_bytes(conditions.device),
        )

    return [row(name, times[name]) for name in steps]


def setting_rows(every: Iterable[Conditions]) -> list[SettingRow]:
    """The plain pass and joint MetaSum's step in every setting, in the same rounds; ratios are to the first setting."""
    every = list(every)
    plain = [plain_passes(one.network(), one.batches[0], 1, one.fabric) for one in every]
    joint = [joint_steps(one).step("torch") for one in every]
    return [*_beside("plain pass", every, plain), *_beside(JointLearner.name, every, joint)]


def _beside(what: str, every: Sequence[Conditions], work: Sequence[Work]) -> list[SettingRow]:
    contenders: Mapping[str, Work] = {str(one.setting): own for one, own in zip(every, work, strict=True)}
    times = race(contenders, repeats=every[0].repeats, device=every[0].device)
    return [SettingRow(one.setting, *times[str(one.setting)].in_figures(), what=what) for one in every]
