"""An embedded cluster: object storage, scheduler and workers as child processes on free loopback ports.

All are started at once, since most of the time that they need is Python's own; scheduler and workers are told on their
stdin which address the role before them has chosen. The children end with the thread that started them, however that
ends (Linux), and ``stop`` leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType

from reference_impl.access.keys import ClusterKeys
from reference_impl.addresses import Address
from reference_impl.options import FROM_STDIN, UNREACHABLE
from reference_impl.processes import Losses
from reference_impl.worker.failures import describe_end

_LOG = logging.getLogger("cluster")
_ANY_PORT = Address("127.0.0.1", 0)
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_LOG_TAIL_LINES = 5
_RESTARTS, _RESTARTS_SECONDS = 5, 60.0
"""So often in so short a time workers are started again."""
_SERVERS = ("object_storage", "scheduler")


class ClusterFailed(RuntimeError):
    """A role did not start, and the text has the end of its log; or it ended, and can't be started again."""


@dataclass
class EmbeddedCluster:
    """A running cluster. Make it with ``start``; it is also a context manager that stops it."""

    workers: int
    log_directory: Path
    scheduler_address: str = ""
    object_storage_address: str = ""
    monitor_address: str = ""
    keys: ClusterKeys | None = None
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _workers: dict[str, list[str]] = field(default_factory=dict)  # worker processes and their options
    _losses: Losses = field(default_factory=partial(Losses, _RESTARTS, _RESTARTS_SECONDS))  # of workers

    @classmethod
    def start(
        cls,
        workers: int,
        log_directory: Path,
        *,
        scheduler_options: Sequence[str] = (),
        storage_options: Sequence[str] = (),
        worker_options: Sequence[str] = (),
        keys: ClusterKeys | None = None,
    ) -> EmbeddedCluster:
        """Starts everything and returns when every worker is registered.

        ``workers`` is the number of slots; each role logs to ``<log_directory>/<role>.log``. With ``keys`` nobody
        else gets in, not even from this machine. Call it from a thread
        that lives as long as the cluster. Raises ClusterFailed.
        """
        log_directory.mkdir(parents=True, exist_ok=True)
        cluster = cls(workers, log_directory, keys=keys)
        try:
            cluster._spawn("object_storage", str(_ANY_PORT), *storage_options)
            cluster._spawn("scheduler", str(_ANY_PORT), "--object-storage-address", FROM_STDIN, *scheduler_options)
            if workers:
                cluster._spawn_workers("worker", FROM_STDIN, workers, worker_options)
            cluster.object_storage_address = cluster._ready("object_storage")["address"]
            facts = cluster._ready("scheduler", cluster.object_storage_address)
            cluster.scheduler_address, cluster.monitor_address = facts["address"], facts["monitor"]
            if workers:
                cluster._ready("worker", cluster.scheduler_address)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def add_workers(self, name: str, slots: int, options: Sequence[str] = ()) -> int:
        """Starts one more worker process with ``slots`` slots, known here as ``name``; returns its process id."""
        self._spawn_workers(name, self.scheduler_address, slots, options)
        self._ready(name)
        return self._children[name].pid

    def add_manager(self, limit: int, options: Sequence[str] = ()) -> int:
        """Starts a worker manager, which runs up to ``limit`` workers as there is work; returns its process id."""
        self._spawn("worker_manager", self.scheduler_address, "--max", str(limit), *options)
        self._ready("worker_manager")
        return self._children["worker_manager"].pid

    def restart(self, role: str) -> int:
        """Starts a worker process again that has ended, and does not wait until it is ready: then what its predecessor
        held goes elsewhere. Returns the process id.

        Raises ClusterFailed, whose text says why the cluster can't go on: this role is none that can be started again,
        for what it knew is lost; or it has ended too often.
        """
        child = self._children[role]
        code = child.wait()
        how = describe_end(-code if code < 0 else code << 8)
        ended = f"the {role} of the embedded cluster (pid {child.pid}) {how}"
        if role not in self._workers:
            raise ClusterFailed(ended)
        if code == UNREACHABLE:
            raise ClusterFailed(f"{ended}: the scheduler does not answer")
        too_often = self._losses.lost(time.monotonic())
        if too_often:
            raise ClusterFailed(f"{ended}: too often, {too_often} times in {self._losses.seconds:g} s")
        try:
            self._spawn(role, self.scheduler_address, *self._workers[role], module="worker", heard=False)
        except OSError as error:
            raise ClusterFailed(f"{ended} and can't be started again: {error}") from None
        again = self._children[role].pid
        _LOG.warning("%s; it is started again (pid %d)", ended, again)
        return again

    @property
    def processes(self) -> dict[str, int]:
        """Role to process id. (A worker has child processes of its own.)"""
        return {role: child.pid for role, child in self._children.items()}

    def alive(self) -> bool:
        """Whether every process is still there."""
        return all(child.poll() is None for child in self._children.values())

    def stop(self) -> None:
        """Ends everything, workers first, and waits until it is gone."""
        for child in reversed(self._children.values()):
            child.terminate()
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    stream.close()
            try:
                child.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children.clear()

    def __enter__(self) -> EmbeddedCluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _spawn_workers(self, name: str, scheduler: str, slots: int, options: Sequence[str]) -> None:
        identities = self.log_directory / f"{name}.identities"
        identities.unlink(missing_ok=True)  # of another cluster
        self._workers[name] = ["--concurrency", str(slots), "--identities", str(identities), *options]
        self._spawn(name, scheduler, *self._workers[name], module="worker")

    def _spawn(self, role: str, *arguments: str, module: str = "", heard: bool = True) -> None:
        """Starts a role; ``_ready`` must follow if it is ``heard``."""
        command = [sys.executable, "-m", f"reference_impl.{module or role}", *arguments]
        if self.keys is not None:
            command += self.keys.of_server() if role in _SERVERS else self.keys.of_peer()
        command += ["--die-with-parent", str(os.getpid())]
        with self._log_path(role).open("ab") as log:
            self._children[role] = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if FROM_STDIN in arguments else subprocess.DEVNULL,
                stdout=subprocess.PIPE if heard else subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                start_new_session=True,  # Ctrl-C in a terminal is for the command, not for its cluster
            )

    def _log_path(self, role: str) -> Path:
        return self.log_directory / f"{role}.log"

    def _ready(self, role: str, needs: str = "") -> dict[str, str]:
        """Tells a role that was spawned the address that it needs, and waits for its ready line; returns the line's
        key=value facts."""
        child = self._children[role]
        assert child.stdout is not None
        if child.stdin is not None:
            with contextlib.suppress(BrokenPipeError), child.stdin:  # one that has ended says why below
                child.stdin.write(f"{needs}\n".encode())
        with child.stdout as stdout:
            line = _read_line(stdout.fileno(), time.monotonic() + _START_SECONDS)
        words = line.split()
        if not words or words[0] != "ready":
            tail = self._log_path(role).read_text(errors="replace").strip().splitlines()[-_LOG_TAIL_LINES:]
            raise ClusterFailed(f"the {role} did not start: {' / '.join(tail) or 'it said nothing'}")
        return dict(word.split("=", 1) for word in words[2:])


def _read_line(fd: int, deadline: float) -> str:
    """What comes on ``fd`` up to the end of a line, of the file, or of the time."""
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while not data.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                break
            piece = os.read(fd, 4096)
            if not piece:
                break
            data += piece
    return data.decode(errors="replace")
