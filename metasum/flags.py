"""Command-line flags read off settings dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import click

from metasum.errors import UsageError, unknown
from metasum.options import Option, options_of


class Choice(click.ParamType):  # type: ignore[type-arg]  # not generic in older clicks
    """A word from a list, with the nearest one in the error."""

    name = "choice"

    def __init__(self, choices: tuple[str, ...]) -> None:
        self.choices = choices

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "[" + "|".join(self.choices) + "]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in self.choices:
            return value
        flag = param.opts[0] if param else "this option"
        self.fail(str(unknown(f"value for {flag}", value, self.choices)), param, ctx)


class List(click.ParamType):  # type: ignore[type-arg]  # not generic in older clicks
    """Values separated by commas; the flag can be repeated, too."""

    name = "list"

    def __init__(self, leaf: Option) -> None:
        self._leaf = leaf

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return {int: "INTEGER", float: "NUMBER"}.get(self._leaf.type, "TEXT") + ",…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._leaf.type(word.strip()) for word in value.split(","))
        except ValueError:
            raise UsageError(f"{self._leaf.flag} takes {self._leaf.takes}, not {value!r}.") from None


class TolerantGroup(click.Group):
    """Names the nearest command where one is misspelt."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown("command", args[0], self.commands)
        return super().resolve_command(ctx, args)


class TolerantCommand(click.Command):
    """Takes arguments as sweep agents write them.

    `--batch_size=8` is `--batch-size=8`, `--symmetric=True` is `--symmetric`, `--steps=300.0` is `--steps=300`, and
    `--clip=None`, where None is the default, is nothing. What stands behind `--` stays as it is.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = {name: option for option in self.params if isinstance(option, click.Option) for name in option.opts}
        end = args.index("--") if "--" in args else len(args)
        plain = [plain for argument in args[:end] for plain in _normal(argument, options, ctx)]
        return super().parse_args(ctx, plain + args[end:])


def _normal(argument: str, options: Mapping[str, click.Option], context: click.Context) -> list[str]:
    """The argument as click wants it; nothing for a plain switch sent as false, or a None that is the default."""
    if not argument.startswith("--"):
        return [argument]
    name, equals, value = argument.partition("=")
    name = "--" + name[2:].replace("_", "-")
    option = options.get(name)
    if option is None or not equals:
        return [f"{name}{equals}{value}"]
    if option.is_flag:
        if value.lower() not in ("true", "false"):
            raise UsageError(f"{name} takes true or false, not {value!r}.")
        return [name] if value.lower() == "true" else option.secondary_opts[:1]
    if value in ("None", "null"):  # not "none", which is a word like any other
        default = option.get_default(context)
        if default is not None:
            raise UsageError(f"{name} takes no {value}; leave it out for its default, {default}.")
        return []
    return [f"{name}={_whole(value) if isinstance(option.type, click.types.IntParamType) else value}"]


def _whole(number: str) -> str:
    """A whole number without the fraction that it may be written with ("300.0"); anything else as it is."""
    try:
        return str(int(float(number))) if "." in number and float(number).is_integer() else number
    except ValueError:
        return number


def settings_flags(
    *settings: type, leave_out: Collection[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that gives a command one flag for each field of the settings, nested sections included.

    Args:
        settings: settings dataclasses; a name that several have is one flag.
        leave_out: fields that the command sets by itself.
    """
    leaves = [leaf for name, leaf in _leaves(settings).items() if name not in leave_out]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for leaf in reversed(leaves):
            function = _flag(leaf)(function)
        return function

    return decorate


def _leaves(settings: Iterable[type]) -> dict[str, Option]:
    leaves: dict[str, Option] = {}
    for leaf in (leaf for section in settings for leaf in options_of(section)):
        leaves.setdefault(leaf.name, leaf)
    return leaves


def _flag(leaf: Option) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    if leaf.many:
        return click.option(
            leaf.flag,
            leaf.name,
            type=List(leaf),
            multiple=True,
            default=(leaf.default,) if leaf.default else (),
            callback=lambda context, parameter, values: tuple(value for one in values for value in one),
            help=leaf.metadata["help"] + " Can be repeated.",
        )
    names = f"{leaf.flag}/--no-{leaf.flag[2:]}" if leaf.type is bool else leaf.flag
    unit = leaf.metadata["unit"]
    return click.option(
        names,
        leaf.name,
        type=None if leaf.type is bool else Choice(leaf.choices) if leaf.choices else leaf.type,
        default=leaf.default,
        show_default=leaf.default is not None,
        help=leaf.metadata["help"] + (f" Unit: {unit}." if unit else ""),
    )


def by_hand(*settings: type | str) -> set[str]:
    """Of the running command's parameters, the fields of `settings`, or names, that were given on the command line."""
    context = click.get_current_context()
    names = {one for one in settings if isinstance(one, str)}
    return {
        name
        for name in names | _leaves(one for one in settings if not isinstance(one, str)).keys()
        if context.get_parameter_source(name) not in (None, click.core.ParameterSource.DEFAULT)
    }


def chosen(settings: type, values: dict[str, Any]) -> dict[str, Any]:
    """Of a command's parameters, those that are fields of `settings`."""
    names = {leaf.name for leaf in options_of(settings)}
    return {name: value for name, value in values.items() if name in names}
