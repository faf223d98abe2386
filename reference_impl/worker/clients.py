"""Which tasks have a client of their own: those must not be stopped while they are suspended (SPEC PRI-05)."""

from __future__ import annotations

import contextlib

import psutil

from reference_impl.worker.family import descendants


class ClientFinder:
    """Looks for connections to the scheduler. That finds every client, of whatever package, also in a process that
    the task started, as long as it reaches the scheduler at the port at which the worker does."""

    def __init__(self, scheduler_port: int) -> None:
        self._port = scheduler_port

    def has_client(self, pid: int) -> bool:
        """Whether a processor, or a process below it, is connected to the scheduler."""
        return self._connected(pid) or any(self._connected(child) for child, _ in descendants(pid))

    def _connected(self, pid: int) -> bool:
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            connections = getattr(process, "net_connections", None) or process.connections  # psutil before 6.0
            return any(c.raddr and c.raddr.port == self._port for c in connections("tcp"))
        return False
