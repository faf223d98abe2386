"""``scalercli cluster``: clusters on this machine by name, and the sessions with them and with others."""

from __future__ import annotations

import fcntl
import os
import time
from typing import Annotated, Any

import typer

from protocol.control import AgentInfo
from scalercli import definition, launch, link, locks, options, records, settings
from scalercli.definition import Definition
from scalercli.errors import CliError
from scalercli.exits import ExitCode, worst
from scalercli.options import ClusterArgument, ClusterOption, JsonOption, OutputOption, QuietOption, duration_option
from scalercli.output import Cell, Mode, Output, Record, tasks
from scalercli.places import EMBEDDED, Places, is_local, is_name, local_names, session_addresses
from scalercli.shutdown import drain, shut_down

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Clusters on this machine by name, and which one commands use.",
)
apps = {"cluster": app}

_DOWN_SECONDS = 30.0
_PING_SECONDS = 2.0
_SHOWN = (
    "scheduler_address",
    "object_storage_address",
    "monitor_address",
    "workers",
    "memory_limit_per_task",
    "living_tasks",
    "agent_pid",
)


@app.command()
def up(
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="One beside the default one.")] = None,
    workers: Annotated[
        str | None, typer.Option("--workers", "-w", metavar="N|auto", help="Slots; auto is one per core.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory-limit-per-task",
            metavar="SIZE",
            help="How much memory a task may use, with what it starts, for example 2G; default: unlimited.",
        ),
    ] = None,
    idle: Annotated[
        float | None,
        duration_option("--idle-timeout", help="End by itself after so long without tasks; without: never."),
    ] = None,
    secure: Annotated[
        bool, typer.Option("--secure", help="With keys of its own: no other user of this machine can use it.")
    ] = False,
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Start a cluster on this machine, if it does not run, and keep it until "cluster down".

    A cluster that was killed is started again by the next command that needs it.
    """
    out = options.output(output, json, quiet, single=True)
    where = _to_start(name, cluster)
    places = Places(where)
    count, limit = settings.workers(workers), settings.memory_limit(memory)
    if secure and not is_local(where):
        raise CliError("--secure is for a cluster on this machine", "scalercli help access")
    agent = link.find_agent(places)
    if agent is None:
        if is_local(where):
            definition.save(places, Definition(count, idle or 0.0, limit, secure))
        agent = launch.open_link(
            where,
            workers=count,
            idle_seconds=idle or 0.0,
            memory_limit=limit,
            keep=not idle,
            secure=secure,
            announce=False,
        )
        info = agent.info
    else:
        info = agent.info
        down = "scalercli cluster down" + ("" if where == EMBEDDED else f" {where}")
        if workers is not None and info.embedded and info.workers != (count or os.cpu_count() or 1):
            raise CliError(f"a cluster with {info.workers} workers is running", down, ExitCode.REFUSED)
        if memory is not None and info.embedded and info.memory_limit != limit:
            is_now = f"in which a task may use {info.memory_limit} bytes" if info.memory_limit else "without that limit"
            raise CliError(f"a cluster is running {is_now}", down, ExitCode.REFUSED)
        if idle is not None and info.idle_seconds != idle:
            is_now = f"after {info.idle_seconds:g} s" if info.idle_seconds else "never"
            raise CliError(f"a cluster is running that ends by itself {is_now}", down, ExitCode.REFUSED)
        defined = definition.load(places)
        has_keys = defined is not None and defined.secure
        if secure and not has_keys:
            raise CliError("a cluster without keys is running", down, ExitCode.REFUSED)
        if is_local(where):
            definition.save(places, Definition(info.workers, idle or 0.0, info.memory_limit, has_keys))
    if not idle:
        agent.send("keep")
        kept = agent.receive().value
        assert isinstance(kept, AgentInfo)
        info = kept
    _show(out, info, where)
    return ExitCode.OK


@app.command()
def status(
    name: ClusterArgument = None,
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Show the addresses of the cluster; exit 3 when it is not running, or elsewhere and without a session."""
    out = options.output(output, json, quiet, single=True)
    where = _one(name, cluster)
    agent = link.find_agent(Places(where))
    if agent is None and not is_local(where):
        out.note(f"there is no session with {where}; whether its scheduler answers: scalercli doctor --cluster {where}")
    _show(out, None if agent is None else agent.info, where)
    return ExitCode.NOT_FOUND if agent is None else ExitCode.OK


@app.command("list")
def list_(output: OutputOption = None, json: JsonOption = False) -> int:
    """Show all clusters: those on this machine, and those elsewhere that were used or have a name.

    The columns: * for the one that commands use, name, state, tasks that are not over, slots, address of the scheduler.
    A cluster elsewhere is "up" when there is a session with it.
    """
    out = options.output(output, json, False)
    current = settings.cluster(None)
    for shown, where in _all().items():
        out.record(_row(shown, where, current == where), table=True)
    out.close()
    return ExitCode.OK


@app.command()
def use(
    name: ClusterArgument = None,
    here: Annotated[bool, typer.Option("--here", help="For commands in this directory: in ./scalercli.toml.")] = False,
    output: OutputOption = None,
    json: JsonOption = False,
) -> int:
    """Choose the cluster that commands use, in the configuration file; without a name, show which it is and why."""
    from scalercli.commands import config

    out = options.output(output, json, False, single=True)
    if name is not None:
        settings.named_cluster(name)
        file = settings.files()[0 if here else 1]
        config.write(file, "cluster", name)
        found = settings.find("cluster")
        if not found.origin.startswith(f"{file}:"):
            out.note(f"{found.origin} says {found.value}, and wins")
    found = settings.find("cluster")
    fields = {"cluster": found.value, "address": settings.cluster(None), "origin": found.origin}
    out.record(Record("scalercli.use/1", "", fields, [Cell("cluster", str(found.value)), Cell("origin", found.origin)]))
    out.close()
    return ExitCode.OK


@app.command()
def logs(
    name: ClusterArgument = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they grow, until Ctrl-C.")] = False,
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            metavar="ROLE",
            help="Of this one only: agent, scheduler, worker, object-storage; repeatable.",
            autocompletion=options.completer("role"),
        ),
    ] = None,
    last: Annotated[int, typer.Option("--lines", "-n", metavar="N", help="The last N lines.", min=0)] = 100,
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
) -> int:
    """Print what the processes of a cluster have logged, by time; of a cluster elsewhere, the session's log.

    The columns: role, line.
    """
    from scalercli import cluster_logs

    out = options.output(output, json, False)
    return cluster_logs.show(out, Places(_one(name, cluster)), role or [], last, follow)


@app.command()
def down(
    name: ClusterArgument = None,
    all_: Annotated[bool, typer.Option("--all", help="All clusters on this machine, and all sessions.")] = False,
    wait: Annotated[
        float | None,
        duration_option("--drain", help="Let living tasks end first, for so long at most; default: cancel them."),
    ] = None,
    shutdown: Annotated[
        bool, typer.Option("--shutdown", help="Of a cluster elsewhere, end the scheduler and all workers, too.")
    ] = False,
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """End a cluster on this machine and its session, and wait until both are gone. Living tasks are canceled, or with
    --drain those that have not ended by then; Ctrl-C meanwhile leaves all as it was.

    Of a cluster elsewhere, only the session ends; with --shutdown its scheduler and workers end, too, for everybody who
    uses them, unless it is protected. Its object storage is left to who started it. Results and logs stay.
    """
    out = options.output(output, json, quiet, single=not all_)
    if all_ and shutdown:
        raise CliError("--shutdown ends one cluster, not --all", "scalercli --cluster ADDRESS cluster down --shutdown")
    if not all_:
        where = _one(name, cluster)
        _end(out, where, wait)
        if shutdown and not is_local(where):
            shut_down(where)
        _show(out, None, where)
        return ExitCode.OK
    if name is not None or cluster is not None:
        raise CliError("a cluster, or --all: one or the other", "scalercli cluster list")
    codes: list[int] = []
    for where in [*local_names(), *session_addresses()]:
        places = Places(where)
        if not locks.is_held(places) and not any(locks.noted(places)) and definition.load(places) is None:
            continue
        try:
            _end(out, where, wait)
            out.record(records.cluster(None, where))
        except CliError as error:
            codes.append(error.code)
            out.note(f"{where}: {error.message}; {error.hint}")
    out.close()
    return worst(codes)


def _to_start(name: str | None, cluster: str | None) -> str:
    if name is None:
        return settings.cluster(cluster)
    if cluster is not None:
        raise CliError("--name and --cluster: one or the other", f"scalercli cluster up --name {name}")
    if not is_name(name):
        raise CliError(
            f"{name!r} is not a name: letters, digits, . _ and - were expected, 40 at most, not tcp- in front",
            "scalercli cluster up --name lab",
        )
    if name in (named := settings.clusters()):
        raise CliError(
            f"{name!r} is the name of {named[name].value} (from {named[name].origin})", "scalercli cluster list"
        )
    return name


def _one(name: str | None, cluster: str | None) -> str:
    if name is not None and cluster is not None:
        raise CliError("the cluster was named twice", "scalercli cluster list")
    return settings.cluster(cluster) if name is None else settings.named_cluster(name)


def _all() -> dict[str, str]:
    """Names as people know them, and what they stand for."""
    found = dict.fromkeys([EMBEDDED, *(name for name in local_names() if name != EMBEDDED)], "")
    for name in found:
        found[name] = name
    for name in sorted(settings.clusters()):
        found[name] = settings.named_cluster(name)
    found |= {address: address for address in session_addresses() if address not in found.values()}
    return found


def _row(shown: str, where: str, current: bool) -> Record:
    places = Places(where)
    info: AgentInfo | None = None
    try:
        agent = link.find_agent(places, patience_seconds=_PING_SECONDS)
        info = agent.info if agent is not None else None
        dead = bool(locks.noted(places)[0]) and not locks.is_held(places)
        state = "up" if info else "died" if dead else "down"
    except CliError:  # it hangs, or is of another version
        state = "no-answer"
    fields: dict[str, Any] = {**records.cluster(info, where).fields, "name": shown, "state": state, "current": current}
    address = info.scheduler_address if info else "" if is_local(where) else where
    workers = str(info.workers) if info and info.workers else ""
    cells = [
        Cell("", "*" if current else ""),
        Cell("name", shown),
        records.state_cell(state),
        Cell("tasks", str(info.living) if info else ""),
        Cell("workers", workers),
        Cell("address", address),
    ]
    return Record("scalercli.cluster/1", "", fields, cells)


def _end(out: Output, where: str, wait: float | None) -> None:
    """Ends a session, and its cluster if that is its own; raises CliError if it does not end."""
    places = Places(where)
    if wait is not None:
        drain(places, wait)
    definition.remove(places)
    deadline = time.monotonic() + _DOWN_SECONDS
    agent = link.find_agent(places, "shutdown")  # no ping before: this one any version understands
    agent = agent or link.find_starting(places, "shutdown")
    if agent is None:
        out.note("no cluster is running" if is_local(where) else f"there is no session with {where}")
    else:
        info = agent.info
        try:
            agent.wait_closed(deadline)
        except link.TimedOut:
            raise _stuck(info.pid, places) from None
        if info.living:
            out.note(f"{tasks(info.living)} canceled")
        with places.lock.open("r+") as lock:  # which it lets go by ending
            try:
                locks.wait(lock, deadline - time.monotonic())
            except TimeoutError:
                raise _stuck(info.pid, places) from None
    _remove_leftovers(places)


def _show(out: Output, info: AgentInfo | None, where: str) -> None:
    record = records.cluster(info, where)
    if out.mode is Mode.TEXT and info is not None:
        for name in _SHOWN:
            value = record.fields[name]
            if value is not None:
                out.record(Record("", "", {}, [Cell("", name), Cell("", str(value))]))
    else:
        out.record(record)
    out.close()


def _remove_leftovers(places: Places) -> None:
    """The socket of an agent that was killed; only with its lock in hand, so never that of a living one."""
    if not places.lock.exists():
        return
    with places.lock.open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        for path in {str(places.socket), locks.noted(places)[1]} - {""}:
            if os.path.exists(path):  # noqa: PTH110
                os.unlink(path)  # noqa: PTH108
        lock.truncate(0)


def _stuck(pid: int, places: Places) -> CliError:
    return CliError(f"the session agent (pid {pid}) does not end; its log: {places.log}", f"kill -9 {pid}", 124)
