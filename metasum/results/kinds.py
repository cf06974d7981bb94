"""Every kind of result, and reading a file whatever it holds."""

from __future__ import annotations

from pathlib import Path

from metasum.errors import CheckpointError
from metasum.files import read_json
from metasum.results.benchmark import BenchmarkResult
from metasum.results.comparison import ComparisonResult
from metasum.results.evaluation import EvaluationResult
from metasum.results.experiment import ExperimentResult
from metasum.results.few_shot import FewShotResult, FewShotRun, PretrainingResult, SecondDatasetResult
from metasum.results.joint_training import JointTrainingResult
from metasum.results.merge import MergeResult
from metasum.results.meta import MetaResult
from metasum.results.networks import NetworksResult
from metasum.results.run import RunResult
from metasum.results.strangers import SumResult
from metasum.results.sweep import SweepResult
from metasum.results.upgrade import upgraded
from metasum.results.value import Result

KINDS: dict[str, type[Result]] = {
    cls.kind: cls
    for cls in (
        RunResult,
        MetaResult,
        JointTrainingResult,
        SumResult,
        EvaluationResult,
        ComparisonResult,
        ExperimentResult,
        FewShotResult,
        FewShotRun,
        PretrainingResult,
        SecondDatasetResult,
        SweepResult,
        BenchmarkResult,
        MergeResult,
        NetworksResult,
    )
}


def read_result(path: Path) -> Result:
    """The result in a file, of whatever kind and format.

    Raises:
        CheckpointError: the file is missing, damaged, of a newer version, or holds no result.
    """
    plain = upgraded(read_json(path), where=str(path))
    if plain["kind"] not in KINDS:
        raise CheckpointError(f"{path} holds a {plain['kind']!r}, which this version of metasum does not know.")
    return KINDS[plain["kind"]].from_json(plain, where=str(path))
