"""Starts the session agent: ``python -m scalercli.agent``. Run by the commands, not by people.

The caller reads one line of JSON from ``--ready-fd``: ``{"ok": true}``, or ``{"error", "hint", "code"}``. Until then
the agent keeps ``--start-lock-fd`` open, so that others wait for it should the caller be gone. The agent detaches
first, so it outlives the terminal; everything else that it has to say goes to its log.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from scalercli.errors import CliError
from scalercli.exits import ExitCode
from scalercli.places import Places, is_local, unusable

logger = logging.getLogger("scalercli.agent")

_LOCK_SECONDS = 20


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scalercli.agent")
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--start-lock-fd", type=int, required=True)
    parser.add_argument("--idle-seconds", type=float, required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--memory-limit-per-task", type=int, default=0)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--secure", action="store_true")
    parser.add_argument("--key-file", default="")
    parser.add_argument("--server-key", default="")
    options = parser.parse_args(argv)
    for fd in (options.ready_fd, options.start_lock_fd):
        os.set_inheritable(fd, False)
    logging.basicConfig(handlers=[logging.NullHandler()])  # stderr is the user's: without a log, ``report`` says it
    if os.fork():
        os._exit(0)
    os.setsid()
    os.umask(0o077)
    places = Places(options.cluster)
    try:
        places.make()
        try:
            lock = take_lock(places)
            _detach(places.log)
        except OSError as error:
            raise unusable(error.filename, error) from None
        logger.info("pid %d, cluster %s", os.getpid(), options.cluster)
        return _serve(places, lock, options)
    except CliError as error:
        logger.error("%s", error.message)
        report(options, {"error": error.message, "hint": error.hint, "code": int(error.code)})
        return 1
    except Exception as error:
        logger.exception("the session agent could not start")
        message = f"the session agent could not start: {type(error).__name__}: {error}"
        report(options, {"error": message, "hint": f"see {places.log}", "code": int(ExitCode.INTERNAL)})
        return 1


def take_lock(places: Places) -> int:
    """Waits until no other agent of this session lives; the descriptor that holds the lock. Raises CliError."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise CliError("another session agent of this cluster does not end", f"see {places.log}", ExitCode.UNREACHABLE)

    fd = os.open(places.lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    old = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_LOCK_SECONDS)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    return fd


def listen(places: Places, lock: int) -> socket.socket:
    """The agent's socket, private to the user; its path is noted in the lock file."""
    places.socket.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    old_mask = os.umask(0o177)
    try:
        listener.bind(str(places.socket))
    finally:
        os.umask(old_mask)
    listener.listen(128)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n{places.socket}\n".encode(), 0)
    return listener


def report(options: argparse.Namespace, what: dict[str, object]) -> None:
    """Tells the command that started the agent, and those that wait, once: later the numbers may be other files'."""
    fd, options.ready_fd = options.ready_fd, -1
    if fd < 0:
        return
    os.close(options.start_lock_fd)
    with contextlib.suppress(OSError):  # it is gone
        os.write(fd, json.dumps(what).encode() + b"\n")
    with contextlib.suppress(OSError):
        os.close(fd)


def _detach(log: Path) -> None:
    if log.exists() and log.stat().st_size > 1 << 20:
        log.replace(log.with_suffix(".log.1"))
    out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.close(out)
    os.close(null)
    os.chdir("/")
    logging.basicConfig(
        level="INFO", stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True
    )
    logging.captureWarnings(True)


def _serve(places: Places, lock: int, options: argparse.Namespace) -> int:
    from protocol.control import AgentInfo
    from reference_impl.processes import StopSignals
    from scalercli.agent.backend import Backend, connect_backend, embedded_backend
    from scalercli.agent.book import LOST_WITH_AGENT
    from scalercli.agent.ledger import Ledger, LedgerError, now
    from scalercli.agent.server import AgentServer
    from scalercli.agent.session import Session
    from scalercli.agent.watch import Subscription

    is_new = not places.ledger.exists()
    try:
        ledger = Ledger(places.ledger)
        lost, left = ledger.close_books(LOST_WITH_AGENT, now())
    except LedgerError as error:
        hint = f"move {places.ledger} away: the session then starts a new one"
        raise CliError(str(error), hint, ExitCode.INTERNAL) from None
    if lost or left:
        logger.warning("of an earlier session agent %d tasks are lost, %d go on", lost, len(left))

    def connect() -> Backend:
        if is_local(options.cluster):
            keys = places.keys if options.secure else None
            return embedded_backend(options.workers, places.cluster_logs, keys, options.memory_limit_per_task)
        return connect_backend(options.cluster, options.key_file, options.server_key)

    try:
        backend = connect()
    except CliError:
        ledger.close()
        if is_new:  # perhaps the address was mistyped: it is not to stand among the clusters
            places.ledger.unlink()
        raise
    reason = "it failed"
    try:
        listener = listen(places, lock)
        signals = StopSignals()
        server = AgentServer(listener, ledger, idle_seconds=options.idle_seconds)

        def info() -> AgentInfo:
            return backend.info(
                living=session.living,
                idle_seconds=0.0 if session.keep else options.idle_seconds,
                state_directory=str(places.state),
            )

        def attach() -> None:
            backend.watch(server, session.lose)
            if backend.monitor is not None:
                backend.monitor.attach(server.watch, server.unwatch)
                session.observe(backend.monitor)

        def subscribe(report: Callable[[Any], None]) -> Subscription:
            return backend.subscribe(server, report)

        session = Session(ledger, backend.client, info, server.post, server.later, subscribe)
        session.keep = options.keep

        def stop() -> None:
            session.stopping = True

        server.attach(session)
        server.watch(signals.fileno(), stop)
        attach()
        session.restore(left)
        report(options, {"ok": True, "lost": lost})
        try:
            reason = server.run()
            while session.stuck and session.living and not session.stopping:
                logger.warning("%s; %d tasks go on with another cluster", reason, session.living)
                backend.unwatch(server)
                backend.close()
                try:
                    backend = connect()
                except CliError as error:
                    reason = f"{reason}; {error.message}"
                    break
                session.rebind(backend.client)
                attach()
                reason = server.run()
        finally:
            server.stop_listening()
            places.socket.unlink(missing_ok=True)
            logger.info("ending: %s", reason)
            if not session.stuck or session.stopping:
                session.end_all("the session was ended")
            server.settle()
            session.close()
            backend.close()
            try:
                ledger.close()
            except LedgerError as error:
                logger.error("%s; what happened last is lost", error)
            server.close()
            signals.close()
    finally:
        backend.close()
        os.ftruncate(lock, 0)
    if session.broken:  # the next command tells
        os.pwrite(lock, f"\n\n{session.broken}\n".encode(), 0)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
