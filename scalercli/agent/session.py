"""What the agent does with a request, and with what the client reports: tasks, their followers, their cancels.

Everything runs on the agent's one thread. The client's threads only ``post`` calls to it. Replies leave after the
ledger's commit, so what was answered is remembered.
"""

from __future__ import annotations

import concurrent.futures
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

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
    OutputChunk,
    ReplyValue,
    Selection,
    ShownState,
    Submit,
    TaskKind,
    TaskRow,
)
from protocol.payloads import TaskMetadata
from scalercli.agent.ledger import Entry, Ledger, LedgerError, now
from scalercli.agent.results import command_exit_code
from scalercli.exits import ExitCode

logger = logging.getLogger(__name__)

MIN_PREFIX = 6
_QUERY_SECONDS = 2.0
_ROWS_AT_ONCE = 200
_PAYLOAD_AT_ONCE = 1 << 20
_OUTPUT_AT_ONCE = 64 << 20
_HEX = frozenset("0123456789abcdefABCDEF")


class Connection(Protocol):
    """One command that is connected."""

    def send(self, number: int, variant: str, value: ReplyValue = None) -> None:
        """Queues a reply."""

    def stream(self, step: Callable[[], bool | None]) -> None:
        """Calls ``step`` whenever there is room: True: again; False: nothing for now; None: it was the last time."""


class TaskClient(Protocol):
    """What the session needs of ``reference_impl.client.Client``."""

    def submit_pickled(self, function: bytes, arguments: Sequence[bytes], **options: Any) -> Any: ...

    def cancel_task(self, task_id: Any, *, force: bool = True) -> concurrent.futures.Future[Any]: ...

    def query(self, variant: str, value: Any = None, timeout: float = 5.0) -> Any: ...


class Refused(Exception):
    """A request that can't be carried out."""

    def __init__(self, code: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.error = ControlError(code, message, hint)


class Living:
    """A task that is not over."""

    __slots__ = ("cancels", "entry", "future", "listening")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.future: Any = None
        self.cancels: list[tuple[Canceling, float]] = []  # with the time of the request
        self.listening = False  # for answers to cancels

    @property
    def row(self) -> TaskRow:
        return self.entry.row

    def change(self, **fields: Any) -> None:
        self.entry.row = self.entry.row._replace(**fields)


class Canceling:
    """One cancel request whose answers are awaited."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.open = 0
        self.complete = False  # all its cancels are sent

    def answered(self, result: CancelResult) -> None:
        self.open -= 1
        self.connection.send(self.number, "outcomes", (result,))
        self.finish()

    def finish(self) -> None:
        if self.complete and not self.open:
            self.connection.send(self.number, "done")


class Follower:
    """One request that gets a row for each of its tasks as it ends, and perhaps the output of its only task."""

    def __init__(self, ledger: Ledger, connection: Connection, number: int, *, result: bool, output: bool) -> None:
        self.waiting: set[bytes] = set()
        self.ended: deque[Entry] = deque()
        self.output_of: int | None = None
        self._ledger = ledger
        self._connection = connection
        self._number = number
        self._result = result
        self._output = output
        self._place = 0

    def add(self, entry: Entry, *, over: bool) -> None:
        if self._output:
            self.output_of = entry.number
        if over:
            self.ended.append(entry)
        else:
            self.waiting.add(entry.row.task_id)

    def of(self, connection: Connection) -> bool:
        return self._connection is connection

    def step(self) -> bool | None:
        if self.output_of is not None:
            self._place, chunks = self._ledger.output(self.output_of, self._place, _ROWS_AT_ONCE)
            if chunks:
                self._connection.send(self._number, "output", tuple(chunks))
                return True
        if self.ended:
            rows: list[TaskRow] = []
            size = 0
            while self.ended and len(rows) < _ROWS_AT_ONCE and size < _PAYLOAD_AT_ONCE:
                rows.append(self._with_payload(self.ended.popleft()))
                size += len(rows[-1].payload)
            self._connection.send(self._number, "tasks", tuple(rows))
            return True
        if self.waiting:
            return False
        self._connection.send(self._number, "done")
        return None

    def _with_payload(self, entry: Entry) -> TaskRow:
        if not self._result or not entry.number:
            return entry.row
        row = entry.row
        payload = self._ledger.payload(entry.number)
        if payload is not None:
            row = row._replace(has_payload=True, payload=payload)
        if row.kind is TaskKind.COMMAND and not self._output:
            row = row._replace(output=self._whole_output(entry))
        return row

    def _whole_output(self, entry: Entry) -> tuple[OutputChunk, ...]:
        chunks: list[OutputChunk] = []
        size = place = 0
        while size < _OUTPUT_AT_ONCE:
            place, more = self._ledger.output(entry.number, place, _ROWS_AT_ONCE)
            if not more:
                return tuple(chunks)
            chunks += more
            size += sum(len(chunk.text) for chunk in more)
        left_out = f"[the output is longer; all of it: scalercli logs {entry.row.task_id.hex()}]\n"
        return (*chunks, OutputChunk(True, left_out))


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
        self._living: dict[bytes, Living] = {}
        self._followers: dict[bytes, list[Follower]] = {}
        self._asking = concurrent.futures.ThreadPoolExecutor(1, "query") if client is not None else None
        self.broken = ""  # why no task can be run any more
        self.keep = False
        self.stopping = False

    @property
    def living(self) -> int:
        return len(self._living)

    def close(self) -> None:
        if self._asking is not None:
            self._asking.shutdown(cancel_futures=True)

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
            self._refreshed(value, partial(self._guarded, connection, number, self._query, value))
        elif variant == "follow":
            self._follow(connection, number, value)
        elif variant == "cancel":
            self._refreshed(value.selection, partial(self._guarded, connection, number, self._cancel, value))
        else:
            raise Refused(ExitCode.PROTOCOL, f"the session agent does not know the request {variant!r}")

    def _submit(self, connection: Connection, number: int, submit: Submit) -> None:
        if self._client is None or self.broken:
            raise Refused(ExitCode.UNREACHABLE, self.broken or "the session has no client", "repeat the command")
        if submit.output and len(submit.tasks) > 1:
            raise Refused(ExitCode.PROTOCOL, "output can be followed for one task only")
        ids = [task.task_id for task in submit.tasks]
        if len(set(ids)) != len(ids) or any(self._find(task_id) for task_id in ids):
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
        entries = self._select(selection)

        def step() -> bool | None:
            rows = tuple(entry.row for _, entry in zip(range(_ROWS_AT_ONCE), entries, strict=False))
            connection.send(number, "tasks" if rows else "done", rows or None)
            return True if rows else None

        connection.stream(step)

    def _follow(self, connection: Connection, number: int, follow: Follow) -> None:
        follower = Follower(self._ledger, connection, number, result=follow.result, output=follow.output)
        entries = list(self._select(follow.selection))
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
        entries = {entry.row.task_id or entry.row.wanted: entry for entry in self._select(selection)}
        canceling = Canceling(connection, number)
        rows = tuple(entry.row for entry in entries.values())
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            connection.send(number, "tasks", rows[start : start + _ROWS_AT_ONCE])
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

    def _foreign_answered(
        self,
        task_id: bytes,
        milliseconds: float,
        canceling: Canceling,
        future: concurrent.futures.Future[Any],
    ) -> None:
        outcome, reason = CancelOutcome.NOT_FOUND, "neither the ledger nor the scheduler knows it"
        if future.cancelled() or future.exception() is not None:
            reason = "the ledger does not know it, and the scheduler did not answer"
        elif future.result().name == "CANCELED":
            outcome, reason = CancelOutcome.CANCELED, ""
        elif future.result().name == "FAILED":
            outcome, reason = CancelOutcome.REFUSED, "it runs on"
        canceling.answered(CancelResult(task_id, outcome, ShownState.NOT_FOUND, reason, milliseconds))

    # ---- finding tasks ----

    def _find(self, task_id: bytes) -> Entry | None:
        living = self._living.get(task_id)
        return living.entry if living is not None else self._ledger.find(task_id)

    def _select(self, selection: Selection) -> Iterator[Entry]:
        """Raises Refused at once for ids that can't be right."""
        entries: Iterable[Entry]
        if not selection.all:
            entries = [self._resolve(text) for text in selection.ids]
        elif selection.living:
            entries = [living.entry for living in self._living.values()]
        else:
            entries = (self._current(entry) for entry in self._ledger.all())
        wanted = frozenset(selection.states)
        return (entry for entry in entries if not wanted or entry.row.state in wanted)

    def _current(self, entry: Entry) -> Entry:
        living = self._living.get(entry.row.task_id)
        if living is not None:
            return living.entry
        if not entry.row.state.over:  # its agent is gone, and nobody has closed its books yet
            entry.row = entry.row._replace(state=ShownState.LOST, reason=LOST_WITH_AGENT)
        return entry

    def _resolve(self, text: str) -> Entry:
        if text == "@last":
            last = self._ledger.last()
            return self._current(last) if last else _missing(text, b"", "nothing was submitted in this session yet")
        if not _HEX.issuperset(text) or not MIN_PREFIX <= len(text) <= 32:
            raise Refused(
                ExitCode.USAGE,
                f"{text!r} is not a task id: 32 hex digits, a unique prefix of {MIN_PREFIX} or more, or @last",
                "scalercli status lists the tasks of this session",
            )
        if len(text) == 32:
            task_id = bytes.fromhex(text)
            entry = self._find(task_id)
            return self._current(entry) if entry else _missing(text, task_id, "")
        matching = self._ledger.matching(
            bytes.fromhex(text.ljust(32, "0")), bytes.fromhex(text.ljust(32, "f")), _SHOWN_MATCHES
        )
        if not matching:
            return _missing(text, b"", "no task of this session has an id that begins so")
        if len(matching) > 1:
            ids = " ".join(entry.row.task_id.hex() for entry in matching)
            raise Refused(ExitCode.USAGE, f"{text!r} is the beginning of several ids", f"one of {ids}")
        return self._current(matching[0])

    # ---- asking the scheduler ----

    def _refreshed(self, selection: Selection, then: Callable[[], None]) -> None:
        """Calls ``then``; where the selection wants it, when the states are what the scheduler says now."""
        ids = () if selection.all else tuple(text.lower() for text in selection.ids)
        living = (
            [
                task_id
                for task_id in self._living
                if not ids or any(task_id.hex().startswith(text) or text == "@last" for text in ids)
            ]
            if len(ids) <= 8
            else list(self._living)
        )
        if not selection.fresh or not living or self._asking is None:
            then()
            return
        asked = tuple(living) if len(living) <= 1000 else ()
        self._asking.submit(self._ask, asked).add_done_callback(
            lambda future: self._post(partial(self._informed, future, then))
        )

    def _ask(self, task_ids: tuple[bytes, ...]) -> Any:
        from protocol.messages import TaskFilter

        assert self._client is not None
        wanted: Any = task_ids
        return self._client.query("tasks", TaskFilter(wanted, own_only=True), timeout=_QUERY_SECONDS)

    def _informed(self, future: concurrent.futures.Future[Any], then: Callable[[], None]) -> None:
        if not future.cancelled() and future.exception() is None and future.result().variant == "tasks":
            for info in future.result().value.tasks:
                living = self._living.get(info.task_id)
                if living is not None:
                    state = _SHOWN.get(info.state.name, living.row.state)
                    if state is ShownState.RUNNING and info.held_before:
                        state = ShownState.QUEUED  # inside its worker, behind others
                    living.change(
                        state=state,
                        worker=info.worker.decode("ascii", "backslashreplace"),
                        queue_position=info.queue_position,
                    )
        else:
            logger.info("the scheduler did not say how the tasks are: %s", future)
        then()


_STREAMED = TaskMetadata(stream_output=True)
LOST_WITH_AGENT = "the session agent ended while it was not over"
_SHOWN_MATCHES = 4
_SHOWN = {
    "INACTIVE": ShownState.QUEUED,
    "RUNNING": ShownState.RUNNING,
    "CANCELING": ShownState.CANCELING,
    "BALANCE_CANCELING": ShownState.QUEUED,
}


def _missing(text: str, task_id: bytes, reason: str) -> Entry:
    return Entry(0, TaskRow(task_id, wanted=text, state=ShownState.NOT_FOUND, reason=reason))
