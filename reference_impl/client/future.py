"""The future of a task, and what differs from ``concurrent.futures.Future`` (SPEC section 9, Annex B)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

from protocol.identifiers import TaskId
from protocol.messages import LogType, TaskResultType
from protocol.payloads import ResultMetadata
from reference_impl.client.instructions import CancelAnswer

_log = logging.getLogger(__name__)

CancelCallback = Callable[["ScalerFuture", CancelAnswer], None]
LogCallback = Callable[[TaskId, LogType, str], None]


@dataclass
class RawResult:
    """A task's answer as it came: the payload is still pickled (empty for failedWorkerDied)."""

    type: TaskResultType
    payload: bytes
    metadata: ResultMetadata | None


class Canceler(Protocol):
    """What a future needs of its client."""

    def request(
        self, future: ScalerFuture, force: bool, promise: concurrent.futures.Future[CancelAnswer] | None
    ) -> None:
        """Posts a cancel."""

    def is_current_thread(self) -> bool:
        """True in the thread that would have to receive the answer."""

    def check_may_wait(self) -> None:
        """Raises RuntimeError where no answer can come."""


class Promise(concurrent.futures.Future):  # type: ignore[type-arg]
    """What a client's thread will bring. Its callbacks run there: they can't end that thread, nor wait in it."""

    _canceler: Canceler

    @classmethod
    def of(cls, canceler: Canceler) -> Promise:
        """One that nobody but that thread can end."""
        promise = cls()
        promise._canceler = canceler
        promise.set_running_or_notify_cancel()
        return promise

    def result(self, timeout: float | None = None) -> Any:
        """As ``concurrent.futures.Future.result``. What a failed task raised is raised with its remote traceback."""
        self._check_may_wait(timeout)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As ``concurrent.futures.Future.exception``."""
        self._check_may_wait(timeout)
        return super().exception(timeout)

    def _check_may_wait(self, timeout: float | None) -> None:
        if (timeout is None or timeout > 0) and not self.done():
            self._canceler.check_may_wait()

    def _invoke_callbacks(self) -> None:
        for callback in self._done_callbacks:  # type: ignore[attr-defined]
            try:
                callback(self)
            except BaseException as error:  # also a SystemExit must not end the client's thread
                if not isinstance(error, Exception) and not self._canceler.is_current_thread():
                    raise
                _log.exception("exception calling callback for %r", self)


class ScalerFuture(Promise):
    """The future of a submitted task. ``concurrent.futures.wait`` and ``as_completed`` and ``await`` work on it.

    It differs from ``concurrent.futures.Future`` in this:

    - ``running()`` is true from the submission on until it is done: only the scheduler knows more.
    - ``cancel()`` can stop a task that runs. It asks the scheduler and waits for the answer.
    - ``cancel()`` of a future that is done marks it cancelled, drops its result and returns True.
    - Once cancelled it never shows a result, also if the task was faster than the cancel.
    - Callbacks run in the client's I/O thread: they should be quick. There, ``cancel()`` does not wait, and waiting
      for a future that is not done raises RuntimeError instead of blocking for ever.
    """

    def __init__(
        self,
        task_id: TaskId,
        client: object,
        canceler: Canceler,
        *,
        raw: bool = False,
        on_log: LogCallback | None = None,
    ) -> None:
        super().__init__()
        self._state = "RUNNING"
        self.task_id = task_id
        """16 bytes; known to the scheduler and on the monitor stream."""
        self.cancel_answer: CancelAnswer | None = None
        """How the last cancel was answered; None until then, and for a future that was done before its cancel."""
        self.result_metadata: ResultMetadata | None = None
        """How long the task ran and so on, once it is done and if the worker says."""
        self._client: object = client  # a client lives as long as one of its tasks
        self._canceler = canceler
        self._raw = raw
        self._on_log = on_log
        self._needs: tuple[ScalerFuture, ...] = ()  # whose results are arguments of the task
        self._cancel_callbacks: list[CancelCallback] = []

    # ---- for users ----

    def cancel(self, timeout: float | None = None, *, force: bool = True) -> bool:
        """Cancels the task, and waits for the answer: a TaskCancelConfirm or the TaskResult, whichever is first.

        True: the future is cancelled, because the task was canceled, or because it is over. False: the worker could
        not cancel it (``cancelFailed``); the future stays as it is and will have its result, and ``cancel`` may be
        called again. ``force=False`` cancels only a task that has not started.

        Raises TimeoutError after ``timeout`` seconds without an answer; the request stays in flight, and the answer
        still counts. Raises SchedulerLost or StorageLost if the client lost its peer meanwhile.

        Where waiting would block what brings the answer, or an event loop, it requests the cancellation and returns
        True at once: in the client's I/O thread (callbacks), and in a thread in which an asyncio loop runs.
        """
        if self._drop_result():
            return True
        if self._canceler.is_current_thread() or _in_event_loop():
            self._canceler.request(self, force, None)
            return True
        promise: concurrent.futures.Future[CancelAnswer] = concurrent.futures.Future()
        self._canceler.request(self, force, promise)
        try:
            answer = promise.result(timeout)
        except concurrent.futures.TimeoutError:
            raise TimeoutError(
                f"no answer to the cancel of task {self.task_id.hex()} in {timeout:g} seconds; it is still requested"
            ) from None
        return answer is not CancelAnswer.FAILED

    def request_cancel(self, *, force: bool = True) -> None:
        """The same without waiting; see ``add_cancel_callback`` and ``cancel_answer`` for the answer."""
        if not self._drop_result():
            self._canceler.request(self, force, None)

    def add_cancel_callback(self, fn: CancelCallback) -> None:
        """Calls ``fn(future, answer)`` in the client's I/O thread at each answer to a cancel from now on, also at
        ``FAILED``; the future has its new state then."""
        self._cancel_callbacks.append(fn)

    def running(self) -> bool:
        """True from submission until done."""
        return not self.done()

    def __await__(self) -> Generator[Any, None, Any]:
        """Waits for the result in a coroutine. If the coroutine is cancelled, so is the task: that is requested and
        not waited for."""
        # Not asyncio.wrap_future: before Python 3.12 that waits for ever if the task raised a StopIteration. Here it
        # becomes a RuntimeError, as in any generator.
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def go_on() -> None:
            if not done.done():
                done.set_result(None)

        def tell(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(go_on)

        self.add_done_callback(tell)
        try:
            yield from done
        except asyncio.CancelledError:
            self.request_cancel()
            raise
        try:
            return self.result(0)
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError from None

    def __reduce__(self) -> Any:
        raise TypeError("a future can't be pickled: it stands for its result only as an argument, not inside of one")

    # ---- for the client's I/O thread ----

    def _failure(self) -> BaseException | None:
        """Why it failed; None if it was cancelled, by another thread perhaps just now. Only once it is done."""
        try:
            return self.exception(0)
        except concurrent.futures.CancelledError:
            return None

    def _drop_result(self) -> bool:
        """Marks a done future cancelled; False if it is not done."""
        with self._condition:
            if self._state not in ("FINISHED", "CANCELLED_AND_NOTIFIED"):
                return False
            self._state = "CANCELLED_AND_NOTIFIED"
            self._result = self._exception = self.result_metadata = None
            return True

    def _end_canceled(self) -> None:
        with self._condition:  # once: at the client's end its thread and one that cancels may both come here
            if self._drop_result():
                return
            self._state = "CANCELLED_AND_NOTIFIED"
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self._invoke_callbacks()
        self._client = None
        self._needs = ()

    def _end(self, value: Any, error: BaseException | None) -> None:
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # somebody else has set it
            if error is None:
                self.set_result(value)
            else:
                self.set_exception(error)
        self._client = None
        self._needs = ()

    def _answered(self, answer: CancelAnswer) -> None:
        for fn in self._cancel_callbacks:
            try:
                fn(self, answer)
            except BaseException:
                _log.exception("a cancel callback of task %s failed", self.task_id.hex())


def _in_event_loop() -> bool:
    if "asyncio" not in sys.modules:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
