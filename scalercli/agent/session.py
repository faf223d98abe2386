"""What the agent does with a request, and with what the client reports: tasks, their followers, their cancels.

Everything runs on the agent's one thread. The client's threads only ``post`` calls to it. Replies leave after the
ledger's commit, so what was answered is remembered.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from protocol.control import (
    VERSION,
    AgentInfo,
    Cancel,
    CancelOutcome,
    CancelResult,
    ControlError,
    ControlRequest,
    Follow,
    KnownTask,
    Retry,
    RetryResult,
    Selection,
    ShownState,
    Submit,
    TaskRow,
)
from scalercli.agent import repeating
from scalercli.agent.book import Book
from scalercli.agent.explaining import Explainer
from scalercli.agent.ledger import Entry, Ledger, LedgerError, Work, now
from scalercli.agent.lifetimes import Lifetimes
from scalercli.agent.overview import Overviews
from scalercli.agent.tasks import ROWS_AT_ONCE, Canceling, Connection, Follower, Living, Refused, TaskClient
from scalercli.agent.watch import MonitorWatch, Subscription
from scalercli.exits import ExitCode

logger = logging.getLogger(__name__)

UNWRITABLE_HINT = "is the disk full? when there is room again the session goes on by itself"
"""What to do when the ledger can't be written."""


class Session:
    """The tasks of one user on one cluster. Without a client it only answers from the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        client: TaskClient | None,
        info: Callable[[], AgentInfo],
        post: Callable[[Callable[[], None]], None],
        later: Callable[[float, Callable[[], None]], None] = lambda seconds, call: None,
        subscribe: Callable[[Callable[[Any], None]], Subscription] | None = None,
    ) -> None:
        """``post(call)`` runs a call on the agent's thread, from any thread; ``later(seconds, call)`` does it then.
        ``subscribe(report)`` calls ``report`` with each StateScheduler of the monitor stream."""
        self._ledger = ledger
        self._client = client
        self._info = info
        self._book = Book(ledger, client, post)
        self._living = self._book.living
        self._post = post
        self._lifetimes = Lifetimes(ledger, client, self._book, post, later)
        self._explainer = Explainer(ledger, self._book, client)
        self._overviews = Overviews(ledger, self._book, info, later, subscribe, lambda: self._lifetimes.finished)
        self._overviews.client = client
        self.keep = False
        self.stopping = False

    @property
    def living(self) -> int:
        return len(self._living)

    @property
    def broken(self) -> str:
        """Why no task can be run any more; empty when all is well."""
        return self._lifetimes.broken

    @property
    def stuck(self) -> bool:
        """Whether it is broken and all that is left outlives the cluster."""
        return bool(self.broken) and self._lifetimes.kept == len(self._living)

    def observe(self, monitor: MonitorWatch) -> None:
        """States come from there if the scheduler does not answer."""
        self._book.observe(monitor)
        monitor.on_refused = self._lifetimes.refused

    def restore(self, entries: list[Entry]) -> None:
        """Takes up the tasks that an earlier agent has left and that are not lost."""
        self._lifetimes.restore(entries)

    def rebind(self, client: TaskClient) -> None:
        """The cluster is another one now: what outlived the old one goes on there."""
        self._client = self._explainer.client = self._overviews.client = client
        self._overviews.close()
        self._book.rebind(client)
        self._lifetimes.rebind(client)

    def lose(self, why: str) -> None:
        """The cluster is gone, and with it what can't be submitted again."""
        self._lifetimes.broken = why
        self._lifetimes.end_all(why, lost=True)

    def close(self) -> None:
        self._overviews.close()
        self._book.close()

    def end_all(self, reason: str) -> None:
        """What is not over is canceled, because the client is about to leave."""
        self._lifetimes.end_all(reason)

    def drop(self, connection: Connection) -> None:
        """A command has left."""
        self._lifetimes.drop(connection)

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
            connection.send(number, "error", ControlError(ExitCode.INTERNAL, str(error), UNWRITABLE_HINT))
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
        elif variant == "retry":
            self._retry(connection, number, value)
        elif variant == "explain":
            self._explainer.explain(connection, number, value)
        elif variant == "overview":
            self._overviews.show(connection, number)
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
        if len(set(ids)) != len(ids) or self._ledger.knows_one_of(ids):
            raise Refused(ExitCode.PROTOCOL, "a task id was used twice")
        options = submit.options
        after, after_any = self._dependencies(options.after), self._dependencies(options.after_any)
        dependencies = [*after, *after_any]
        options = options._replace(
            after=tuple(entry.row.task_id.hex() for entry in after),
            after_any=tuple(entry.row.task_id.hex() for entry in after_any),
        )
        follower = None
        if submit.follow:
            follower = Follower(self._ledger, connection, number, result=submit.result, output=submit.output)
        submitted = now()
        new: list[Living] = []
        known: list[KnownTask] = []
        by_key: dict[str, Entry] = {}
        for task in submit.tasks:
            if task.key:
                existing = by_key.get(task.key) or self._ledger.by_key(task.key)
                if existing is not None:
                    known.append(KnownTask(task.task_id, existing.row.task_id, existing.row.text))
                    if follower is not None:
                        self._attach(follower, self._book.find(existing.row.task_id) or existing)
                    continue
            work = Work(submit.function, submit.name, task.arguments)
            state = ShownState.WAITING if dependencies else ShownState.PENDING
            row = TaskRow(
                task.task_id,
                kind=submit.kind,
                text=task.text,
                state=state,
                submitted_at=submitted,
                options=options,
                key=task.key,
                attempt=0 if dependencies else 1,
            )
            new.append(self._admit(row, work, dependencies))
            if task.key:
                by_key[task.key] = new[-1].entry
            if follower is not None:
                self._attach(follower, new[-1].entry)
        self._remember(new)
        if known:
            connection.send(number, "known", tuple(known))
        for living in new:
            self._lifetimes.start(living, dependencies)
        if self.broken and new:
            raise Refused(ExitCode.UNREACHABLE, self.broken, "repeat the command: it starts a new session")
        if follower is not None:
            connection.send(number, "accepted")
            connection.stream(follower.step)
        elif len(submit.tasks) == 1:
            _accepted(connection, number)
        else:
            self._lifetimes.when_there_is_room(partial(_accepted, connection, number))

    def _remember(self, new: list[Living]) -> None:
        """What can't be remembered is not handed over either: nothing was submitted. Raises LedgerError."""
        try:
            self._ledger.flush()
        except LedgerError as error:
            self._lifetimes.withdraw(new)
            self._ledger.withdraw([living.entry.number for living in new])
            raise LedgerError(f"{error}; nothing was submitted") from None

    def _dependencies(self, ids: tuple[str, ...]) -> list[Entry]:
        found = [self._book.resolve(text) for text in ids]
        for entry in found:
            if entry.row.state is ShownState.NOT_FOUND:
                raise Refused(
                    ExitCode.NOT_FOUND,
                    f"there is no task {entry.row.wanted} to wait for; nothing was submitted",
                    "scalercli status lists the tasks of this session",
                )
        return list({entry.row.task_id: entry for entry in found}.values())

    def _admit(self, row: TaskRow, work: Work, dependencies: list[Entry]) -> Living:
        number = self._ledger.add(
            row.task_id,
            row.kind,
            row.text,
            row.submitted_at,
            state=row.state,
            options=row.options,
            key=row.key,
            retry_of=row.retry_of,
            work=work,
        )
        return self._lifetimes.admit(Entry(number, row), work, dependencies)

    def _attach(self, follower: Follower, entry: Entry) -> None:
        task_id = entry.row.task_id
        if task_id not in self._living:
            follower.add(entry, over=True)
        elif task_id not in follower.waiting:
            follower.add(entry, over=False)
            self._lifetimes.follow(task_id, follower)

    def _retry(self, connection: Connection, number: int, retry: Retry) -> None:
        if self._client is None or self.broken:
            raise Refused(ExitCode.UNREACHABLE, self.broken or "the session has no client", "repeat the command")
        results: list[RetryResult] = []
        new: list[Living] = []
        for entry in list(self._book.select(retry.selection)):
            row = entry.row
            work = None if row.state is ShownState.NOT_FOUND else self._ledger.work(entry.number)
            refused = repeating.refusal(row, retry.force, work, self._ledger)
            if refused is not None:
                results.append(refused)
                continue
            assert work is not None
            again = repeating.again(row, os.urandom(16), now())
            new.append(self._admit(again, work, []))
            self._ledger.note(entry.number, now(), f"it was submitted again by hand, as task {again.task_id.hex()}")
            results.append(RetryResult(again))
        self._remember(new)
        for living in new:
            self._lifetimes.start(living, [])
        if self.broken and new:
            raise Refused(ExitCode.UNREACHABLE, self.broken, "repeat the command: it starts a new session")
        for start in range(0, len(results), ROWS_AT_ONCE):
            connection.send(number, "retried", tuple(results[start : start + ROWS_AT_ONCE]))
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
            if follow.wait:
                self._attach(follower, entry)
            else:
                follower.add(entry, over=True)
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
            if living is not None and living.future is not None and living.future.done():  # its end is on the way here
                self._lifetimes.done(living, living.future)
                living = self._living.get(task_id)  # another attempt, if anything
            if living is not None:
                canceling.open += cancel.wait
                self._lifetimes.cancel(living, cancel.force, canceling if cancel.wait else None)
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
        if not answers:  # and none is open, if all were given at once
            canceling.finish()

    def _on_foreign_answer(
        self, task_id: bytes, started: float, canceling: Canceling, future: concurrent.futures.Future[Any]
    ) -> None:
        milliseconds = 1000 * (time.monotonic() - started)
        self._post(partial(self._foreign_answered, task_id, milliseconds, canceling, future))

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


def _accepted(connection: Connection, number: int) -> None:
    connection.send(number, "accepted")
    connection.send(number, "done")
