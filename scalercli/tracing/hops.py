"""Which message a message follows from, and how long that took by the recorder's clock (docs/trace.md).

A hop is named after who worked meanwhile: ``scheduler: task`` is the time from a client's Task to the Task that goes to
the worker, so it contains the waiting in the queue and both ways between the proxy and the scheduler.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from protocol.identifiers import CLIENT_PREFIX, WORKER_PREFIX
from scalercli.tracing.decode import Seen

_MOST = 200_000
"""Messages that wait for the one that follows from them; older ones are forgotten."""

_PAIRS = {
    "clientHeartbeatEcho": "clientHeartbeat",
    "workerHeartbeatEcho": "workerHeartbeat",
    "workerManagerHeartbeatEcho": "workerManagerHeartbeat",
    "informationResponse": "informationRequest",
    "clientShutdownResponse": "clientDisconnect",
}
_RESPONSES = {"setOK", "getOK", "delOK", "delNotExists", "duplicateOK", "infoGetTotalOK"}
_OF_TASKS = {"task", "taskCancel", "taskCancelConfirm", "taskResult"}

Key = tuple[bytes, ...]


class Hops:
    """Remembers what passed until something follows from it."""

    def __init__(self) -> None:
        self._passed: OrderedDict[Key, float] = OrderedDict()
        self._asked: dict[tuple[bytes, str], deque[float]] = {}

    def note(self, seen: Seen) -> None:
        """Sets ``hop`` and ``latency`` of a message where it follows from another."""
        recorded, kind = seen.recorded, seen.kind
        if recorded.storage:
            self._storage(seen)
        elif kind in _OF_TASKS:
            self._task(seen)
        elif kind in _PAIRS:
            waiting = self._asked.get((recorded.peer, _PAIRS[kind]))
            if waiting:
                seen.hop, seen.latency = f"scheduler: {kind}", recorded.at - waiting.popleft()
        elif recorded.from_peer and kind in _PAIRS.values():
            waiting = self._asked.setdefault((recorded.peer, kind), deque(maxlen=1000))
            waiting.append(recorded.at)

    def _task(self, seen: Seen) -> None:
        recorded, kind, task = seen.recorded, seen.kind, seen.task_id
        client, worker = (recorded.peer.startswith(prefix) for prefix in (CLIENT_PREFIX, WORKER_PREFIX))
        if recorded.from_peer and worker and kind in ("taskResult", "taskCancelConfirm"):
            asked = "task" if kind == "taskResult" else "taskCancel"
            self._follows(seen, f"worker: {kind}", (task, b"to", asked.encode(), recorded.peer))
            self._remember((task, b"from", kind.encode()), recorded.at)
        elif recorded.from_peer:
            self._remember((task, b"from", kind.encode()), recorded.at)
        elif worker and kind in ("task", "taskCancel"):
            self._follows(seen, f"scheduler: {kind}", (task, b"from", kind.encode()))
            self._remember((task, b"to", kind.encode(), recorded.peer), recorded.at)
        elif client:
            hop = f"scheduler: {kind}"
            if not self._follows(seen, hop, (task, b"from", kind.encode())) and kind == "taskCancelConfirm":
                self._follows(seen, hop, (task, b"from", b"taskCancel"))

    def _storage(self, seen: Seen) -> None:
        recorded = seen.recorded
        if recorded.from_peer and "requestId" in seen.fields:
            self._remember((b"storage", recorded.peer, str(seen.fields["requestId"]).encode()), recorded.at)
        elif seen.kind in _RESPONSES:
            asked = (b"storage", recorded.peer, str(seen.fields["responseId"]).encode())
            self._follows(seen, f"storage: {seen.kind}", asked)

    def _remember(self, key: Key, at: float) -> None:
        self._passed[key] = at
        self._passed.move_to_end(key)
        if len(self._passed) > _MOST:
            self._passed.popitem(last=False)

    def _follows(self, seen: Seen, hop: str, key: Key) -> bool:
        before = self._passed.pop(key, None)
        if before is None:
            return False
        seen.hop, seen.latency = hop, seen.recorded.at - before
        return True
