"""Whose turn it is on a slot's processor (PRI-01 to PRI-03).

One task runs. A ready task of a higher priority suspends it, which takes the processor out of the slot; the agent gives
the slot another one. Since only a higher priority suspends, the suspended tasks form a stack of rising priorities, and
there are never more of them than the slot may hold tasks.
"""

from __future__ import annotations

import heapq

from protocol.identifiers import TaskId, serializer_object_id
from reference_impl.worker.held import Held, HeldTask
from reference_impl.worker.instructions import Instruction, Resume, Spare, Start, Suspend


class Turns:
    """Of the tasks in ``held``, those that are ready, and those that have a processor."""

    def __init__(self, held: dict[TaskId, HeldTask]) -> None:
        self._held = held
        self.ready: list[tuple[tuple[int, int], TaskId]] = []
        """A heap by place."""
        self.suspended: list[TaskId] = []
        """The last one has the highest priority, and is the next to go on."""
        self.current: TaskId | None = None
        """What the slot's processor does: running or canceling."""
        self.processor: int | None = None
        """The pid of the slot's processor."""
        self.on: dict[int, TaskId] = {}
        """What each processor does, the suspended and canceled ones too."""
        self.draining = False
        """Nothing starts any more; what has started goes on."""

    def join(self, task_id: TaskId) -> None:
        """Its objects are here."""
        held = self._held[task_id]
        held.state = Held.READY
        heapq.heappush(self.ready, (held.place, task_id))

    def leave(self, task_id: TaskId) -> None:
        """A ready task will not run."""
        self.ready.remove((self._held[task_id].place, task_id))
        heapq.heapify(self.ready)

    def gone(self, pid: int) -> TaskId | None:
        """A processor has ended: returns what it did."""
        if pid == self.processor:
            self.processor = self.current = None
        return self.on.pop(pid, None)

    def pids(self) -> list[int]:
        """Of all processors, that of the slot first."""
        slots = [] if self.processor is None else [self.processor]
        return slots + [pid for pid in self.on if pid != self.processor]

    def start_next(self, now: float) -> list[Instruction]:
        """The processor gets the best task: the highest priority, then one that has started, then the oldest."""
        out: list[Instruction] = []
        ready = self._held[self.ready[0][1]] if self.ready and not self.draining else None
        if self.current is not None:
            current = self._held[self.current]
            if ready is None or current.state is not Held.RUNNING or current.doomed:
                return out
            if ready.priority <= current.priority:
                return out
            current.state = Held.SUSPENDED
            self.suspended.append(self.current)
            self.current = self.processor = None
            return [Suspend(current.pid)]  # the agent has another processor
        if self.suspended:
            task_id = self.suspended[-1]
            suspended = self._held[task_id]
            if ready is None or suspended.priority >= ready.priority:
                self.suspended.pop()
                suspended.state = Held.RUNNING
                if self.processor is not None:
                    out.append(Spare(self.processor))
                self.current, self.processor = task_id, suspended.pid
                out.append(Resume(suspended.pid))
                return out
        if ready is None or self.processor is None:
            return out
        _, task_id = heapq.heappop(self.ready)
        ready.state = Held.RUNNING
        ready.started = now
        ready.pid = self.processor
        self.current = self.on[self.processor] = task_id
        assert ready.task is not None
        return [Start(self.processor, ready.task, serializer_object_id(ready.task.source), ready.priority)]
