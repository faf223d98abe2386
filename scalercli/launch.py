"""Starts the session agent where a command needs one and none lives."""

from __future__ import annotations

import os
import select
import sys
import time

from scalercli import definition, locks, settings
from scalercli.errors import CliError, Terminated
from scalercli.exits import ExitCode
from scalercli.link import AgentLink, find_agent
from scalercli.output import message, tasks
from scalercli.places import EMBEDDED, Places, is_local, unusable

_START_SECONDS = 60.0


def open_link(
    cluster: str,
    *,
    workers: int = 0,
    idle_seconds: float,
    memory_limit: int | None = None,
    keep: bool = False,
    secure: bool = False,
    announce: bool = True,
) -> AgentLink:
    """A connection to the agent of this cluster, which is started if there is none; raises CliError. ``memory_limit``
    of a task in bytes, 0: not limited, None: as the settings say."""
    places = Places(cluster)
    link = find_agent(places)
    if link is not None:
        return link
    places.make()
    # One command starts the agent; those that come meanwhile wait here and then find it. It has the lock, too, until it
    # is ready: should that command be interrupted, the others wait all the same.
    try:
        start_lock = open(places.start_lock, "w", opener=lambda path, flags: os.open(path, flags, 0o600))  # noqa: SIM115
    except OSError as error:
        raise unusable(places.start_lock, error) from None
    with start_lock:
        try:
            locks.wait(start_lock, _START_SECONDS)
        except TimeoutError:
            raise _not_ready(places) from None
        link = find_agent(places)
        if link is not None:
            return link
        defined = definition.load(places) if is_local(cluster) else None
        if defined is not None:
            workers, idle_seconds, memory_limit, secure = defined
            keep = not idle_seconds
        elif is_local(cluster) and cluster != EMBEDDED:
            raise CliError(
                f"the cluster {cluster!r} is down", f"scalercli cluster up --name {cluster}", ExitCode.UNREACHABLE
            )
        if memory_limit is None:
            memory_limit = settings.memory_limit()
        died = locks.last_words(places)
        down = "scalercli cluster down" + ("" if cluster == EMBEDDED else f" {cluster}")
        try:
            if died:
                message(f"note: {died}; starting again")
            elif is_local(cluster) and announce and not os.environ.get("SCALERCLI_TRACED_CLUSTER"):
                message(f"note: starting a cluster on this machine ({down} ends it)")
            lost = _start_agent(places, start_lock.fileno(), workers, idle_seconds, memory_limit, keep, secure)
        except (KeyboardInterrupt, Terminated):
            if is_local(cluster):  # others may wait for it
                message(f"note: the cluster comes up all the same; {down} ends it")
            raise
        if lost:
            message(f"note: {tasks(lost)} lost with it: scalercli status --state lost")
    link = find_agent(places)
    if link is None:
        raise CliError("the session agent ended at once", f"see {places.log}", ExitCode.UNREACHABLE)
    return link


def _not_ready(places: Places) -> CliError:
    return CliError("the session agent does not get ready", f"see {places.log}", ExitCode.UNREACHABLE)


def _start_agent(
    places: Places, start_lock: int, workers: int, idle_seconds: float, memory_limit: int, keep: bool, secure: bool
) -> int:
    """Returns when it is ready: how many tasks of an earlier one are lost."""
    import json
    import subprocess

    reader, writer = os.pipe()
    command = [sys.executable, "-m", "scalercli.agent", "--cluster", places.cluster, "--ready-fd", str(writer)]
    command += ["--start-lock-fd", str(start_lock)]
    command += ["--idle-seconds", str(idle_seconds), "--workers", str(workers)]
    command += ["--memory-limit-per-task", str(memory_limit)]
    command += ["--keep"] if keep else []
    command += ["--secure"] if secure else []
    keys = settings.keys(places.cluster)
    if any(keys) and not is_local(places.cluster):  # their paths: the keys themselves never leave their files
        command += ["--key-file", keys.key_file, "--server-key", keys.server_key]
    environment = {**os.environ, "PYTHONPATH": python_path()}
    # What the user's directory holds must not shadow the modules of the agent.
    command[1:1] = ["-P"] if sys.version_info >= (3, 11) else []
    try:
        launcher = subprocess.Popen(
            command,
            pass_fds=(writer, start_lock),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
    finally:
        os.close(writer)
    line = b""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    deadline = time.monotonic() + _START_SECONDS
    try:
        while not line.endswith(b"\n"):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise _not_ready(places)
            data = os.read(reader, 65536)
            if not data:
                break
            line += data
    finally:
        os.close(reader)
        launcher.wait()
    if not line:
        raise CliError("the session agent could not start", f"see {places.log}", ExitCode.UNREACHABLE)
    answer = json.loads(line)
    if "error" in answer:
        raise CliError(answer["error"], answer["hint"], answer["code"])
    return int(answer.get("lost", 0))


def python_path() -> str:
    """So that the agent finds the same packages as this process, also from a source tree."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    return os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
