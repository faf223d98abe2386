"""The agent's view of tasks that are not over, and of the requests that wait for them."""

from __future__ import annotations

import concurrent.futures
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from protocol.control import CancelResult, ControlError, OutputChunk, ReplyValue, TaskKind, TaskRow
from scalercli.agent.ledger import Entry, Ledger, Work

ROWS_AT_ONCE = 200
_PAYLOAD_AT_ONCE = 1 << 20
_OUTPUT_AT_ONCE = 64 << 20


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

    def cancel_refused(self, task_id: Any) -> None: ...

    def query(self, variant: str, value: Any = None, timeout: float = 5.0) -> Any: ...


class Refused(Exception):
    """A request that can't be carried out."""

    def __init__(self, code: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.error = ControlError(code, message, hint)


class Living:
    """A task that is not over."""

    __slots__ = (
        "cancels", "entry", "force", "future", "launched_at", "listening", "seen_running_at", "timed_out",
        "waits_for", "wire_id", "work",
    )  # fmt: skip

    def __init__(self, entry: Entry, work: Work) -> None:
        self.entry = entry
        self.work = work
        self.future: Any = None  # of the attempt that runs
        self.wire_id = entry.row.task_id  # what the scheduler knows it by: each attempt has an id of its own
        self.cancels: list[tuple[Canceling, float]] = []  # with the time of the request
        self.listening = False  # for answers to cancels
        self.force = False  # of the cancel in flight
        self.waits_for: set[bytes] = set()  # tasks of its --after that are not over
        self.launched_at = 0.0  # on time.monotonic(), as the next
        self.seen_running_at: float | None = None
        self.timed_out = False  # the cancel in flight is there because its time is over

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
            self._place, chunks = self._ledger.output(self.output_of, self._place, ROWS_AT_ONCE)
            if chunks:
                self._connection.send(self._number, "output", tuple(chunks))
                return True
        if self.ended:
            rows: list[TaskRow] = []
            size = 0
            while self.ended and len(rows) < ROWS_AT_ONCE and size < _PAYLOAD_AT_ONCE:
                entry = self.ended.popleft()
                rows.append(self._with_payload(entry))
                entry.payload = None
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
        payload = entry.payload if entry.payload is not None else self._ledger.payload(entry.number)
        if payload is not None:
            row = row._replace(has_payload=True, payload=payload)
        if row.kind is TaskKind.COMMAND and not self._output:
            row = row._replace(output=self._whole_output(entry))
        return row

    def _whole_output(self, entry: Entry) -> tuple[OutputChunk, ...]:
        chunks: list[OutputChunk] = []
        size = place = 0
        while size < _OUTPUT_AT_ONCE:
            place, more = self._ledger.output(entry.number, place, ROWS_AT_ONCE)
            if not more:
                return tuple(chunks)
            chunks += more
            size += sum(len(chunk.text) for chunk in more)
        left_out = f"[the output is longer; all of it: scalercli logs {entry.row.task_id.hex()}]\n"
        return (*chunks, OutputChunk(True, left_out))
