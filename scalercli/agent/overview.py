"""What ``top`` shows: the cluster as the scheduler's monitor stream reports it each second, and the session's tasks.

The stream is subscribed to while somebody looks, and a little longer. Where no report comes, the scheduler is asked;
what that does not tell is left out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from protocol.control import AgentInfo, Overview, StateCount, WorkerView
from scalercli.agent.book import Book
from scalercli.agent.ledger import Ledger
from scalercli.agent.tasks import Connection, TaskClient
from scalercli.agent.watch import Subscription

_PATIENCE_SECONDS = 1.5  # for the first report: one comes each second
_IDLE_SECONDS = 10.0
_STALE_SECONDS = 5.0
_QUERY_SECONDS = 2.0
_RECENT = 20
_MOST_ASKED = 1000  # tasks whose state is asked for at each look; of more, only that of the last ones


class Overviews:
    """Answers ``overview`` requests."""

    def __init__(
        self,
        ledger: Ledger,
        book: Book,
        info: Callable[[], AgentInfo],
        later: Callable[[float, Callable[[], None]], None],
        subscribe: Callable[[Callable[[Any], None]], Subscription] | None,
        finished: Callable[[], int],
    ) -> None:
        """``subscribe(report)`` calls ``report`` with each StateScheduler; None: there is no stream."""
        self._ledger = ledger
        self._book = book
        self._info = info
        self._later = later
        self._subscribe = subscribe
        self._finished = finished
        self._subscription: Subscription | None = None
        self._report: Any = None
        self._report_at = self._wanted_at = self._reported_clock = 0.0
        self._waiting: list[tuple[Connection, int]] = []
        self.client: TaskClient | None = None

    def show(self, connection: Connection, number: int) -> None:
        """Answers when the scheduler has told how the session's tasks are, and the first report has come."""
        living = list(self._book.living)
        self._book.look(
            living if len(living) <= _MOST_ASKED else living[-_RECENT:], partial(self._show, connection, number)
        )

    def _show(self, connection: Connection, number: int) -> None:
        self._wanted_at = time.monotonic()
        if self._subscription is None and self._subscribe is not None:
            self._subscription = self._subscribe(self._reported)
            self._later(_IDLE_SECONDS, self._leave)
        if self._report is not None and time.monotonic() - self._report_at < _STALE_SECONDS:
            self._answer(connection, number)
        elif self._subscription is not None:
            self._waiting.append((connection, number))
            self._later(_PATIENCE_SECONDS, partial(self._give_up, connection, number))
        else:
            self._query(connection, number)

    def close(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = self._report = None

    def _leave(self) -> None:
        left = self._wanted_at + _IDLE_SECONDS - time.monotonic()
        if left > 0:
            self._later(left, self._leave)
        else:
            self.close()

    def _reported(self, report: Any) -> None:
        self._report, self._report_at, self._reported_clock = report, time.monotonic(), time.time()
        waiting, self._waiting = self._waiting, []
        for connection, number in waiting:
            self._answer(connection, number)

    def _give_up(self, connection: Connection, number: int) -> None:
        if (connection, number) in self._waiting:
            self._waiting.remove((connection, number))
            self._query(connection, number)

    def _query(self, connection: Connection, number: int) -> None:
        if self.client is None:
            self._answer(connection, number)
            return
        client = self.client
        self._book.ask(lambda: client.query("workers", timeout=_QUERY_SECONDS), partial(self._told, connection, number))

    def _told(self, connection: Connection, number: int, future: Future[Any]) -> None:
        overview = self._base()
        if not future.cancelled() and future.exception() is None and future.result().variant == "workers":
            overview = overview._replace(
                source="scheduler", reported_at=time.time(), workers=tuple(map(_of_info, future.result().value))
            )
        connection.send(number, "overview", overview)
        connection.send(number, "done")

    def _answer(self, connection: Connection, number: int) -> None:
        connection.send(number, "overview", self._from_report() if self._report is not None else self._base())
        connection.send(number, "done")

    def _base(self) -> Overview:
        states = Counter(living.row.state.label for living in self._book.living.values())
        recent = []
        for entry in self._ledger.newest(_RECENT):
            living = self._book.living.get(entry.row.task_id)
            recent.append(living.row if living is not None else entry.row)
        return Overview(
            self._info(),
            at=time.time(),
            session_states=tuple(StateCount(name, count) for name, count in sorted(states.items())),
            finished=self._finished(),
            recent=tuple(recent),
        )

    def _from_report(self) -> Overview:
        from protocol.messages import TaskState

        report = self._report
        storage = report.object_manager.storage
        names = {int(state): _spelled(state.name) for state in TaskState}
        return self._base()._replace(
            source="monitor",
            reported_at=self._reported_clock,
            workers=tuple(map(_of_status, report.worker_manager.workers)),
            states=tuple(
                StateCount(names[pair.state], pair.count)
                for pair in report.task_manager.state_to_count
                if pair.state in names
            ),
            scheduler_cpu=report.scheduler.cpu / 1000,
            scheduler_rss=report.scheduler.rss,
            clients=len(report.client_manager.clients),
            objects=report.object_manager.number_of_objects,
            object_bytes=storage.total_bytes,
        )


def _spelled(name: str) -> str:
    first, *rest = name.lower().split("_")
    return first + "".join(word.capitalize() for word in rest)


def _of_status(worker: Any) -> WorkerView:
    resources = [worker.agent, *(processor.resource for processor in worker.processor_statuses)]
    return WorkerView(
        worker.worker_id.decode("ascii", "backslashreplace"),
        worker.hostname,
        slots=worker.free + worker.sent,
        held=worker.sent,
        queued=worker.queued,
        rss=sum(resource.rss for resource in resources),
        cpu=sum(resource.cpu for resource in resources) / 1000,
        last_seen_seconds=float(worker.last_seen_seconds),
        suspended=worker.suspended,
    )


def _of_info(worker: Any) -> WorkerView:
    return WorkerView(
        worker.worker_id.decode("ascii", "backslashreplace"),
        worker.hostname,
        slots=worker.queue_size,
        held=worker.held,
        queued=worker.queued,
        last_seen_seconds=worker.last_seen_milliseconds / 1000,
        capabilities=tuple(sorted(capability.name for capability in worker.capabilities)),
        suspended=len(worker.suspended),
    )
