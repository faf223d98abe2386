"""Whether a task costs the same among many: the scheduler's core, without sockets, with queues of growing length and
more and more workers.

For each length of the queue: CPU of accepting a task, of canceling a queued one, of a result and the dispatch that
follows it. For each number of workers: CPU of a task's whole life (accepted, dispatched, answered) and of a
heartbeat. Then a cancel through the sockets of a real scheduler.

The cost of a cancel has two levels: below some 10,000 tasks all that it touches is in the cache of the processor, above
it is not (record, two dictionary entries, the freed frame: some 15 cache misses). It is the same for 100,000 and for
1,000,000, and tasks that were accepted one after the other are canceled as fast as few ("neighbours"). Rounds of all
sizes alternate; reported are the median, best and worst round, and how far the medians of the sizes are apart.
``python -m benchmarks.growth [--quick] [--full] [--rounds N] [--jsonl FILE]``
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.handmade import cpu_seconds, hand_made
from protocol import codec
from protocol.envelope import Envelope
from protocol.identifiers import ClientId, TaskId, WorkerId, new_client_id, new_object_id
from protocol.messages import (
    Argument,
    ArgumentType,
    ClientHeartbeat,
    Kind,
    ObjectStorageAddress,
    Task,
    TaskCancel,
    TaskCancelFlags,
    TaskResult,
    TaskResultType,
    WorkerHeartbeat,
)
from protocol.payloads import TaskMetadata
from reference_impl.cluster import EmbeddedCluster
from reference_impl.scheduler.core import SchedulerCore
from reference_impl.scheduler.instructions import Instruction, Send
from reference_impl.scheduler.settings import Settings

QUEUED = (1_000, 10_000, 100_000, 1_000_000)
WORKERS = (2, 20, 200, 2_000)
SERVED = (200, 10_000, 100_000)
_SAMPLE = 1_000  # messages whose time is taken
_PER_WORKER = 4
_BATCH = 1_000

Costs = dict[str, float]
"""Microseconds of CPU per message, by what was done."""


class Simulation:
    """A core, one client, and workers that are asked to answer."""

    def __init__(self) -> None:
        self.now = 0.0
        self.core = SchedulerCore(Settings(ObjectStorageAddress("127.0.0.1", 1), load_balance=-1), self.now)
        self.client: ClientId = new_client_id()
        self._function = new_object_id(self.client)
        self._metadata = TaskMetadata().to_bytes()
        self._tell(self.client, [codec.encode(ClientHeartbeat())])

    def frames(self, count: int) -> list[bytes]:
        return [
            codec.encode(
                Task(
                    TaskId(os.urandom(16)),
                    self.client,
                    self._metadata,
                    self._function,
                    (Argument(ArgumentType.OBJECT_ID, new_object_id(self.client)),),
                )
            )
            for _ in range(count)
        ]

    def _tell(self, sender: bytes, frames: Iterable[bytes]) -> tuple[float, list[Instruction]]:
        """CPU seconds of the core for these, decoding included, and what it said."""
        receive, parse, now = self.core.receive, Envelope.parse, self.now
        out: list[Instruction] = []
        begin = time.process_time()
        for frame in frames:
            out += receive(sender, parse(frame), now)
        return time.process_time() - begin, out

    def submit(self, frames: list[bytes]) -> tuple[float, list[Instruction]]:
        return self._tell(self.client, frames)

    def queue(self, count: int) -> float:
        """Fills the queue up to ``count``; CPU seconds of one of the last tasks."""
        left = count - len(self.core.queue)
        while left > _SAMPLE:
            batch = min(_BATCH, left - _SAMPLE)
            self.submit(self.frames(batch))
            left -= batch
        return self.submit(self.frames(left))[0] / left if left else 0.0

    def cancel(self, ids: list[TaskId]) -> float:
        """CPU seconds of the cancel of a queued task."""
        frames = [codec.encode(TaskCancel(task_id, TaskCancelFlags(True))) for task_id in ids]
        spent, out = self._tell(self.client, frames)
        assert len(out) == len(ids)
        return spent / len(ids)

    def register(self, count: int, queue_size: int) -> list[WorkerId]:
        beat = codec.encode(WorkerHeartbeat(queue_size=queue_size))
        workers = [WorkerId(b"Worker|growth|%032x" % i) for i in range(count)]
        for worker in workers:
            self._tell(worker, [beat])
        return workers

    def answer(self, holding: deque[tuple[bytes, TaskId]], count: int) -> float:
        """CPU seconds of a result and the dispatch of the next task; workers answer what they got first."""
        spent = 0.0
        for _ in range(count):
            worker, task_id = holding.popleft()
            result = codec.encode(TaskResult(task_id, TaskResultType.SUCCESS, b"", (new_object_id(self.client),)))
            more, out = self._tell(worker, [result])
            spent += more
            holding.extend(tasks_sent(out))
        return spent / count


def tasks_sent(out: list[Instruction]) -> list[tuple[bytes, TaskId]]:
    sends = [instruction for instruction in out if isinstance(instruction, Send)]
    return [(send.to, send.envelope.task_id) for send in sends if send.envelope.kind is Kind.TASK]


def with_queue(count: int) -> Costs:
    """Among ``count`` queued tasks."""
    one = Simulation()
    accepting = one.queue(count)
    step = max(
        2, count // _SAMPLE
    )  # a list of them all would be one more thing for the garbage collector to go through
    canceling = one.cancel(list(islice(one.core.tasks, step // 2, None, step)))
    neighbours = one.cancel(list(islice(one.core.tasks, count // 5, count // 5 + min(_SAMPLE, count // 5))))
    one.queue(count)
    one.register(1, 1)
    (worker,) = one.core.workers.values()
    holding: deque[tuple[bytes, TaskId]] = deque((worker.worker_id, task_id) for task_id in worker.held)
    answering = one.answer(holding, min(_SAMPLE, count // 2))
    return {
        "accept": 1e6 * accepting,
        "cancel": 1e6 * canceling,
        "cancel, neighbours": 1e6 * neighbours,
        "result, dispatch": 1e6 * answering,
    }


def with_workers(count: int) -> Costs:
    """With ``count`` workers, each of which always has something to do."""
    one = Simulation()
    workers = one.register(count, _PER_WORKER)
    holding = deque(tasks_sent(one.submit(one.frames(count * _PER_WORKER))[1]))
    one.answer(holding, min(_SAMPLE, len(holding)))
    tasks = 2 * _SAMPLE
    frames = one.frames(tasks)
    spent = 0.0
    for first in range(0, tasks, _BATCH):
        more, out = one.submit(frames[first : first + _BATCH])
        spent += more
        holding.extend(tasks_sent(out))
        spent += _BATCH * one.answer(holding, _BATCH)
    beat = codec.encode(WorkerHeartbeat(queue_size=_PER_WORKER))
    beats = [workers[i % count] for i in range(_SAMPLE)]
    begin = time.process_time()
    for worker in beats:
        one._tell(worker, [beat])
    return {"life of a task": 1e6 * spent / tasks, "heartbeat": 1e6 * (time.process_time() - begin) / _SAMPLE}


def with_server(count: int) -> Costs:
    """With a process and its sockets: the cancel of one of ``count`` queued tasks as a client has it (wall time), and
    the CPU of accepting one more task (in steps of 10 ms, over 20,000 tasks)."""
    with (
        tempfile.TemporaryDirectory() as logs,
        EmbeddedCluster.start(0, Path(logs)) as cluster,
        hand_made(cluster.scheduler_address, 0) as peers,
    ):
        ids, _ = peers.queue(count)
        times = peers.cancel(ids[:: max(1, count // 200)][:200])
        before = cpu_seconds(cluster.processes["scheduler"])
        peers.queue(20 * _SAMPLE)
        accepting = (cpu_seconds(cluster.processes["scheduler"]) - before) / (20 * _SAMPLE)
    return {"cancel, round trip": 1e6 * statistics.median(times), "accept, CPU": 1e6 * accepting}


def measure(of: Callable[[int], Costs], sizes: tuple[int, ...], rounds: int) -> dict[str, dict[int, list[float]]]:
    """By what was done, by size: one value per round."""
    curves: dict[str, dict[int, list[float]]] = {}
    for number in range(-1, rounds):
        for size in sizes:
            if number < 0 and size > 10_000:
                continue  # the first round only warms up
            gc.collect()
            costs = of(size)
            if number >= 0:
                for what, cost in costs.items():
                    curves.setdefault(what, {}).setdefault(size, []).append(cost)
    return curves


def apart(curve: dict[int, list[float]]) -> float:
    """How much more than the cheapest the dearest size costs, both in their median round."""
    middles = [statistics.median(values) for values in curve.values()]
    return max(middles) / min(middles) - 1


def table(title: str, unit: str, sizes: tuple[int, ...], curves: dict[str, dict[int, list[float]]]) -> Table:
    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    result.add_column("µs")
    for size in sizes:
        result.add_column(f"{size:,} {unit}", justify="right", no_wrap=True)
    result.add_column("apart", justify="right")
    for what, curve in curves.items():
        cells = [f"{statistics.median(v):.1f} [dim]({min(v):.1f} … {max(v):.1f})[/dim]" for v in curve.values()]
        result.add_row(what, *cells, f"{apart(curve):.0%}")
    return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.growth", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of each size (default 5)")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: that it works")
    parser.add_argument("--full", action="store_true", help="a million tasks in the scheduler's process, too")
    parser.add_argument("--jsonl", type=Path, metavar="FILE", help="write what was measured")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    rounds = 1 if options.quick else options.rounds
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    records = []
    work: tuple[tuple[str, str, Callable[[int], Costs], tuple[int, ...]], ...] = (
        ("CPU of one message among many queued tasks", "queued", with_queue, QUEUED),
        ("CPU of one message among many workers", "workers", with_workers, WORKERS),
        ("The scheduler's process among many queued tasks", "queued", with_server, QUEUED if options.full else SERVED),
    )
    for title, unit, of, sizes in work:
        sizes = sizes[:2] if options.quick else sizes
        curves = measure(of, sizes, rounds)
        console.print(table(title, unit, sizes, curves))
        records += [{"what": what, unit: curve, "apart": apart(curve)} for what, curve in curves.items()]
    if options.jsonl:
        options.jsonl.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
