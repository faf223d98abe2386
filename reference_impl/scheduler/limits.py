"""How much the scheduler takes, and what it says when that is not enough (SPEC section 14).

What a client caused is counted where it is kept: its tasks until they are over, with the bytes of long ones, and its
objects until they are deleted. Whether one more task fits is a matter of a few comparisons (``Lifecycle.accept``); the
rest is looked at when these say that it may not, which is never where nobody asks for too much.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.envelope import Envelope
from protocol.identifiers import Identity, ObjectId, TaskId, object_id
from protocol.messages import TaskResult, TaskResultType
from protocol.payloads import exception
from reference_impl.scheduler.instructions import StoreThenSend

if TYPE_CHECKING:
    from reference_impl.scheduler.lifecycle import Lifecycle
    from reference_impl.scheduler.peers import Peers
    from reference_impl.scheduler.turn import Turn

LONG_TASK_BYTES = 1 << 10
"""The bytes of longer Task messages are counted; of others the number says enough."""
KEPT_HEARTBEAT_BYTES = 1 << 18
"""What a longer heartbeat says is not kept: it only shows that its sender is alive."""
MOST_HELD = 10_000
"""How many tasks a worker is given at a time, however many it says that it may hold (LIM-10)."""
KEPT_NAME_BYTES = 256
"""Of the name of an object."""
LISTED_TASKS = 10_000
"""How many tasks an answer lists at most (LIM-08)."""
QUESTIONS_BURST, QUESTIONS_RATE = 50_000, 5_000
"""What the answers to one client may cost at once, and each second: as many listed tasks, of about 20 us (LIM-09)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the scheduler's core keeps at most. Bytes are those of Task messages that are longer than 1 KiB."""

    tasks: int = 5_000_000  # that are not over
    tasks_per_client: int = 2_000_000
    task_bytes: int = 4 << 30
    task_bytes_per_client: int = 2 << 30
    objects: int = 10_000_000  # whose ids are tracked
    objects_per_client: int = 5_000_000
    peers: int = 10_000  # clients; and as many workers; and as many worker managers


class Refused(Exception):
    """There is no room for a task; the text says which limit was met."""


class Budget:
    """What one peer may spend, in units of its own: ``burst`` at once, and ``rate`` each second."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: float, rate: float, now: float) -> None:
        self._burst, self._rate = burst, rate
        self._left, self._at = burst, now

    def spend(self, cost: float, now: float) -> float:
        """0.0, and it is spent; or the seconds after which as much can be spent, and nothing is."""
        self._left = min(self._burst, self._left + self._rate * (now - self._at))
        self._at = now
        if self._left >= min(cost, self._burst):
            self._left -= cost
            return 0.0
        return (min(cost, self._burst) - self._left) / self._rate


class Admission:
    """Whether there is room for more tasks, and the answer where there is none."""

    def __init__(self, limits: Limits, turn: Turn, peers: Peers, lifecycle: Lifecycle, objects: Sized) -> None:
        self._limits = limits
        self._turn = turn
        self._peers = peers
        self._clients = peers.clients
        self._lifecycle = lifecycle
        self._tasks = lifecycle.tasks
        self._objects = objects

    def check(self, client_id: Identity, count: int, size: int) -> None:
        """Raises Refused if ``count`` more tasks, ``size`` bytes of messages, are too much."""
        limits, client = self._limits, self._clients.get(client_id)
        if client is None and len(self._clients) >= limits.peers:
            raise Refused(f"the scheduler has too many clients (limit {limits.peers}: --max-peers)")
        tasks, task_bytes = (len(client.tasks), client.task_bytes) if client is not None else (0, 0)
        for now, more, limit, what in (
            (tasks, count, limits.tasks_per_client, "tasks per client: --max-tasks-per-client"),
            (len(self._tasks), count, limits.tasks, "tasks of all clients: --max-tasks"),
            (task_bytes, size, limits.task_bytes_per_client, "bytes of tasks per client: half of --max-task-bytes"),
            (self._lifecycle.task_bytes, size, limits.task_bytes, "bytes of tasks of all clients: --max-task-bytes"),
        ):
            if now + more > limit:
                raise Refused(f"the scheduler's queue is full (limit {limit} {what})")
        if client is not None and not client.room:  # there was none for all of its objects
            for now, limit, what in (
                (len(client.objects), limits.objects_per_client, "objects per client: --max-objects-per-client"),
                (len(self._objects), limits.objects, "objects of all clients: --max-objects"),
            ):
                if now >= limit:
                    raise Refused(f"the scheduler tracks too many objects (limit {limit} {what})")
            client.room = limits.tasks_per_client

    def refuse(self, client_id: Identity, task_id: TaskId, reason: str) -> None:
        """The terminal answer for a task, or graph, that is not taken: failed, with an exception that says why."""
        self._turn.note(client_id, f"a task is refused: {reason}", logging.WARNING)
        bare = Envelope.of(TaskResult(task_id, TaskResultType.FAILED))
        client = self._clients.get(client_id)
        if client is None and len(self._clients) < self._limits.peers:
            client = self._peers.client(client_id, self._turn.now)
        if client is None or len(client.objects) >= 2 * self._limits.objects_per_client:
            self._turn.send(client_id, bare)  # nobody would delete the exception
            return
        stored = reason_id(client_id, task_id)
        client.objects.add(stored)
        named = Envelope.of(TaskResult(task_id, TaskResultType.FAILED, b"", (stored,)))
        self._turn.out.append(StoreThenSend(stored, exception(reason), client_id, named, bare))


def reason_id(client_id: Identity, task_id: TaskId) -> ObjectId:
    """The id of the exception that tells why a task was refused."""
    return object_id(client_id, hashlib.blake2b(task_id, digest_size=16, key=b"refusal").digest())
