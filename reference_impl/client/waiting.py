"""Who waits for what in a client: the futures of tasks, of cancels, of questions.

Only the client's I/O thread touches it.
"""

from __future__ import annotations

import concurrent.futures
import logging
from typing import Any, NamedTuple

from protocol.identifiers import TaskId
from protocol.messages import InformationAnswer, TaskResultType
from reference_impl.client.future import RawResult, ScalerFuture
from reference_impl.client.instructions import (
    Answered,
    Broken,
    CancelAnswer,
    Canceled,
    Completed,
    Finish,
    Informed,
    Log,
    ShutdownAnswered,
    Starved,
)
from reference_impl.errors import DependencyFailed, RemoteError, SchedulerLost, WorkerDiedError, described
from reference_impl.serialization import deserialize, deserialize_exception

_log = logging.getLogger("reference_impl.client")


class Ticket(NamedTuple):
    """The token of one cancel: whom to tell."""

    future: ScalerFuture | None
    promise: concurrent.futures.Future[CancelAnswer] | None


class Waiting:
    """Everybody who waits, until told."""

    def __init__(self) -> None:
        self.tasks: dict[TaskId, ScalerFuture] = {}
        self.cancels: set[concurrent.futures.Future[CancelAnswer]] = set()
        self.queries: dict[int, concurrent.futures.Future[InformationAnswer]] = {}
        self.shutdowns: list[concurrent.futures.Future[bool]] = []

    def add(self, future: ScalerFuture) -> bool:
        """False, and the future fails, if a task with this id is pending."""
        if self.tasks.setdefault(future.task_id, future) is future:
            return True
        future._end(None, ValueError(f"the task {future.task_id.hex()} is pending already"))
        return False

    def finish(self, instruction: Finish) -> None:
        future = self.tasks.pop(instruction.task_id, None)
        end, answer = instruction.end, instruction.answer
        if future is not None:
            if answer is not None:
                future.cancel_answer = answer
            if isinstance(end, Completed):
                _complete(future, end)
            elif isinstance(end, Canceled):
                future._end_canceled()
            elif isinstance(end, Starved):
                starve(future, end)
            else:
                future._end(None, end.error(end.text))
        self.tell(instruction.tokens, answer, end if isinstance(end, Broken) else None)
        if future is not None and answer is not None:
            future._answered(answer)

    def answered(self, instruction: Answered) -> None:
        future = self.tasks.get(instruction.task_id)
        if future is None:  # a task of ours that was over before its cancel came here
            future = next((ticket.future for ticket in instruction.tokens), None)  # type: ignore[attr-defined]
        if future is not None and instruction.answer is not None:
            future.cancel_answer = instruction.answer
        self.tell(instruction.tokens, instruction.answer, instruction.broken)
        if future is not None and instruction.answer is not None:
            future._answered(instruction.answer)

    def tell(self, tokens: tuple[Any, ...], answer: CancelAnswer | None, broken: Broken | None) -> None:
        for ticket in tokens:
            if ticket.future is not None and answer is not None and answer is not CancelAnswer.FAILED:
                ticket.future._end_canceled()
            if ticket.promise is None or ticket.promise.done():
                continue
            self.cancels.discard(ticket.promise)
            if answer is not None:
                ticket.promise.set_result(answer)
            elif broken is not None:
                ticket.promise.set_exception(broken.error(broken.text))

    def log_line(self, instruction: Log) -> None:
        future = self.tasks.get(instruction.task_id)
        if future is not None and future._on_log is not None:
            try:
                future._on_log(*instruction)
            except BaseException:
                _log.exception("the log callback of task %s failed", instruction.task_id.hex())

    def informed(self, instruction: Informed) -> None:
        promise = self.queries.pop(instruction.answer.query_id, None)
        if promise is not None and not promise.done():
            promise.set_result(instruction.answer)

    def shutdown_answered(self, instruction: ShutdownAnswered) -> None:
        promises, self.shutdowns = self.shutdowns, []
        for promise in promises:
            if not promise.done():
                promise.set_result(instruction.accepted)

    def give_up(self, error: Exception, *, canceled: bool) -> None:
        """Nobody may wait for something that can't come any more. ``canceled``: tasks count as such."""
        tasks, self.tasks = list(self.tasks.values()), {}
        for future in tasks:
            if canceled:
                future._end_canceled()
            else:
                future._end(None, SchedulerLost(str(error)))
        cancels, self.cancels = self.cancels, set()
        for cancel in cancels:
            if not cancel.done():
                cancel.set_exception(SchedulerLost(str(error)))
        promises: list[concurrent.futures.Future[Any]] = [*self.queries.values(), *self.shutdowns]
        for promise in promises:
            if not promise.done():
                promise.set_exception(error)
        self.queries.clear()
        self.shutdowns.clear()


def starve(future: ScalerFuture, end: Starved) -> None:
    """Fails it because of the future that it needs, which has failed."""
    needed = next(needed for needed in future._needs if needed.task_id == end.task_id)
    cause = needed._failure()
    if isinstance(cause, DependencyFailed) and cause.__cause__ is not None:
        cause = cause.__cause__  # where it began
    why = "" if cause is None else f": {described(cause)}"
    error = DependencyFailed(f"the task {end.task_id.hex()}, whose result this one needs, has failed{why}")
    error.__cause__ = cause
    future._end(None, error)


def _complete(future: ScalerFuture, end: Completed) -> None:
    future.result_metadata = end.metadata
    value: Any = None
    error: BaseException | None = None
    if future._raw:
        value = RawResult(end.type, bytes(end.payload), end.metadata)
    elif end.type is TaskResultType.SUCCESS:
        try:
            value = deserialize(end.payload)
        except BaseException as cause:  # also a SystemExit must not end this thread
            error = RemoteError(
                "the task succeeded, but its result can't be loaded here "
                f"({described(cause)}); the payload has {len(end.payload)} bytes"
            )
            error.__cause__ = cause
    elif end.type is TaskResultType.FAILED:
        error = deserialize_exception(end.payload)
    else:
        error = WorkerDiedError(f"too many workers were lost with the task {future.task_id.hex()}")
    future._end(value, error)
