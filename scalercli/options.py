"""Options that several commands share, and what they make of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from scalercli import durations, settings
from scalercli.errors import CliError
from scalercli.output import Mode, Output


def completer(kind: str) -> Callable[[Any, str], list[tuple[str, str]]]:
    """For typer: what the shell may complete there; ``kind`` is a function of ``completion``."""

    def complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        from scalercli import completion

        return completion.candidates(kind, ctx, incomplete)

    return complete


OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="text|json|jsonl|ids|none",
        help="How answers are printed.",
        autocompletion=completer("output"),
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="The same as --output json.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="The same as --output none, and no notes.")]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NAME|ADDRESS",
        help="tcp://HOST:PORT of a scheduler, a name, or embedded.",
        autocompletion=completer("cluster"),
    ),
]
KeyFileOption = Annotated[
    str | None, typer.Option("--key-file", metavar="FILE", help="Your own key, for a cluster that has keys: NAME.key.")
]
ServerKeyOption = Annotated[
    str | None, typer.Option("--server-key", metavar="FILE", help="The public key of that cluster: NAME.pub.")
]
ClusterArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME|ADDRESS]", help="Of the cluster.", show_default=False, autocompletion=completer("cluster")
    ),
]
IdsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ID…|-]",
        help="Task ids; - reads them from stdin.",
        show_default=False,
        autocompletion=completer("task"),
    ),
]

chosen_mode: Mode | None = None
"""The output mode of the command that runs, once it is known: errors follow it."""


def output(name: str | None, as_json: bool, quiet: bool, *, single: bool = False, default: Mode = Mode.TEXT) -> Output:
    """The output of a command; raises CliError for a mode that does not exist or contradicts another."""
    global chosen_mode
    asked = [*([name] if name else []), *(["json"] if as_json else []), *(["none"] if quiet else [])]
    if len(set(asked)) > 1:
        raise CliError("--output, --json and --quiet contradict each other")
    setting = settings.output(asked[0] if asked else None)
    mode = default if setting is None else Mode(setting.value)
    chosen_mode = mode
    return Output(mode, quiet=quiet, single=single)


def duration(text: str) -> float:
    """For typer: a duration option."""
    try:
        return durations.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def duration_option(*names: str, help: str) -> Any:
    return typer.Option(*names, parser=duration, metavar="DURATION", help=help)
