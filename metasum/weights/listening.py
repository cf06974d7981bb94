"""What a network's modules are given and what they return, heard while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def listening(
    modules: Mapping[str, nn.Module],
    *,
    given: Callable[[str, nn.Module, tuple[Any, ...]], None] | None = None,
    returned: Callable[[str, nn.Module, tuple[Any, ...], Any], None] | None = None,
) -> Iterator[None]:
    """Within the block, tells of each call of the modules; behind it they are as before.

    Args:
        modules: by the name that is told.
        given: hears the name, the module and its inputs, before it runs.
        returned: hears the same and its output, when it has run.
    """
    with ExitStack() as hooks:
        for name, module in modules.items():
            if given is not None:
                hooks.callback(module.register_forward_pre_hook(partial(given, name)).remove)
            if returned is not None:
                hooks.callback(module.register_forward_hook(partial(returned, name)).remove)
        yield
