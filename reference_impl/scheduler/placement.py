"""Which task is next, and which worker gets it (SPEC TSK-05, TSK-09, TSK-12, PRI-10).

By priority, then first in first out, to the least loaded worker that offers what the task requires. Tasks wait in one
queue per set of required names and priority, so that those which no worker can take stand in nobody's way; the common
case, a task that requires nothing and has priority 0, touches one queue and one list of workers, and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from heapq import merge

from protocol.lifecycle import State
from reference_impl.scheduler.records import NOTHING, DemandingTask, Names, TaskRecord, WorkerRecord

_COMPACT_ABOVE = 64
_INACTIVE = State.INACTIVE  # an attribute of an Enum is slow to look up

Lane = tuple[int, Names]
"""Of tasks with the same priority (negated: the least is the first) that require the same."""
_PLAIN: Lane = (0, NOTHING)


class Fifo:
    """Tasks of one lane. Taking one out of the middle costs nothing: its record just is not ``inactive`` any
    more when its turn comes; places of such records are cleared before they are the majority."""

    __slots__ = ("_left", "_tasks", "lane")

    def __init__(self, lane: Lane = _PLAIN) -> None:
        self.lane = lane
        self._tasks: deque[TaskRecord] = deque()
        self._left = 0  # records in _tasks that left the queue otherwise

    def __len__(self) -> int:
        return len(self._tasks) - self._left

    def __iter__(self) -> Iterator[TaskRecord]:
        return (task for task in self._tasks if task.state is _INACTIVE)

    def append(self, task: TaskRecord) -> None:
        self._tasks.append(task)

    def put_back(self, task: TaskRecord) -> None:
        """In front of those that were accepted after it (TSK-08)."""
        before: list[TaskRecord] = []
        while self._tasks and self._tasks[0].accepted_at < task.accepted_at:
            before.append(self._tasks.popleft())  # rare: it was put back before as well
        self._tasks.appendleft(task)
        self._tasks.extendleft(reversed(before))

    def leave(self) -> None:
        """A queued task has ended: its state says so already."""
        self._left += 1
        places = len(self._tasks)
        if self._left == places or (self._left > _COMPACT_ABOVE and 2 * self._left > places):
            self._tasks = deque(self)
            self._left = 0

    def first(self) -> TaskRecord:
        """The next task; IndexError if there is none."""
        while True:
            task = self._tasks[0]
            if task.state is _INACTIVE:
                return task
            self._tasks.popleft()
            self._left -= 1

    def take(self) -> TaskRecord:
        """The next task, out of the queue; IndexError if there is none."""
        while True:
            task = self._tasks.popleft()
            if task.state is _INACTIVE:
                if self._left and self._left == len(self._tasks):
                    self._tasks.clear()
                    self._left = 0
                return task
            self._left -= 1


class TaskQueue:
    """Tasks without a worker.

    Between two calls of ``next`` that return None no task waits that a worker with room could take. So only two things
    are worth a look: a queue that a task has joined, and a queue of whose workers one has room again. These are
    ``_try``; all other queues with requirements cost nothing, however many there are. (Queues of other priorities
    without requirements are always looked at: there are few.)"""

    def __init__(self) -> None:
        self._plain = Fifo()  # no requirements, priority 0
        self._demanding: dict[Lane, Fifo] = {}  # all others; none of them empty
        self._named: dict[str, dict[Lane, None]] = {}  # those with requirements, each under one of its names
        self._ranked: dict[Lane, None] = {}  # those without
        self._above: dict[Lane, Fifo] = {}  # those of a priority above 0, with or without
        self._try: dict[Lane, None] = {}

    def __len__(self) -> int:
        return len(self._plain) + sum(map(len, self._demanding.values()))

    def __iter__(self) -> Iterator[TaskRecord]:
        """By priority, then as they were accepted, also across queues."""
        if not self._demanding:
            return iter(self._plain)
        return merge(self._plain, *self._demanding.values(), key=_place)

    def above(self) -> Iterator[TaskRecord]:
        """Those of a priority above 0, in their order."""
        return merge(*self._above.values(), key=_place)

    def waiting(self) -> dict[Names, int]:
        """How many tasks wait, by what they require."""
        counts = {NOTHING: len(self._plain)} if len(self._plain) else {}
        for (_, needs), fifo in self._demanding.items():
            counts[needs] = counts.get(needs, 0) + len(fifo)
        return counts

    def append(self, task: TaskRecord) -> None:
        if isinstance(task, DemandingTask):
            self._joined(task).append(task)
        else:
            self._plain.append(task)

    def put_back(self, task: TaskRecord) -> None:
        """In front of those that were accepted after it: it has waited before."""
        (self._joined(task) if isinstance(task, DemandingTask) else self._plain).put_back(task)

    def _joined(self, task: DemandingTask) -> Fifo:
        lane = _lane(task)
        fifo = self._demanding.get(lane)
        if fifo is None:
            fifo = self._demanding[lane] = Fifo(lane)
            group = self._named.setdefault(min(task.needs), {}) if task.needs else self._ranked
            group[lane] = None
            if lane[0] < 0:
                self._above[lane] = fifo
        task.needs = fifo.lane[1]  # type: ignore[misc] # one set for all of them
        if task.needs:
            self._try[fifo.lane] = None
        return fifo

    def leave(self, task: TaskRecord) -> None:
        """A queued task has ended: its state says so already. Its place may stay for a while, but not its message."""
        task.frame = b""
        if not isinstance(task, DemandingTask):
            self._plain.leave()
            return
        fifo = self._demanding[_lane(task)]
        fifo.leave()
        self._drop_if_empty(fifo)

    def _drop_if_empty(self, fifo: Fifo) -> None:
        if len(fifo):
            return
        lane = fifo.lane
        del self._demanding[lane]
        self._above.pop(lane, None)
        if not lane[1]:
            del self._ranked[lane]
            return
        self._try.pop(lane, None)
        name = min(lane[1])
        del self._named[name][lane]
        if not self._named[name]:
            del self._named[name]

    def next(self, placement: Placement) -> tuple[TaskRecord, WorkerRecord] | None:
        """The task of the highest priority that was accepted first, of those that a worker with room can take, out of
        the queue, and that worker; None if there is none."""
        if self._demanding:
            return self._next_of_all(placement)
        worker = placement.least_loaded()
        if worker is None or not len(self._plain):
            return None
        return self._plain.take(), worker

    def _next_of_all(self, placement: Placement) -> tuple[TaskRecord, WorkerRecord] | None:
        for offers in placement.take_opened():
            for name in offers:
                self._try.update((lane, None) for lane in self._named.get(name, ()) if lane[1] <= offers)
        best = None
        fifo = self._plain
        worker = placement.least_loaded()
        if worker is not None:
            if self._ranked:
                lane = min(self._ranked)
                if lane < _PLAIN or not len(fifo):
                    fifo = self._demanding[lane]
            if len(fifo):
                best = fifo.first(), worker
        for lane in list(self._try):
            worker = placement.least_loaded(lane[1])
            if worker is None:
                del self._try[lane]
                continue
            task = self._demanding[lane].first()
            if best is None or _place(task) < _place(best[0]):
                best, fifo = (task, worker), self._demanding[lane]
        if best is not None:
            fifo.take()
            if fifo is not self._plain:
                self._drop_if_empty(fifo)
        return best


def _lane(task: TaskRecord) -> Lane:
    return -task.priority, task.needs


def _place(task: TaskRecord) -> tuple[int, float]:
    return -task.priority, task.accepted_at


class Pool:
    """Workers that have room, by how many tasks they hold. All operations take constant time. (The first one of a plain
    dict does not: it is looked for behind the places of all that were first before.)"""

    __slots__ = ("_by_load", "_lowest", "workers")

    def __init__(self) -> None:
        self.workers = 0  # also those without room
        self._by_load: list[OrderedDict[bytes, WorkerRecord]] = [OrderedDict()]
        self._lowest = 0

    def update(self, worker: WorkerRecord, before: int | None) -> None:
        by_load = self._by_load
        if before is None:
            self.workers += 1
        elif before < len(by_load):
            by_load[before].pop(worker.worker_id, None)
        load = len(worker.held)
        if load < worker.queue_size:
            while len(by_load) <= load:
                by_load.append(OrderedDict())
            by_load[load][worker.worker_id] = worker
            if load < self._lowest:
                self._lowest = load

    def remove(self, worker: WorkerRecord) -> None:
        self.workers -= 1
        if not self.workers:
            self._by_load, self._lowest = [OrderedDict()], 0
        else:
            self.close(worker)

    def close(self, worker: WorkerRecord) -> None:
        """It has no room any more, whatever it holds."""
        if len(worker.held) < len(self._by_load):
            self._by_load[len(worker.held)].pop(worker.worker_id, None)

    def least_loaded(self) -> WorkerRecord | None:
        while self._lowest < len(self._by_load):
            bucket = self._by_load[self._lowest]
            if bucket:
                return next(iter(bucket.values()))
            self._lowest += 1
        self._lowest = len(self._by_load) - 1
        return None

    def idle(self) -> list[WorkerRecord]:
        return list(self._by_load[0].values())

    def order(self) -> tuple[tuple[bytes, ...], ...]:
        """Who is next, among equals too."""
        return tuple([tuple(bucket) for bucket in self._by_load])


class Placement:
    """All workers with room, and those that offer something also by the set of names that they offer."""

    def __init__(self) -> None:
        self._all = Pool()
        self._offering: dict[Names, Pool] = {}
        self._naming: dict[str, dict[Names, None]] = {}  # name to the sets in _offering that have it
        self._opened: set[Names] = set()

    def update(self, worker: WorkerRecord, before: int | None) -> None:
        """The worker held ``before`` tasks (None: it is new) and holds ``len(worker.held)`` now."""
        self._all.update(worker, before)
        if worker.offers:
            self._update_offering(worker, before)

    def _update_offering(self, worker: WorkerRecord, before: int | None) -> None:
        pool = self._offering.get(worker.offers)
        if pool is None:
            pool = self._offering[worker.offers] = Pool()
            for name in worker.offers:
                self._naming.setdefault(name, {})[worker.offers] = None
        pool.update(worker, before)
        if len(worker.held) < worker.queue_size and (before is None or before >= worker.queue_size):
            self._opened.add(worker.offers)

    def close(self, worker: WorkerRecord) -> None:
        """It has no room from now on: its ``queue_size`` will be 0."""
        self._all.close(worker)
        if worker.offers:
            self._offering[worker.offers].close(worker)

    def remove(self, worker: WorkerRecord) -> None:
        self._all.remove(worker)
        if not worker.offers:
            return
        pool = self._offering[worker.offers]
        pool.remove(worker)
        if not pool.workers:
            del self._offering[worker.offers]
            self._opened.discard(worker.offers)
            for name in worker.offers:
                del self._naming[name][worker.offers]
                if not self._naming[name]:
                    del self._naming[name]

    def take_opened(self) -> set[Names]:
        """What workers offer of which one was full, or not there, and has had room since this was last asked."""
        opened, self._opened = self._opened, set()
        return opened

    def least_loaded(self, needs: Names = NOTHING) -> WorkerRecord | None:
        """The worker with room that offers all of ``needs`` and holds the fewest tasks, None if there is none; among
        equals the one that has been at that load the longest."""
        if not needs:
            return self._all.least_loaded()
        best: WorkerRecord | None = None
        for offers in self._candidates(needs):
            worker = self._offering[offers].least_loaded() if needs <= offers else None
            if worker is not None and (best is None or len(worker.held) < len(best.held)):
                best = worker
        return best

    def _candidates(self, needs: Names) -> dict[Names, None]:
        """The sets that have the rarest of the names."""
        fewest: dict[Names, None] | None = None
        for name in needs:
            having = self._naming.get(name)
            if having is None:
                return {}
            if fewest is None or len(having) < len(fewest):
                fewest = having
        return fewest or {}

    def idle(self) -> list[WorkerRecord]:
        """The workers that hold nothing."""
        return self._all.idle()

    def order(self) -> tuple[object, ...]:
        """Two placements with the same order choose the same workers from now on."""
        return self._all.order(), tuple([(offers, pool.order()) for offers, pool in self._offering.items()])
