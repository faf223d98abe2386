"""Queued tasks to workers with room, and back again where another worker is idle or another task more urgent
(TSK-05, TSK-12, PRI-11, SPEC section 6.4). ``placement`` and ``balancing`` choose; here it happens."""

from __future__ import annotations

from protocol.lifecycle import Event
from protocol.messages import StateBalanceAdvice
from reference_impl.scheduler.balancing import balance, make_room
from reference_impl.scheduler.lifecycle import Lifecycle
from reference_impl.scheduler.peers import Peers
from reference_impl.scheduler.records import TaskRecord
from reference_impl.scheduler.turn import Turn

_HAS_CAPACITY = Event.HAS_CAPACITY  # faster to look up


class Dispatch:
    """``period`` is that of balancing, in seconds; negative: nothing is ever taken back."""

    def __init__(self, turn: Turn, peers: Peers, lifecycle: Lifecycle, period: float) -> None:
        self._turn = turn
        self._peers = peers
        self._lifecycle = lifecycle
        self._queue = lifecycle.queue
        self._placement = peers.placement
        self._period = period
        self._next_balance = turn.now + period

    def fill(self) -> None:
        """Gives queued tasks to workers until no worker with room can take one."""
        lifecycle = self._lifecycle
        following, placement = self._queue.next, self._placement
        while (pair := following(placement)) is not None:
            lifecycle.happen(pair[0], _HAS_CAPACITY, pair[1].worker_id)
        if lifecycle.room_wanted:
            self._make_room()

    def tick(self) -> None:
        """Balances, if it is time."""
        if self._period >= 0 and self._turn.now >= self._next_balance:
            self._next_balance = self._turn.now + self._period
            self._balance()

    def _make_room(self) -> None:
        """Takes back tasks that wait in workers, for tasks of a higher priority that wait here (PRI-11)."""
        self._lifecycle.room_wanted = False
        if self._period >= 0:
            self._take_back(make_room(self._queue.above(), self._peers.workers.values()))

    def _balance(self) -> None:
        self._make_room()  # what has started meanwhile, or is taken back by now, changes what can be done
        self._take_back(balance(self._placement.idle(), list(self._peers.workers.values())))

    def _take_back(self, tasks: list[TaskRecord]) -> None:
        for task in tasks:
            assert task.worker is not None
            if self._turn.monitored:
                self._turn.publish(StateBalanceAdvice(task.worker.worker_id, (task.task_id,)))
            self._lifecycle.happen(task, Event.BALANCE, task.worker.worker_id)
