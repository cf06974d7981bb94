"""RegMean++ (Nguyen et al. 2025, arXiv:2508.03121): RegMean on the inputs that the merged earlier layers give.

RegMean merges each layer as if those before it stayed as they were; what reaches it in the merged network is something
else. Here layers are merged one after the other, from the input on, and each is solved on what the merged network
gives it. A layer is a linear layer or a convolution; the authors' is a block of a transformer, in which the networks'
own layers run. So it is for networks of different datasets: on the same images every network is given the same, and
the result is the average.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metasum.baselines.regmean import RegMean, input_products, solved_layers
from metasum.weights.listening import listening

if TYPE_CHECKING:
    from torch import Tensor, nn

    from metasum.merging.endpoints import Endpoint
    from metasum.types import Parameters


class RegMeanPlusPlus(RegMean):
    """RegMean layer by layer, G_i of the inputs that the merged network gives a layer on each dataset's images.

    Batch norms have each batch's statistics meanwhile: the merged network has none of its own yet.
    """

    name = "regmean-plus-plus"
    summary = "RegMean layer by layer, on what the merged earlier layers give."
    paper = "Nguyen et al. 2025, arXiv:2508.03121"

    def merge(self, endpoints: Sequence[Endpoint], initial: Parameters) -> dict[str, Tensor]:
        import torch

        from metasum.merging.on_the_way import batches_of, with_common_weights
        from metasum.weights.batches import PIECE
        from metasum.weights.composition import average_parameters

        merged = average_parameters([end.parameters for end in endpoints])
        walked = with_common_weights(endpoints, merged)
        images = [list(batches_of(end, self.config.merging_images, size=PIECE)) for end in endpoints]
        for name in _in_order(walked[0], images[0][0]):
            products = [
                input_products(own, batches, {name: solved_layers(own)[name]})
                for own, batches in zip(walked, images, strict=True)
            ]
            merged |= self.solved(endpoints, products)
            with torch.no_grad():
                walked[0].network.get_parameter(name).copy_(merged[name])
        return merged


def _in_order(endpoint: Endpoint, batch: Tensor) -> list[str]:
    """Names of the weights that are solved, as their layers first run on a batch."""
    import torch

    found: dict[str, None] = {}

    def hear(name: str, module: nn.Module, inputs: object) -> None:
        found.setdefault(name)

    with torch.no_grad(), listening(solved_layers(endpoint), given=hear):
        endpoint.logits(batch)
    return list(found)
