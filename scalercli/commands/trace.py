"""``scalercli trace``: what clients, scheduler and workers say to each other, decoded."""

from __future__ import annotations

import datetime
import os
import queue
import shlex
import shutil
import signal
import sys
import threading
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from scalercli import forms, settings
from scalercli.errors import CliError
from scalercli.exits import ExitCode
from scalercli.options import ClusterOption
from scalercli.output import message, wants_colour
from scalercli.places import EMBEDDED, Places, is_local
from scalercli.tracing import record
from scalercli.tracing.decode import Seen
from scalercli.tracing.record import Header, Recorded
from scalercli.tracing.session import JsonlView, Session

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
apps = {"trace": app}

_TRACED = frozenset({"submit", "run", "map", "status", "wait", "result", "logs", "cancel", "retry", "explain", "top"})
_NOT_CONFORMANT = 12
_DEFAULT_WORKERS = 2


class Format(str, Enum):
    TEXT = "text"
    MERMAID = "mermaid"
    HTML = "html"
    JSONL = "jsonl"


@app.command(cls=forms.SplitCommand)
def trace(
    ctx: typer.Context,
    file: Annotated[
        str | None,
        typer.Argument(metavar="[FILE|-]", help="A recording, as --format jsonl prints it.", show_default=False),
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", "-f", metavar="text|mermaid|html|jsonl", help="How it is shown.")
    ] = Format.TEXT.value,
    live: Annotated[bool, typer.Option("--live", help="Be a proxy in front of the cluster's scheduler.")] = False,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="ADDRESS", help="With --live: where; default tcp://127.0.0.1:0.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="With --listen: also where other machines reach it.")
    ] = False,
    heartbeats: Annotated[bool, typer.Option("--heartbeats", help="Show heartbeats and their echoes, too.")] = False,
    storage: Annotated[
        bool, typer.Option("--storage", help="Also stand in front of the object storage, and show what it is asked.")
    ] = False,
    task: Annotated[str, typer.Option("--task", metavar="ID", help="Only this task; a prefix will do.")] = "",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Of the private cluster around a command; default 2.")
    ] = None,
    record_to: Annotated[
        Path | None, typer.Option("--record", metavar="FILE", help="Also write all of it as JSON lines, to read again.")
    ] = None,
    to_scenario: Annotated[
        Path | None, typer.Option("--to-scenario", metavar="FILE", help="Also write it as a conformance scenario.")
    ] = None,
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help="With --to-scenario: whom it judges; only scheduler.")
    ] = "scheduler",
    cluster: ClusterOption = None,
) -> int:
    """Show what clients, scheduler and workers say to each other, from a proxy, a file, or around a command.

    Findings against SPEC.md are marked with the id of the requirement. With a command the trace is stdout, what the
    command prints is stderr, and its exit code is this command's; else exit 12: there were findings.
    """
    words = forms.command_words(ctx)
    if [live, file is not None, words is not None].count(True) != 1:
        raise CliError(
            "trace what? --live, a FILE, or -- and a scalercli command: one of them",
            "scalercli trace -- run math:sqrt 16",
        )
    if listen is not None and not live:
        raise CliError("--listen goes with --live")
    if role != "scheduler":
        raise CliError(f"--role {role!r}: only a scheduler's recording can become a scenario", "--role scheduler")
    if words is not None:
        _check(words)
    if file is not None and any(_same(path, file) for path in (record_to, to_scenario)):
        raise CliError(f"{file} would be overwritten while it is read")
    session = _session(_format(format_), heartbeats, task.lower())
    with ExitStack() as stack:
        if record_to is not None:
            session.recorders.append(JsonlView(stack.enter_context(_writable(record_to)), session.reader))
        if to_scenario is not None:
            _writable(to_scenario).close()
            session.recorders.append(ScenarioFile(to_scenario))
        if file is not None:
            return _file(session, file)
        if live:
            return _live(session, settings.cluster(cluster), listen or "tcp://127.0.0.1:0", storage, insecure)
        assert words is not None
        return _around(session, words, settings.cluster(cluster), workers, storage)


def _format(name: str) -> Format:
    try:
        return Format(name)
    except ValueError:
        known = ", ".join(one.value for one in Format)
        raise CliError(f"{name!r} is not a format", f"--format: one of {known}") from None


def _same(path: Path | None, file: str) -> bool:
    return path is not None and path.exists() and Path(file).exists() and path.samefile(file)


def _writable(path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise CliError(f"can't write {path}: {error.strerror}") from None


class ScenarioFile:
    """Keeps everything, and writes the scenario at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header = Header()
        self._seen: list[Seen] = []

    def begin(self, header: Header) -> None:
        self._header = header

    def message(self, seen: Seen) -> None:
        self._seen.append(seen)

    def end(self, summary: dict[str, Any]) -> None:
        from scalercli.tracing import scenario

        scenario.write(self._path, scenario.make(self._seen, self._header))
        message(f"note: a scenario: scalercli conformance replay {self._path} --target reference")


def _session(format: Format, heartbeats: bool, task: str) -> Session:
    if any(c not in "0123456789abcdef" for c in task) or len(task) > 32:
        raise CliError(f"--task is the beginning of a task id, hexadecimal digits, not {task!r}")
    session = Session(everything=heartbeats or format in (Format.JSONL, Format.HTML), task=task)
    views = session.views
    if format is Format.JSONL:
        views.append(JsonlView(sys.stdout, session.reader))
    elif format is Format.TEXT:
        from scalercli.tracing.text import TextPrinter, TextView

        colour = wants_colour(sys.stdout)
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        views.append(TextPrinter(sys.stdout, TextView(colour=colour, width=width)))
    elif format is Format.MERMAID:
        from scalercli.tracing.diagrams import MermaidView

        views.append(MermaidView(sys.stdout))
    else:
        from scalercli.tracing.page import HtmlView

        views.append(HtmlView(sys.stdout, session.reader, heartbeats=heartbeats))
    return session


def _check(words: list[str]) -> None:
    """Raises CliError for what can't be traced."""
    from scalercli.app import COMMANDS

    if not words:
        raise CliError("the command is empty", "scalercli trace -- run math:sqrt 16")
    if words[0] == "scalercli":
        raise CliError("the command stands without its first word", f"scalercli trace -- {shlex.join(words[1:])}")
    if words[0] not in COMMANDS:
        raise CliError(f"there is no command {words[0]!r}", "scalercli trace -- run math:sqrt 16")
    if words[0] not in _TRACED:
        raise CliError(f"{words[0]} submits nothing that could be traced", "scalercli trace -- run math:sqrt 16")
    own = words[: words.index("--")] if "--" in words else words
    if any(word.split("=")[0] == "--cluster" for word in own):
        raise CliError(
            "--cluster stands before --: the command then goes through the proxy",
            "scalercli trace --cluster ADDRESS -- run …",
        )


# ---- from a file ----


def _file(session: Session, name: str) -> int:
    try:
        stream = sys.stdin if name == "-" else Path(name).open(encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise CliError(f"can't read {name}: {error.strerror}", "scalercli trace --help") from None
    with stream:
        begun = False
        for found in record.read(stream, "stdin" if name == "-" else name):
            if not begun:
                session.begin(found if isinstance(found, Header) else Header())
                begun = True
            if isinstance(found, Recorded):
                session.feed(found)
    return _end(session)


def _end(session: Session) -> int:
    session.finish()
    sys.stdout.flush()
    return _NOT_CONFORMANT if session.observer.findings else ExitCode.OK


# ---- live ----


def _live(session: Session, cluster: str, listen: str, storage: bool, insecure: bool) -> int:
    from reference_impl.access.settings import is_loopback
    from reference_impl.addresses import Address
    from scalercli.tracing.proxy import CantListen, Proxy

    try:
        address = Address.parse(listen)
    except ValueError as error:
        raise CliError(f"--listen: {error}", "--listen tcp://127.0.0.1:0") from None
    if storage and address.host in ("0.0.0.0", "::"):
        raise CliError(
            "--storage puts the address of --listen into messages: it can't be any address of this machine",
            "--listen tcp://HOST:PORT with the host as peers reach it",
        )
    if not insecure and not is_loopback(address.host):
        raise CliError(
            f"{address} can be reached from other machines, and who reaches it can run code on the workers",
            "a loopback address, or --insecure",
        )
    scheduler = Address.parse(_scheduler(cluster))
    _must_answer(scheduler)
    passed: queue.SimpleQueue[Recorded | None] = queue.SimpleQueue()
    try:
        proxy = Proxy(address, scheduler, passed.put, storage=storage)
    except CantListen as error:
        raise CliError(str(error), "port 0 is any free one", ExitCode.UNREACHABLE) from None
    try:
        _stop_gently(passed)
        session.begin(_header(str(scheduler), ""))
        proxy.start()
        message(f"ready trace pid={os.getpid()} address={proxy.address} cluster={scheduler}")
        while (recorded := passed.get()) is not None:
            session.feed(recorded)
            if passed.empty():
                sys.stdout.flush()
    finally:
        proxy.close()
    while not passed.empty():
        if (late := passed.get()) is not None:
            session.feed(late)
    return _end(session)


def _stop_gently(passed: queue.SimpleQueue[Recorded | None]) -> None:
    """From now on the first signal to stop is the end of the queue, so that no message is shown by half; the next
    one ends at once. Also where a shell has them ignored in the background."""

    def note(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        passed.put(None)

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)


def _scheduler(cluster: str) -> str:
    """The address of the cluster's scheduler; raises CliError."""
    if any(settings.keys(cluster)):
        raise CliError(
            f"{cluster} has keys, which are there so that nobody can stand between",
            "scalercli explain, top and cluster logs work with keys; a trace needs a cluster without",
            ExitCode.REFUSED,
        )
    if not is_local(cluster):
        return cluster
    from scalercli import link

    agent = link.find_agent(Places(cluster))
    if agent is None:
        name = "" if cluster == EMBEDDED else f" --name {cluster}"
        raise CliError("no cluster is running", f"scalercli cluster up{name}", ExitCode.UNREACHABLE)
    return agent.info.scheduler_address


def _must_answer(address: Any) -> None:
    import socket

    try:
        socket.create_connection((address.host, address.port), timeout=5).close()
    except OSError as error:
        raise CliError(
            f"no scheduler answers at {address}: {error.strerror or error}",
            f"scalercli doctor --cluster {address}",
            ExitCode.UNREACHABLE,
        ) from None


def _header(cluster: str, command: str) -> Header:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    return Header(now.replace("+00:00", "Z"), cluster, command)


# ---- around a command ----


def _around(session: Session, words: list[str], cluster: str, workers: int | None, storage: bool) -> int:
    from reference_impl.addresses import Address
    from scalercli.tracing.around import Traced

    if cluster != EMBEDDED:
        cluster = _scheduler(cluster)
        _must_answer(Address.parse(cluster))
    passed: queue.SimpleQueue[Recorded | None] = queue.SimpleQueue()
    count = workers or settings.workers(None) or _DEFAULT_WORKERS
    traced = Traced(words, cluster, count, passed.put, storage=storage)
    outcome: list[int | BaseException] = []

    def work() -> None:
        try:
            outcome.append(traced.run())
        except BaseException as error:
            outcome.append(error)
        finally:
            passed.put(None)

    session.begin(_header(cluster, shlex.join(["scalercli", *words])))
    # Ctrl-C is for the command, which ends in its own way; the trace then ends with it.
    old = signal.signal(signal.SIGINT, lambda number, frame: None)
    thread = threading.Thread(target=work, name="traced")
    thread.start()
    try:
        while (recorded := passed.get()) is not None:
            session.feed(recorded)
            if passed.empty():
                sys.stdout.flush()
    except BaseException:
        traced.stop()
        raise
    finally:
        thread.join()
        signal.signal(signal.SIGINT, old)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    session.finish()
    sys.stdout.flush()
    return outcome[0]
