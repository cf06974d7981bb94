"""From settings to a device, a precision and an update rule, all through Lightning Fabric."""

from __future__ import annotations

import logging
import math
import os
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from metasum.config.sections import OptimisationConfig, ProcessesConfig
from metasum.errors import UsageError
from metasum.learners.trainable import Trainable
from metasum.training.processes import Processes
from metasum.weights.pieces import cut, in_pieces, put_together

if TYPE_CHECKING:
    from lightning_fabric import Fabric


WAYS = ("fused", "foreach")  # of computing an optimiser's step: what is quick, and there, depends on the device


def make_fabric(device: str = "auto", precision: str = "32", *, processes: ProcessesConfig | None = None) -> Fabric:
    """The device and precision a run uses, and the other processes, which are started where nobody did.

    Args:
        device: as `--device` takes it; `precision` likewise.
        precision: of forward and backward.
        processes: how many [default: this one alone].

    Raises:
        UsageError: the device is not there, or cannot do the precision.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this machine has no CUDA device that PyTorch can use; try --device cpu.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: this machine has no Metal device that PyTorch can use; try --device cpu.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning_fabric import Fabric

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # config.json says which precision it is
        on_gpu = device in ("cuda", "mps") or (
            device == "auto" and (torch.cuda.is_available() or torch.backends.mps.is_available())
        )
        if precision == "16-mixed" and not on_gpu:
            raise UsageError("--precision 16-mixed needs a GPU; on the CPU use bf16-mixed.")
        devices, nodes = _asked(processes) if processes is not None else (1, 1)
        strategy = "ddp" if devices * nodes > 1 else "auto"
        fabric = Fabric(
            accelerator=device,
            devices=devices,
            num_nodes=nodes,
            strategy=strategy,
            precision=precision,  # type: ignore[arg-type]
        )
    if fabric.world_size > 1:
        if not on_gpu and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // devices))
        fabric.launch()
    return fabric


def _asked(processes: ProcessesConfig) -> tuple[int, int]:
    """Processes on this machine, and machines: as `torchrun` started them, else as the settings say."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        own = int(os.environ["LOCAL_WORLD_SIZE"])
        return own, int(os.environ["WORLD_SIZE"]) // own
    return processes.devices, processes.num_nodes


def place(module: nn.Module, device: torch.device, memory_format: str) -> None:
    """Moves a module to the device, in place, its kernels channel by channel or pixel by pixel (channels last).

    Activations follow kernels, and so speed does; numbers change in rounding only.

    Args:
        module: in full; its 4D tensors are laid out.
        device: where to.
        memory_format: "contiguous", or "channels-last" where `checked_layout` gave it.
    """
    layout = torch.channels_last if memory_format == "channels-last" else torch.contiguous_format
    module.to(device).to(memory_format=layout)


def learning_rate_factor(step: int, *, steps: int, warmup: int, schedule: str) -> float:
    """Share of the highest learning rate in step `step` (from 0): up to 1 over `warmup` steps, then down to 0.

    `torch.optim.lr_scheduler` was tried: its LinearLR and CosineAnnealingLR multiply from step to step, so that nearly
    all rates differ in their last digits, and every run with them; LambdaLR has these very rates, but warns of a
    mistake that nobody made where 16-mixed skips the first update, and saves no line.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if schedule == "linear" else 1.0


class Updater:
    """Turns gradients into updates: scaling, clipping of each network, the optimiser's step, the schedule.

    Args:
        learner: whose parameters move.
        config: the update rule.
        fabric: device and precision.
    """

    def __init__(self, learner: Trainable, config: OptimisationConfig, fabric: Fabric) -> None:
        self._fabric, self._clip = fabric, config.clip
        self._groups = learner.parameter_groups()
        self._raw = _optimizer(config, [parameter for group in self._groups for parameter in group])
        self._optimizer: Any = fabric.setup_optimizers(self._raw)
        self._config, self._steps, self._peak = config, config.steps, config.learning_rate
        self._updates = 0
        self._together = Processes(fabric)
        self._set_learning_rate()

    @property
    def learning_rate(self) -> float:
        """What the next update uses."""
        return float(self._raw.param_groups[0]["lr"])

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a scalar loss to the parameters' (scaled, where the precision asks for it)."""
        with torch.autocast(loss.device.type, enabled=False):
            self._fabric.backward(loss)

    def update(self) -> None:
        """One update from the gradients gathered since the last, by all processes, which are then forgotten."""
        self._together.average_gradients(parameter for group in self._groups for parameter in group)
        if self._clip is not None:
            # Fabric's own clipping takes all of an optimiser's parameters as one; here no network's may touch another's
            self._fabric.strategy.precision.unscale_gradients(self._raw)
            for group in self._groups:
                nn.utils.clip_grad_norm_(group, self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._updates += 1
        self._set_learning_rate()

    def _set_learning_rate(self) -> None:
        factor = learning_rate_factor(
            self._updates, steps=self._steps, warmup=self._config.warmup, schedule=self._config.schedule
        )
        for group in self._raw.param_groups:
            group["lr"] = self._peak * factor

    def moments(self) -> list[Tensor]:
        """What the optimiser remembers of each parameter."""
        return [t for state in self._raw.state.values() for t in state.values() if torch.is_tensor(t)]

    def state_dict(self, *, keep: bool = True) -> dict[str, Any]:
        """Whole; of parameters in pieces, all processes put it together, and those that `keep` it have it."""
        return {
            "optimizer": put_together(self._raw.state_dict(), keep=keep),
            "updates": self._updates,
            "precision": self._fabric.strategy.precision.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a whole state; where parameters are in pieces its moments are cut, in place, by all together."""
        parameters = [parameter for group in self._groups for parameter in group]
        for number, own in state["optimizer"]["state"].items():
            moments = {name: value for name, value in own.items() if isinstance(value, Tensor) and name != "step"}
            own.update({name: _placed(value, parameters[number]) for name, value in moments.items()})
        ways = [{way: group[way] for way in WAYS} for group in self._raw.param_groups]
        self._raw.load_state_dict(state["optimizer"])
        for group, own in zip(self._raw.param_groups, ways, strict=True):
            group.update(own)  # how a step is computed here, not where the checkpoint was written
        self._updates = state["updates"]
        self._fabric.strategy.precision.load_state_dict(state["precision"])


def _placed(moment: Tensor, parameter: nn.Parameter) -> Tensor:
    """The moment in pieces, or laid out, as its parameter is: fused optimisers walk through memory side by side."""
    if in_pieces(parameter):
        return cut(moment, parameter)
    return torch.empty_like(parameter, requires_grad=False).copy_(moment)


def _optimizer(config: OptimisationConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    fused = config.precision != "16-mixed"  # a fused optimiser unscales by itself, and could not be clipped
    if config.optimizer == "sgd" and any(in_pieces(parameter) for parameter in parameters):
        fused = False  # PyTorch has none for pieces
    shared: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": fused}
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, **shared)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, **shared)
