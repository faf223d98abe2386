"""``scalercli map``: one task for each line of a file or of stdin.

Lines are read as they come and sent in batches; what is in flight is bounded, so the input may be endless.
"""

from __future__ import annotations

import os
import select
import shlex
from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from protocol.control import NO_OPTIONS, ControlReply, NewTask, Submit, TaskKind, TaskOptions, TaskRow
from scalercli import callables, forms, launch, link, options, records, settings, task_options
from scalercli.callables import Place, Target
from scalercli.commands.result import show_result
from scalercli.commands.submit import show_rows
from scalercli.errors import CliError
from scalercli.exits import ExitCode, worst
from scalercli.options import ClusterOption, JsonOption, OutputOption, QuietOption
from scalercli.output import Output, message, tasks
from scalercli.places import is_local
from scalercli.task_options import (
    AfterAnyOption,
    AfterOption,
    CwdOption,
    EnvOption,
    KeyOption,
    LimitOption,
    NameOption,
    PriorityOption,
    RequireOption,
    RetriesOption,
    RetryOnOption,
)

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
apps = {"map": app}

_BATCH = 256
_UNANSWERED = 4
_IN_FLIGHT = 4096
_CHUNK = 1 << 16


@app.command(cls=forms.SplitCommand)
def map_(
    ctx: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(metavar="MODULE:FUNCTION", show_default=False, autocompletion=options.completer("module")),
    ] = None,
    file: Annotated[str | None, typer.Argument(metavar="[FILE|-]", show_default=False)] = None,
    input_: Annotated[str | None, typer.Option("--input", "-i", metavar="FILE|-", help="Where the lines are.")] = None,
    results: Annotated[bool, typer.Option("--results", help="Print results instead of ids.")] = False,
    ordered: Annotated[bool, typer.Option("--ordered", help="Results in the order of the lines.")] = False,
    name: NameOption = None,
    key: KeyOption = None,
    after: AfterOption = None,
    after_any: AfterAnyOption = None,
    timeout: LimitOption = None,
    retries: RetriesOption = None,
    retry_on: RetryOnOption = None,
    require: RequireOption = None,
    priority: PriorityOption = None,
    env: EnvOption = None,
    cwd: CwdOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read all lines, send nothing.")] = False,
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Make one task of each line, of a file or of stdin, and print the ids as they are taken.

    The line is the function's ARG. In "map -- COMMAND", {} stands for the line; without {} it becomes the last word.
    Options of the task hold for each of them. With --key, lines that were submitted before are not submitted again:
    repeat the command after an interruption.
    """
    out = options.output(output, json, quiet)
    where = settings.cluster(cluster)
    command = forms.command_words(ctx)
    if command is not None and (target or file):
        raise CliError("MODULE:FUNCTION, or -- COMMAND: one or the other", "a file of lines: --input FILE")
    if command is None and not target:
        raise CliError("what is to be run for each line?", "scalercli map MODULE:FUNCTION [FILE|-], or -- COMMAND {}")
    if file and input_:
        raise CliError("FILE and --input: one or the other")
    if command is not None and not command:
        raise CliError("the command is empty")
    asked = task_options.task_options(
        retries=retries,
        retry_on=retry_on,
        timeout=timeout,
        name=name,
        priority=priority,
        require=require,
        after=after,
        after_any=after_any,
    )
    place = task_options.place(cwd, env, where)
    if task_options.reads_stdin(after, after_any) and (input_ or file or "-") == "-":
        raise CliError("stdin can't hold both the lines and the ids", "the lines in a file: --input FILE")
    maker: LineTasks = (
        CommandLines(command, where, place)
        if command is not None
        else CallLines(callables.resolve(target or ""), place)
    )
    maker.options, maker.key = asked, task_options.key(key)
    lines = Lines(input_ or file or "-")
    if dry_run:
        _dry_run(out, maker, lines, where, task_options.details(asked, maker.key, place))
        return ExitCode.OK
    mapper = Mapper(out, maker, lines, where, results=results or ordered, ordered=ordered)
    try:
        return mapper.run()
    finally:
        lines.close()


class LineTasks:
    """Makes tasks of lines."""

    kind: TaskKind
    name: str
    options: TaskOptions = NO_OPTIONS
    key = ""

    def make(self, line: str) -> tuple[bytes, tuple[bytes, ...], str]:
        """(function, arguments, text), the first two pickled; raises CliError."""
        raise NotImplementedError


class CallLines(LineTasks):
    kind = TaskKind.PYTHON

    def __init__(self, target: Target, place: Place) -> None:
        self.name = target.name
        self._place = place
        self._target = target
        self._functions: dict[tuple[tuple[str, str], ...], bytes] = {}

    def make(self, line: str) -> tuple[bytes, tuple[bytes, ...], str]:
        positional, keywords = callables.arguments(self._target, [line])
        key = tuple((name, repr(value)) for name, value in keywords.items())
        function = self._functions.get(key)
        if function is None:
            function = callables.placed_function(
                callables.with_keywords(self._target, keywords), self._place, self.name
            )
            self._functions = {key: function}
        arguments = tuple(callables.pickled_argument(value, f"the argument {line!r}") for value in positional)
        return function, arguments, f"{self.name} {line}"


class CommandLines(LineTasks):
    kind = TaskKind.COMMAND

    def __init__(self, words: list[str], cluster: str, place: Place) -> None:
        self.name = words[0]
        self._words = words if any("{}" in word for word in words) else [*words, "{}"]
        self._function = callables.command_function(is_local(cluster), place)

    def make(self, line: str) -> tuple[bytes, tuple[bytes, ...], str]:
        words = [word.replace("{}", line) for word in self._words]
        return self._function, (callables.pickled_argument(words, "the command"),), shlex.join(words)


class Lines:
    """The lines of a file or of stdin, as they come."""

    def __init__(self, name: str) -> None:
        try:
            self.fd = 0 if name == "-" else os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            what = "stdin" if name == "-" else name
            raise CliError(f"can't read {what}: {error.strerror}", "scalercli map --help") from None
        self._name = name
        self._rest = b""
        self._ready: deque[str] = deque()
        self.ended = False
        self.count = 0
        if name != "-" and Path(name).is_dir():
            raise CliError(f"can't read {name}: it is a directory", "scalercli map --help")

    @property
    def ready(self) -> bool:
        """Whether ``next`` has a line."""
        return bool(self._ready)

    def next(self) -> str:
        self.count += 1
        return self._ready.popleft()

    def take(self) -> None:
        """Reads what is there; blocks when nothing is."""
        try:
            data = os.read(self.fd, _CHUNK)
        except OSError as error:
            what = "stdin" if self._name == "-" else self._name
            raise CliError(f"can't read {what}: {error.strerror}", "scalercli map --help") from None
        if not data:
            self.ended = True
            if self._rest:
                self._ready.append(self._text(self._rest))
            self._rest = b""
            return
        *whole, self._rest = (self._rest + data).split(b"\n")
        self._ready.extend(map(self._text, whole))

    def close(self) -> None:
        if self.fd != 0:
            os.close(self.fd)

    @staticmethod
    def _text(line: bytes) -> str:
        return line.removesuffix(b"\r").decode(errors="surrogateescape")


class Mapper:
    """Sends the tasks and prints their ids or results."""

    def __init__(
        self, out: Output, maker: LineTasks, lines: Lines, cluster: str, *, results: bool, ordered: bool
    ) -> None:
        self._out = out
        self._maker = maker
        self._lines = lines
        self._cluster = cluster
        self._results = results
        self._ordered = ordered
        self._agent: link.AgentLink | None = None
        self._function = b""
        self._batch: list[NewTask] = []
        self._unanswered: dict[int, list[NewTask]] = {}
        self._order: deque[bytes] = deque()
        self._rows: dict[bytes, TaskRow] = {}
        self._following: set[int] = set()
        self._sent = 0
        self._printed = 0
        self._known = 0  # of those sent, how many had been submitted before
        self._codes: set[int] = set()

    def run(self) -> int:
        try:
            self._loop()
        except KeyboardInterrupt:
            message(f"note: interrupted; {tasks(self._sent)} sent{self._what_goes_on()}")
            return ExitCode.INTERRUPTED
        except BrokenPipeError:
            if self._sent:
                message(f"note: nobody reads on; {tasks(self._sent)} sent{self._what_goes_on()}")
            raise
        except CliError as error:
            if self._sent:
                error.message += f" ({tasks(self._sent)} sent before)"
            raise
        self._out.close()
        if self._known:
            self._out.note(f"{tasks(self._known)} had been submitted before, with the key {self._maker.key!r}")
        return worst(self._codes)

    def _what_goes_on(self) -> str:
        left = self._sent - self._printed if self._results else self._sent
        return f", {left} of them may be running; scalercli cancel --all cancels" if left else ""

    def _loop(self) -> None:
        lines = self._lines
        while True:
            while lines.ready and len(self._batch) < _BATCH:
                self._add(lines.next())
            full = len(self._batch) >= _BATCH
            if self._batch and (full or lines.ended or not _readable(lines.fd)) and self._may_send():
                self._send()
                continue
            if lines.ended and not lines.ready and not self._batch and not self._unanswered and not self._following:
                return
            wants_lines = not lines.ended and not lines.ready and not full and self._may_send()
            if self._agent is None:
                lines.take()
            else:
                replies, readable = self._agent.wait(lines.fd if wants_lines else None)
                for reply in replies:
                    self._reply(reply)
                if readable:
                    lines.take()
                self._out.flush()

    def _may_send(self) -> bool:
        return len(self._unanswered) < _UNANSWERED and (not self._results or self._sent - self._printed < _IN_FLIGHT)

    def _add(self, line: str) -> None:
        try:
            function, arguments, text = self._maker.make(line)
        except CliError as error:
            error.message = f"line {self._lines.count}: {error.message}"
            raise
        if function != self._function and self._batch:
            self._send()
        self._function = function
        key = line_key(self._maker.key, self._lines.count, line) if self._maker.key else ""
        self._batch.append(NewTask(os.urandom(16), arguments, forms.printable(text), key))

    def _send(self) -> None:
        if self._agent is None:
            self._agent = launch.open_link(
                self._cluster, workers=settings.workers(None), idle_seconds=settings.idle_seconds()
            )
            self._agent.watch_stdout()
        follow = self._results
        maker = self._maker
        batch, self._batch = self._batch, []
        if self._ordered:
            self._order.extend(task.task_id for task in batch)
        self._sent += len(batch)
        name = forms.printable(maker.name)
        submit = Submit(maker.kind, self._function, name, tuple(batch), follow, False, follow, maker.options)
        number = self._agent.send("submit", submit)
        self._unanswered[number] = batch
        if follow:
            self._following.add(number)

    def _reply(self, reply: ControlReply) -> None:
        if reply.variant == "known":
            self._replace({known.task_id: known.existing for known in reply.known}, reply.number)
        elif reply.variant == "accepted":
            batch = self._unanswered.pop(reply.number)
            if not self._results:
                for task in batch:
                    self._out.record(records.submitted(task.task_id.hex(), self._maker.kind, task.text))
        elif reply.variant == "done":
            self._following.discard(reply.number)
        elif reply.variant == "tasks":
            for row in reply.rows:
                if self._ordered:
                    self._rows[row.task_id] = row
                else:
                    self._show(row)
            while self._order and self._order[0] in self._rows:
                self._show(self._rows.pop(self._order.popleft()))

    def _replace(self, known: dict[bytes, bytes], number: int) -> None:
        """These were submitted before, with their keys."""
        self._known += len(known)
        self._unanswered[number] = [
            task._replace(task_id=known.get(task.task_id, task.task_id)) for task in self._unanswered[number]
        ]
        self._order = deque(known.get(task_id, task_id) for task_id in self._order)

    def _show(self, row: TaskRow) -> None:
        self._printed += 1
        self._codes.add(show_result(self._out, row))


def line_key(key: str, number: int, line: str) -> str:
    """The key of the task for one line: the same line at the same place is the same task."""
    import hashlib

    digest = hashlib.sha256(line.encode(errors="surrogateescape")).hexdigest()[:16]
    return f"{key}#{number}:{digest}"


def _dry_run(out: Output, maker: LineTasks, lines: Lines, cluster: str, asked: tuple[tuple[str, str], ...]) -> None:
    size = 0
    first = ""
    while lines.ready or not lines.ended:
        if not lines.ready:
            lines.take()
            continue
        line = lines.next()
        try:
            function, arguments, text = maker.make(line)
        except CliError as error:
            error.message = f"line {lines.count}: {error.message}"
            raise
        first = first or text
        size += len(function) * (lines.count == 1) + sum(map(len, arguments))
    what = ("command" if maker.kind is TaskKind.COMMAND else "function", maker.name)
    rows = [("cluster", cluster), what, *asked, ("tasks", str(lines.count)), ("first", first), ("bytes", str(size))]
    show_rows(out, rows, {"kind": maker.kind.name.lower(), "tasks": lines.count, "bytes": size})


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
