"""``scalercli cluster``: the cluster on this machine, and the session with it."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from typing import Annotated

import typer

from protocol.control import AgentInfo
from scalercli import launch, link, options, records, settings
from scalercli.errors import CliError
from scalercli.exits import ExitCode
from scalercli.options import ClusterOption, JsonOption, OutputOption, QuietOption
from scalercli.output import Cell, Mode, Output, Record, tasks
from scalercli.places import EMBEDDED, Places

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="The cluster on this machine: up, down, status.",
)
apps = {"cluster": app}

_DOWN_SECONDS = 30.0
_SHOWN = ("scheduler_address", "object_storage_address", "monitor_address", "workers", "living_tasks", "agent_pid")


@app.command()
def up(
    workers: Annotated[int | None, typer.Option("--workers", "-w", help="Slots; one per core by default.")] = None,
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Start a cluster on this machine, if there is none, and keep it until "cluster down".

    For example: scalercli cluster up --workers 4
    """
    out = options.output(output, json, quiet, single=True)
    where = settings.cluster(cluster)
    count = settings.workers(workers)
    agent = launch.open_link(where, workers=count, idle_seconds=settings.idle_seconds(), keep=True, announce=False)
    agent.send("keep")
    info = agent.receive().value
    assert isinstance(info, AgentInfo)
    if workers is not None and info.embedded and info.workers != workers:
        raise CliError(
            f"a cluster with {info.workers} workers is running", "scalercli cluster down ends it", ExitCode.REFUSED
        )
    _show(out, info, where)
    return ExitCode.OK


@app.command()
def status(
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Show the addresses of the cluster; exit 3 when it is not running.

    For example: scalercli cluster status -o json | jq -r .scheduler_address
    """
    out = options.output(output, json, quiet, single=True)
    where = settings.cluster(cluster)
    agent = link.find_agent(Places(where))
    _show(out, None if agent is None else agent.info, where)
    return ExitCode.NOT_FOUND if agent is None else ExitCode.OK


@app.command()
def down(
    cluster: ClusterOption = None,
    output: OutputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """End the cluster on this machine and its session, and wait until both are gone. Living tasks are canceled.

    Of a cluster that was named, only the session ends.

    For example: scalercli cluster down
    """
    out = options.output(output, json, quiet, single=True)
    where = settings.cluster(cluster)
    places = Places(where)
    deadline = time.monotonic() + _DOWN_SECONDS
    agent = link.find_agent(places, "shutdown")  # no ping before: this one any version understands
    if agent is None:
        out.note("no cluster is running" if where == EMBEDDED else f"there is no session with {where}")
    else:
        info = agent.info
        try:
            agent.wait_closed(deadline)
        except link.TimedOut:
            raise _stuck(info.pid, places) from None
        if info.living:
            out.note(f"{tasks(info.living)} canceled")
        _wait_gone(places, info.pid, deadline)
    _remove_leftovers(places)
    _show(out, None, where)
    return ExitCode.OK


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


def _wait_gone(places: Places, pid: int, deadline: float) -> None:
    """Returns when the agent has let go of its lock, which it does by ending."""

    def alarm(number: int, frame: object) -> None:
        raise TimeoutError

    with places.lock.open("r+") as lock:
        old = signal.signal(signal.SIGALRM, alarm)
        signal.setitimer(signal.ITIMER_REAL, max(0.1, deadline - time.monotonic()))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except TimeoutError:
            raise _stuck(pid, places) from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)


def _remove_leftovers(places: Places) -> None:
    """The socket of an agent that was killed; only with its lock in hand, so never that of a living one."""
    if not places.lock.exists():
        return
    with places.lock.open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        noted = lock.read().split("\n")
        for path in {str(places.socket), *noted[1:2]} - {""}:
            if os.path.exists(path):  # noqa: PTH110
                os.unlink(path)  # noqa: PTH108
        lock.truncate(0)


def _stuck(pid: int, places: Places) -> CliError:
    return CliError(
        f"the session agent (pid {pid}) does not end", f"see {places.log}; kill -9 {pid} ends it", ExitCode.TIMED_OUT
    )
