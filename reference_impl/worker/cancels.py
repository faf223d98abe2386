"""What a cancel does to a task that a slot holds (SPEC sections 5.7 and 6).

A task that has not started is let go at once. One that has started is killed, if that is forced: it is ``canceling``
until its processor has ended, and only then the cancel is answered. With a grace there is a SIGTERM before. If it is
not known whether a task has started, there is a recall first.
"""

from __future__ import annotations

import signal

from protocol.identifiers import TaskId
from protocol.messages import TaskCancelConfirm, TaskCancelConfirmType
from reference_impl.worker.held import Held, HeldTask
from reference_impl.worker.instructions import Instruction, Kill, Recall, Release, Resume, Send
from reference_impl.worker.turns import Turns


class Cancels:
    """Those of the tasks in ``held``."""

    def __init__(self, held: dict[TaskId, HeldTask], turns: Turns, grace_seconds: float) -> None:
        self._held = held
        self._turns = turns
        self._grace_seconds = grace_seconds
        self._waiting: list[tuple[TaskId, bool]] = []  # for a recall: (task, by force)
        self.due = 0.0
        """The earliest end of a grace; 0: none is running."""

    def cancel(self, task_id: TaskId, force: bool, now: float) -> list[Instruction]:
        """A TaskCancel."""
        held = self._held.get(task_id)
        if held is None:
            # It may just have finished: normal traffic (CAN-03).
            return [confirm(task_id, TaskCancelConfirmType.CANCEL_NOT_FOUND)]
        if held.state is Held.FINISHING:
            held.late_cancels += 1
            return []
        if held.state is Held.CANCELING:
            held.again = None
            return []  # the confirm of the first one is on its way, and answers this one, too (WRK-07)
        if held.state in (Held.RUNNING, Held.HANDED) and self._turns.unknown:
            self._waiting.append((task_id, force))
            self._turns.recalling = True
            return [Recall(held.pid)]
        if held.state in (Held.RUNNING, Held.HANDED, Held.SUSPENDED):
            if not force:
                return [confirm(task_id, TaskCancelConfirmType.CANCEL_FAILED)]
            return self._stop(task_id, held, now)
        if held.state is Held.READY:
            self._turns.leave(task_id)
        del self._held[task_id]
        out: list[Instruction] = [Release(task_id), confirm(task_id, TaskCancelConfirmType.CANCELED)]
        return [*out, *self._turns.start_next(now)]  # a task that was suspended for it goes on

    def _stop(self, task_id: TaskId, held: HeldTask, now: float) -> list[Instruction]:
        """A task that has started is to be killed; one that is suspended has to go on to use its grace."""
        was_suspended = held.state is Held.SUSPENDED
        held.state = Held.CANCELING
        if was_suspended:
            self._turns.suspended.remove(task_id)
        if self._grace_seconds <= 0:
            return [Kill(held.pid, signal.SIGKILL)]
        held.kill_at = now + self._grace_seconds
        self._plan_kills()
        out: list[Instruction] = [Kill(held.pid, signal.SIGTERM)]
        return [*out, Resume(held.pid)] if was_suspended else out

    def drop(self, task_id: TaskId, now: float) -> list[Instruction]:
        """Nobody waits for this task here any more. That it is canceled is said to the scheduler, which ignores it."""
        held = self._held.get(task_id)
        return [] if held is None or held.state is Held.FINISHING else self.cancel(task_id, True, now)

    def recalled(self, now: float) -> list[Instruction]:
        """What has started is known now."""
        out: list[Instruction] = []
        waiting, self._waiting = self._waiting, []
        for task_id, force in waiting:
            out += self.cancel(task_id, force, now)
        return out

    def outrun(self, held: HeldTask) -> list[Instruction]:
        """A canceled task has ended by itself. The cancel came first and stands; if it used its grace to end, it has
        had it now."""
        if not held.kill_at:
            return []
        held.kill_at = 0.0
        self._plan_kills()
        return [Kill(held.pid, signal.SIGKILL)]

    def kill(self, now: float) -> list[Instruction]:
        """Those whose grace is over."""
        out: list[Instruction] = []
        if self.due and now >= self.due:
            for held in self._held.values():
                if held.kill_at and now >= held.kill_at:
                    held.kill_at = 0.0
                    out.append(Kill(held.pid, signal.SIGKILL))
            self._plan_kills()
        return out

    def _plan_kills(self) -> None:
        self.due = min((held.kill_at for held in self._held.values() if held.kill_at), default=0.0)

    def carried_out(self, task_id: TaskId) -> list[Instruction]:
        """The processor of a canceled task has ended."""
        del self._held[task_id]
        self._plan_kills()
        return [Release(task_id), confirm(task_id, TaskCancelConfirmType.CANCELED)]


def confirm(task_id: TaskId, answer: TaskCancelConfirmType) -> Send:
    """The answer to a TaskCancel."""
    return Send(TaskCancelConfirm(task_id, answer))
