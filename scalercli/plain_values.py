"""Spares commands the import of pydantic (about 50 ms), with which typer checks values since 0.29.

Flags, strings and durations need no checking beyond what the parser of the command line did. This reaches into
typer: where it finds nothing to replace, all works as before, just slower.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

_SLOT = "_runtime_param"
_HELP = "help_option_names"


def use(command: Any) -> None:
    """Replaces how a command and its subcommands make values of strings, flags, lists of strings, parsed ones."""
    for param in [*command.params, _help_option(command)]:
        info = getattr(param, "type_descriptor", None)
        if getattr(param, _SLOT, info) is not None or info is None:
            continue  # not such a typer, or replaced already
        parser = info.parameter_info.parser
        if parser is not None or info.annotation in (str, bool, list[str]):
            setattr(param, _SLOT, _Plain(parser))
    for inner in getattr(command, "commands", {}).values():
        use(inner)


def _help_option(command: Any) -> Any:
    """The command's --help, which it makes once, when it is first asked for."""
    try:
        return command.get_help_option(
            SimpleNamespace(help_option_names=command.context_settings.get(_HELP, ["--help"]))
        )
    except AttributeError:
        return None


class _Plain:
    """In place of typer's own object; called as that is."""

    def __init__(self, parser: Callable[[str], Any] | None) -> None:
        self._parser = parser

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if param.multiple or param.nargs == -1:
            return [self._one(item) for item in value or ()]
        return None if value is None else self._one(value)

    def _one(self, value: Any) -> Any:
        return value if self._parser is None else self._parser(value)
