"""Mutants of the scheduler: what it makes of priorities (SPEC section 5.8)."""

from __future__ import annotations

from typing import Any

from conformance_tests.mutants.model import Mutants, Patcher
from reference_impl.scheduler import dispatch, lifecycle, placement
from reference_impl.scheduler.dispatch import Dispatch

mutant = MUTANTS = Mutants("scheduler")


@mutant("PRI-10", "the scheduler ignores priorities")
def priorities_ignored(p: Patcher) -> None:
    p.set(lifecycle, "_priority", lambda metadata: 0)


@mutant("PRI-10", "the lowest priority is sent first")
def lowest_first(p: Patcher) -> None:
    before = lifecycle.__dict__["_priority"]
    p.set(lifecycle, "_priority", lambda metadata: -before(metadata))


@mutant("PRI-10", "among equals the newest is sent first")
def newest_of_a_priority_first(p: Patcher) -> None:
    def take(self: placement.Fifo) -> Any:
        if self.lane[0] and len(self._tasks) > 1:
            self._tasks.rotate(1)
        return before(self)

    before = placement.Fifo.take
    p.set(placement.Fifo, "take", take)
    p.set(placement.Fifo, "first", lambda self: self._tasks[-1 if self.lane[0] else 0])


@mutant("PRI-11", "a full worker keeps what it holds, whatever waits")
def no_room_is_made(p: Patcher) -> None:
    p.set(dispatch, "make_room", lambda waiting, workers: [])


@mutant("PRI-11", "tasks of the same priority are taken back, too")
def equals_are_taken_back(p: Patcher) -> None:
    def make(waiting: Any, workers: Any) -> Any:
        urgent = list(waiting)
        for task in urgent:
            task.priority += 1
        try:
            return before(iter(urgent), workers)
        finally:
            for task in urgent:
                task.priority -= 1

    before = dispatch.__dict__["make_room"]
    p.set(dispatch, "make_room", make)


@mutant("PRI-11", "what was refused is asked for again and again")
def refusals_are_forgotten(p: Patcher) -> None:
    def make_room(self: Dispatch) -> None:
        for worker in self._peers.workers.values():
            worker.refused.clear()
        before(self)

    before = Dispatch._make_room
    p.set(Dispatch, "_make_room", make_room)
