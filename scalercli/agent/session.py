"""What the agent does with a request, and with what the client reports: tasks, their followers, their cancels.

Everything runs on the agent's one thread. The client's threads only ``post`` calls to it. Replies leave after the
ledger's commit, so what was answered is remembered.
"""

from __future__ import annotations

import concurrent.futures
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from protocol.control import (
    MAX_PAYLOAD_BYTES,
    VERSION,
    AgentInfo,
    Cancel,
    CancelOutcome,
    CancelResult,
    ControlError,
    ControlRequest,
    Follow,
    Selection,
    ShownState,
    Submit,
    TaskKind,
    TaskRow,
)
from protocol.payloads import TaskMetadata
from scalercli.agent.book import Book
from scalercli.agent.ledger import Entry, Ledger, LedgerError, now
from scalercli.agent.results import command_exit_code
from scalercli.agent.tasks import ROWS_AT_ONCE, Canceling, Connection, Follower, Living, Refused, TaskClient
from scalercli.agent.watch import MonitorWatch
from scalercli.exits import ExitCode

logger = logging.getLogger(__name__)


class Session:
    """The tasks of one user on one cluster. Without a client it only answers from the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        client: TaskClient | None,
        info: Callable[[], AgentInfo],
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self._ledger = ledger
        self._client = client
        self._info = info
        self._post = post
        self._book = Book(ledger, client, post)
        self._living = self._book.living
        self._followers: dict[bytes, list[Follower]] = {}
        self.broken = ""  # why no task can be run any more
        self.keep = False
        self.stopping = False

    @property
    def living(self) -> int:
        return len(self._living)

    def observe(self, monitor: MonitorWatch) -> None:
        """States come from there if the scheduler does not answer."""
        self._book.observe(monitor)
        monitor.on_refused = self._refused

    def close(self) -> None:
        self._book.close()

    def end_all(self, reason: str, *, lost: bool = False) -> None:
        """What is not over is lost with the cluster, or canceled because the client is about to leave."""
        for living in list(self._living.values()):
            self._end(living, ShownState.LOST if lost else ShownState.CANCELED, reason)

    def drop(self, connection: Connection) -> None:
        """A command has left."""
        for task_id in [t for t, followers in self._followers.items() if any(f.of(connection) for f in followers)]:
            staying = [f for f in self._followers[task_id] if not f.of(connection)]
            if staying:
                self._followers[task_id] = staying
            else:
                del self._followers[task_id]

    # ---- requests ----

    def handle(self, connection: Connection, request: ControlRequest) -> None:
        """Answers a request now or later; never raises."""
        if request.version != VERSION and request.variant != "shutdown":
            error = ControlError(
                ExitCode.PROTOCOL,
                f"the session agent speaks version {VERSION} of the control protocol, this command"
                f" version {request.version}",
                "scalercli cluster down (ends the agent and its tasks), then repeat",
            )
            connection.send(request.number, "error", error)
            return
        act = partial(self._handle, variant=request.variant)
        self._guarded(connection, request.number, act, request.value)

    def _guarded(self, connection: Connection, number: int, act: Callable[..., None], value: Any) -> None:
        try:
            act(connection, number, value)
        except Refused as refused:
            connection.send(number, "error", refused.error)
        except LedgerError as error:
            connection.send(number, "error", ControlError(ExitCode.INTERNAL, str(error)))
        except Exception as error:
            logger.exception("a request failed")
            message = f"the session agent failed: {type(error).__name__}: {error}"
            connection.send(number, "error", ControlError(ExitCode.INTERNAL, message, "see its agent.log"))

    def _handle(self, connection: Connection, number: int, value: Any, *, variant: str) -> None:
        if variant == "ping":
            connection.send(number, "agent", self._info())
        elif variant == "keep":
            self.keep = True
            connection.send(number, "agent", self._info())
        elif variant == "shutdown":
            connection.send(number, "agent", self._info())
            self.stopping = True
        elif variant == "submit":
            self._submit(connection, number, value)
        elif variant == "query":
            self._book.refresh(value, partial(self._guarded, connection, number, self._query, value))
        elif variant == "follow":
            self._follow(connection, number, value)
        elif variant == "cancel":
            self._book.refresh(value.selection, partial(self._guarded, connection, number, self._cancel, value))
        else:
            raise Refused(ExitCode.PROTOCOL, f"the session agent does not know the request {variant!r}")

    def _submit(self, connection: Connection, number: int, submit: Submit) -> None:
        if self._client is None or self.broken:
            raise Refused(ExitCode.UNREACHABLE, self.broken or "the session has no client", "repeat the command")
        if submit.output and len(submit.tasks) > 1:
            raise Refused(ExitCode.PROTOCOL, "output can be followed for one task only")
        ids = [task.task_id for task in submit.tasks]
        if len(set(ids)) != len(ids) or any(self._book.find(task_id) for task_id in ids):
            raise Refused(ExitCode.PROTOCOL, "a task id was used twice")
        follower = None
        if submit.follow:
            follower = Follower(self._ledger, connection, number, result=submit.result, output=submit.output)
        submitted = now()
        for task in submit.tasks:
            entry = Entry(
                self._ledger.add(task.task_id, submit.kind, task.text, submitted),
                TaskRow(task.task_id, kind=submit.kind, text=task.text, submitted_at=submitted),
            )
            living = self._living[task.task_id] = Living(entry)
            if follower is not None:
                follower.add(entry, over=False)
                self._followers.setdefault(task.task_id, []).append(follower)
            try:
                living.future = self._client.submit_pickled(
                    submit.function,
                    task.arguments,
                    task_id=task.task_id,
                    metadata=_STREAMED,
                    raw=True,
                    name=submit.name,
                    on_log=self._on_log,
                )
            except (ConnectionError, RuntimeError) as error:
                self.broken = str(error)
                self._end(living, ShownState.LOST, f"it was not sent: {error}")
                continue
            living.future.add_done_callback(partial(self._on_done, living))
        if self.broken:
            raise Refused(ExitCode.UNREACHABLE, self.broken, "repeat the command: it starts a new session")
        connection.send(number, "accepted")
        if follower is not None:
            connection.stream(follower.step)
        else:
            connection.send(number, "done")

    def _query(self, connection: Connection, number: int, selection: Selection) -> None:
        entries = self._book.select(selection)

        def step() -> bool | None:
            rows = tuple(entry.row for _, entry in zip(range(ROWS_AT_ONCE), entries, strict=False))
            connection.send(number, "tasks" if rows else "done", rows or None)
            return True if rows else None

        connection.stream(step)

    def _follow(self, connection: Connection, number: int, follow: Follow) -> None:
        follower = Follower(self._ledger, connection, number, result=follow.result, output=follow.output)
        entries = list(self._book.select(follow.selection))
        if follow.output and len(entries) > 1:
            raise Refused(ExitCode.USAGE, "output can be shown for one task at a time")
        for entry in entries:
            living = self._living.get(entry.row.task_id)
            if living is None or not follow.wait:
                follower.add(entry, over=True)
            elif entry.row.task_id not in follower.waiting:
                follower.add(entry, over=False)
                self._followers.setdefault(entry.row.task_id, []).append(follower)
        connection.stream(follower.step)

    def _cancel(self, connection: Connection, number: int, cancel: Cancel) -> None:
        selection = cancel.selection._replace(living=cancel.selection.all)
        entries = {entry.row.task_id or entry.row.wanted: entry for entry in self._book.select(selection)}
        canceling = Canceling(connection, number)
        rows = tuple(entry.row for entry in entries.values())
        for start in range(0, len(rows), ROWS_AT_ONCE):
            connection.send(number, "tasks", rows[start : start + ROWS_AT_ONCE])
        started = time.monotonic()
        answers: list[CancelResult] = []
        for entry in entries.values():
            task_id = entry.row.task_id
            living = self._living.get(task_id)
            if living is not None and living.future.done():  # its end is on the way to here
                self._done(living)
                living = None
            if living is not None:
                canceling.open += cancel.wait
                self._cancel_living(living, cancel, canceling)
                if not cancel.wait:
                    answers.append(CancelResult(task_id, CancelOutcome.REQUESTED, living.row.state))
            elif entry.row.state is not ShownState.NOT_FOUND:
                answers.append(CancelResult(task_id, CancelOutcome.ALREADY_DONE, entry.row.state, entry.row.reason))
            elif task_id and self._client is not None and not self.broken:
                canceling.open += 1
                future = self._client.cancel_task(task_id, force=cancel.force)
                future.add_done_callback(partial(self._on_foreign_answer, task_id, started, canceling))
            else:
                answers.append(CancelResult(task_id, CancelOutcome.NOT_FOUND, ShownState.NOT_FOUND, entry.row.reason))
        canceling.open += len(answers)
        canceling.complete = True
        for answer in answers:
            canceling.answered(answer)
        if not entries:
            canceling.finish()

    def _cancel_living(self, living: Living, cancel: Cancel, canceling: Canceling) -> None:
        if cancel.wait:
            living.cancels.append((canceling, time.monotonic()))
        living.change(state=ShownState.CANCELING)
        if not living.listening:
            living.listening = True
            living.future.add_cancel_callback(partial(self._on_answer, living))
        living.future.request_cancel(force=cancel.force)

    # ---- what the client reports, from its own threads ----

    def _on_done(self, living: Living, future: Any) -> None:
        self._post(partial(self._done, living))

    def _on_log(self, task_id: bytes, log_type: int, text: str) -> None:
        self._post(partial(self._logged, task_id, int(log_type) == 1, text))

    def _on_answer(self, living: Living, future: Any, answer: Any) -> None:
        self._post(partial(self._answered, living, answer.name, time.monotonic()))

    def _on_foreign_answer(
        self, task_id: bytes, started: float, canceling: Canceling, future: concurrent.futures.Future[Any]
    ) -> None:
        milliseconds = 1000 * (time.monotonic() - started)
        self._post(partial(self._foreign_answered, task_id, milliseconds, canceling, future))

    # ---- the same, on the agent's thread ----

    def _done(self, living: Living) -> None:
        if living.row.task_id not in self._living:
            return
        future = living.future
        if future.cancelled():
            self._end(living, ShownState.CANCELED)
            if future.cancel_answer is None:  # its end was quicker than our request: no answer will come
                self._answered(living, "RESULT", time.monotonic())
            return
        error = future.exception()
        if error is not None:
            if isinstance(error, ConnectionError):
                self.broken = str(error)
            self._end(living, ShownState.LOST, str(error) or type(error).__name__)
            return
        raw = future.result()
        if len(raw.payload) > MAX_PAYLOAD_BYTES:
            reason = f"it ended, but its result is too big to be kept: {len(raw.payload)} bytes"
            self._end(living, ShownState.LOST, reason)
            return
        facts: dict[str, Any] = {"payload": raw.payload}
        if raw.metadata is not None:
            facts["seconds"] = raw.metadata.seconds
            facts["peak_bytes"] = raw.metadata.peak_bytes
        if raw.type.name == "FAILED_WORKER_DIED":
            self._end(living, ShownState.WORKER_DIED, "too many workers were lost while they held it")
        elif raw.type.name == "FAILED":
            self._end(living, ShownState.FAILED, **facts)
        elif living.row.kind is TaskKind.COMMAND:
            code = command_exit_code(raw.payload)
            state = ShownState.SUCCESS if code == 0 else ShownState.FAILED
            self._end(living, state, exit_code=code, **facts)
        else:
            self._end(living, ShownState.SUCCESS, **facts)

    def _end(
        self,
        living: Living,
        state: ShownState,
        reason: str = "",
        *,
        payload: bytes | None = None,
        exit_code: int | None = None,
        seconds: float | None = None,
        peak_bytes: int = 0,
    ) -> None:
        ended = now()
        started = 0.0 if seconds is None else max(ended - seconds, living.row.submitted_at)
        living.change(
            state=state,
            reason=reason,
            ended_at=ended,
            started_at=started,
            has_exit_code=exit_code is not None,
            exit_code=exit_code or 0,
            peak_bytes=peak_bytes,
            queue_position=0,
        )
        self._ledger.end(
            living.entry.number,
            state,
            ended=ended,
            reason=reason,
            started=started,
            exit_code=exit_code,
            peak_bytes=peak_bytes,
            payload=payload,
        )
        task_id = living.row.task_id
        del self._living[task_id]
        for follower in self._followers.pop(task_id, ()):
            follower.waiting.discard(task_id)
            follower.ended.append(living.entry)
        if living.future is None or state is ShownState.LOST:  # no answer to a cancel will come
            cancels, living.cancels = living.cancels, []
            for canceling, _ in cancels:
                canceling.answered(CancelResult(task_id, CancelOutcome.ALREADY_DONE, state, reason))

    def _logged(self, task_id: bytes, stderr: bool, text: str) -> None:
        living = self._living.get(task_id)
        if living is not None:
            self._ledger.add_output(living.entry.number, stderr, text)

    def _answered(self, living: Living, answer: str, at: float) -> None:
        task_id = living.row.task_id
        if answer == "CANCELED":
            outcome, reason = CancelOutcome.CANCELED, ""
        elif answer == "FAILED":
            outcome, reason = CancelOutcome.REFUSED, "it runs on"
            if task_id in self._living:
                living.change(state=ShownState.RUNNING)
        else:
            outcome, reason = CancelOutcome.ALREADY_DONE, "it had ended before the cancel reached it; no result is kept"
        if task_id in self._living and outcome is not CancelOutcome.REFUSED:
            self._end(living, ShownState.CANCELED, reason)
        elif reason and living.row.state is ShownState.CANCELED:  # the future was quicker than the reason
            living.change(reason=reason)
            self._ledger.end(living.entry.number, ShownState.CANCELED, ended=living.row.ended_at, reason=reason)
        cancels, living.cancels = living.cancels, []
        for canceling, since in cancels:
            canceling.answered(CancelResult(task_id, outcome, living.row.state, reason, 1000 * (at - since)))

    def _refused(self, task_id: bytes) -> None:
        """The stream says that a worker refused a cancel; a scheduler that answers nothing may not pass that on."""
        living = self._living.get(task_id)
        if living is not None and living.row.state is ShownState.CANCELING and self._client is not None:
            self._client.cancel_refused(task_id)

    def _foreign_answered(
        self,
        task_id: bytes,
        milliseconds: float,
        canceling: Canceling,
        future: concurrent.futures.Future[Any],
    ) -> None:
        outcome, reason = CancelOutcome.NOT_FOUND, "neither the ledger nor the scheduler knows it"
        if future.cancelled() or future.exception() is not None:
            why = "the client is leaving" if future.cancelled() else str(future.exception())
            canceling.connection.send(canceling.number, "error", ControlError(ExitCode.UNREACHABLE, why))
            return
        if future.result().name == "CANCELED":
            outcome, reason = CancelOutcome.CANCELED, ""
        elif future.result().name == "FAILED":
            outcome, reason = CancelOutcome.REFUSED, "it runs on"
        canceling.answered(CancelResult(task_id, outcome, ShownState.NOT_FOUND, reason, milliseconds))


_STREAMED = TaskMetadata(stream_output=True)
