"""What a worker manager does, without sockets, processes or clocks (SPEC section 8.4).

Theory of operation. The scheduler says how many workers it wants; until it has said so for the first time, none is
wanted. Too few: more are started at once, except after failures, which are followed by longer and longer pauses. Too
many for longer than the cooldown: as many as are too many are *asked* to leave. A worker that holds a task answers that
it is busy, and another one is asked; one that holds none takes leave of the scheduler and ends, so that a task that was
on its way to it goes elsewhere. No worker is ever ended in any other way, except when the manager itself is ended.

Each method is one event; it returns what is to be done, in order. ``now`` is in seconds on a clock that never goes
back. A worker is known by a number that the core chooses."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Union

from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.messages import (
    ClientDisconnect,
    DisconnectType,
    Kind,
    Message,
    TaskCapability,
    WorkerManagerCommand,
    WorkerManagerHeartbeat,
)

_ANSWER_SECONDS = 10.0
"""A worker that has been asked to leave and says nothing for so long (it is stopped, or swapped out) counts as busy."""
_PAUSES = (1.0, 2.0, 5.0, 15.0, 30.0)
"""After a worker that ended by itself, one more such end, and so on."""
_HEALTHY_SECONDS = 60.0
"""A worker that lived for so long did not fail because of how it was started."""
_SILENCE_SECONDS = 5.0


# ---- what is to be done ----


class Send(NamedTuple):
    """Send a message to the scheduler."""

    message: Message


class Start(NamedTuple):
    """Start a worker process."""

    worker: int


class Ask(NamedTuple):
    """Ask a worker to leave if it holds no task; it ends (``gone``) or answers (``busy``)."""

    worker: int


class Note(NamedTuple):
    """Write a line to the log."""

    level: int
    text: str


class End(NamedTuple):
    """End the manager and its workers, because of this; empty if that is as it should be."""

    error: str


Instruction = Union[Send, Start, Ask, Note, End]


@dataclass(frozen=True, slots=True)
class Settings:
    """Times are in seconds."""

    manager_id: bytes
    limit: int  # how many workers at most
    capabilities: tuple[TaskCapability, ...] = ()
    cooldown: float = 30.0  # for so long fewer workers must have been wanted before one is asked to leave
    heartbeat: float = 1.0
    death: float = 300.0  # end when the scheduler has been silent for so long


class Phase(Enum):
    """Where a worker is."""

    STARTING = "starting"
    SERVING = "serving"
    ASKED = "asked to leave"


class _Worker:
    __slots__ = ("asked_at", "busy_at", "phase", "started_at")

    def __init__(self, now: float) -> None:
        self.phase = Phase.STARTING
        self.started_at = now
        self.asked_at = 0.0
        self.busy_at = -math.inf  # when it last said so


class ManagerCore:
    """One worker manager."""

    def __init__(self, settings: Settings, now: float) -> None:
        self.settings = settings
        self.wanted: int | None = None
        """What the scheduler said last, at most the limit; None: nothing yet."""
        self._workers: dict[int, _Worker] = {}
        self._numbers = 0
        self._names = frozenset(c.name for c in settings.capabilities)
        self._excess_since: float | None = None
        self._failures = 0
        self._start_after = now
        self._beat_at = now
        self._beat_sent: float | None = None  # None: the last heartbeat is answered
        self.connected = False
        """Whether the scheduler has answered a heartbeat."""

    @property
    def workers(self) -> dict[int, Phase]:
        """Those that have not ended."""
        return {number: worker.phase for number, worker in self._workers.items()}

    @property
    def deadline(self) -> float:
        """When ``tick`` is due at the latest."""
        return self._beat_at

    # ---- messages ----

    def received(self, envelope: Envelope, now: float) -> list[Instruction]:
        """A message of the scheduler. MalformedMessage never comes out (SPEC section 10)."""
        try:
            if envelope.kind is Kind.WORKER_MANAGER_HEARTBEAT_ECHO:
                envelope.check()
                self._beat_sent = None
                self.connected = True
                return []
            if envelope.kind is Kind.WORKER_MANAGER_COMMAND:
                message = envelope.message
                assert isinstance(message, WorkerManagerCommand)
                return self._command(message, now)
            if envelope.kind is Kind.CLIENT_DISCONNECT:
                goodbye = envelope.message
                assert isinstance(goodbye, ClientDisconnect)
                if goodbye.disconnect_type is DisconnectType.SHUTDOWN:
                    return [Note(logging.INFO, "the cluster is shut down: ending"), End("")]
        except MalformedMessage as error:
            return self.malformed(str(error))
        return [Note(logging.WARNING, f"{envelope.kind.name} is not for a worker manager; ignored")]

    def malformed(self, why: str) -> list[Instruction]:
        """A frame that is no message, or no single frame."""
        return [Note(logging.WARNING, f"malformed message: {why}; ignored")]

    def _command(self, command: WorkerManagerCommand, now: float) -> list[Instruction]:
        """The sum of the requests that our workers can serve (MAN-05)."""
        total = sum(
            request.task_concurrency
            for request in command.set_desired_task_concurrency_requests
            if self._names.issuperset([c.name for c in request.capabilities])
        )
        wanted = min(total, self.settings.limit)
        notes: list[Instruction] = []
        if wanted != self.wanted:
            notes.append(Note(logging.INFO, f"{wanted} workers wanted, {len(self._workers)} there"))
        self.wanted = wanted
        return [*notes, *self._adjust(now)]

    # ---- workers ----

    def ready(self, worker: int) -> list[Instruction]:
        """It has registered."""
        self._workers[worker].phase = Phase.SERVING
        return []

    def busy(self, worker: int, now: float) -> list[Instruction]:
        """It was asked to leave and holds a task."""
        known = self._workers[worker]
        if known.phase is Phase.ASKED:
            known.phase = Phase.SERVING
        known.busy_at = now
        return self._adjust(now)

    def gone(self, worker: int, status: int, now: float) -> list[Instruction]:
        """It has ended, with this exit status (negative: by a signal)."""
        known = self._workers.pop(worker)
        if status == 0 and known.phase is Phase.ASKED:
            return [Note(logging.INFO, f"worker {worker} has left; {len(self._workers)} there"), *self._adjust(now)]
        if status == 0:  # somebody else ended it, or the whole cluster ends: the next heartbeat will tell
            self._start_after = max(self._start_after, now + 2 * self.settings.heartbeat)
            return [Note(logging.INFO, f"worker {worker} was ended; {len(self._workers)} there")]
        if now - known.started_at >= _HEALTHY_SECONDS:
            self._failures = 0
        pause = _PAUSES[min(self._failures, len(_PAUSES) - 1)]
        self._failures += 1
        self._start_after = now + pause
        how = f"by signal {-status}" if status < 0 else f"with exit status {status}"
        return [Note(logging.ERROR, f"worker {worker} ended {how}; the next is started in {pause:g} s at the earliest")]

    def _adjust(self, now: float) -> list[Instruction]:
        if self.wanted is None:
            return []
        excess = len(self._workers) - self.wanted
        if excess > 0:
            if self._excess_since is None:
                self._excess_since = now
            return self._ask(excess, now) if now - self._excess_since >= self.settings.cooldown else []
        self._excess_since = None
        if now < self._start_after or self._silence(now) >= self.settings.heartbeat:
            return []
        started: list[Instruction] = []
        for _ in range(-excess):
            self._numbers += 1
            self._workers[self._numbers] = _Worker(now)
            started.append(Start(self._numbers))
        return started

    def _ask(self, excess: int, now: float) -> list[Instruction]:
        """The youngest first; one that was busy a moment ago not again before the next heartbeat."""
        asked: list[Instruction] = []
        open_requests = 0
        for number in reversed(self._workers):
            worker = self._workers[number]
            if worker.phase is Phase.ASKED and now - worker.asked_at < _ANSWER_SECONDS:
                open_requests += 1
            elif worker.phase is not Phase.STARTING and now - worker.busy_at >= self.settings.heartbeat:
                asked.append(Ask(number))
        asked = asked[: max(0, excess - open_requests)]
        for request in asked:
            assert isinstance(request, Ask)
            worker = self._workers[request.worker]
            worker.phase, worker.asked_at = Phase.ASKED, now
        return asked

    # ---- time ----

    def _silence(self, now: float) -> float:
        """For how long the scheduler has owed an answer."""
        return now - self._beat_sent if self._beat_sent is not None else 0.0

    def tick(self, now: float) -> list[Instruction]:
        """The ``deadline`` has come, or some time has passed."""
        out = self._adjust(now)
        if now < self._beat_at:
            return out
        silent = self._silence(now)
        if silent >= self.settings.death:
            return [*out, End(f"the scheduler has been silent for {self.settings.death:g} s")]
        if silent >= _SILENCE_SECONDS:
            out.append(Note(logging.WARNING, f"the scheduler has not answered for {silent:.0f} s"))
        self._beat_at = now + self.settings.heartbeat
        if self._beat_sent is None:
            self._beat_sent = now
        return [*out, self._heartbeat(self.settings.limit)]

    def _heartbeat(self, limit: int) -> Send:
        return Send(WorkerManagerHeartbeat(limit, self.settings.capabilities, self.settings.manager_id))

    def leave(self) -> list[Instruction]:
        """The manager is told to end (MAN-12)."""
        return [self._heartbeat(0)]
