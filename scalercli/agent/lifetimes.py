"""The life of each task in the session: it waits for others, is handed over, perhaps more than once, and ends.

Each attempt is a task of its own to the scheduler, with an id of its own (SPEC IDN-06); people see one task.
Everything here runs on the agent's thread; what the client's threads report is posted to it.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from protocol.control import MAX_PAYLOAD_BYTES, CancelOutcome, CancelResult, ShownState, TaskKind
from protocol.payloads import TaskMetadata
from scalercli import durations
from scalercli.agent.book import Book
from scalercli.agent.ledger import Entry, Ledger, Work, now
from scalercli.agent.limits import Limits
from scalercli.agent.results import command_exit_code, processor_died
from scalercli.agent.tasks import Canceling, Connection, Follower, Living, TaskClient

logger = logging.getLogger(__name__)

ROOM = 100_000
"""Tasks that may be open before the next batch is accepted with delay."""

RETRIED = "it is submitted again"
DEPENDENCY = "dependency "
"""How the reason of a task begins that ended because one of its --after did not succeed."""
_RESUMED = "the session agent or its cluster had ended"


class Lifetimes:
    """The tasks of a session that are not over, and the requests that wait for them."""

    def __init__(
        self,
        ledger: Ledger,
        client: TaskClient | None,
        book: Book,
        post: Callable[[Callable[[], None]], None],
        later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._ledger = ledger
        self._client = client
        self._book = book
        self._living = book.living
        self._post = post
        self._limits = Limits(later, book.look, self._expired)
        self._followers: dict[bytes, list[Follower]] = {}
        self._dependents: dict[bytes, list[Living]] = {}
        self._over: deque[Living] = deque()
        self._releasing = False
        self.stranded: dict[bytes, Living] = {}  # they are submitted again when there is a cluster again
        self.finished = 0  # how many have ended
        self._wanting_room: deque[Callable[[], None]] = deque()
        self.broken = ""  # why no task can be run any more
        self.ending = False

    # ---- from the beginning ----

    def admit(self, entry: Entry, work: Work, dependencies: Iterable[Entry]) -> Living:
        """A new task: handed over, unless it waits for others or they have ended badly."""
        living = self._living[entry.row.task_id] = Living(entry, work)
        self._wait_for(living, dependencies)
        return living

    def withdraw(self, new: Iterable[Living]) -> None:
        """These were admitted and are not to start: they never were."""
        for living in new:
            del self._living[living.row.task_id]
            self._followers.pop(living.row.task_id, None)
            for task_id in living.waits_for:
                others = [other for other in self._dependents.pop(task_id) if other is not living]
                if others:
                    self._dependents[task_id] = others

    def start(self, living: Living, dependencies: Iterable[Entry]) -> None:
        """Hands an admitted task over, if nothing keeps it back."""
        failed = self._failed_dependency(living, dependencies)
        if failed is not None:
            self.end(living, ShownState.CANCELED, failed)
        elif not living.waits_for:
            self._launch(living)

    def when_there_is_room(self, call: Callable[[], None]) -> None:
        """Calls it now, or when not too many tasks are open: who sends without end is slowed down to what ends."""
        if len(self._living) < ROOM:
            call()
        else:
            self._wanting_room.append(call)

    def follow(self, task_id: bytes, follower: Follower) -> None:
        self._followers.setdefault(task_id, []).append(follower)

    def drop(self, connection: Connection) -> None:
        """A command has left."""
        for task_id in [t for t, followers in self._followers.items() if any(f.of(connection) for f in followers)]:
            staying = [f for f in self._followers[task_id] if not f.of(connection)]
            if staying:
                self._followers[task_id] = staying
            else:
                del self._followers[task_id]

    def restore(self, entries: list[Entry]) -> None:
        """Takes up what an earlier agent has left: see ``Ledger.close_books``."""
        for entry in entries:
            work = self._ledger.work(entry.number)
            living = self._living[entry.row.task_id] = Living(entry, work or Work(b"", "", ()))
            if work is None:
                self.end(living, ShownState.LOST, f"{_RESUMED}, and what was submitted was too big to be kept")
        there = [living for living in self._living.values() if living.future is None]
        waiting = [living for living in there if living.row.state is ShownState.WAITING]
        for living in waiting:
            self._wait_for(living, self._dependencies(living))
        for living in there:
            if living.row.task_id not in self._living:
                continue
            if living.row.state is ShownState.WAITING:
                self.start(living, self._dependencies(living))
            else:
                self._repeat(living, _RESUMED)

    def rebind(self, client: TaskClient) -> None:
        """There is a cluster again: hands over what was stranded."""
        self._client = client
        self.broken = ""
        stranded, self.stranded = list(self.stranded.values()), {}
        for living in stranded:
            self._repeat(living, living.row.reason)
        for living in list(self._living.values()):
            if living.row.state is ShownState.WAITING and not living.waits_for:
                self._launch(living)

    @property
    def kept(self) -> int:
        """How many tasks do not need this cluster: they wait, or are to be submitted again."""
        return sum(living.future is None for living in self._living.values())

    # ---- waiting for others ----

    def _dependencies(self, living: Living) -> list[Entry]:
        options = living.row.options
        found = (self._book.find(bytes.fromhex(text)) for text in (*options.after, *options.after_any))
        return [entry for entry in found if entry is not None]  # those that the ledger has forgotten ended long ago

    def _wait_for(self, living: Living, dependencies: Iterable[Entry]) -> None:
        for entry in dependencies:
            task_id = entry.row.task_id
            if task_id in self._living and task_id not in living.waits_for:
                living.waits_for.add(task_id)
                self._dependents.setdefault(task_id, []).append(living)

    @staticmethod
    def _failed_dependency(living: Living, dependencies: Iterable[Entry]) -> str | None:
        wanted = set(living.row.options.after)
        for entry in dependencies:
            row = entry.row
            if row.task_id.hex() in wanted and row.state.over and row.state is not ShownState.SUCCESS:
                return _dependency(entry)
        return None

    def _release(self, ended: Living) -> None:
        """What waited for it goes on, or ends. One after the other: chains may be long."""
        self._over.append(ended)
        if self._releasing:
            return
        self._releasing = True
        try:
            while self._over:
                one = self._over.popleft()
                task_id = one.row.task_id
                for living in self._dependents.pop(task_id, ()):
                    living.waits_for.discard(task_id)
                    if living.row.task_id not in self._living:
                        continue
                    if task_id.hex() in living.row.options.after and one.row.state is not ShownState.SUCCESS:
                        self.end(living, ShownState.CANCELED, _dependency(one.entry))
                    elif not living.waits_for and not self.ending and not self.broken:
                        self._launch(living)
        finally:
            self._releasing = False

    # ---- handing over, again and again ----

    def _launch(self, living: Living) -> None:
        row = living.row
        if row.state is ShownState.WAITING:
            living.change(state=ShownState.PENDING, reason="", attempt=1)
            self._ledger.change(living.entry.number, ShownState.PENDING)
        options, work = row.options, living.work
        repeated = living.row.attempt > 1
        if repeated:
            self._book.wire.pop(living.wire_id, None)
            living.wire_id = os.urandom(16)
            self._book.wire[living.wire_id] = row.task_id
        more: dict[str, Any] = {}
        if options.capabilities:
            more["capabilities"] = {capability.name: capability.value for capability in options.capabilities}
        living.launched_at = time.monotonic()
        living.seen_running_at = None
        try:
            assert self._client is not None
            living.future = self._client.submit_pickled(
                work.function,
                work.arguments,
                task_id=living.wire_id,
                metadata=TaskMetadata(True, options.priority, True) if options.priority else _STREAMED,
                raw=True,
                name=work.name,
                on_log=partial(self._on_log_of, row.task_id) if repeated else self._on_log,
                **more,
            )
        except (ConnectionError, RuntimeError) as error:
            self.broken = str(error)
            self.end(living, ShownState.LOST, f"it was not sent: {error}")
            return
        if not options.retries:
            living.work = _NOTHING
        living.future.add_done_callback(partial(self._on_done, living))
        if options.timeout_seconds:
            self._limits.watch(living)

    def _again(self, living: Living, state: ShownState, reason: str) -> bool:
        """Whether another attempt takes the place of this end."""
        row = living.row
        if row.attempt > row.options.retries or state not in row.options.retry_on or self.ending or living.cancels:
            return False
        if living.future is None and not self.broken:
            return False  # it was never handed over
        why = f"{state.label}{f': {reason}' if reason else ''}"
        self._limits.forget(living)
        living.future = None
        living.listening = living.timed_out = False
        if self.broken:
            living.change(state=ShownState.PENDING, reason=why, worker="", queue_position=0)
            self.stranded[row.task_id] = living
        else:
            self._repeat(living, why)
        return True

    def _repeat(self, living: Living, why: str) -> None:
        attempt = living.row.attempt
        reason = f"attempt {attempt}: {why}; {RETRIED}"
        logger.info("task %s: %s", living.row.task_id.hex(), reason)
        self._ledger.note(living.entry.number, now(), reason)
        self._ledger.change(living.entry.number, ShownState.PENDING, reason=reason, attempt=attempt + 1)
        living.change(state=ShownState.PENDING, reason=reason, attempt=attempt + 1, worker="", queue_position=0)
        self._launch(living)

    def _expired(self, living: Living) -> None:
        """Its time is over."""
        if living.future is None or living.row.task_id not in self._living or living.future.done():
            return
        limit = durations.show(living.row.options.timeout_seconds)
        self._ledger.note(living.entry.number, now(), f"its time limit of {limit} was over; it was canceled with force")
        living.timed_out = True
        self.request_cancel(living, force=True)

    # ---- canceling ----

    def cancel(self, living: Living, force: bool, canceling: Canceling | None) -> None:
        """Cancels a task for a command; ``canceling`` gets the answer, if it wants one."""
        task_id = living.row.task_id
        if living.future is None:  # it is not with the scheduler
            self.stranded.pop(task_id, None)
            self.end(living, ShownState.CANCELED, "it was canceled before it was handed over")
            if canceling is not None:
                canceling.answered(CancelResult(task_id, CancelOutcome.CANCELED, ShownState.CANCELED))
            return
        if canceling is not None:
            living.cancels.append((canceling, time.monotonic()))
        self._ledger.note(living.entry.number, now(), f"its cancel was requested{'' if force else ', without force'}")
        self.request_cancel(living, force=force)

    def request_cancel(self, living: Living, *, force: bool) -> None:
        living.change(state=ShownState.CANCELING)
        living.force = living.force or force
        if not living.listening:
            living.listening = True
            living.future.add_cancel_callback(partial(self._on_answer, living))
        living.future.request_cancel(force=force)

    # ---- what the client reports, from its own threads ----

    def _on_done(self, living: Living, future: Any) -> None:
        self._post(partial(self.done, living, future))

    def _on_log(self, task_id: bytes, log_type: int, text: str) -> None:
        self._post(partial(self._logged, task_id, int(log_type) == 1, text))

    def _on_log_of(self, task_id: bytes, wire_id: bytes, log_type: int, text: str) -> None:
        self._on_log(task_id, log_type, text)

    def _on_answer(self, living: Living, future: Any, answer: Any) -> None:
        self._post(partial(self._answered, living, future, answer.name, time.monotonic()))

    # ---- the same, on the agent's thread ----

    def done(self, living: Living, future: Any) -> None:
        if living.row.task_id not in self._living or living.future is not future:
            return
        if future.cancelled():
            self.end(living, ShownState.CANCELED)
            if future.cancel_answer is None:  # its end was quicker than our request: no answer will come
                self._answered(living, future, "RESULT", time.monotonic())
            return
        error = future.exception()
        if error is not None:
            if isinstance(error, ConnectionError):
                self.broken = str(error)
            self.end(living, ShownState.LOST, str(error) or type(error).__name__)
            return
        raw = future.result()
        if len(raw.payload) > MAX_PAYLOAD_BYTES:
            reason = f"it ended, but its result is too big to be kept: {len(raw.payload)} bytes"
            self.end(living, ShownState.LOST, reason)
            return
        facts: dict[str, Any] = {"payload": raw.payload}
        if raw.metadata is not None:
            facts["seconds"] = raw.metadata.seconds
            facts["peak_bytes"] = raw.metadata.peak_bytes
        if raw.type.name == "FAILED_WORKER_DIED":
            self.end(living, ShownState.WORKER_DIED, "too many workers were lost while they held it")
        elif raw.type.name == "FAILED":
            died = processor_died(raw.payload)
            self.end(living, ShownState.WORKER_DIED if died else ShownState.FAILED, died, **facts)
        elif living.row.kind is TaskKind.COMMAND:
            code = command_exit_code(raw.payload)
            state = ShownState.SUCCESS if code == 0 else ShownState.FAILED
            self.end(living, state, exit_code=code, **facts)
        else:
            self.end(living, ShownState.SUCCESS, **facts)

    def end(
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
        """The task is over, unless it is tried once more."""
        if living.timed_out and state is ShownState.CANCELED:
            state = ShownState.TIMED_OUT
            reason = f"it ran longer than {durations.show(living.row.options.timeout_seconds)} and was canceled"
        if self._again(living, state, reason):
            return
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
        self.finished += 1
        del self._living[task_id]
        if living.row.attempt > 1:
            self._book.wire.pop(living.wire_id, None)
        if living.row.options.timeout_seconds:
            self._limits.forget(living)
        followers = self._followers.pop(task_id, ())
        if followers and payload is not None and len(payload) <= _SMALL_BYTES:
            living.entry.payload = payload
        for follower in followers:
            follower.waiting.discard(task_id)
            follower.ended.append(living.entry)
        if living.future is None or state is ShownState.LOST:  # no answer to a cancel will come
            cancels, living.cancels = living.cancels, []
            for canceling, _ in cancels:
                canceling.answered(CancelResult(task_id, CancelOutcome.ALREADY_DONE, state, reason))
        if self._dependents:
            self._release(living)
        if self._wanting_room and len(self._living) < ROOM:
            self._wanting_room.popleft()()

    def end_all(self, reason: str, *, lost: bool = False) -> None:
        """The end of the session: what is not over is canceled, because the client is about to leave. Or ``lost``:
        the end of its cluster, which those outlive that wait or may be submitted again."""
        self.ending = not lost
        for living in list(self._living.values()):
            if living.row.task_id in self._living and not (lost and living.future is None):
                self.end(living, ShownState.LOST if lost else ShownState.CANCELED, reason)

    def _logged(self, task_id: bytes, stderr: bool, text: str) -> None:
        living = self._living.get(task_id)
        if living is not None:
            self._ledger.add_output(living.entry.number, stderr, text)

    def _answered(self, living: Living, future: Any, answer: str, at: float) -> None:
        task_id = living.row.task_id
        current = task_id in self._living and living.future is future
        if answer == "CANCELED":
            outcome, reason = CancelOutcome.CANCELED, ""
        elif answer == "FAILED":
            outcome, reason = CancelOutcome.REFUSED, "it runs on"
            if current:
                over = "its time was over, but " if living.timed_out else ""
                self._ledger.note(living.entry.number, now(), f"{over}the worker refused to cancel it; it runs on")
                living.timed_out = living.force = False
                living.change(state=ShownState.RUNNING)
        else:
            outcome, reason = CancelOutcome.ALREADY_DONE, "it had ended before the cancel reached it; no result is kept"
        if current and outcome is not CancelOutcome.REFUSED:
            self.end(living, ShownState.CANCELED, reason)
        elif reason and living.future is future and living.row.state is ShownState.CANCELED:
            living.change(reason=reason)  # the future was quicker than the reason
            self._ledger.end(living.entry.number, ShownState.CANCELED, ended=living.row.ended_at, reason=reason)
        cancels, living.cancels = living.cancels, []
        for canceling, since in cancels:
            canceling.answered(CancelResult(task_id, outcome, living.row.state, reason, 1000 * (at - since)))

    def refused(self, wire_id: bytes) -> None:
        """The stream says that a worker refused a cancel; a scheduler that answers nothing may not pass that on."""
        living = self._living.get(self._book.wire.get(wire_id, wire_id))
        if living is not None and living.row.state is ShownState.CANCELING and self._client is not None:
            self._client.cancel_refused(wire_id)


def _dependency(entry: Entry) -> str:
    return f"{DEPENDENCY}{entry.row.task_id.hex()} {_HOW.get(entry.row.state, entry.row.state.label)}"


_HOW = {
    ShownState.CANCELED: "was canceled",
    ShownState.LOST: "is lost",
    ShownState.WORKER_DIED: "was lost with its worker",
    ShownState.TIMED_OUT: "timed out",
}
_SMALL_BYTES = 1 << 16  # a result up to this goes to who waits for it without being read from the ledger again
_NOTHING = Work(b"", "", ())
_STREAMED = TaskMetadata(stream_output=True)
