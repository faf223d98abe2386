"""Mutants of the worker: what it makes of priorities (SPEC section 5.8)."""

from __future__ import annotations

import dataclasses
from typing import Any

from conformance_tests.mutants.model import Mutants, Patcher
from protocol.messages import TaskCancelConfirm, TaskCancelConfirmType, WorkerHeartbeat
from reference_impl.worker.beats import Beats
from reference_impl.worker.cancels import Cancels
from reference_impl.worker.held import Held, HeldTask
from reference_impl.worker.instructions import Resume, Send
from reference_impl.worker.seating import Seating
from reference_impl.worker.turns import Turns

mutant = MUTANTS = Mutants("worker")


@mutant("PRI-01", "a running task is never suspended")
def nothing_is_suspended(p: Patcher) -> None:
    def start_next(self: Turns, now: float) -> Any:
        return [] if self.current is not None else before(self, now)

    before = Turns.start_next
    p.set(Turns, "start_next", start_next)


@mutant("PRI-01", "a suspended task runs on")
def suspended_runs_on(p: Patcher) -> None:
    p.set(Seating, "suspend", _set_aside)


@mutant("PRI-02", "tasks start in the order in which they came, whatever their priority")
def first_in_first_out(p: Patcher) -> None:
    p.set(HeldTask, "place", property(lambda self: (0, self.number)))


@mutant("PRI-02", "among equal priorities the newest starts first")
def last_in_first_out(p: Patcher) -> None:
    p.set(HeldTask, "place", property(lambda self: (-self.priority, -self.number)))


@mutant("PRI-02", "a task that has not started goes before a suspended one of its priority")
def suspended_last(p: Patcher) -> None:
    def start_next(self: Turns, now: float) -> Any:
        if self.current is None and self.suspended and self.ready:
            ready, suspended = (self._held[task] for task in (self.ready[0][1], self.suspended[-1]))
            if ready.priority == suspended.priority:
                kept, self.suspended = self.suspended, []
                try:
                    return before(self, now)
                finally:
                    self.suspended = kept
        return before(self, now)

    before = Turns.start_next
    p.set(Turns, "start_next", start_next)


@mutant("PRI-02", "an equal priority suspends, too")
def equals_suspend(p: Patcher) -> None:
    def start_next(self: Turns, now: float) -> Any:
        if self.current is not None and self.ready:
            ready, current = self._held[self.ready[0][1]], self._held[self.current]
            if current.state is Held.RUNNING and ready.priority == current.priority:
                current.metadata = dataclasses.replace(current.metadata, priority=current.priority - 1)
        return before(self, now)

    before = Turns.start_next
    p.set(Turns, "start_next", start_next)


@mutant("PRI-03", "a suspended task never goes on")
def never_goes_on(p: Patcher) -> None:
    p.set(Seating, "resume", _resumed_without_signal)


@mutant("PRI-03", "a suspended task goes on only when nothing else waits")
def goes_on_last(p: Patcher) -> None:
    def start_next(self: Turns, now: float) -> Any:
        if self.current is None and self.suspended and self.ready:
            kept, self.suspended = self.suspended, []
            try:
                return before(self, now)
            finally:
                self.suspended = kept
        return before(self, now)

    before = Turns.start_next
    p.set(Turns, "start_next", start_next)


@mutant("PRI-04", "a forced cancel of a suspended task is refused")
def suspended_forced_refused(p: Patcher) -> None:
    _suspended_cancel(p, lambda self, task_id, force: [Send(_confirm(task_id, "CANCEL_FAILED"))])


@mutant("PRI-04", "a suspended task counts as not started: an unforced cancel ends it")
def suspended_counts_as_queued(p: Patcher) -> None:
    _suspended_cancel(p, None)


@mutant("PRI-04", "the cancel of a suspended task is answered with cancelNotFound")
def suspended_not_found(p: Patcher) -> None:
    _suspended_cancel(p, lambda self, task_id, force: [Send(_confirm(task_id, "CANCEL_NOT_FOUND"))])


@mutant("PRI-06", "heartbeats do not say what is suspended")
def heartbeats_hide_suspended(p: Patcher) -> None:
    def beat(self: Beats, held: Any, turns: Turns, *when: Any) -> Any:
        message = before(self, held, turns, *when)
        shown = tuple(dataclasses.replace(status, suspended=False) for status in message.processors)
        return dataclasses.replace(message, processors=shown)

    before = Beats.message
    p.set(Beats, "message", beat)


@mutant("PRI-06", "a suspended task counts as queued")
def suspended_is_queued(p: Patcher) -> None:
    def beat(self: Beats, held: Any, turns: Turns, *when: Any) -> WorkerHeartbeat:
        message = before(self, held, turns, *when)
        return dataclasses.replace(message, queued_tasks=message.queued_tasks + len(turns.suspended))

    before = Beats.message
    p.set(Beats, "message", beat)


def _confirm(task_id: Any, kind: str) -> TaskCancelConfirm:
    return TaskCancelConfirm(task_id, TaskCancelConfirmType[kind])


def _suspended_cancel(p: Patcher, answer: Any) -> None:
    """``answer`` in place of what happens at the cancel of a suspended task; None: it is forced."""

    def cancel(self: Cancels, task_id: Any, force: bool, now: float) -> Any:
        held = self._held.get(task_id)
        if held is None or held.state is not Held.SUSPENDED:
            return before(self, task_id, force, now)
        return before(self, task_id, True, now) if answer is None else answer(self, task_id, force)

    before = Cancels.cancel
    p.set(Cancels, "cancel", cancel)


def _set_aside(self: Seating, slot: Any, instruction: Any) -> None:
    processor, slot.processor = slot.processor, None
    slot.others[processor.pid] = processor
    self._fill()


def _resumed_without_signal(self: Seating, slot: Any, instruction: Resume) -> None:
    if slot.core.processor == instruction.pid:
        slot.processor = slot.others.pop(instruction.pid)
