"""Whether a network fits what it is to be trained on: looked at before anything is written."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from metasum.config import flag_of
from metasum.config.sections import NetworkConfig
from metasum.errors import MetaSumError, UsageError, reason
from metasum.networks import functions


def check_network_settings(name: str, given: Collection[str]) -> None:
    """Raises UsageError for a setting of the network that was given, and that its function does not take."""
    if not functions.is_function(name):
        return
    taken = functions.parameters_of(name)
    for setting in ("width", "norm", "dropout", "augmented"):
        if setting in given and setting not in taken:
            raise UsageError(f"{flag_of(setting)} says nothing to {name}, which has no parameter {setting!r}.")


def check_fits(network: nn.Module, config: NetworkConfig, in_channels: int) -> None:
    """Runs the network once, on black images, in eval mode.

    Raises:
        UsageError: it does not take images of this size, or gives fewer outputs than there are classes.
    """
    size, training = config.image_size, network.training
    own = next(network.parameters(), torch.empty(0))
    images = torch.zeros(2, in_channels, size, size, device=own.device)
    told = f"network {config.network}"
    network.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = network(images)
    except (MetaSumError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UsageError(
            f"{told} does not take images [N, {in_channels}, {size}, {size}] ({reason(error)}); --image-size and "
            "--in-channels say what it is given."
        ) from error
    finally:
        network.train(training)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != 2:
        what = list(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise UsageError(f"{told} gives {what} for 2 images, where logits [2, classes] are needed.")
    if outputs.shape[1] < config.num_classes:
        raise UsageError(f"{told} has {outputs.shape[1]} outputs, too few for {config.num_classes} classes.")
