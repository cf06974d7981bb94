"""TALL masks (Wang et al. 2024, arXiv:2405.07813, section 3): what of the summed differences is each task's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from metasum.config import Checked
from metasum.merging.consensus import mask_threshold, wanted
from metasum.merging.for_tasks import MaskingMethod
from metasum.merging.tensors import Chunk, Tensors

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class TALLConfig(Checked):
    """Settings of `tall-masks`."""

    mask_threshold: float = mask_threshold()


class TALLMasks(MaskingMethod):
    """θ_0 + m_i ∘ Σ δ for task i, m_i = [|δ_i| >= t · |Σ δ - δ_i|], t the mask's threshold.

    The authors choose a threshold for each network on its images; here there is one for all.
    """

    name = "tall-masks"
    summary = "A mask for each task on the sum of differences: the task is known, no merge."
    paper = "Wang et al. 2024, arXiv:2405.07813"
    Config = TALLConfig
    candidates = {"mask_threshold": (0.2, 0.4, 0.6)}

    def own_parts(self, tensors: Tensors) -> Callable[[Chunk], list[Tensor]]:
        from metasum.weights.composition import total

        def masked(chunk: Chunk) -> list[Tensor]:
            vectors = chunk.differences()
            whole = total(vectors)
            masks = (wanted(vector, whole, self.config.mask_threshold) for vector in vectors)
            return [whole * mask for mask in masks]

        return masked
