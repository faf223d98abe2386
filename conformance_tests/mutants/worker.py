"""Mutants of the worker: of the core of a slot, and of what runs the tasks."""

from __future__ import annotations

import contextlib
import os
import pickle
from typing import Any

from conformance_tests.mutants import priorities
from conformance_tests.mutants.model import Mutants, Patcher
from protocol.envelope import Envelope
from protocol.messages import (
    ObjectInstruction,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskLog,
    TaskResult,
    TaskResultType,
    WorkerDisconnectNotification,
    WorkerHeartbeat,
)
from reference_impl.worker import zygote
from reference_impl.worker.cancels import Cancels
from reference_impl.worker.channel import SUCCESS
from reference_impl.worker.core import WorkerCore
from reference_impl.worker.failures import Failure
from reference_impl.worker.held import Held
from reference_impl.worker.instructions import Kill, Send
from reference_impl.worker.processor import _Processor
from reference_impl.worker.results import Results

mutant = MUTANTS = Mutants("worker")
MUTANTS.extend(priorities.MUTANTS)
_CANCELED = TaskCancelConfirmType.CANCELED
_FAILED = TaskCancelConfirmType.CANCEL_FAILED
_NOT_FOUND = TaskCancelConfirmType.CANCEL_NOT_FOUND


@mutant("LIV-18", "a worker whose connection was cut goes on as if nothing were lost")
def cut_not_noticed(p: Patcher) -> None:
    from reference_impl.worker.agent import Agent

    p.set(Agent, "_renew", lambda self, slot, now, usage: None)


@mutant("WRK-06", "a Task whose id is held already runs twice")
def duplicate_runs(p: Patcher) -> None:
    def task(self: WorkerCore, envelope: Envelope, now: float) -> Any:
        held = self._held.get(envelope.task_id)
        if held is not None and held.state is Held.RUNNING:
            self.results._again = self, envelope  # type: ignore[attr-defined]
        return before(self, envelope, now)

    def stored(self: Results, *args: Any) -> Any:
        out = stored_before(self, *args)
        again: Any = getattr(self, "_again", None)
        if again is not None:
            self._again = None  # type: ignore[attr-defined]
            core, envelope = again
            out = [*out, *before(core, envelope, 0.0)]
        return out

    before, stored_before = WorkerCore._task, Results.stored
    p.set(WorkerCore, "_task", task)
    p.set(Results, "stored", stored)


@mutant("WRK-20", "a Task that comes after a cancel which is not answered yet is ignored as a duplicate")
def later_task_lost(p: Patcher) -> None:
    def gone(self: WorkerCore, *event: Any) -> Any:
        for held in self._held.values():
            held.again = None
        return before(self, *event)

    before = WorkerCore.processor_gone
    p.set(WorkerCore, "processor_gone", gone)


@mutant("WRK-20", "a Task that came after a cancel runs although it was canceled in its turn")
def later_task_not_canceled(p: Patcher) -> None:
    def cancel(self: Cancels, task_id: Any, force: bool, now: float) -> Any:
        held = self._held.get(task_id)
        again = held.again if held is not None else None
        out = before(self, task_id, force, now)
        if held is not None:
            held.again = again
        return out

    before = Cancels.cancel
    p.set(Cancels, "cancel", cancel)


@mutant("WRK-11", "the cancel of an unknown id is not answered")
def unknown_cancel_silent(p: Patcher) -> None:
    def cancel(self: Cancels, task_id: Any, force: bool, now: float) -> Any:
        return before(self, task_id, force, now) if task_id in self._held else []

    before = Cancels.cancel
    p.set(Cancels, "cancel", cancel)


@mutant("WRK-11", "the cancel of an unknown id is answered with canceled")
def unknown_cancel_canceled(p: Patcher) -> None:
    _confirms(p, {_NOT_FOUND: _CANCELED})


@mutant("WRK-11", "the cancel of an unknown id is answered with cancelFailed")
def unknown_cancel_failed(p: Patcher) -> None:
    _confirms(p, {_NOT_FOUND: _FAILED})


@mutant("WRK-09", "an unforced cancel kills a running task")
def unforced_kills(p: Patcher) -> None:
    def cancel(self: Cancels, task_id: Any, force: bool, now: float) -> Any:
        return before(self, task_id, True, now)

    before = Cancels.cancel
    p.set(Cancels, "cancel", cancel)


@mutant("WRK-09", "an unforced cancel of a running task is answered with cancelNotFound")
def unforced_not_found(p: Patcher) -> None:
    _confirms(p, {_FAILED: _NOT_FOUND})


@mutant("WRK-09", "an unforced cancel of a running task is not answered")
def unforced_silent(p: Patcher) -> None:
    _confirms(p, {_FAILED: None})


@mutant("WRK-10", "a forced cancel of a running task is refused")
def forced_refused(p: Patcher) -> None:
    def cancel(self: Cancels, task_id: Any, force: bool, now: float) -> Any:
        return before(self, task_id, False, now)

    before = Cancels.cancel
    p.set(Cancels, "cancel", cancel)


@mutant("WRK-10", "a forced cancel is answered with canceled, and the task runs on")
def forced_does_not_kill(p: Patcher) -> None:
    def cancel(self: Cancels, task_id: Any, force: bool, now: float) -> Any:
        held = self._held.get(task_id)
        if held is not None and held.state is Held.RUNNING and force:
            return [Send(TaskCancelConfirm(task_id, _CANCELED))]
        return before(self, task_id, force, now)

    before = Cancels.cancel
    p.set(Cancels, "cancel", cancel)


@mutant("WRK-10", "a forced cancel is answered before the task's processes have ended")
def forced_answered_early(p: Patcher) -> None:
    def cancel(self: Cancels, task_id: Any, force: bool, now: float) -> Any:
        out = before(self, task_id, force, now)
        if any(isinstance(i, Kill) for i in out):
            self._early = task_id  # type: ignore[attr-defined]
            out = [*out, Send(TaskCancelConfirm(task_id, _CANCELED))]
        return out

    def gone(self: WorkerCore, *event: Any) -> Any:
        early = getattr(self._cancels, "_early", None)
        return [i for i in gone_before(self, *event) if not (isinstance(i, Send) and _confirms_the_end_of(early, i))]

    before, gone_before = Cancels.cancel, WorkerCore.processor_gone
    p.set(Cancels, "cancel", cancel)
    p.set(WorkerCore, "processor_gone", gone)


@mutant("WRK-10", "the end of a killed task is not confirmed")
def forced_not_confirmed(p: Patcher) -> None:
    def gone(self: WorkerCore, *event: Any) -> Any:
        return [i for i in before(self, *event) if not isinstance(i, Send)]

    before = WorkerCore.processor_gone
    p.set(WorkerCore, "processor_gone", gone)


@mutant("WRK-10", "only the process of the task is ended, not those that it started")
def forced_spares_children(p: Patcher) -> None:
    def kill_one(pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    p.set(zygote, "_kill_group", kill_one)
    p.set(zygote, "_group_exists", lambda pid: False)
    p.set(zygote._Server, "_kill_strays", lambda self: False)


@mutant("WRK-12", "a canceled task sends a TaskResult, too")
def canceled_has_a_result(p: Patcher) -> None:
    def received(self: WorkerCore, envelope: Envelope, now: float) -> Any:
        out = before(self, envelope, now)
        return [*out, *_results_of_canceled(out)]

    def gone(self: WorkerCore, *event: Any) -> Any:
        out = gone_before(self, *event)
        return [*out, *_results_of_canceled(out)]

    before, gone_before = WorkerCore.received, WorkerCore.processor_gone
    p.set(WorkerCore, "received", received)
    p.set(WorkerCore, "processor_gone", gone)


@mutant("WRK-08", "the cancel of a queued task is answered, and it runs all the same")
def queued_cancel_runs(p: Patcher) -> None:
    def cancel(self: Cancels, task_id: Any, force: bool, now: float) -> Any:
        held = self._held.get(task_id)
        if held is not None and held.state in (Held.HANDED, Held.READY, Held.FETCHING):
            return [Send(TaskCancelConfirm(task_id, _CANCELED))]
        return before(self, task_id, force, now)

    before = Cancels.cancel
    p.set(Cancels, "cancel", cancel)


@mutant("WRK-08", "an unforced cancel of a queued task is refused")
def queued_cancel_refused(p: Patcher) -> None:
    def cancel(self: Cancels, task_id: Any, force: bool, now: float) -> Any:
        held = self._held.get(task_id)
        if held is not None and held.state in (Held.HANDED, Held.READY, Held.FETCHING) and not force:
            return [Send(TaskCancelConfirm(task_id, _FAILED))]
        return before(self, task_id, force, now)

    before = Cancels.cancel
    p.set(Cancels, "cancel", cancel)


@mutant("WRK-08", "the cancel of a task that waits for its objects is refused")
def waiting_cancel_refused(p: Patcher) -> None:
    def cancel(self: Cancels, task_id: Any, force: bool, now: float) -> Any:
        held = self._held.get(task_id)
        if held is not None and held.state is Held.FETCHING:
            return [Send(TaskCancelConfirm(task_id, _FAILED))]
        return before(self, task_id, force, now)

    before = Cancels.cancel
    p.set(Cancels, "cancel", cancel)


@mutant("WRK-04", "a task that raises is reported as a success")
def failure_as_success(p: Patcher) -> None:
    _sent(p, lambda m: _retyped(m, TaskResultType.SUCCESS) if isinstance(m, TaskResult) else m)


@mutant("WRK-04", "a task that returns is reported as failed")
def success_as_failure(p: Patcher) -> None:
    _sent(p, lambda m: _retyped(m, TaskResultType.FAILED) if isinstance(m, TaskResult) else m)


@mutant("WRK-04", "a result names no object")
def result_without_object(p: Patcher) -> None:
    def without(message: Any) -> Any:
        if not isinstance(message, TaskResult):
            return message
        return TaskResult(message.task_id, message.result_type, message.metadata)

    _sent(p, without)


@mutant("WRK-04", "a result is sent twice")
def result_twice(p: Patcher) -> None:
    def stored(self: Results, *args: Any) -> Any:
        out = before(self, *args)
        return [*out, *(i for i in out if isinstance(i, Send) and isinstance(i.message, TaskResult))]

    before = Results.stored
    p.set(Results, "stored", stored)


@mutant("WRK-03", "a result is announced only after it has been stored")
def announced_late(p: Patcher) -> None:
    def storing(self: Results, *args: Any) -> Any:
        self._late = before(self, *args)  # type: ignore[attr-defined]
        return []

    def stored(self: Results, *args: Any) -> Any:
        return [*self._late, *stored_before(self, *args)]  # type: ignore[attr-defined]

    before, stored_before = Results.storing, Results.stored
    p.set(Results, "storing", storing)
    p.set(Results, "stored", stored)


@mutant("STO-24", "a task whose result the storage refuses is never answered")
def refused_result_not_answered(p: Patcher) -> None:
    p.set(Results, "not_stored", lambda self, task_id: [])


@mutant("STO-24", "a result that the storage refuses is answered as if it were stored")
def refused_result_is_success(p: Patcher) -> None:
    p.set(Results, "not_stored", lambda self, task_id: self._answer(task_id, ()))


@mutant("WRK-05", "a task that cannot be carried out is dropped without an answer")
def hopeless_task_dropped(p: Patcher) -> None:
    def fail(self: Results, task_id: Any, held: Any, failure: Any) -> Any:
        del self._held[task_id]
        return []

    p.set(Results, "fail", fail)


@mutant("WRK-13", "a task whose objects are missing fails at once")
def missing_object_fails(p: Patcher) -> None:
    def task(self: WorkerCore, envelope: Envelope, now: float) -> Any:
        out = before(self, envelope, now)
        held = self._held.get(envelope.task_id)
        if held is None or held.state is not Held.FETCHING or any(isinstance(i, Kill) for i in out):
            return out
        self._asked = getattr(self, "_asked", 0) + 1  # type: ignore[attr-defined]
        if self._asked % 2:  # type: ignore[attr-defined]
            return out
        return self.results.fail(envelope.task_id, held, Failure("missing", "an object is missing"))

    before = WorkerCore._task
    p.set(WorkerCore, "_task", task)


@mutant("OBJ-12", "the serializer of the client is not used: everything is plain cloudpickle")
def own_serializer(p: Patcher) -> None:
    from reference_impl import serialization

    p.set(serialization, "load_serializer", lambda payload: serialization.PlainSerializer())


@mutant("LIV-03", "the worker heartbeats only once")
def one_heartbeat(p: Patcher) -> None:
    def tick(self: WorkerCore, now: float, usage: Any) -> Any:
        out = before(self, now, usage)
        first = not getattr(self, "_beaten", False)
        self._beaten = True  # type: ignore[attr-defined]
        return [i for i in out if first or not (isinstance(i, Send) and isinstance(i.message, WorkerHeartbeat))]

    before = WorkerCore.tick
    p.set(WorkerCore, "tick", tick)


@mutant("LIV-03", "the worker's queueSize is always 0")
def no_queue_size(p: Patcher) -> None:
    _sent(p, lambda m: WorkerHeartbeat() if isinstance(m, WorkerHeartbeat) else m)


@mutant("LIV-12", "the worker goes on after ClientDisconnect(shutdown)")
def shutdown_ignored(p: Patcher) -> None:
    p.set(WorkerCore, "_disconnect", lambda self, message: [])


@mutant("LIV-13", "the worker leaves without a word")
def leaves_silently(p: Patcher) -> None:
    _sent(p, lambda m: None if isinstance(m, WorkerDisconnectNotification) else m)


@mutant("TSK-11", "output that was asked for is not sent")
def output_not_sent(p: Patcher) -> None:
    _sent(p, lambda m: None if isinstance(m, TaskLog) else m)


@mutant("SEC-03", "the worker does not announce its results")
def results_not_announced(p: Patcher) -> None:
    _sent(p, lambda m: None if isinstance(m, ObjectInstruction) else m)


@mutant("MAL-01", "a malformed message ends the worker")
def malformed_ends_the_worker(p: Patcher) -> None:
    def malformed(self: WorkerCore, why: str) -> Any:
        raise SystemExit(1)

    p.set(WorkerCore, "malformed", malformed)


@mutant("WRK-15", "a task whose process ends is never answered")
def lost_processor_hangs(p: Patcher) -> None:
    def gone(self: WorkerCore, *event: Any) -> Any:
        task_id = self.current
        if task_id is not None and self._held[task_id].state is Held.RUNNING:
            return []  # the task is never answered
        return before(self, *event)

    before = WorkerCore.processor_gone
    p.set(WorkerCore, "processor_gone", gone)


@mutant("WRK-04", "an exception is reported as its text only")
def exception_as_text(p: Patcher) -> None:
    def run(self: _Processor, work: Any, arguments: Any) -> Any:
        what, payload = before(self, work, arguments)
        return what, payload if what == SUCCESS else [pickle.dumps(str(pickle.loads(b"".join(payload))))]

    before = _Processor._run
    p.set(_Processor, "_run", run)


def _confirms_the_end_of(task_id: Any, instruction: Send) -> bool:
    message = instruction.message
    return isinstance(message, TaskCancelConfirm) and message.task_id == task_id


def _results_of_canceled(out: Any) -> list[Any]:
    confirms = [i.message for i in out if isinstance(i, Send) and isinstance(i.message, TaskCancelConfirm)]
    return [Send(TaskResult(m.task_id, TaskResultType.FAILED)) for m in confirms if m.cancel_confirm_type is _CANCELED]


def _retyped(message: TaskResult, kind: TaskResultType) -> TaskResult:
    return TaskResult(message.task_id, kind, message.metadata, message.results)


def _confirms(p: Patcher, changes: dict[TaskCancelConfirmType, TaskCancelConfirmType | None]) -> None:
    """What a cancel is answered with is something else; None: nothing."""

    def changed(message: Any) -> Any:
        if isinstance(message, TaskCancelConfirm) and message.cancel_confirm_type in changes:
            kind = changes[message.cancel_confirm_type]
            return None if kind is None else TaskCancelConfirm(message.task_id, kind)
        return message

    _sent(p, changed)


def _sent(p: Patcher, change: Any) -> None:
    """Each message to the scheduler is changed, or left out where the change is None."""
    from reference_impl.worker.agent import Agent

    def send(self: Agent, slot: Any, instruction: Send) -> None:
        message = change(instruction.message)
        if message is not None:
            before(self, slot, Send(message))

    before = Agent._send
    p.set(Agent, "_send", send)
