"""The options of a task that ``submit``, ``run`` and ``map`` share, and what they make of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from protocol.control import Capability, ShownState, TaskOptions
from reference_impl.nesting import nested_priority
from scalercli import durations, ids
from scalercli.callables import Place
from scalercli.errors import CliError
from scalercli.options import duration_option
from scalercli.places import is_local

RetriesOption = Annotated[
    str | None, typer.Option("--retries", metavar="N", help="Submit it again, up to N times, if --retry-on says so.")
]
RetryOnOption = Annotated[
    str | None,
    typer.Option("--retry-on", metavar="ENDS", help="After which ends: died (the default), failed, timed-out; commas."),
]
LimitOption = Annotated[float | None, duration_option("--timeout", help="Cancel it when it has run this long.")]
KeyOption = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="The same key twice submits once and gives the first id.")
]
NameOption = Annotated[str | None, typer.Option("--name", metavar="NAME", help="For people: shown by status.")]
PriorityOption = Annotated[
    str | None, typer.Option("--priority", metavar="N", help="Higher goes first; 0 without it, may be negative.")
]
RequireOption = Annotated[
    list[str] | None,
    typer.Option("--require", metavar="CAP[=N]", help="Only on a worker that offers this; repeatable."),
]
AfterOption = Annotated[
    list[str] | None,
    typer.Option("--after", metavar="ID", help="Only when this task has succeeded; repeatable, - reads ids."),
]
AfterAnyOption = Annotated[
    list[str] | None,
    typer.Option("--after-any", metavar="ID", help="Only when this task is over, however it ended; repeatable."),
]
EnvOption = Annotated[
    list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="Set this where it runs; repeatable.")
]
CwdOption = Annotated[
    str | None, typer.Option("--cwd", metavar="DIR", help="Run it in this directory of the worker's machine.")
]

_ENDS = {
    "died": (ShownState.WORKER_DIED, ShownState.LOST),
    "failed": (ShownState.FAILED,),
    "timed-out": (ShownState.TIMED_OUT,),
}
_MAX_RETRIES = 1000
_INT32 = 2**31
_INT64 = 2**63


def place(cwd: str | None, env: Sequence[str] | None, cluster: str) -> Place:
    """From --cwd and --env; raises CliError. A relative directory counts from this shell's."""
    variables: dict[str, str] = {}
    for word in env or ():
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise CliError(f"--env {word!r} is not NAME=VALUE", "for example --env LANG=C")
        if "\0" in word:
            raise CliError("--env: a zero byte can't be part of an environment")
        variables[name] = value
    if cwd is None:
        return Place(None, variables)
    directory = os.path.abspath(cwd)  # noqa: PTH100 (no links are resolved)
    if is_local(cluster) and not Path(directory).is_dir():
        raise CliError(f"--cwd: there is no directory {cwd}")
    return Place(directory, variables)


def task_options(
    *,
    retries: str | None = None,
    retry_on: str | None = None,
    timeout: float | None = None,
    name: str | None = None,
    priority: str | None = None,
    require: Sequence[str] | None = None,
    after: Sequence[str] | None = None,
    after_any: Sequence[str] | None = None,
) -> TaskOptions:
    """The options as the agent gets them; raises CliError."""
    count = _number("--retries", retries, 0, _MAX_RETRIES)
    ends = [end.strip() for end in (retry_on or "died").split(",")]
    for end in ends:
        if end not in _ENDS:
            raise CliError(f"--retry-on: {end!r} is not an end", f"one or several of {', '.join(_ENDS)}, with commas")
    if retry_on and not count:
        raise CliError("--retry-on without --retries", "how often? for example --retries 3")
    if timeout is not None and timeout <= 0:
        raise CliError("--timeout 0 would cancel the task at once", "for example --timeout 30s")
    states = tuple(dict.fromkeys(state for end in ends for state in _ENDS[end])) if count else ()
    return TaskOptions(
        name=_printable("--name", name),
        retries=count,
        retry_on=states,
        timeout_seconds=timeout or 0.0,
        priority=nested_priority() if priority is None else _number("--priority", priority, -_INT32, _INT32 - 1),
        capabilities=tuple(map(_capability, require or ())),
        after=_ids(after),
        after_any=_ids(after_any),
    )


def key(text: str | None) -> str:
    """A checked --key; raises CliError."""
    if text == "":
        raise CliError("--key: the key is empty")
    return _printable("--key", text)


def reads_stdin(*lists: Sequence[str] | None) -> bool:
    """Whether ``-`` is among ids."""
    return any("-" in (words or ()) for words in lists)


def details(options: TaskOptions, key: str, place: Place) -> tuple[tuple[str, str], ...]:
    """What a dry run shows of them: only what was asked for."""
    rows = {
        "name": options.name,
        "key": key,
        "retries": str(options.retries) if options.retries else "",
        "retry on": ", ".join(end for end, states in _ENDS.items() if set(states) <= set(options.retry_on)),
        "timeout": durations.show(options.timeout_seconds) if options.timeout_seconds else "",
        "priority": str(options.priority) if options.priority else "",
        "require": ", ".join(map(capability_text, options.capabilities)),
        "after": " ".join(options.after),
        "after any": " ".join(options.after_any),
        "env": " ".join(f"{name}={value}" for name, value in place.env.items()),
        "cwd": place.cwd or "",
    }
    return tuple((name, text) for name, text in rows.items() if text)


def capability_text(capability: Capability) -> str:
    return capability.name if capability.value == -1 else f"{capability.name}={capability.value}"


def _capability(word: str) -> Capability:
    name, equals, value = word.partition("=")
    if not name or not name.isprintable():
        raise CliError(f"--require {word!r} is not CAP or CAP=N", "for example --require gpu, or --require gpu=1")
    return Capability(name, _number(f"--require {name}", value, -_INT64, _INT64 - 1) if equals else -1)


def _ids(words: Sequence[str] | None) -> tuple[str, ...]:
    return ids.read([part for word in words or () for part in word.split(",") if part])


def _number(what: str, text: str | None, least: int, most: int) -> int:
    if text is None:
        return 0
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise CliError(f"{what} is a whole number from {least} to {most}, not {text!r}")
    return number


def _printable(what: str, text: str | None) -> str:
    text = (text or "").encode(errors="backslashreplace").decode()
    if text and not text.isprintable():
        raise CliError(f"{what}: {text!r} has characters that can't be shown")
    return text
