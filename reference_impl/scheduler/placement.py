"""Which task is next, and which worker gets it (SPEC TSK-05): first in first out, to the least loaded worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from protocol.lifecycle import State
from reference_impl.scheduler.records import TaskRecord, WorkerRecord

_COMPACT_ABOVE = 64


class TaskQueue:
    """Tasks without a worker. Taking one out of the middle costs nothing: its record just is not ``inactive`` any more
    when its turn comes; places of such records are cleared before they are the majority."""

    def __init__(self) -> None:
        self._tasks: deque[TaskRecord] = deque()
        self._left = 0  # records in _tasks that left the queue otherwise

    def __len__(self) -> int:
        return len(self._tasks) - self._left

    def __iter__(self) -> Iterator[TaskRecord]:
        return (task for task in self._tasks if task.state is State.INACTIVE)

    def append(self, task: TaskRecord) -> None:
        self._tasks.append(task)

    def put_back(self, task: TaskRecord) -> None:
        """In front of all others: it has waited before."""
        self._tasks.appendleft(task)

    def leave(self) -> None:
        """A queued task has ended: its state says so already."""
        self._left += 1
        if self._left > _COMPACT_ABOVE and 2 * self._left > len(self._tasks):
            self._tasks = deque(self)
            self._left = 0

    def take(self) -> TaskRecord:
        """The next task, out of the queue; IndexError if there is none."""
        while True:
            task = self._tasks.popleft()
            if task.state is State.INACTIVE:
                return task
            self._left -= 1


class Placement:
    """The workers that have room, by how many tasks they hold. All operations take constant time."""

    def __init__(self) -> None:
        self._by_load: list[dict[bytes, WorkerRecord]] = [{}]
        self._lowest = 0

    def update(self, worker: WorkerRecord, before: int | None) -> None:
        """The worker held ``before`` tasks (None: it is new) and holds ``len(worker.held)`` now."""
        if before is not None:
            self._discard(worker, before)
        load = len(worker.held)
        if load < worker.queue_size:
            while len(self._by_load) <= load:
                self._by_load.append({})
            self._by_load[load][worker.worker_id] = worker
            self._lowest = min(self._lowest, load)

    def remove(self, worker: WorkerRecord) -> None:
        self._discard(worker, len(worker.held))

    def _discard(self, worker: WorkerRecord, load: int) -> None:
        if load < len(self._by_load):
            self._by_load[load].pop(worker.worker_id, None)

    def least_loaded(self) -> WorkerRecord | None:
        """The worker with room that holds the fewest tasks, None if all are full; among equals the one that has been
        at that load the longest."""
        while self._lowest < len(self._by_load):
            bucket = self._by_load[self._lowest]
            if bucket:
                return next(iter(bucket.values()))
            self._lowest += 1
        self._lowest = len(self._by_load) - 1
        return None

    def idle(self) -> list[WorkerRecord]:
        """The workers that hold nothing."""
        return list(self._by_load[0].values())


def balance(idle: list[WorkerRecord], workers: list[WorkerRecord]) -> list[TaskRecord]:
    """The tasks to take back from busy workers for idle ones (SPEC BAL-01): the newest of the most loaded first,
    never the oldest of a worker (it is probably running), and only as many as level the loads."""
    if not idle:
        return []
    held = {w.worker_id: list(w.held.values()) for w in workers}
    coming = sum(t.state is State.BALANCE_CANCELING for tasks in held.values() for t in tasks)
    planned = {w.worker_id: (coming + i) // len(idle) for i, w in enumerate(idle)}  # what earlier rounds took back
    movable = {worker: [t for t in tasks[1:] if t.state is State.RUNNING] for worker, tasks in held.items()}
    loads = {
        worker: sum(t.state is not State.BALANCE_CANCELING for t in tasks)
        for worker, tasks in held.items()
        if movable[worker]
    }
    taken: list[TaskRecord] = []
    for _ in range(sum(map(len, movable.values()))):
        donor = max(loads, key=loads.__getitem__, default=None)
        receiver = min(planned, key=planned.__getitem__)
        if donor is None or loads[donor] - planned[receiver] < 2:
            break
        taken.append(movable[donor].pop())
        loads[donor] -= 1
        planned[receiver] += 1
        if not movable[donor]:
            del loads[donor]
    return taken
