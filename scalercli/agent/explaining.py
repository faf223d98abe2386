"""Collects what is known of one task: from the ledger, the agent, the scheduler, or else the monitor stream.

What it means is said by the command ``explain``; here are only facts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any

from protocol.control import Event, Explanation, ShownState, TaskRow
from scalercli.agent.book import Book
from scalercli.agent.ledger import Entry, Ledger
from scalercli.agent.results import raised
from scalercli.agent.tasks import Connection, Living, Refused, TaskClient
from scalercli.exits import ExitCode

logger = logging.getLogger(__name__)

_SECONDS = 2.0


class Explainer:
    """Answers ``explain`` requests."""

    def __init__(self, ledger: Ledger, book: Book, client: TaskClient | None) -> None:
        self._ledger = ledger
        self._book = book
        self.client = client

    def explain(self, connection: Connection, number: int, text: str) -> None:
        """Answers now, or when the scheduler has told. Raises Refused for an id that is none, or is nobody's."""
        entry = self._book.resolve(text)
        row = entry.row
        if row.state is ShownState.NOT_FOUND:
            why = f": {row.reason}" if row.reason else " in this session"
            raise Refused(ExitCode.NOT_FOUND, f"there is no task {text}{why}", "scalercli status lists the tasks")
        living = self._book.living.get(row.task_id)
        if living is None or self.client is None:
            _reply(connection, number, self._facts(entry, living)._replace(source="ledger"))
            return
        if living.future is None:
            self._book.look(sorted(living.waits_for), partial(self._held_back, connection, number, living))
            return
        self._book.look([row.task_id], partial(self._looked, connection, number, living))

    def _held_back(self, connection: Connection, number: int, living: Living) -> None:
        _reply(connection, number, self._facts(living.entry, living)._replace(source="agent"))

    def _looked(self, connection: Connection, number: int, living: Living) -> None:
        facts = self._facts(living.entry, living)
        watch = self._book.watch
        if watch is not None:
            observed = watch.observations
            known = observed.workers is not None
            _reply(
                connection,
                number,
                facts._replace(
                    source="monitor",
                    worker=living.row.worker,
                    held_before=observed.before(living.wire_id),
                    workers=observed.workers or 0,
                    workers_known=known,
                    fitting=observed.workers or 0,
                ),
            )
            return
        self._book.ask(partial(self._ask, living.wire_id), partial(self._told, connection, number, living))

    def _ask(self, wire_id: bytes) -> tuple[Any, Any, Any]:
        from protocol.messages import TaskFilter

        assert self.client is not None
        wanted: Any = (wire_id,)
        return (
            self.client.query("tasks", TaskFilter(wanted, own_only=True), timeout=_SECONDS),
            self.client.query("workers", timeout=_SECONDS),
            self.client.query("story", wire_id, timeout=_SECONDS),
        )

    def _told(self, connection: Connection, number: int, living: Living, future: Future[Any]) -> None:
        facts = self._facts(living.entry, living)._replace(source="agent")
        if not future.cancelled() and future.exception() is None:
            tasks, workers, story = future.result()
            if tasks.variant == "tasks" and workers.variant == "workers":
                facts = _with_answer(facts, tasks.value.tasks, workers.value)
            if story.variant == "story":  # not every scheduler that answers knows this query
                facts = facts._replace(history=_merged(facts.history, story.value.events))
        else:
            logger.info("the scheduler did not say how task %s is: %s", living.row.task_id.hex(), future)
        _reply(connection, number, facts)

    def _facts(self, entry: Entry, living: Living | None) -> Explanation:
        row = entry.row
        fault = ""
        payload = self._ledger.payload(entry.number) if row.state is ShownState.FAILED else None
        if payload:
            what = raised(payload)
            fault = what.name if what is not None else ""
        history = self._ledger.events(entry.number)
        if living is None:
            return Explanation(row, history=history, fault=fault)
        waits_for = [self._book.find(task_id) for task_id in sorted(living.waits_for)]
        rows: tuple[TaskRow, ...] = tuple(other.row for other in waits_for if other is not None)
        return Explanation(row, history=history, waits_for=rows, force=living.force)


def _with_answer(facts: Explanation, tasks: Any, workers: Any) -> Explanation:
    facts = facts._replace(
        source="scheduler",
        workers=len(workers),
        workers_known=True,
        slots=sum(worker.queue_size for worker in workers),
        held=sum(worker.held for worker in workers),
    )
    for info in tasks:
        facts = facts._replace(
            scheduler_state=_spelled(info.state.name),
            worker=info.worker.decode("ascii", "backslashreplace"),
            held_before=info.held_before,
            lost_workers=info.lost_workers,
            lacking=info.missing,
            fitting=info.offering,
            with_room=info.with_room,
            managers=info.managers_offering,
        )
    return facts


def _merged(noted: tuple[Event, ...], told: Iterable[Any]) -> tuple[Event, ...]:
    """What the agent has noted and what the scheduler tells, oldest first."""
    now = time.time()
    events = [*noted]
    for event in told:
        worker = f", worker {event.worker.decode('ascii', 'backslashreplace')}" if event.worker else ""
        text = f"scheduler: {event.event or 'accepted'}{worker}{f' ({event.detail})' if event.detail else ''}"
        events.append(Event(now - event.ago_milliseconds / 1000, text))
    return tuple(sorted(events, key=lambda event: event.at))


def _spelled(name: str) -> str:
    first, *rest = name.lower().split("_")
    return first + "".join(word.capitalize() for word in rest)


def _reply(connection: Connection, number: int, facts: Explanation) -> None:
    connection.send(number, "explanation", facts)
    connection.send(number, "done")
