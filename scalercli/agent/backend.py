"""What the agent runs tasks on: a client of a named scheduler, or of an embedded cluster that it starts itself."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import scalercli
from protocol.control import AgentInfo, ProcessInfo
from reference_impl.worker.family import become_subreaper, end_orphans
from scalercli.errors import CliError
from scalercli.exits import ExitCode

if TYPE_CHECKING:
    from reference_impl.access.settings import PeerAccess
    from scalercli.agent.server import AgentServer
    from scalercli.agent.watch import MonitorWatch, Subscription

logger = logging.getLogger(__name__)

_ORPHAN_SECONDS = 5.0

TRACED_CLUSTER = "SCALERCLI_TRACED_CLUSTER"
"""Set by ``scalercli trace`` for the command that it traces: the cluster that it has here, as JSON."""


class Backend:
    """A client, and the cluster that belongs to it, if any."""

    def __init__(
        self,
        client: Any,
        scheduler_address: str,
        cluster: Any = None,
        workers: int = 0,
        monitor: MonitorWatch | None = None,
        memory_limit: int = 0,
        access: PeerAccess | None = None,
    ) -> None:
        self.client = client
        self.monitor = monitor
        self._scheduler_address = scheduler_address
        self._cluster = cluster
        self._access = access
        self._workers = workers
        self._memory_limit = memory_limit
        self._started_at = time.time()
        self._watched: list[int] = []
        self._closed = False

    def info(self, *, living: int, idle_seconds: float, state_directory: str) -> AgentInfo:
        cluster = self._cluster
        monitor, workers = str(cluster.monitor_address) if cluster else "", self._workers
        if self.monitor is not None and self.monitor.needed:
            monitor, workers = self.monitor.address, self.monitor.observations.workers or 0
        return AgentInfo(
            pid=os.getpid(),
            program=scalercli.__version__,
            embedded=cluster is not None,
            scheduler_address=self._scheduler_address,
            object_storage_address=str(cluster.object_storage_address) if cluster else "",
            monitor_address=monitor,
            workers=workers,
            started_at=self._started_at,
            living=living,
            processes=tuple(ProcessInfo(role, pid) for role, pid in self._processes()),
            state_directory=state_directory,
            idle_seconds=idle_seconds,
            memory_limit=self._memory_limit,
        )

    def watch(self, server: AgentServer, broken: Callable[[str], None]) -> None:
        """Calls ``broken`` when a process of the embedded cluster has ended that is not started again."""
        if not hasattr(os, "pidfd_open"):
            return
        for role, pid in self._processes():
            self._watch(server, broken, role, pid)

    def _watch(self, server: AgentServer, broken: Callable[[str], None], role: str, pid: int) -> None:
        fd = os.pidfd_open(pid)
        self._watched.append(fd)

        def ended() -> None:
            server.unwatch(fd)
            self._watched.remove(fd)
            os.close(fd)
            self._restart(server, broken, role)

        server.watch(fd, ended)

    def _restart(self, server: AgentServer, broken: Callable[[str], None], role: str) -> None:
        """This process of the cluster has ended."""
        from reference_impl.cluster import ClusterFailed

        try:
            again = self._cluster.restart(role)
            end_orphans(_ORPHAN_SECONDS, self._cluster.processes.values())  # of its tasks
            self._watch(server, broken, role, again)
        except ClusterFailed as error:
            broken(str(error))
        except OSError as error:
            broken(f"the {role} of the embedded cluster was started again and can't be watched: {error.strerror}")

    def subscribe(self, server: AgentServer, report: Callable[[Any], None]) -> Subscription:
        """Calls ``report`` with each StateScheduler of the monitor stream."""
        from protocol.messages import Kind
        from reference_impl.addresses import Address
        from scalercli.agent.watch import Subscription

        address = Address.parse(self._scheduler_address)
        subscription = Subscription(address, report, (Kind.STATE_SCHEDULER,), self._access)
        subscription.attach(server.watch, server.unwatch)
        return subscription

    def unwatch(self, server: AgentServer) -> None:
        """Undoes ``watch``."""
        for fd in self._watched:
            server.unwatch(fd)
            os.close(fd)
        self._watched.clear()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for fd in self._watched:
            os.close(fd)
        if self.monitor is not None:
            self.monitor.close()
        try:
            self.client.close()
        except Exception:
            logger.exception("closing the client")
        if self._cluster is not None:
            self._cluster.stop()
            end_orphans(_ORPHAN_SECONDS)

    def _processes(self) -> list[tuple[str, int]]:
        return list(self._cluster.processes.items()) if self._cluster is not None else []


def connect_backend(address: str, key_file: str = "", server_key: str = "") -> Backend:
    """A client of the scheduler at ``address``, and a subscription to what that publishes; with these keys, if they
    are not empty. Raises CliError."""
    from reference_impl.access.keys import KeyFileError
    from reference_impl.access.settings import peer_access_of
    from reference_impl.addresses import Address
    from reference_impl.client import Client
    from scalercli.agent.watch import MonitorWatch

    try:
        access = peer_access_of(key_file or None, server_key or None)
    except KeyFileError as error:
        raise CliError(str(error), error.hint) from None
    # Who has keys need not be allowed to watch the tasks of others, and has a scheduler that answers queries.
    monitor = MonitorWatch(Address.parse(address)) if access is None else None
    try:
        client = Client(address, key_file=key_file or None, server_key=server_key or None)
        return Backend(client, address, monitor=monitor, access=access)
    except ConnectionError as error:
        if monitor is not None:
            monitor.close()
        hint = f"scalercli doctor --cluster {address}"
        raise CliError(str(error), hint, ExitCode.UNREACHABLE) from None


def embedded_backend(workers: int, logs: Path, keys_directory: Path | None = None, memory_limit: int = 0) -> Backend:
    """A cluster on this machine, and its client; raises CliError. ``workers`` 0: one per processor core. With a
    directory for keys, it has some, which are made if need be. ``memory_limit`` of a task in bytes, 0: none."""
    from reference_impl.access.keys import ClusterKeys, KeyFileError
    from reference_impl.access.settings import peer_access_of
    from reference_impl.client import Client
    from reference_impl.cluster import EmbeddedCluster

    count = workers or os.cpu_count() or 1
    logs.mkdir(mode=0o700, exist_ok=True)
    traced = os.environ.get(TRACED_CLUSTER)
    # If a worker and its zygote are killed together, what their tasks have moved to sessions of its own comes here.
    become_subreaper()
    try:
        keys = ClusterKeys.ready(keys_directory) if keys_directory is not None else None
        key_file, server_key = (keys.key_file, keys.server_key) if keys is not None else (None, None)
        access = peer_access_of(key_file, server_key)
    except KeyFileError as error:
        raise CliError(str(error), error.hint) from None
    try:
        if traced:
            cluster = EmbeddedCluster(log_directory=logs, **json.loads(traced))
            count = cluster.workers
        else:
            limit = ("--memory-limit-per-task", str(memory_limit)) if memory_limit else ()
            cluster = EmbeddedCluster.start(count, logs, keys=keys, worker_options=limit)
    except (RuntimeError, OSError) as error:
        raise CliError(
            f"the embedded cluster did not start: {error}", f"see the logs in {logs}", ExitCode.UNREACHABLE
        ) from None
    address = str(cluster.scheduler_address)
    try:
        client = Client(address, key_file=key_file, server_key=server_key)
        return Backend(client, address, cluster, count, access=access, memory_limit=memory_limit)
    except ConnectionError as error:
        cluster.stop()
        raise CliError(str(error), f"see the logs in {logs}", ExitCode.UNREACHABLE) from None
