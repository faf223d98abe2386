"""A slot's heartbeats: when, what they say, and whether the scheduler answers (SPEC section 8)."""

from __future__ import annotations

from collections.abc import Mapping

from protocol.identifiers import TaskId
from protocol.messages import ProcessorStatus, Resource, TaskResult, WorkerHeartbeat
from reference_impl.worker.held import Held, HeldTask
from reference_impl.worker.settings import Settings, Usage
from reference_impl.worker.turns import Turns

_LATENCY_MAX = 2**32 - 1
_LATE_BEATS = 3
"""A scheduler's timeout is at least so many times the time between heartbeats (LIV-03)."""
_QUEUED = (Held.FETCHING, Held.READY, Held.HANDED)


class Beats:
    """Of one slot. Times in seconds."""

    def __init__(self, settings: Settings, now: float) -> None:
        self.due = now
        """When the next one is to be sent."""
        self._settings = settings
        self._unanswered = 0.0  # when the first one was sent that has no answer; 0: the last one is answered
        self._latency = 0
        self._missed = False  # this process itself did not run for a while
        self._says_so = False  # the last one has told that this worker is leaving
        self.leaving = False
        """The scheduler is told to send nothing more."""
        self.told = False
        """It has heard that."""
        self.unheard: list[TaskResult] = []
        """Results that the scheduler may not have."""
        self._said = 0  # so many of them before the heartbeat that has no answer
        self._handled = 0  # and so many before the one that was echoed last

    def leave(self, now: float) -> None:
        """The next heartbeat, which goes at once, says that this worker takes nothing more (LIV-21)."""
        self.leaving, self.due = True, now

    def silence(self, now: float) -> float:
        """For how long there has been no answer, counted from a heartbeat: a worker that was itself stopped for long
        asks first."""
        return now - self._unanswered if self._unanswered else 0.0

    def sent(self, now: float) -> None:
        """A heartbeat goes now."""
        self._missed |= self._is_late(now, self.due)
        self._says_so = self.leaving
        self.due = now + self._settings.heartbeat_seconds
        if not self._unanswered:
            self._unanswered = now
            self._said = len(self.unheard)

    def answered(self, now: float) -> bool:
        """The scheduler has echoed one: the latency is measured. Whether that took so long that it may have given this
        worker up meanwhile."""
        self.told = self._says_so
        late, self._missed = self._missed or (bool(self._unanswered) and self._is_late(now, self._unanswered)), False
        if self._unanswered:
            self._latency = min(int((now - self._unanswered) * 1e6), _LATENCY_MAX)
            self._unanswered = 0.0
            del self.unheard[: self._handled]
            self._handled, self._said = max(0, self._said - self._handled), 0
        return late

    def _is_late(self, now: float, since: float) -> bool:
        return now - since > _LATE_BEATS * self._settings.heartbeat_seconds

    def result(self, result: TaskResult) -> None:
        """A result goes now. It is kept until the echo of a later heartbeat shows that the scheduler has it, and until
        the next echo shows that it lived on to pass it on."""
        self.unheard.append(result)

    def message(self, held: Mapping[TaskId, HeldTask], turns: Turns, usage: Usage, now: float) -> WorkerHeartbeat:
        """What one says."""
        settings = self._settings
        return WorkerHeartbeat(
            agent=usage.agent,
            rss_free=usage.rss_free,
            queue_size=0 if self.leaving else settings.queue_size,
            queued_tasks=sum(task.state in _QUEUED for task in held.values()),
            latency_microseconds=self._latency,
            task_lock=turns.processor is None,
            processors=tuple([_status(pid, held, turns, usage, now) for pid in turns.pids()]),
            capabilities=settings.capabilities,
            worker_manager_id=settings.manager_id,
            mem_limit=settings.memory_limit or usage.mem_limit,
            hostname=settings.hostname,
            net_sent_bytes=usage.net_sent_bytes,
            net_recv_bytes=usage.net_received_bytes,
        )


def _status(pid: int, held: Mapping[TaskId, HeldTask], turns: Turns, usage: Usage, now: float) -> ProcessorStatus:
    task_id = turns.on.get(pid)
    task = held[task_id] if task_id is not None else None
    return ProcessorStatus(
        pid=pid,
        initialized=True,
        has_task=task is not None,
        suspended=task is not None and task.state is Held.SUSPENDED,
        resource=usage.processors.get(pid, Resource()),
        current_task_id=task_id or b"",
        task_age_seconds=int(now - task.started) if task is not None else 0,
    )
