"""The two forms of a task on the command line: ``MODULE:FUNCTION [ARG…]`` and ``-- COMMAND [ARG…]``."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from typer.core import TyperCommand

from protocol.control import NO_OPTIONS, NewTask, Submit, TaskKind, TaskOptions
from scalercli import callables
from scalercli.callables import ANYWHERE, Place
from scalercli.errors import CliError
from scalercli.places import is_local

_IS_COMMAND = "scalercli.is_command"
FIRST_POSITIONAL = {"allow_interspersed_args": False}
"""Context settings for TaskCommand: options stand before the task, everything after its first word belongs to it."""


class TaskCommand(TyperCommand):
    """Remembers whether ``--`` stood before the first word of the argument ``words``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        rest: list[str] = super().parse_args(ctx, args)
        words = ctx.params.get("words") or ()
        before = len(given) - len(words) - 1
        ctx.meta[_IS_COMMAND] = bool(words) and before >= 0 and given[before] == "--"
        return rest


class SplitCommand(TyperCommand):
    """Takes what stands behind ``--`` away, for ``command_words``; options may stand anywhere before it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_IS_COMMAND] = None
        if "--" in args:
            ctx.meta[_IS_COMMAND] = args[args.index("--") + 1 :]
            args = args[: args.index("--")]
        rest: list[str] = super().parse_args(ctx, args)
        return rest


def is_command(ctx: Any) -> bool:
    """Of a TaskCommand: whether it is the second form."""
    return bool(ctx.meta[_IS_COMMAND])


def command_words(ctx: Any) -> list[str] | None:
    """Of a SplitCommand: the words behind ``--``, None without one."""
    words: list[str] | None = ctx.meta[_IS_COMMAND]
    return words


class Job(NamedTuple):
    """One task, ready to be sent."""

    kind: TaskKind
    name: str
    function: bytes
    arguments: tuple[bytes, ...]
    text: str
    details: tuple[tuple[str, str], ...]
    """What a dry run shows: names and values."""
    options: TaskOptions = NO_OPTIONS
    key: str = ""

    def request(self, task_id: bytes, *, follow: bool = False, output: bool = False, result: bool = False) -> Submit:
        task = NewTask(task_id, self.arguments, printable(self.text), self.key)
        return Submit(self.kind, self.function, printable(self.name), (task,), follow, output, result, self.options)


def printable(text: str) -> str:
    """The text as UTF-8 can hold it: words of a command line may be any bytes."""
    return text.encode(errors="backslashreplace").decode()


def job(words: Sequence[str], *, command: bool, cluster: str, where: Place = ANYWHERE) -> Job:
    """The task that these words mean; raises CliError, with nothing sent."""
    if not words:
        raise CliError(
            "what is to be run? MODULE:FUNCTION or -- COMMAND was expected", "scalercli run math:factorial 20"
        )
    if command:
        if not words[0]:
            raise CliError("the command is empty")
        cwd = where.cwd or os.getcwd()  # noqa: PTH109
        details = (("command", shlex.join(words)), ("directory", cwd), ("environment", environment_note(cluster)))
        argv = callables.pickled_argument(list(words), "the command")
        function = callables.command_function(is_local(cluster), where)
        return Job(TaskKind.COMMAND, words[0], function, (argv,), shlex.join(words), details)
    call = callables.bind(callables.resolve(words[0]), words[1:], where)
    shown = tuple((f"argument {i + 1}", repr(value)) for i, value in enumerate(call.bound))
    return Job(TaskKind.PYTHON, words[0], call.function, call.arguments, call.shown, (("function", words[0]), *shown))


def environment_note(cluster: str) -> str:
    """A command gets this shell's environment in the embedded cluster; elsewhere it would carry secrets away."""
    return "of this shell" if is_local(cluster) else "of the worker"
