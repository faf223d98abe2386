"""The worker managers that a scheduler knows, and what it asks of them (SPEC section 8.4)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import islice

from protocol.identifiers import Identity
from protocol.messages import (
    DesiredTaskConcurrencyRequest,
    ManagedWorkers,
    ScalingManagerStatus,
    WorkerManagerCommand,
    WorkerManagerDetail,
    WorkerManagerHeartbeat,
)
from reference_impl.scheduler import scaling
from reference_impl.scheduler.records import Names, WorkerRecord, names_of

_U16_MAX = 0xFFFF


class ManagerRecord:
    """A worker manager that has sent a heartbeat with an id, and has not been silent for too long."""

    __slots__ = ("changed_at", "heartbeat", "identity", "last_seen", "offers", "wanted")

    def __init__(self, identity: Identity, heartbeat: WorkerManagerHeartbeat, now: float) -> None:
        self.identity = identity
        self.heartbeat = heartbeat
        self.offers = names_of(heartbeat.capabilities)
        self.last_seen = now
        self.wanted: int | None = None
        self.changed_at = now


class Managers:
    """By ``workerManagerID``, which is what their workers name. Whoever uses an id last is the manager."""

    def __init__(self) -> None:
        self._managers: dict[bytes, ManagerRecord] = {}

    def __len__(self) -> int:
        return len(self._managers)

    def ids(self) -> Collection[bytes]:
        """Their ``workerManagerID``."""
        return self._managers.keys()

    def identities(self) -> list[Identity]:
        """Who they are."""
        return [manager.identity for manager in self._managers.values()]

    def seen(self, sender: Identity, heartbeat: WorkerManagerHeartbeat, now: float) -> Identity | None:
        """A heartbeat; returns the manager that had this id until now, if it was another one."""
        manager = self._managers.get(heartbeat.worker_manager_id)
        before = None
        if manager is None or manager.identity != sender:
            before = manager.identity if manager is not None else None
            manager = self._managers[heartbeat.worker_manager_id] = ManagerRecord(sender, heartbeat, now)
        elif heartbeat.capabilities != manager.heartbeat.capabilities:
            manager.offers = names_of(heartbeat.capabilities)
        manager.heartbeat = heartbeat
        manager.last_seen = now
        return before

    def offering(self, needs: Names) -> int:
        """How many of them have workers, or could start some, that offer all of it."""
        return sum(needs <= m.offers and m.heartbeat.max_task_concurrency > 0 for m in self._managers.values())

    def forget_silent(self, now: float, timeout: float) -> list[Identity]:
        """Managers without a heartbeat for so long are lost; their workers stay."""
        lost = [key for key, manager in self._managers.items() if now - manager.last_seen > timeout]
        return [self._managers.pop(key).identity for key in lost]

    def forget(self, manager: Identity) -> bool:
        """This manager is lost: whether it was one."""
        lost = [key for key, record in self._managers.items() if record.identity == manager]
        for key in lost:
            del self._managers[key]
        return bool(lost)

    def command(
        self, manager_id: bytes, workers: Iterable[WorkerRecord], queued: Mapping[Names, int], now: float
    ) -> WorkerManagerCommand:
        """What this manager is asked for now."""
        managers = self._managers
        limits = {key: manager.heartbeat.max_task_concurrency for key, manager in managers.items()}
        enough = 1 + sum(limits.values())
        busy = dict.fromkeys(managers, 0)
        waiting = dict(queued)
        for worker in workers:
            if not worker.held:
                continue
            if worker.manager_id in busy:
                busy[worker.manager_id] += 1
            for task in islice(worker.held.values(), 1, enough):  # what it does not run yet
                waiting[task.needs] = waiting.get(task.needs, 0) + 1
        loads = [
            scaling.ManagerLoad(manager.offers, limits[key], busy[key], manager.wanted, now - manager.changed_at)
            for key, manager in managers.items()
        ]
        for manager, wish in zip(managers.values(), scaling.desired(loads, waiting), strict=True):
            if wish != manager.wanted:
                manager.wanted, manager.changed_at = wish, now
        chosen = managers[manager_id]
        assert chosen.wanted is not None
        return WorkerManagerCommand((DesiredTaskConcurrencyRequest(chosen.wanted, chosen.heartbeat.capabilities),))

    def status(self, workers: Iterable[WorkerRecord], now: float) -> ScalingManagerStatus:
        """What StateScheduler says of them."""
        theirs: dict[bytes, list[bytes]] = {key: [] for key in self._managers}
        for worker in workers:
            if worker.manager_id in theirs:
                theirs[worker.manager_id].append(worker.worker_id)
        return ScalingManagerStatus(
            tuple(ManagedWorkers(key, tuple(ids)) for key, ids in theirs.items()),
            tuple(
                WorkerManagerDetail(
                    key,
                    manager.identity.decode("utf-8", "backslashreplace"),
                    min(int(now - manager.last_seen), _U16_MAX),
                    manager.heartbeat.max_task_concurrency,
                    ",".join(_text(c.name, c.value) for c in manager.heartbeat.capabilities),
                    max(0, (manager.wanted or 0) - len(theirs[key])),
                )
                for key, manager in self._managers.items()
            ),
        )


def _text(name: str, value: int) -> str:
    return name if value == -1 else f"{name}={value}"
