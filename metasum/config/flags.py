"""Command-line flags read off settings, and arguments as sweep agents write them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from metasum.config.field import Option, options_of
from metasum.errors import UsageError, unknown

Settings = Callable[[], Iterable[tuple[str, type[Any]]]]
"""Gives settings dataclasses, each with who reads it ("" for everybody); called when a command runs, not before."""


class TolerantGroup(click.Group):
    """Names the nearest command where one is misspelt."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown("command", args[0], self.commands)
        return super().resolve_command(ctx, args)


class SettingType(click.ParamType):  # type: ignore[type-arg]  # not generic in older clicks
    """Values as one field takes them."""

    def __init__(self, leaf: Option) -> None:
        self.leaf, self.name = leaf, leaf.kind.__name__

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        names = {int: "INTEGER", float: "NUMBER", str: "TEXT", bool: "BOOLEAN"}
        one = "[" + "|".join(self.leaf.words) + "]" if self.leaf.words else names[self.leaf.kind]
        return f"{one},…" if self.leaf.many else one

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.leaf.parsed(value) if isinstance(value, str) else value


class SettingsCommand(click.Command):
    """A command whose settings are flags, and which takes arguments as sweep agents write them.

    `--batch_size=8` is `--batch-size=8`, `--symmetric=True` is `--symmetric`, `--steps=300.0` is `--steps=300`, and
    `--clip=None`, where None is the default, is nothing. What stands behind `--` stays as it is. The callback gets the
    settings that were given, and only these, by name as `given`.

    Args:
        settings: see `Settings` [default: none].
        leave_out: names of settings that are no flags here.
    """

    def __init__(
        self, *args: Any, settings: Settings | None = None, leave_out: Sequence[str] = (), **attributes: Any
    ) -> None:
        super().__init__(*args, **attributes)
        self._settings, self._leave_out = settings, leave_out

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*self._flags(), *super().get_params(ctx)]

    def _flags(self) -> list[click.Parameter]:
        """One for each setting; one that several learners have is one flag."""
        found: dict[str, list[tuple[str, Option]]] = {}
        for reader, settings in self._settings() if self._settings else ():
            for leaf in options_of(settings):
                if leaf.name not in self._leave_out:
                    found.setdefault(leaf.name, []).append((reader, leaf))
        return [_flag(leaves) for leaves in found.values()]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = self._flags()
        options = {name: option for option in self.get_params(ctx) for name in option.opts if name.startswith("--")}
        end = args.index("--") if "--" in args else len(args)
        plain = [plain for argument in args[:end] for plain in _normal(argument, options)]
        left = super().parse_args(ctx, plain + args[end:])
        if self._settings is not None:
            values = {str(flag.name): ctx.params.pop(str(flag.name)) for flag in own}
            ctx.params["given"] = {name: value for name, value in values.items() if value not in (None, ())}
            for name, value in ctx.params["given"].items():
                if isinstance(value, tuple):  # a tuple for each time that the flag was given
                    ctx.params["given"][name] = tuple(part for parts in value for part in parts)
        return left


def _flag(leaves: Sequence[tuple[str, Option]]) -> click.Option:
    """The flag of a setting that one or more readers have."""
    leaf = _merged([leaf for _, leaf in leaves])
    unit = leaf.metadata["unit"]
    names = f"{leaf.flag}/--no-{leaf.flag[2:]}" if leaf.kind is bool and not leaf.many else leaf.flag
    help_ = leaf.metadata["help"] + (f" Unit: {unit}." if unit else "") + _default_in_words(leaves)
    kind = None if leaf.kind is bool and not leaf.many else SettingType(leaf)
    return click.Option([names, leaf.name], type=kind, default=None, multiple=leaf.many, help=help_)


def _merged(leaves: Sequence[Option]) -> Option:
    """One that takes what any of them takes."""
    words = tuple(dict.fromkeys(word for leaf in leaves for word in leaf.words)) if leaves[0].words else ()
    return dataclasses.replace(leaves[0], words=words, optional=any(leaf.optional for leaf in leaves))


def _default_in_words(leaves: Sequence[tuple[str, Option]]) -> str:
    """[default: 0.5 (slots, quiet), else 0.0]; nothing where the help tells it, or None says nothing."""
    told: dict[str, list[str]] = {}
    for reader, leaf in leaves:
        value = leaf.metadata["filled"] or leaf.default
        if value is None or value == ():
            continue
        told.setdefault(_in_words(leaf, value), []).append(reader)
    if not told or "[default:" in leaves[0][1].metadata["help"]:
        return ""
    most = max(told, key=lambda text: len(told[text]))
    special = [f"{text} ({', '.join(readers)})" for text, readers in told.items() if text != most]
    return f"  [default: {', '.join([*special, f'else {most}' if special else most])}]"


def _in_words(leaf: Option, value: Any) -> str:
    """A default as one would write it: a,b; symmetric or no-symmetric of a switch."""
    if isinstance(value, bool):
        return leaf.flag[2:] if value else f"no-{leaf.flag[2:]}"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _normal(argument: str, options: Mapping[str, click.Parameter]) -> list[str]:
    """The argument as click wants it; nothing for a plain switch sent as false, or a None that is the default."""
    if not argument.startswith("--"):
        return [argument]
    name, equals, value = argument.partition("=")
    name = "--" + name[2:].replace("_", "-")
    option = options.get(name)
    if not isinstance(option, click.Option) or not equals:
        return [f"{name}{equals}{value}"]
    if option.is_flag:
        if value.lower() not in ("true", "false"):
            raise UsageError(f"{name} takes true or false, not {value!r}.")
        return [name] if value.lower() == "true" else option.secondary_opts[:1]
    leaf = option.type.leaf if isinstance(option.type, SettingType) else None
    if value in ("None", "null"):  # not "none", which is a word like any other
        default = option.default if leaf is None else leaf.default
        if default not in (None, ()) and (leaf is None or not leaf.required):
            raise UsageError(f"{name} takes no {value}; leave it out for its default, {default}.")
        return []
    whole = isinstance(option.type, click.types.IntParamType) or (leaf is not None and leaf.kind is int)
    return [f"{name}={_whole(value) if whole else value}"]


def _whole(number: str) -> str:
    """A whole number without the fraction that it may be written with ("300.0"); anything else as it is."""
    try:
        return str(int(float(number))) if "." in number and float(number).is_integer() else number
    except ValueError:
        return number
