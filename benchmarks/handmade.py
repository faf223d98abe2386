"""Hand-made peers of a scheduler alone: one client and some workers, in this process, with frames made before the clock
runs. A worker answers a Task at once, so that what is measured is the scheduler (and what pyzmq needs)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import zmq

from protocol import codec
from protocol.envelope import Envelope
from protocol.identifiers import ClientId, TaskId, new_client_id, new_object_id, new_worker_id
from protocol.messages import (
    Argument,
    ArgumentType,
    ClientHeartbeat,
    Kind,
    Task,
    TaskCancel,
    TaskCancelConfirmType,
    TaskCancelFlags,
    TaskResult,
    TaskResultType,
    WorkerHeartbeat,
)
from protocol.payloads import TaskMetadata

_QUEUE_SIZE = 1000
_CANCELED = (
    (Kind.TASK_CANCEL_CONFIRM, int(TaskCancelConfirmType.CANCELED)),
    (Kind.TASK_CANCEL, 1),  # of a bare router: what it was sent
)
_PATIENCE_SECONDS = 120
_BEAT_SECONDS = 5.0


class NoAnswer(Exception):
    """The scheduler did not answer."""


class HandMade:
    """One client and ``workers`` workers that have registered. Raises NoAnswer, also in its methods."""

    def __init__(self, address: str, workers: int) -> None:
        self._context = zmq.Context()
        self.client_id = new_client_id()
        self._client = self._dealer(self.client_id, address)
        self._workers = [self._dealer(new_worker_id(f"bench-{i}"), address) for i in range(workers)]
        self._client_beat = codec.encode(ClientHeartbeat())
        self._worker_beat = codec.encode(WorkerHeartbeat(queue_size=_QUEUE_SIZE))
        self._function = new_object_id(self.client_id)
        self._metadata = TaskMetadata().to_bytes()
        self._result = _ResultFrames(self.client_id)
        for worker in self._workers:
            worker.send(self._worker_beat)
            self._receive(worker)
        self.barrier()

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _dealer(self, identity: bytes, address: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, identity)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.connect(address)
        return socket

    def _receive(self, socket: zmq.Socket[bytes]) -> bytes:
        if not socket.poll(1000 * _PATIENCE_SECONDS):
            raise NoAnswer(f"no answer of the scheduler for {_PATIENCE_SECONDS} s")
        return socket.recv()

    def barrier(self) -> None:
        """Returns when the scheduler has handled all that the client has said."""
        self._client.send(self._client_beat)
        self._receive(self._client)

    def _frames(self, count: int) -> tuple[list[TaskId], list[bytes]]:
        """Tasks of a function and one argument, as frames."""
        ids = [TaskId(os.urandom(16)) for _ in range(count)]
        frames = []
        for task_id in ids:
            argument = Argument(ArgumentType.OBJECT_ID, new_object_id(self.client_id))
            task = Task(task_id, ClientId(self.client_id), self._metadata, self._function, (argument,))
            frames.append(codec.encode(task))
        return ids, frames

    def run(self, count: int) -> float:
        """Seconds that ``count`` tasks take, submitted all at once."""
        ids, frames = self._frames(count)
        poller = zmq.Poller()
        for socket in (self._client, *self._workers):
            poller.register(socket, zmq.POLLIN)
        results: list[bytes] = []
        deadline = time.monotonic() + _PATIENCE_SECONDS
        start = time.perf_counter()
        for frame in frames:
            self._client.send(frame)
        next_beat = time.monotonic() + _BEAT_SECONDS
        while len(results) < count:
            ready = dict(poller.poll(1000))
            for worker in self._workers:
                if worker in ready:
                    for frame in _drain(worker):
                        envelope = Envelope.parse(frame)
                        if envelope.kind is Kind.TASK:
                            worker.send(self._result.frame(envelope.task_id))
            if self._client in ready:
                results += _drain(self._client)
            now = time.monotonic()
            if now > deadline:
                raise NoAnswer(f"{len(results)} of {count} results in {_PATIENCE_SECONDS} s")
            if now > next_beat:
                next_beat = now + _BEAT_SECONDS
                for worker in self._workers:
                    worker.send(self._worker_beat)
        elapsed = time.perf_counter() - start
        if {Envelope.parse(frame).task_id for frame in results} != set(ids):
            raise NoAnswer("results of tasks that were not submitted")
        return elapsed

    def trips(self, count: int) -> list[float]:
        """Seconds of each of ``count`` tasks, one at a time."""
        times = []
        worker = self._workers[0]
        for frame in self._frames(count)[1]:
            start = time.perf_counter()
            self._client.send(frame)
            task = Envelope.parse(self._receive(worker))
            worker.send(self._result.frame(task.task_id))
            self._receive(self._client)
            times.append(time.perf_counter() - start)
        return times

    def queue(self, count: int) -> tuple[list[TaskId], float]:
        """Tasks that no worker takes (there must be none), and the seconds until they are all accepted."""
        ids, start, batch = [], 0.0, 2_000
        for first in range(0, count, batch):  # frames of a whole queue would fill the memory
            more, frames = self._frames(min(batch, count - first))
            ids += more
            begin = time.perf_counter()
            for frame in frames:
                self._client.send(frame)
            self.barrier()
            start += time.perf_counter() - begin
        return ids, start

    def cancel(self, ids: list[TaskId]) -> list[float]:
        """Seconds from each TaskCancel to its confirm (or to its return, from a bare router)."""
        times = []
        for task_id in ids:
            frame = codec.encode(TaskCancel(task_id, TaskCancelFlags(True)))
            start = time.perf_counter()
            self._client.send(frame)
            answer = Envelope.parse(self._receive(self._client))
            times.append(time.perf_counter() - start)
            if (answer.kind, answer.detail) not in _CANCELED or answer.task_id != task_id:
                raise NoAnswer(f"{answer!r} instead of the confirm of a cancel")
        return times


class _ResultFrames:
    """TaskResults that differ in the task id only: it is put in its place."""

    def __init__(self, client_id: bytes) -> None:
        marker = TaskId(b"\xa5\x5a" * 8)
        result = TaskResult(marker, TaskResultType.SUCCESS, b"\0" * 20, (new_object_id(client_id),))
        self._before, self._after = codec.encode(result).split(marker)

    def frame(self, task_id: TaskId) -> bytes:
        return b"%b%b%b" % (self._before, task_id, self._after)


def _drain(socket: zmq.Socket[bytes]) -> Iterator[bytes]:
    while True:
        try:
            yield socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return


@contextmanager
def hand_made(address: str, workers: int) -> Iterator[HandMade]:
    peers = HandMade(address, workers)
    try:
        yield peers
    finally:
        peers.close()


def cpu_seconds(pid: int) -> float:
    """Of a process and its children so far, user and system."""
    process = psutil.Process(pid)
    times = [p.cpu_times() for p in [process, *process.children(recursive=True)]]
    return float(sum(t.user + t.system for t in times))


def memory(pid: int) -> int:
    """Bytes of a process and its children that are in memory and shared with nobody."""
    process = psutil.Process(pid)
    return sum(p.memory_full_info().uss for p in [process, *process.children(recursive=True)])
