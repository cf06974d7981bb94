"""Every setting, in the sections that read them. No torch here: `--help` should not wait for it."""

from metasum.config.benchmark import BenchmarkConfig
from metasum.config.choices import (
    AUGMENTATIONS,
    BACKENDS,
    DEVICES,
    NETWORKS,
    NORMS,
    OPERATORS,
    PRECISIONS,
    READINGS,
    STATISTICS,
)
from metasum.config.few_shot import FewShotConfig
from metasum.config.learners import (
    MergingConfig,
    MetaConfig,
    MetaTransferConfig,
    ObjectiveConfig,
    OperatorConfig,
    ProximityConfig,
    RegularisationConfig,
    SlotsConfig,
    TwoHeadConfig,
)
from metasum.config.merge import MergeConfig
from metasum.config.networks import DataConfig, NetworkConfig, SumConfig
from metasum.config.run import TrainConfig, changed, flat, from_dict, settings, to_dict
from metasum.config.training import MonitorConfig, OptimisationConfig, ProcessesConfig, TrackingConfig

__all__ = [
    "AUGMENTATIONS",
    "BACKENDS",
    "DEVICES",
    "NETWORKS",
    "NORMS",
    "OPERATORS",
    "PRECISIONS",
    "READINGS",
    "STATISTICS",
    "BenchmarkConfig",
    "DataConfig",
    "FewShotConfig",
    "MergeConfig",
    "MergingConfig",
    "MetaConfig",
    "MetaTransferConfig",
    "MonitorConfig",
    "NetworkConfig",
    "ObjectiveConfig",
    "OperatorConfig",
    "OptimisationConfig",
    "ProcessesConfig",
    "ProximityConfig",
    "RegularisationConfig",
    "SlotsConfig",
    "SumConfig",
    "TrackingConfig",
    "TrainConfig",
    "TwoHeadConfig",
    "changed",
    "flat",
    "from_dict",
    "settings",
    "to_dict",
]
