"""Which tasks to take back from workers: for idle ones (SPEC section 6.4), and for tasks of a higher priority that have
no place (PRI-11)."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapreplace
from itertools import islice

from protocol.lifecycle import State
from reference_impl.scheduler.records import Names, TaskRecord, WorkerRecord


class _Receivers:
    """The idle workers that offer the same, by how many tasks they are about to get, and what could be moved there."""

    def __init__(self, offers: Names) -> None:
        self.offers = offers
        self.expecting: list[int] = []  # a heap
        self.movable: dict[WorkerRecord, list[TaskRecord]] = {}  # the newest last

    def expect(self) -> None:
        heapreplace(self.expecting, self.expecting[0] + 1)


def balance(idle: list[WorkerRecord], workers: list[WorkerRecord]) -> list[TaskRecord]:
    """The tasks to take back: the newest of the most loaded worker first (BAL-06), only for an idle worker that offers
    what the task requires, and only as many as level the loads. Never the oldest of a worker, which is probably
    running, nor one that was refused before (BAL-07)."""
    groups: dict[Names, _Receivers] = {}
    for worker in idle:
        groups.setdefault(worker.offers, _Receivers(worker.offers)).expecting.append(0)
    loads: dict[WorkerRecord, int] = {}
    for worker in workers if groups else ():
        tasks = list(worker.held.values())
        coming = [task for task in tasks if task.state is State.BALANCE_CANCELING]
        for task in coming:  # earlier rounds took it back: it will go to one of these
            group = min(_fitting(groups, task), key=lambda g: g.expecting[0], default=None)
            if group is not None:
                group.expect()
        loads[worker] = len(tasks) - len(coming)
        free = [t for t in tasks[1:] if t.state is State.RUNNING and t.task_id not in worker.refused]
        for group in groups.values():
            fitting = [task for task in free if task.needs <= group.offers]
            if fitting:
                group.movable[worker] = fitting
    taken: dict[TaskRecord, None] = {}
    while groups:
        best = max(groups.values(), key=lambda g: _gain(g, loads))
        if _gain(best, loads) < 2:
            break
        donor = max(best.movable, key=loads.__getitem__)
        task = best.movable[donor].pop()
        if not best.movable[donor]:
            del best.movable[donor]
        if task not in taken:
            taken[task] = None
            loads[donor] -= 1
            best.expect()
    return list(taken)


_AT_ONCE = 64
"""For so many waiting tasks room is made at a time."""


def make_room(waiting: Iterable[TaskRecord], workers: Iterable[WorkerRecord]) -> list[TaskRecord]:
    """The tasks to take back for ``waiting`` ones of a higher priority, which come in their order and for none of which
    there is room: for each of them one of the lowest priority, the newest of those, that may not have started yet. What
    a worker refused before, and what runs there by its last heartbeat, has."""
    wanted = list(islice(waiting, _AT_ONCE))
    if not wanted:
        return []
    coming: list[WorkerRecord] = []
    movable: list[tuple[int, float, WorkerRecord, TaskRecord]] = []
    for worker in workers:
        started = {bytes(status.current_task_id) for status in worker.heartbeat.processors}
        for task in reversed(worker.held.values()):
            if task.state is State.BALANCE_CANCELING:
                coming.append(worker)
            elif task.state is State.RUNNING and not (task.task_id in worker.refused or task.task_id in started):
                movable.append((task.priority, -task.accepted_at, worker, task))
    movable.sort(key=lambda entry: entry[:2])
    taken: list[TaskRecord] = []
    for urgent in wanted:
        place = next((worker for worker in coming if urgent.needs <= worker.offers), None)
        if place is not None:
            coming.remove(place)
            continue
        for index, (priority, _, worker, task) in enumerate(movable):
            if priority >= urgent.priority:
                break
            if urgent.needs <= worker.offers:
                taken.append(task)
                del movable[index]
                break
    return taken


def _fitting(groups: dict[Names, _Receivers], task: TaskRecord) -> list[_Receivers]:
    return [group for group in groups.values() if task.needs <= group.offers]


def _gain(group: _Receivers, loads: dict[WorkerRecord, int]) -> int:
    """By how much the most loaded worker that it can relieve exceeds its least loaded one."""
    return max([loads[worker] for worker in group.movable], default=0) - group.expecting[0]
