"""Whose turn it is on a slot's processor (PRI-01 to PRI-03).

One task runs. A ready task of a higher priority suspends it, which takes the processor out of the slot; the agent gives
the slot another one. Since only a higher priority suspends, the suspended tasks form a stack of rising priorities, and
there are never more of them than the slot may hold tasks.

So that a processor need not wait for the agent between short tasks, the next ones are handed over while one runs. Which
of those have started is known only after a *recall*, which takes back the others. There is one before anything is done
to the processor, or to a task that it may have started, and when a task comes that has to run before one of them.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection

from protocol.identifiers import TaskId, serializer_object_id
from reference_impl.worker.held import Held, HeldTask
from reference_impl.worker.instructions import Instruction, Recall, Resume, Spare, Start, Suspend

AHEAD = 32
"""So many tasks are handed over behind the running one."""


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
        self.behind: deque[TaskId] = deque()
        """What the slot's processor does after that."""
        self.recalling = False
        """Nothing is handed over until ``recalled``."""

    def join(self, task_id: TaskId) -> None:
        """Its objects are here."""
        held = self._held[task_id]
        held.state = Held.READY
        heapq.heappush(self.ready, (held.place, task_id))

    def leave(self, task_id: TaskId) -> None:
        """A ready task will not run."""
        self.ready.remove((self._held[task_id].place, task_id))
        heapq.heapify(self.ready)

    def ended(self, pid: int, now: float) -> None:
        """The task on a processor has ended; the next one that was handed to it is running, or will be at once."""
        del self.on[pid]
        if pid != self.processor:
            return
        self.current = None
        if self.behind:
            self._runs(self.behind.popleft(), now)

    @property
    def unknown(self) -> bool:
        """Whether it is to be found out, by a recall, which task has started."""
        return bool(self.behind) and self.current is not None and not self._held[self.current].doomed

    def recalled(self, unstarted: Collection[TaskId], now: float) -> bool:
        """These were taken back, and will be handed over again. False if more than one of the others is not answered:
        no processor works so."""
        self.recalling = False
        for task_id in unstarted:
            held = self._held.get(task_id)
            if held is None or held.state not in (Held.HANDED, Held.RUNNING):
                continue
            if task_id == self.current:
                del self.on[held.pid]
                self.current = None
            else:
                self.behind.remove(task_id)
            self.join(task_id)
        if self.behind and self.current is None:
            self._runs(self.behind.popleft(), now)
        return not self.behind

    def gone(self, pid: int, unstarted: Collection[TaskId], now: float) -> list[TaskId]:
        """A processor has ended, and had not started these: returns what it did."""
        found: list[TaskId] = []
        if pid == self.processor:
            self.recalled(unstarted, now)
            found += self.behind
            self.behind.clear()
            self.processor = self.current = None
        if pid in self.on:
            found.insert(0, self.on.pop(pid))
        return found

    def pids(self) -> list[int]:
        """Of all processors, that of the slot first."""
        slots = [] if self.processor is None else [self.processor]
        return slots + [pid for pid in self.on if pid != self.processor]

    def start_next(self, now: float) -> list[Instruction]:
        """The processor gets the best task: the highest priority, then one that has started, then the oldest."""
        out: list[Instruction] = []
        if self.recalling:
            return out
        ready = self._held[self.ready[0][1]] if self.ready else None
        if self.current is not None:
            current = self._held[self.current]
            if ready is None or current.state is not Held.RUNNING or current.doomed:
                return out
            if self.behind and ready.place < self._held[self.behind[-1]].place:
                assert self.processor is not None
                self.recalling = True
                return [Recall(self.processor)]
            if ready.priority <= current.priority:
                self._hand_ahead(current, out)
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
                if ready is not None:
                    self._hand_ahead(suspended, out)
                return out
        if ready is None or self.processor is None:
            return out
        task_id = self.ready[0][1]
        out.append(self._hand_over(self.processor))
        self._runs(task_id, now)
        self._hand_ahead(ready, out)
        return out

    def _hand_ahead(self, running: HeldTask, out: list[Instruction]) -> None:
        """Hands over what will surely be next. What a task writes belongs to the one that runs when it is read: one
        whose output is wanted runs with none before or behind it."""
        if running.stream or self.suspended or self.processor is None:
            return
        while self.ready and len(self.behind) < AHEAD and self._held[self.ready[0][1]].ahead:
            self.behind.append(self.ready[0][1])
            out.append(self._hand_over(self.processor))

    def _hand_over(self, processor: int) -> Start:
        """The first of the ready ones goes to the processor."""
        held = self._held[heapq.heappop(self.ready)[1]]
        held.state = Held.HANDED
        held.pid = processor
        assert held.task is not None
        return Start(processor, held.task, serializer_object_id(held.task.source), held.priority)

    def _runs(self, task_id: TaskId, now: float) -> None:
        assert self.processor is not None
        held = self._held[task_id]
        held.state = Held.RUNNING
        held.started = now
        self.current = self.on[self.processor] = task_id
