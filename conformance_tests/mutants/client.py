"""Mutants of the client library: of its core, and of its futures."""

from __future__ import annotations

from typing import Any

from conformance_tests.mutants.model import Mutants, Patcher
from protocol.identifiers import ObjectId
from protocol.messages import (
    ClientDisconnect,
    ObjectInstruction,
    ObjectInstructionType,
    Task,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskCancelFlags,
    TaskResult,
    TaskResultType,
)
from reference_impl.client.answers import Answers
from reference_impl.client.core import ClientCore
from reference_impl.client.future import ScalerFuture
from reference_impl.client.instructions import CancelAnswer, Canceled, Completed, Finish, Send, Store
from reference_impl.client.lives import Lives
from reference_impl.client.shell import ClientThread
from reference_impl.client.storage import StorageLink

mutant = MUTANTS = Mutants("client")
_CANCELED = TaskCancelConfirmType.CANCELED
_FAILED = TaskCancelConfirmType.CANCEL_FAILED
_NOT_FOUND = TaskCancelConfirmType.CANCEL_NOT_FOUND


@mutant("STO-24", "the future of a task whose object the storage refuses waits for ever")
def refused_object_waits(p: Patcher) -> None:
    p.set(ClientCore, "not_stored", lambda self, object_id: [])


@mutant("STO-24", "a task that was sent right behind its object is not cancelled when the storage refuses that")
def refused_object_not_canceled(p: Patcher) -> None:
    def not_stored(self: ClientCore, object_id: ObjectId) -> Any:
        return [i for i in before(self, object_id) if not isinstance(i, Send)]

    before = ClientCore.not_stored
    p.set(ClientCore, "not_stored", not_stored)


@mutant("STO-24", "a task is sent although the storage has refused its object")
def refused_object_sent(p: Patcher) -> None:
    p.set(ClientCore, "not_stored", lambda self, object_id: self.stored(object_id))


@mutant("LIV-20", "a client whose connection was cut goes on as if nothing were lost")
def cut_not_noticed(p: Patcher) -> None:
    p.set(ClientCore, "cut", lambda self, now, since: [])


@mutant("STO-26", "the client takes an object storage that was started anew for the old one")
def storage_is_the_old_one(p: Patcher) -> None:
    p.set(StorageLink, "_restarted", lambda self: self._back(self._connection))


@mutant("CAN-01", "cancel() does not tell the scheduler")
def cancel_not_sent(p: Patcher) -> None:
    _sent(p, lambda m: None if isinstance(m, TaskCancel) else m)


@mutant("CAN-01", "cancel() sends the TaskCancel twice")
def cancel_sent_twice(p: Patcher) -> None:
    def cancel(self: ClientCore, *args: Any, **more: Any) -> Any:
        out = before(self, *args, **more)
        return [*out, *(i for i in out if isinstance(i, Send) and isinstance(i.message, TaskCancel))]

    before = ClientCore.cancel
    p.set(ClientCore, "cancel", cancel)


@mutant("CAN-05", "force is lost on the way to the scheduler")
def cancel_unforced(p: Patcher) -> None:
    _sent(p, lambda m: TaskCancel(m.task_id, TaskCancelFlags(False)) if isinstance(m, TaskCancel) else m)


@mutant("CAN-05", "every cancel is a forced one")
def cancel_always_forced(p: Patcher) -> None:
    _sent(p, lambda m: TaskCancel(m.task_id, TaskCancelFlags(True)) if isinstance(m, TaskCancel) else m)


@mutant("CAN-01", "cancel() answers True at once, without waiting for the scheduler")
def cancel_does_not_wait(p: Patcher) -> None:
    def cancel(self: ScalerFuture, timeout: float | None = None, *, force: bool = True) -> bool:
        self.request_cancel(force=force)
        return True

    p.set(ScalerFuture, "cancel", cancel)


@mutant("FUT-01", "cancelFailed cancels the future")
def failed_cancels(p: Patcher) -> None:
    _heard(p, _confirmed({_FAILED: _CANCELED}))


@mutant("FUT-01", "cancelNotFound leaves the future running")
def not_found_refuses(p: Patcher) -> None:
    _heard(p, _confirmed({_NOT_FOUND: _FAILED}))


@mutant("FUT-01", "canceled leaves the future running")
def canceled_refuses(p: Patcher) -> None:
    _heard(p, _confirmed({_CANCELED: _FAILED}))


@mutant("FUT-01", "cancelNotFound is ignored: cancel() waits for ever")
def not_found_ignored(p: Patcher) -> None:
    _heard(p, _confirmed({_NOT_FOUND: None}))


@mutant("FUT-02", "a result that comes after cancel() completes the future")
def late_result_completes(p: Patcher) -> None:
    def on_result(self: Answers, message: TaskResult, out: Any) -> None:
        life = self._tasks.get(message.task_id)
        if life is not None:
            life.force = None
        before(self, message, out)

    before = Answers.result
    p.set(Answers, "result", on_result)


@mutant("FUT-02", "a result that comes after cancel() is ignored, and the confirm is waited for")
def late_result_ignored(p: Patcher) -> None:
    def on_result(self: Answers, message: TaskResult, out: Any) -> None:
        life = self._tasks.get(message.task_id)
        if life is None or life.force is None:
            before(self, message, out)

    before = Answers.result
    p.set(Answers, "result", on_result)


@mutant("FUT-01", "after cancelFailed the result cancels the future")
def result_after_failed_cancels(p: Patcher) -> None:
    def on_confirm(self: Answers, message: TaskCancelConfirm, out: Any) -> None:
        life = self._tasks.get(message.task_id)
        force = life.force if life is not None else None
        before(self, message, out)
        if life is not None and message.cancel_confirm_type is _FAILED:
            life.force = force

    before = Answers.confirm
    p.set(Answers, "confirm", on_confirm)


@mutant("FUT-03", "cancel() of a completed future returns False, as in concurrent.futures")
def done_cancel_is_false(p: Patcher) -> None:
    def cancel(self: ScalerFuture, timeout: float | None = None, *, force: bool = True) -> bool:
        return False if self.done() and not self.cancelled() else bool(before(self, timeout, force=force))

    before = ScalerFuture.cancel
    p.set(ScalerFuture, "cancel", cancel)


@mutant("FUT-03", "cancel() of a completed future returns True, and the future keeps its result")
def done_cancel_keeps_the_result(p: Patcher) -> None:
    def cancel(self: ScalerFuture, timeout: float | None = None, *, force: bool = True) -> bool:
        return True if self.done() else bool(before(self, timeout, force=force))

    before = ScalerFuture.cancel
    p.set(ScalerFuture, "cancel", cancel)


@mutant("FUT-03", "cancel() returns True for a refused cancellation")
def refused_is_true(p: Patcher) -> None:
    def cancel(self: ScalerFuture, timeout: float | None = None, *, force: bool = True) -> bool:
        before(self, timeout, force=force)
        return True

    before = ScalerFuture.cancel
    p.set(ScalerFuture, "cancel", cancel)


@mutant("FUT-03", "cancel() returns False when the result comes instead of the confirm")
def overtaken_is_false(p: Patcher) -> None:
    def cancel(self: ScalerFuture, timeout: float | None = None, *, force: bool = True) -> bool:
        return bool(before(self, timeout, force=force)) and self.cancel_answer is not CancelAnswer.RESULT

    before = ScalerFuture.cancel
    p.set(ScalerFuture, "cancel", cancel)


@mutant("FUT-04", "the timeout of cancel() is ignored")
def cancel_timeout_ignored(p: Patcher) -> None:
    def cancel(self: ScalerFuture, timeout: float | None = None, *, force: bool = True) -> bool:
        return bool(before(self, None, force=force))

    before = ScalerFuture.cancel
    p.set(ScalerFuture, "cancel", cancel)


@mutant("FUT-04", "a cancelled coroutine does not cancel its task")
def await_does_not_cancel(p: Patcher) -> None:
    def awaited(self: ScalerFuture) -> Any:
        import asyncio

        return asyncio.shield(asyncio.wrap_future(self)).__await__()

    p.set(ScalerFuture, "__await__", awaited)


@mutant("TSK-07", "failedWorkerDied leaves the future without an end")
def worker_died_ignored(p: Patcher) -> None:
    def died(message: Any) -> Any:
        ignored = isinstance(message, TaskResult) and message.result_type is TaskResultType.FAILED_WORKER_DIED
        return None if ignored else message

    _heard(p, died)


@mutant("WRK-04", "a failed task's exception is returned as its result")
def exception_is_the_result(p: Patcher) -> None:
    def finish(self: Lives, life: Any, end: Any, *args: Any) -> None:
        if isinstance(end, Completed) and end.type is TaskResultType.FAILED:
            end = end._replace(type=TaskResultType.SUCCESS)
        before(self, life, end, *args)

    before = Lives.finish
    p.set(Lives, "finish", finish)


@mutant("OBJ-02", "the Task is sent, and its function is never stored")
def function_not_stored(p: Patcher) -> None:
    def submit(self: ClientCore, tasks: Any) -> Any:
        out = before(self, tasks)
        late = [i for i in out if isinstance(i, Store)]
        for instruction in late:
            out += self.stored(instruction.object_id)
        return [i for i in out if not isinstance(i, Store)]

    before = ClientCore.submit
    p.set(ClientCore, "submit", submit)


@mutant("OBJ-11", "the serializer is not stored")
def serializer_not_stored(p: Patcher) -> None:
    def connected(self: ClientCore) -> Any:
        out = before(self)
        late = [i for i in out if isinstance(i, Store)]
        for instruction in late:
            out += self.stored(instruction.object_id)
        return [i for i in out if not isinstance(i, Store)]

    before = ClientCore.storage_connected
    p.set(ClientCore, "storage_connected", connected)


@mutant("OBJ-01", "objects are not announced")
def objects_not_announced(p: Patcher) -> None:
    def dropped(message: Any) -> Any:
        created = isinstance(message, ObjectInstruction) and message.instruction_type is ObjectInstructionType.CREATE
        return None if created else message

    _sent(p, dropped)


@mutant("OBJ-16", "the arguments of a task are in reverse order")
def arguments_reversed(p: Patcher) -> None:
    def turned(message: Any) -> Any:
        if not isinstance(message, Task):
            return message
        arguments = tuple(reversed(message.function_args))
        return Task(
            message.task_id, message.source, message.metadata, message.func_object_id, arguments, message.capabilities
        )

    _sent(p, turned)


@mutant("LIV-01", "the client heartbeats only once")
def one_heartbeat(p: Patcher) -> None:
    def beat(self: ClientThread, instruction: Any) -> None:
        if not getattr(self, "_beaten", False):
            self._beaten = True  # type: ignore[attr-defined]
            before(self, instruction)

    before = ClientThread._beat
    p.set(ClientThread, "_beat", beat)


@mutant("LIV-14", "the client leaves without a word")
def leaves_silently(p: Patcher) -> None:
    _sent(p, lambda m: None if isinstance(m, ClientDisconnect) else m)


@mutant("LIV-16", "futures wait for ever when the scheduler is silent")
def silence_ignored(p: Patcher) -> None:
    p.set(ClientCore, "_lose_scheduler", lambda self, out, text: None)


@mutant("MAL-01", "a malformed message ends the client's thread")
def malformed_ends_the_client(p: Patcher) -> None:
    def malformed(self: ClientCore, text: str, now: float) -> Any:
        raise RuntimeError(text)

    p.set(ClientCore, "malformed", malformed)


@mutant("TSK-01", "an answer for a task of somebody else ends a task of this client")
def any_id_will_do(p: Patcher) -> None:
    def on_confirm(self: Answers, message: TaskCancelConfirm, out: Any) -> None:
        if message.task_id not in self._tasks and self._tasks:
            message = TaskCancelConfirm(next(iter(self._tasks)), message.cancel_confirm_type)
        before(self, message, out)

    before = Answers.confirm
    p.set(Answers, "confirm", on_confirm)


@mutant("CAN-04", "a task that was not sent yet is sent although it was canceled")
def unsent_cancel_sent(p: Patcher) -> None:
    def cancel(self: ClientCore, task_id: Any, *args: Any, **more: Any) -> Any:
        life = self._tasks.get(task_id)
        out = before(self, task_id, *args, **more)
        if life is not None and any(isinstance(i, Finish) and isinstance(i.end, Canceled) for i in out):
            out = [Send(life.task), *out]
        return out

    before = ClientCore.cancel
    p.set(ClientCore, "cancel", cancel)


def _confirmed(changes: dict[TaskCancelConfirmType, TaskCancelConfirmType | None]) -> Any:
    def changed(message: Any) -> Any:
        if isinstance(message, TaskCancelConfirm) and message.cancel_confirm_type in changes:
            kind = changes[message.cancel_confirm_type]
            return None if kind is None else TaskCancelConfirm(message.task_id, kind)
        return message

    return changed


def _heard(p: Patcher, change: Any) -> None:
    """Each message of the scheduler is changed, or not heard where the change is None."""

    def message(self: ClientCore, heard: Any, now: float) -> Any:
        changed = change(heard)
        return [] if changed is None else before(self, changed, now)

    before = ClientCore.message
    p.set(ClientCore, "message", message)


def _sent(p: Patcher, change: Any) -> None:
    """Each message to the scheduler is changed, or left out where the change is None."""

    def send(self: ClientThread, instruction: Any) -> None:
        changed = change(instruction.message)
        if changed is not None:
            before(self, Send(changed))

    before = ClientThread._send
    p.set(ClientThread, "_send", send)
