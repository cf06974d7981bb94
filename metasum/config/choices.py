"""The words that settings take."""

from __future__ import annotations

NETWORKS = ("vgg16", "resnet")
NORMS = ("batch", "group", "none")
OPERATORS = ("sum", "average", "task-arithmetic", "learned")
BACKENDS = ("learn2learn", "torch", "higher")
STATISTICS = ("recalibrate", "target", "support", "learned")
READINGS = ("cross-entropy", "gap", "consistency")
AUGMENTATIONS = ("none", "shift", "shift-flip")
PRECISIONS = ("32", "bf16-mixed", "16-mixed")
MEMORY_FORMATS = ("contiguous", "channels-last")
DEVICES = ("auto", "cpu", "cuda", "mps")
