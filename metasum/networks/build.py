"""From settings to a network with its initial weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metasum.arguments import checked
from metasum.config.sections import NetworkConfig
from metasum.errors import ArchitectureError, CheckpointError, UsageError, reason, unknown
from metasum.files import check_folder_name, json_text
from metasum.networks import functions
from metasum.networks.augmented import Augmented
from metasum.networks.beside import BESIDE, beside
from metasum.networks.layers import he_initialise
from metasum.networks.tangent import Tangent
from metasum.plugins import registrar, taken
from metasum.weights.parameters import buffers_of, parameters_of, unfinite
from metasum.weights.storage import check_like, load_into, read_metadata, shapes_in


def _vgg16(config: NetworkConfig, in_channels: int) -> nn.Module:
    from metasum.networks.vgg import VGG16

    shape = {name: getattr(config, name) for name in ("num_classes", "width", "norm", "dropout", "image_size")}
    return VGG16(in_channels=in_channels, **shape)


def _resnet(config: NetworkConfig, in_channels: int) -> nn.Module:
    from metasum.networks.resnet import ResNet

    return ResNet(in_channels=in_channels, num_classes=config.num_classes, width=config.width, norm=config.norm)


NETWORKS: dict[str, Callable[[NetworkConfig, int], nn.Module]] = {"vgg16": _vgg16, "resnet": _resnet}
_sources: dict[str, str] = {}  # who registered the others
"""Architectures by name: from the settings and the images' channels to a network with random weights."""


@checked
def register_network(name: str, build: Callable[[NetworkConfig, int], nn.Module]) -> None:
    """Adds an architecture: `--network NAME` trains it, and files of its weights say so.

    Args:
        name: of the architecture.
        build: makes it from the settings and the images' channels, with weights from PyTorch's global random state.

    Raises:
        UsageError: there is one of this name.
    """
    check_folder_name("a network called", name)
    if name in NETWORKS:
        raise taken(f"network {name!r}", _sources.get(name, "metasum"))
    NETWORKS[name], _sources[name] = build, registrar()


def check_network_name(name: str) -> None:
    """Raises UsageError, with the nearest name, where there is no such architecture, or no such function."""
    if functions.is_function(name):
        functions.function_called(name)
    elif name not in NETWORKS:
        raise unknown("network", name, NETWORKS, more="Or name your own function: FILE.py:FUNCTION.")


OF_FUNCTIONS = ("num_classes", "width", "norm", "dropout", "image_size")
"""Settings that a function which makes a network is told, beside the images' channels, where it has such parameters."""


def build_network(config: NetworkConfig, *, in_channels: int, seed: int) -> nn.Module:
    """A freshly initialised network; the same seed gives the same weights, and no global random state moves.

    With `config.tangent` it is the network's tangent there, with `config.augmented` it has fast weights, of 0.

    Args:
        config: architecture.
        in_channels: channels of the images.
        seed: of the initialisation.
    """
    check_network_name(config.network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if functions.is_function(config.network):
            facts = {name: getattr(config, name) for name in OF_FUNCTIONS}
            return wrapped(functions.make_network(config.network, in_channels=in_channels, **facts), config)
        network = NETWORKS[config.network](config, in_channels)
        if config.norm == "none":  # PyTorch's own draw shrinks the signal a little in every layer; a norm undoes that
            he_initialise(network)
    return wrapped(network, config)


def wrapped(network: nn.Module, config: NetworkConfig) -> nn.Module:
    """The plain network as `config` has it: its tangent, augmented with fast weights, or as it is."""
    if config.tangent:
        return Tangent(network)
    return Augmented(network) if config.augmented else network


def start_of(network: nn.Module) -> dict[str, Tensor]:
    """What makes two initialisations the same: all parameters and, of a tangent, the weights that it touches at."""
    touching = {name: tensor for name, tensor in buffers_of(network).items() if isinstance(network, Tangent)}
    return {**parameters_of(network), **touching}


MOST_BESIDE = 1024
"""Networks that a weights file may say it is made of."""

# settings that shape a network
ARCHITECTURE = ("network", "width", "norm", "dropout", "num_classes", "tangent", "augmented", "image_size")


def architecture(config: NetworkConfig, in_channels: int) -> str:
    """What a weights file says about itself, so that `load_network` can rebuild the network: a JSON object."""
    values = dataclasses.asdict(config)
    return json_text({**{name: values[name] for name in ARCHITECTURE}, "in_channels": in_channels})


@checked
def load_network(path: Path | str) -> nn.Module:
    """The network in a weights file that metasum wrote, with its statistics, in eval mode.

    Args:
        path: any .safetensors file of a run folder, or one written by `metasum sum --export`.

    Returns:
        A module from images `[N, in_channels, 32, 32]` (or of the `--image-size` that it was trained with), normalised
        by their dataset's moments, to logits.

    Example:
        >>> network = load_network("runs/digits+letters/metasum-seed0/target.safetensors")
        >>> classes = network(images).argmax(1)

    Raises:
        UsageError: the user's own function makes the network, and is not where it was, or is not this user's.
        CheckpointError: there is no such file, it is damaged, its weights are NaN, or it does not say of what
            architecture it is.
        ArchitectureError: its tensors are not those of that architecture.
    """
    path = Path(path)
    values = read_architecture(path)
    in_channels = values.pop("in_channels")
    if functions.is_function(values["network"]):
        functions.check_named(values["network"], path)
    count, config = _count_beside(path), NetworkConfig(**values)
    if not functions.is_function(values["network"]):
        _check_shapes(path, config, in_channels, count)
    network = build_network(config, in_channels=in_channels, seed=0)
    if count > 1:
        network = beside([network.eval()] * count)
    load_into(network, path)
    if name := unfinite(network):
        raise CheckpointError(f"{path}: {name!r} holds NaN or infinite numbers, and so would every result.")
    return network.eval()


def _check_shapes(path: Path, config: NetworkConfig, in_channels: int, count: int) -> None:
    """Raises where the file's tensors are not those of the network that it says it is; nothing large is made for that.

    Of networks side by side, no tensor may be smaller than one network's, nor all of them smaller than all networks.
    """
    check_network_name(config.network)
    found = shapes_in(path)
    try:
        with torch.device("meta"):
            network = build_network(config, in_channels=in_channels, seed=0)
    except (NotImplementedError, RuntimeError, OverflowError, TypeError) as error:
        if NETWORKS[config.network] in (_vgg16, _resnet):
            raise CheckpointError(f"{path} says that it is a network that cannot be made ({reason(error)}).") from error
        return  # a plug-in's constructor looks at numbers, which are not there on this device
    if count == 1:
        check_like(network, found, path)
        return
    own = parameters_of(network)
    if any(name not in found or found[name].numel() < own[name].numel() for name in own) or (
        2 * sum(tensor.numel() for tensor in found.values()) < count * sum(tensor.numel() for tensor in own.values())
    ):
        raise ArchitectureError(f"{path} says that it is {count} networks, and its tensors are too small for that.")


def _count_beside(path: Path) -> int:
    """Of how many networks side by side a file is made; 1 of any other."""
    told = read_metadata(path).get(BESIDE, "1")
    if not (told.isascii() and told.isdigit() and 1 <= int(told) <= MOST_BESIDE):
        raise CheckpointError(f"{path} says that it is {told!r} networks; a number of 1 to {MOST_BESIDE} was expected.")
    return int(told)


def read_architecture(path: Path) -> dict[str, Any]:
    """What a weights file of metasum says it is: "network", "width", …, "in_channels".

    Raises:
        CheckpointError: there is no such file, it is damaged, or it does not say.
    """
    try:
        values: dict[str, Any] = json.loads(read_metadata(path)["architecture"])
        NetworkConfig(**{name: value for name, value in values.items() if name != "in_channels"})
        return values | {"in_channels": int(values["in_channels"])}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, UsageError) as error:
        raise CheckpointError(f"{path} does not say of what architecture it is; metasum's own files do.") from error
