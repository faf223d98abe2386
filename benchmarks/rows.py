"""What is measured. A ``Measurement`` runs one round of one candidate and gives the values of some rows; ``ROWS`` says
what each row is, and what is aimed at, as a ratio to opengris-scaler 2.9.0 in the same run."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

from benchmarks.candidates import Candidate, CandidateFailed, Driver, Roles
from benchmarks.handmade import HandMade, NoAnswer, cpu_seconds, hand_made, memory
from protocol.identifiers import TaskId
from reference_impl.cluster import ClusterFailed

WORKERS = 2
_MIB = 1 << 20


@dataclass(frozen=True)
class Row:
    """``aim`` is the ratio to reach; ``limit``, where given, what the value must not exceed; ``unlike`` are candidates
    that do something else for this, so that no ratio means anything."""

    key: str
    title: str
    unit: str
    higher_is_better: bool = False
    aim: float = 1.0
    limit: float | None = None
    unlike: tuple[str, ...] = ()

    def ratio(self, ours: float, other: float) -> float:
        """How many times better ours is; 1 if both are 0."""
        above, below = (ours, other) if self.higher_is_better else (other, ours)
        return above / below if below > 0 else 1.0 if above == below else float("inf")


ROWS = {
    row.key: row
    for row in (
        Row("map", "empty tasks, one map through 2 workers", "tasks/s", True, 15),
        Row("client-cpu", "CPU of the client per task of that map", "µs", aim=5),
        Row("trip-p50", "round trip of one task, p50", "ms", aim=6),
        Row("trip-p99", "round trip of one task, p99", "ms", limit=3),
        Row("cancel-running", "cancel of a running task, p50", "ms", aim=100, limit=30, unlike=("dask",)),
        Row("cancel-queued", "cancel of a queued task among many, p50", "ms", aim=10),
        Row("memory", "memory of the scheduler per queued task", "bytes", limit=600),
        Row("accept", "tasks accepted into the queue", "tasks/s", True),
        Row("scheduler", "scheduler alone, hand-made peers", "tasks/s", True, 12),
        Row("scheduler-cpu", "CPU of the scheduler per task", "µs"),
        Row("argument", "64 MiB argument", "MB/s", True),
        Row("result", "64 MiB result", "MB/s", True),
        Row("shared", "tasks that share one 8 MiB argument", "tasks/s", True),
        Row("start", "embedded cluster, start to first result", "s", limit=0.5),
        Row("idle", "CPU of a cluster that has nothing to do", "%"),
    )
}


@dataclass(frozen=True)
class Sizes:
    """How much each round does."""

    map: int = 5000
    trips: int = 200
    cancels: int = 5
    queued: int = 100_000
    queued_cancels: int = 300
    queued_cancels_peer: int = 50  # each takes it some 20 ms
    alone: int = 20_000
    alone_peer: int = 5000
    large: int = 64 * _MIB
    shared: int = 500
    shared_size: int = 8 * _MIB
    idle_seconds: float = 2.0


NORMAL = Sizes()
FULL = Sizes(shared=10_000, trips=1000, cancels=20)
QUICK = Sizes(200, 20, 2, 1000, 50, 50, 1000, 500, _MIB, 10, _MIB, 0.3)

Values = dict[str, float]


# ---- with a cluster and a client ----


def _map(driver: Driver, roles: Roles, candidate: Candidate, sizes: Sizes) -> Values:
    answer = driver.do("map", count=sizes.map)
    return {"map": sizes.map / answer["elapsed"], "client-cpu": answer["cpu"] / sizes.map * 1e6}


def _trips(driver: Driver, roles: Roles, candidate: Candidate, sizes: Sizes) -> Values:
    trips = sorted(driver.do("trips", count=sizes.trips)["trips"])
    return {"trip-p50": 1e3 * statistics.median(trips), "trip-p99": 1e3 * trips[int(0.99 * len(trips))]}


def _cancels(driver: Driver, roles: Roles, candidate: Candidate, sizes: Sizes) -> Values:
    count = min(2, sizes.cancels) if candidate.key == "peer" else sizes.cancels
    return {"cancel-running": 1e3 * statistics.median(driver.do("cancels", count=count)["cancels"])}


def _move(driver: Driver, roles: Roles, candidate: Candidate, sizes: Sizes) -> Values:
    answer = driver.do("move", size=sizes.large)
    return {name: sizes.large / answer[name] / 1e6 for name in ("argument", "result")}


def _shared(driver: Driver, roles: Roles, candidate: Candidate, sizes: Sizes) -> Values:
    return {"shared": sizes.shared / driver.do("share", count=sizes.shared, size=sizes.shared_size)["elapsed"]}


def _idle(driver: Driver, roles: Roles, candidate: Candidate, sizes: Sizes) -> Values:
    before, start = sum(map(cpu_seconds, roles.processes.values())), time.perf_counter()
    time.sleep(sizes.idle_seconds)
    spent = sum(map(cpu_seconds, roles.processes.values())) - before
    return {"idle": 100 * spent / (time.perf_counter() - start)}


# ---- with a scheduler alone ----


def _alone(candidate: Candidate, sizes: Sizes) -> Values:
    count = sizes.alone_peer if candidate.key == "peer" else sizes.alone
    with candidate.roles(0) as roles, hand_made(roles.address, WORKERS) as peers:
        peers.run(count // 10)
        before = cpu_seconds(roles.processes["scheduler"])
        elapsed = peers.run(count)
        spent = cpu_seconds(roles.processes["scheduler"]) - before
    return {"scheduler": count / elapsed, "scheduler-cpu": spent / count * 1e6}


def _fill(roles: Roles, peers: HandMade, count: int) -> tuple[list[TaskId], Values]:
    """The ids of ``count`` queued tasks, and what it took to accept and to keep them."""
    peers.queue(count // 50)  # what is there once, whatever the number of tasks
    before = memory(roles.processes["scheduler"])
    ids, elapsed = peers.queue(count)
    grown = memory(roles.processes["scheduler"]) - before
    return ids, {"memory": grown / count, "accept": count / elapsed}


def _queued(candidate: Candidate, sizes: Sizes) -> Values:
    with candidate.roles(0) as roles, hand_made(roles.address, 0) as peers:
        ids, values = _fill(roles, peers, sizes.queued)
        cancels = peers.cancel(ids[:: sizes.queued // sizes.queued_cancels][: sizes.queued_cancels])
    return {"cancel-queued": 1e3 * statistics.median(cancels), **values}


def _queued_once(candidate: Candidate, sizes: Sizes, clusters: Clusters) -> Values:
    """The same for a candidate that needs a minute to accept so many: each round cancels others of the same tasks."""
    queue = clusters.queue_of(candidate, sizes.queued)
    cancels = queue.peers.cancel(queue.take(sizes.queued_cancels_peer))
    values, queue.values = queue.values, {}
    return {"cancel-queued": 1e3 * statistics.median(cancels), **values}


def _bare_trips(candidate: Candidate, sizes: Sizes) -> Values:
    with candidate.roles(0) as roles, hand_made(roles.address, 1) as peers:
        peers.trips(20)
        trips = sorted(peers.trips(sizes.trips))
    return {"trip-p50": 1e3 * statistics.median(trips), "trip-p99": 1e3 * trips[int(0.99 * len(trips))]}


def _bare_cancels(candidate: Candidate, sizes: Sizes) -> Values:
    with candidate.roles(0) as roles, hand_made(roles.address, 0) as peers:
        ids = [TaskId(os.urandom(16)) for _ in range(sizes.queued_cancels)]
        return {"cancel-queued": 1e3 * statistics.median(peers.cancel(ids))}


def _start(candidate: Candidate, sizes: Sizes) -> Values:
    return {"start": candidate.start_seconds(WORKERS)}


@dataclass(frozen=True)
class Measurement:
    """One round of one candidate gives a value for each of ``rows``. Either ``driven`` by a client of a cluster that
    runs through all rounds, or ``alone``, which starts what it needs."""

    rows: tuple[str, ...]
    candidates: tuple[str, ...]
    driven: Callable[[Driver, Roles, Candidate, Sizes], Values] | None = None
    alone: Callable[[Candidate, Sizes], Values] | None = None
    bare: Callable[[Candidate, Sizes], Values] | None = None  # instead, for bare pyzmq
    peer: Callable[[Candidate, Sizes, Clusters], Values] | None = None  # instead, for opengris-scaler


_ALL = ("ours", "peer", "dask", "pool")
_CLUSTERS = ("ours", "peer", "dask")
_SCHEDULERS = ("ours", "peer")
MEASUREMENTS = (
    Measurement(("map", "client-cpu"), _ALL, _map),
    Measurement(("trip-p50", "trip-p99"), (*_ALL, "bare"), _trips, bare=_bare_trips),
    Measurement(("cancel-running",), _CLUSTERS, _cancels),
    Measurement(("argument", "result"), _ALL, _move),
    Measurement(("shared",), _CLUSTERS, _shared),
    Measurement(("idle",), _CLUSTERS, _idle),
    Measurement(
        ("cancel-queued", "memory", "accept"),
        (*_SCHEDULERS, "bare"),
        alone=_queued,
        bare=_bare_cancels,
        peer=_queued_once,
    ),
    Measurement(("scheduler", "scheduler-cpu"), (*_SCHEDULERS, "bare"), alone=_alone),
    Measurement(("start",), _ALL, alone=_start),
)


class Queue:
    """A scheduler with many queued tasks. ``values`` say what it took to fill it."""

    def __init__(self, roles: Roles, peers: HandMade, count: int) -> None:
        self.peers = peers
        ids, self.values = _fill(roles, peers, count)
        self._ids = random.Random(0).sample(ids, len(ids))

    def take(self, count: int) -> list[TaskId]:
        """Tasks from anywhere in the queue, others each time."""
        taken, self._ids = self._ids[:count], self._ids[count:]
        return taken


class Clusters:
    """What measurements keep running through their rounds: each is started when it is first needed, and kept until
    ``stop``."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._running: dict[str, tuple[Roles, Driver]] = {}
        self._queues: dict[str, Queue] = {}

    def __enter__(self) -> Clusters:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends them all."""
        self._running.clear()
        self._queues.clear()
        self._stack.close()

    def of(self, candidate: Candidate) -> tuple[Roles, Driver]:
        """Raises CandidateFailed."""
        if candidate.key not in self._running:
            roles = self._stack.enter_context(candidate.roles(WORKERS))
            self._running[candidate.key] = roles, self._stack.enter_context(candidate.client(roles, WORKERS))
        return self._running[candidate.key]

    def queue_of(self, candidate: Candidate, count: int) -> Queue:
        """A scheduler of its own. Raises CandidateFailed, NoAnswer."""
        if candidate.key not in self._queues:
            roles = self._stack.enter_context(candidate.roles(0))
            peers = self._stack.enter_context(hand_made(roles.address, 0))
            self._queues[candidate.key] = Queue(roles, peers, count)
        return self._queues[candidate.key]


def one_round(measurement: Measurement, candidate: Candidate, sizes: Sizes, clusters: Clusters) -> Values:
    """Raises CandidateFailed."""
    try:
        if candidate.key == "peer" and measurement.peer is not None:
            return measurement.peer(candidate, sizes, clusters)
        alone = measurement.bare if candidate.key == "bare" and measurement.bare else measurement.alone
        if alone is None:
            assert measurement.driven is not None
            roles, driver = clusters.of(candidate)
            return measurement.driven(driver, roles, candidate, sizes)
        return alone(candidate, sizes)
    except (NoAnswer, ClusterFailed, OSError) as error:
        raise CandidateFailed(str(error)) from None
