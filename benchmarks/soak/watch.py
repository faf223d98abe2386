"""What every process of the cluster uses, and what scheduler, storage and ledger hold, at one moment."""

from __future__ import annotations

import select
import time
from typing import Any, cast

import psutil

from protocol import storage
from protocol.control import AgentInfo
from protocol.messages import ClientInfo, TaskList
from reference_impl.addresses import Address
from reference_impl.client import Client
from reference_impl.storage_connection import StorageConnection
from scalercli.places import Places

_SECONDS = 30.0
_EMPTIES = ("tasks", "clients", "objects_of_nobody")
"""Not what waits in the storage: requests of an identity that is gone wait there for ten minutes (SPEC section 7.3)."""


class Watch:
    """Looks at the processes of a cluster that a session agent has on this machine, the agent and this process."""

    def __init__(self, info: AgentInfo, places: Places) -> None:
        self._places = places
        self._processes = {entry.role.replace("_", " "): psutil.Process(entry.pid) for entry in info.processes}
        self._processes |= {"session agent": psutil.Process(info.pid), "client": psutil.Process()}
        self._zygote = next(iter(self._processes["worker"].children()))
        self._processes["zygote"] = self._zygote
        self._seen: set[psutil.Process] = set(self._processes.values()) - {psutil.Process()}
        self._client = Client(info.scheduler_address)
        address = Address.parse(info.object_storage_address)
        self._storage = StorageConnection(address, b"Client|soak-watch")

    def gone(self) -> list[str]:
        """Processes that have ended though they must not, by role."""
        return [role for role, process in self._processes.items() if not process.is_running()]

    def left(self) -> list[str]:
        """After the end of the cluster: processes that were seen and are still there."""
        _, alive = psutil.wait_procs(self._seen, _SECONDS)
        # A number may be another process's by now.
        return [f"{process.pid} {process.name()}" for process in alive if process.is_running()]

    def sample(self) -> dict[str, Any]:
        """All of it, as it goes into the report."""
        used = {role: _usage(process) for role, process in self._processes.items()}
        workers = self._zygote.children(recursive=True)
        self._seen.update(workers)
        each = [use for use in map(_usage, workers) if use]
        used["processors"] = {name: sum(use[name] for use in each) for name in each[0]} if each else {}
        return {"processes": used, "processors": len(each), **self.holdings()}

    def holdings(self) -> dict[str, int]:
        """What scheduler, storage and ledger hold."""
        tasks = cast("TaskList", self._client.query("tasks", timeout=_SECONDS).value)
        clients = cast("tuple[ClientInfo, ...]", self._client.query("clients", timeout=_SECONDS).value)
        total = self._total()
        ledger = [path.stat().st_size for path in self._places.state.glob("ledger.sqlite*")]
        return {
            "tasks": tasks.total,
            "clients": len(clients),
            "objects": total.object_count,
            "objects_of_nobody": max(0, total.object_count - sum(client.objects for client in clients)),
            "object_bytes": total.total_bytes,
            "storage_pending": total.pending_requests,
            "ledger_bytes": sum(ledger),
        }

    def settled(self, before: dict[str, int]) -> tuple[dict[str, int], bool]:
        """Waits until nothing is left of clients that have gone since ``before``, half a minute at most: what is held
        then. (The session agent keeps some objects for its next tasks.)"""
        deadline = time.monotonic() + _SECONDS
        while True:
            now = self.holdings()
            if all(now[name] <= before[name] for name in _EMPTIES):
                return now, True
            if time.monotonic() > deadline:
                return now, False
            time.sleep(0.2)

    def close(self) -> None:
        self._client.close()
        self._storage.close()

    def _total(self) -> storage.Total:
        self._storage.send(storage.total_request(self._storage.next_id()))
        self._storage.flush()
        deadline = time.monotonic() + _SECONDS
        while True:
            if not select.select([self._storage], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("the object storage does not answer")
            for response in self._storage.receive():
                return storage.Total.from_bytes(response.payload)


def _usage(process: psutil.Process) -> dict[str, float]:
    """Bytes, descriptors, threads, seconds of CPU; nothing of one that has ended."""
    try:
        memory = process.memory_full_info()
        cpu = process.cpu_times()
        return {
            "rss": memory.rss,
            "pss": memory.pss,
            "uss": memory.uss,
            "fds": process.num_fds(),
            "threads": process.num_threads(),
            "cpu": round(cpu.user + cpu.system, 2),
        }
    except psutil.Error:
        return {}
