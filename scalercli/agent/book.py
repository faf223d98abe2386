"""Finds the tasks that a request is about: those that live, and those that only the ledger remembers."""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from protocol.control import Selection, ShownState, TaskRow
from scalercli.agent.ledger import Entry, Ledger, resumable
from scalercli.agent.tasks import Living, Refused, TaskClient
from scalercli.agent.watch import MonitorWatch
from scalercli.exits import ExitCode
from scalercli.records import INFERRED

logger = logging.getLogger(__name__)

MIN_PREFIX = 6
LOST_WITH_AGENT = "the session agent ended while it was not over"
_QUERY_SECONDS = 2.0
_SHOWN_MATCHES = 4
_HEX = frozenset("0123456789abcdefABCDEF")
_SHOWN = {
    "INACTIVE": ShownState.QUEUED,
    "RUNNING": ShownState.RUNNING,
    "CANCELING": ShownState.CANCELING,
    "BALANCE_CANCELING": ShownState.QUEUED,
}


class Book:
    """Every task of the session. ``living`` is the agent's to change."""

    def __init__(self, ledger: Ledger, client: TaskClient | None, post: Callable[[Callable[[], None]], None]) -> None:
        self.ledger = ledger
        self.living: dict[bytes, Living] = {}
        self.wire: dict[bytes, bytes] = {}  # of later attempts: what the scheduler knows a task by, to its id
        self._client = client
        self._post = post
        self._watch: MonitorWatch | None = None
        self._asking = concurrent.futures.ThreadPoolExecutor(1, "query") if client is not None else None

    def close(self) -> None:
        if self._asking is not None:
            self._asking.shutdown(cancel_futures=True)
        if self._watch is not None:
            self._watch.close()

    def observe(self, watch: MonitorWatch) -> None:
        """For a scheduler of which nothing is known: asks it once, and keeps the stream if it does not answer."""
        assert self._asking is not None and self._client is not None
        self._watch = watch
        asked = self._asking.submit(self._client.query, "version", timeout=_QUERY_SECONDS)
        asked.add_done_callback(lambda future: self._post(partial(self._probed, future)))

    def _probed(self, future: concurrent.futures.Future[Any]) -> None:
        if self._watch is None or future.cancelled():
            return
        if isinstance(future.exception(), TimeoutError):
            self._watch.needed = True
            logger.info("the scheduler does not answer status queries; its monitor stream: %s", self._watch.address)
        elif future.exception() is None:
            self._watch.close()
            self._watch = None

    def rebind(self, client: TaskClient) -> None:
        """The client of a new cluster."""
        self._client = client

    @property
    def watch(self) -> MonitorWatch | None:
        """Where states come from if the scheduler does not answer."""
        return self._watch if self._watch is not None and self._watch.needed else None

    def find(self, task_id: bytes) -> Entry | None:
        """The task with exactly this id."""
        living = self.living.get(task_id)
        return living.entry if living is not None else self.ledger.find(task_id)

    def select(self, selection: Selection) -> Iterator[Entry]:
        """The tasks of a selection; raises Refused at once for ids that can't be right. An id that nobody knows is a
        row in the state NOT_FOUND."""
        entries: Iterable[Entry]
        if not selection.all:
            entries = [self.resolve(text) for text in selection.ids]
        elif selection.living:
            entries = [living.entry for living in self.living.values()]
        else:
            entries = (self._current(entry) for entry in self.ledger.all())
        wanted = frozenset(selection.states)
        return (entry for entry in entries if not wanted or entry.row.state in wanted)

    def _current(self, entry: Entry) -> Entry:
        living = self.living.get(entry.row.task_id)
        if living is not None:
            return living.entry
        if not entry.row.state.over and not resumable(entry.row):  # its agent is gone, its books are not closed yet
            entry.row = entry.row._replace(state=ShownState.LOST, reason=LOST_WITH_AGENT)
        return entry

    def resolve(self, text: str) -> Entry:
        """The task with this id, prefix, or @last; raises Refused for what can't be one."""
        if text == "@last":
            last = self.ledger.last()
            return self._current(last) if last else _missing(text, b"", "nothing was submitted in this session yet")
        if not _HEX.issuperset(text) or not MIN_PREFIX <= len(text) <= 32:
            shown = text if len(text) <= 64 else f"{text[:64]}…"
            raise Refused(
                ExitCode.USAGE,
                f"{shown!r} is not a task id: 32 hex digits, a unique prefix of {MIN_PREFIX} or more, or @last",
                "scalercli status lists the tasks of this session",
            )
        if len(text) == 32:
            task_id = bytes.fromhex(text)
            entry = self.find(task_id)
            return self._current(entry) if entry else _missing(text, task_id, "")
        matching = self.ledger.matching(
            bytes.fromhex(text.ljust(32, "0")), bytes.fromhex(text.ljust(32, "f")), _SHOWN_MATCHES
        )
        if not matching:
            return _missing(text, b"", "no task of this session has an id that begins so")
        if len(matching) > 1:
            ids = " ".join(entry.row.task_id.hex() for entry in matching)
            raise Refused(ExitCode.USAGE, f"{text!r} is the beginning of several ids", f"one of {ids}")
        return self._current(matching[0])

    # ---- asking the scheduler ----

    def refresh(self, selection: Selection, then: Callable[[], None]) -> None:
        """Calls ``then``; where the selection wants it, when the states are what the scheduler says now."""
        ids = () if selection.all else tuple(text.lower() for text in selection.ids)
        living = (
            [
                task_id
                for task_id in self.living
                if not ids or any(task_id.hex().startswith(text) or text == "@last" for text in ids)
            ]
            if len(ids) <= 8
            else list(self.living)
        )
        if selection.fresh:
            self.look(living, then)
        else:
            then()

    def look(self, task_ids: list[bytes], then: Callable[[], None]) -> None:
        """Calls ``then`` when the states of these tasks are what the scheduler says now, as far as it does."""
        asked = [t for t in task_ids if t in self.living and self.living[t].future is not None]
        if not asked or self._asking is None:
            then()
            return
        if self.watch is not None:
            self._infer(asked)
            then()
            return
        wire_ids = tuple(self.living[t].wire_id for t in asked) if len(asked) <= 1000 else ()
        self.ask(partial(self._ask, wire_ids), lambda future: self._informed(future, asked, then))

    def ask(self, query: Callable[[], Any], then: Callable[[concurrent.futures.Future[Any]], None]) -> None:
        """Calls ``query``, which may block, in a thread of its own, and then ``then`` in the agent's."""
        assert self._asking is not None
        self._asking.submit(query).add_done_callback(lambda future: self._post(partial(then, future)))

    def _ask(self, task_ids: tuple[bytes, ...]) -> Any:
        from protocol.messages import TaskFilter

        assert self._client is not None
        if self.watch is not None:
            raise TimeoutError("it did not answer before")
        wanted: Any = task_ids
        return self._client.query("tasks", TaskFilter(wanted, own_only=True), timeout=_QUERY_SECONDS)

    def _infer(self, task_ids: list[bytes]) -> None:
        assert self._watch is not None
        for task_id in task_ids:
            living = self.living.get(task_id)
            if living is None or living.row.state is ShownState.CANCELING:
                continue
            seen = self._watch.observations.state(living.wire_id)
            if seen is not None:
                living.change(state=seen[0], worker=seen[1], reason=INFERRED)
            else:
                living.change(reason=f"not known: the scheduler does not answer, {self._watch.address} has not told")

    def _informed(self, future: concurrent.futures.Future[Any], asked: list[bytes], then: Callable[[], None]) -> None:
        if not future.cancelled() and future.exception() is None and future.result().variant == "tasks":
            for info in future.result().value.tasks:
                living = self.living.get(self.wire.get(info.task_id, info.task_id))
                if living is not None and living.future is not None:
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
            if self.watch is not None:
                self._infer(asked)
        then()


def _missing(text: str, task_id: bytes, reason: str) -> Entry:
    return Entry(0, TaskRow(task_id, wanted=text, state=ShownState.NOT_FOUND, reason=reason))
