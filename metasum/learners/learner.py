"""What a way of training is: a class that knows its settings, what it needs, and how its networks are added."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metasum.config import Checked, options_of
from metasum.learners.networks import MetaSum
from metasum.learners.settings import PlainOperatorConfig
from metasum.learners.trainable import Backward, Terms
from metasum.networks.heads import with_trunk
from metasum.types import Batch, Buffers, ImageSource, Sides
from metasum.weights.composition import OPERATORS, keeps_functions
from metasum.weights.parameters import with_parameters
from metasum.weights.statistics_policy import side_by_side


class Start(enum.Enum):
    """Where target and support network start from."""

    ANY = "from one initialisation, unless the support is given its own"
    SHARED = "from one initialisation"
    OWN = "from two initialisations"
    LEARNT = "from one initialisation, which is meta-learnt first unless one is given"


class Learner(nn.Module):
    """A way of training a target and a support network of one architecture. Everything general code needs is here.

    Whoever writes one says its facts (the class attributes), its settings (`Config`) and, unless each network is
    trained alone, its `training_step`; networks and their sum have answers already. A learner owns no loop and no
    optimiser. It is built on the CPU and moved as any module, so that what it keeps belongs into parameters and
    buffers.

    Args:
        networks: the pair at its start.
        config: an instance of the class's `Config`.
        seed: of what the learner itself draws.
    """

    name: ClassVar[str]
    """As `--learner` takes it."""
    summary: ClassVar[str]
    """One sentence for `metasum learners`."""
    paper: ClassVar[str] = ""
    """Where it comes from."""
    Config: ClassVar[type[Checked]] = PlainOperatorConfig
    """A frozen dataclass of `metasum.config.option` fields: they are flags of every command that runs learners."""
    start: ClassVar[Start] = Start.ANY
    preset: ClassVar[Mapping[str, Any]] = {}
    """Settings that make it what it is: another value for one of them is refused."""
    candidates: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Values for settings that a comparison chooses on validation images; all combinations are tried."""
    numbered: ClassVar[str | None] = None
    """The setting that must differ between networks that are to be added: the first has 0, the next 1."""
    places: ClassVar[str | None] = None
    """The setting that says how many there can be; all networks that are added must agree on it."""
    endpoints: ClassVar[str | None] = None
    """The learner whose finished networks it merges: a study does not train them twice."""
    method: ClassVar[str | None] = None
    """The merging method that it applies to them."""
    no_merge: ClassVar[str | None] = None
    """What its row in a comparison is where it is none of a sum or merge of networks: "joint training", for one."""

    def __init__(self, networks: MetaSum, config: Any, *, seed: int = 0) -> None:
        super().__init__()
        self.networks, self.config = networks, config

    @classmethod
    def suited(cls, recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """A pair's recipe, setting by setting, as it suits this learner; what is `given` comes before it."""
        return dict(recipe)

    @classmethod
    def fill(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values for settings of its own that nobody gave and that depend on others; `values` holds all the others."""
        return {}

    @classmethod
    def for_strangers(cls, targets: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
        """The same where networks of all these targets are to be added; `values`: what was given, and "support"."""
        return {}

    @classmethod
    def further_data(cls, config: Any) -> tuple[str, ...]:
        """Names of datasets, beside the pair's, whose images its training reads; `read_further` is given them."""
        return ()

    def read_further(self, sources: Mapping[str, ImageSource]) -> None:
        """Takes the datasets that `further_data` names; their images are on the CPU."""

    @classmethod
    def needs_whole(cls, config: Any) -> str | None:
        """What keeps its networks from being trained in pieces (`--fsdp`), a flag or a few words; None if nothing."""
        return "what it does to them"

    @classmethod
    def against_own_heads(cls) -> str | None:
        """What keeps its sums from being measured with each network's own head, a sentence's rest; None if nothing.

        Who composes the sum anew and says nothing of heads (`compose_trunk`) has it summed, head and all.
        """
        composing, heading = (
            next(kind for kind in cls.__mro__ if name in vars(kind)) for name in ("compose", "compose_trunk")
        )
        return None if issubclass(heading, composing) else "makes its sum in a way of its own, head and all"

    def training_step(self, target: Batch, support: Batch, *, backward: Backward = torch.Tensor.backward) -> Terms:
        """See `Trainable.training_step`; at least the terms "target" and "support", in nats per image.

        Unless a learner says otherwise, they are CE(f(θ_t; x_t), y_t) and CE(f(θ_s; x_s), y_s), each with its backward.
        """
        self.networks.train()
        terms = dict[str, Tensor]()
        for name, batch in (("target", target), ("support", support)):
            loss = cross_entropy(getattr(self.networks, name)(batch.images), batch.labels)
            backward(loss)
            terms[name] = loss.detach()
        return terms

    @property
    def trains_sum(self) -> bool:
        """Whether training runs the summed network, which then has statistics of its own."""
        return False

    @property
    def operators(self) -> tuple[str, ...]:
        """Names of the ways in which it can make the sum out of what it trained; the first unless told otherwise."""
        own = self.networks.operator
        return (own, *(name for name in OPERATORS if name != own))

    def target_network(self) -> nn.Module:
        """The target network alone, in eval mode: images `[N, C, 32, 32]` to logits `[N, classes]`."""
        return self.networks.target.eval()

    def support_network(self) -> nn.Module:
        """The support network alone, likewise."""
        return self.networks.support.eval()

    def compose(self, images: Sides[Sequence[Tensor]], *, operator: str | None = None) -> Sides[nn.Module]:
        """The third network as it is measured on the target's images, and as it is measured on the support's.

        Its statistics are anybody's: the evaluation settles them. Parameters are detached; nothing trained changes.

        Args:
            images: unlabelled training images of each dataset, batches `[N, C, H, W]`.
            operator: one of `operators`.
        """
        network = with_parameters(self.networks.target, self.networks.composed(operator))
        return Sides(network, network)

    def compose_trunk(
        self, images: Sides[Sequence[Tensor]], head: frozenset[str], *, operator: str | None = None
    ) -> Sides[nn.Module]:
        """The same with the head of the target network, and with that of the support: all else is the third network's.

        Args:
            images, operator: see `compose`.
            head: names of the parameters (and buffers) of a network's head.
        """
        trunk = {name: own for name, own in self.networks.composed(operator).items() if name not in head}
        return Sides(*(with_trunk(own, trunk) for own in (self.networks.target, self.networks.support)))

    def sum_statistics(self) -> Buffers | None:
        """The statistics that the third network kept in training, where training runs it."""
        return self.networks.sum_statistics() if self.trains_sum else None

    def own_statistics(self, alone: Sides[nn.Module], *, operator: str | None = None) -> Buffers | None:
        """The third network's buffers with which both networks compute in it what they do alone; None: there are none.

        Args:
            alone: target and support network.
            operator: one of `operators` [default: the first].
        """
        return side_by_side(alone) if keeps_functions(operator or self.operators[0]) else None

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        """The target's parameters (with learned coefficients), then the support's; a shared one is the target's."""
        own = list(self.networks.target.parameters())
        if self.networks.coefficients is not None:
            own.append(self.networks.coefficients)
        shared = {id(parameter) for parameter in own}
        return [own, [p for p in self.networks.support.parameters() if id(p) not in shared]]

    def before_measuring(self) -> None:
        """Nothing to do, where every process holds whole networks."""


def settings_read_by(learner: type[Learner]) -> frozenset[str]:
    """Names of its own settings: those that `train` does not have for every learner."""
    return frozenset(leaf.name for leaf in options_of(learner.Config))
