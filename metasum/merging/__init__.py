"""Every method of merging by name: one dictionary to read. No torch here: a listing should not wait for it."""

from __future__ import annotations

from metasum.merging.method import Method
from metasum.registry import Entry, Registry

METHODS: Registry[type[Method]] = Registry(
    "merging method",
    {
        "sum": Entry("metasum.merging.plain:Sum"),
        "average": Entry("metasum.merging.plain:Average"),
        "side-by-side": Entry("metasum.merging.plain:SideBySide"),
        "weighted": Entry("metasum.merging.plain:Weighted"),
        "task-arithmetic": Entry("metasum.merging.task_arithmetic:TaskArithmetic"),
        "ties": Entry("metasum.merging.ties:TIES"),
        "dare": Entry("metasum.merging.dare:DARE"),
        "breadcrumbs": Entry("metasum.merging.breadcrumbs:Breadcrumbs"),
        "della": Entry("metasum.merging.della:DELLA"),
        "sce": Entry("metasum.merging.sce:SCE"),
        "magmax": Entry("metasum.merging.magmax:MagMax"),
        "model-stock": Entry("metasum.merging.model_stock:ModelStock"),
        "tsv-m": Entry("metasum.merging.tsv:TSVM"),
        "iso-c": Entry("metasum.merging.iso:IsoC"),
        "iso-cts": Entry("metasum.merging.iso:IsoCTS"),
        "consensus": Entry("metasum.merging.consensus:Consensus"),
        "pcb": Entry("metasum.merging.pcb:PCB"),
        "wudi": Entry("metasum.merging.wudi:WUDI"),
        "emr": Entry("metasum.merging.emr:EMR"),
        "tall-masks": Entry("metasum.merging.tall:TALLMasks"),
        "slerp": Entry("metasum.merging.slerp:SLERP"),
        "karcher": Entry("metasum.merging.karcher:Karcher"),
        "multislerp": Entry("metasum.merging.multislerp:MultiSLERP"),
        "nuslerp": Entry("metasum.merging.nuslerp:NuSLERP"),
        "fisher": Entry("metasum.baselines.fisher:Fisher"),
        "regmean": Entry("metasum.baselines.regmean:RegMean"),
        "regmean-plus-plus": Entry("metasum.baselines.regmean_plus_plus:RegMeanPlusPlus"),
        "adamerging": Entry("metasum.baselines.adamerging:AdaMerging"),
        "surgery": Entry("metasum.baselines.surgery:Surgery"),
        "activation-matching": Entry("metasum.baselines.activation_matching:ActivationMatching"),
        "pleas": Entry("metasum.baselines.pleas:PLeaS"),
        "zipit": Entry("metasum.baselines.zipit:ZipIt"),
        "weight-matching": Entry("metasum.baselines.weight_matching:WeightMatching"),
        "merge-many": Entry("metasum.baselines.merge_many:MergeMany"),
        "c2m3": Entry("metasum.baselines.c2m3:C2M3"),
    },
    more="`metasum methods` lists them.",
)

GROUPS = {
    "one-start": "networks from one start, no data",
    "images": "networks from one start, and unlabelled images",
    "matching": "networks from any starts, channels matched",
    "anchors": "no merge, but what one could reach: the task of an input is known",
}
"""Kinds of methods, and when to use them; `Method.group` says which one a method is of."""

ALIGNMENT = "weight-matching"
"""What networks are aligned by where nobody says how: it needs no images."""
