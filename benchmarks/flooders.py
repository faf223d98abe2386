"""Peers that send without end, or read nothing: each a process, ``python -m benchmarks.flooders NAME ADDRESS…``, that
says ``ready`` when its flood runs and goes on until it is told to end. What it did then stands on its last line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType
from typing import NamedTuple

import zmq

from protocol import codec, storage
from protocol.codec import encode_query
from protocol.identifiers import ClientId, ObjectId, TaskId, new_client_id, new_object_id, new_task_id, new_worker_id
from protocol.messages import (
    ClientHeartbeat,
    InformationQuery,
    InformationRequest,
    LogType,
    Message,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectMetadata,
    Task,
    TaskCancel,
    TaskCancelFlags,
    TaskCapability,
    TaskFilter,
    TaskLog,
    TaskResult,
    TaskResultType,
    WorkerHeartbeat,
)
from protocol.storage import WHOLE
from reference_impl.addresses import Address

_MARKER = TaskId(b"\xa5\x5a" * 8)
_BURST = 1_000
_LARGE = 1 << 20
_CONNECTIONS = 2_000


class Target(NamedTuple):
    scheduler: str
    storage: str
    monitor: str


class _Ended(Exception):
    """Somebody has asked for the end."""


class Flood:
    """What the functions below share: sockets, and the count of what they did."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.done = 0
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 2 * _CONNECTIONS)
        self._ready = False
        self._next_beat = 0.0
        self.sockets: list[socket.socket] = []

    def close(self) -> None:
        self._context.destroy(linger=0)
        for opened in self.sockets:
            opened.close()

    def did(self, count: int) -> None:
        """Something more has been done; the first time that is when the flood runs."""
        self.done += count
        if not self._ready:
            self._ready = True
            print("ready", flush=True)

    def beat_is_due(self) -> bool:
        """True about twice a second."""
        now = time.monotonic()
        due = now > self._next_beat
        if due:
            self._next_beat = now + 0.5
        return due

    def dealer(self, identity: bytes, *, deaf: bool = False) -> zmq.Socket[bytes]:
        """``deaf``: what is not read from it stays on the way."""
        dealer = self._context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.IDENTITY, identity)
        dealer.setsockopt(zmq.SNDHWM, _BURST)
        dealer.setsockopt(zmq.RCVHWM, 1 if deaf else 0)
        dealer.connect(self.target.scheduler)
        return dealer

    def client(self, *, deaf: bool = False) -> tuple[ClientId, zmq.Socket[bytes]]:
        identity = ClientId(new_client_id())
        dealer = self.dealer(identity, deaf=deaf)
        dealer.send(codec.encode(ClientHeartbeat()))
        return identity, dealer

    def worker(self, queue_size: int, *, deaf: bool = False) -> zmq.Socket[bytes]:
        dealer = self.dealer(new_worker_id("flood"), deaf=deaf)
        dealer.send(_beat(queue_size))
        return dealer

    def subscriber(self) -> zmq.Socket[bytes]:
        subscriber = self._context.socket(zmq.SUB)
        subscriber.setsockopt(zmq.RCVHWM, 1)
        subscriber.subscribe(b"")
        subscriber.connect(self.target.monitor)
        return subscriber

    def storage(self) -> socket.socket:
        opened = socket.create_connection(Address.parse(self.target.storage))
        self.sockets.append(opened)
        return opened


def _beat(queue_size: int) -> bytes:
    return codec.encode(WorkerHeartbeat(queue_size=queue_size, capabilities=(TaskCapability("flood", 1),)))


class _Frames:
    """Messages that differ in the task id only: it is put in its place."""

    def __init__(self, message: Message) -> None:
        self._parts = codec.encode(message).split(_MARKER)

    def one(self) -> bytes:
        return new_task_id().join(self._parts)


def _task(client: ClientId, metadata: bytes = b"", needs: str = "flood") -> Task:
    """For the flood's own workers, so that the worker of who does nothing wrong has no other tasks."""
    return Task(_MARKER, client, metadata, new_object_id(client), (), (TaskCapability(needs, 1),))


def _drain(dealer: zmq.Socket[bytes]) -> Iterator[bytes]:
    with contextlib.suppress(zmq.Again):
        while True:
            yield dealer.recv(zmq.NOBLOCK)


def _send_all(flood: Flood, dealer: zmq.Socket[bytes], frame: Callable[[], bytes]) -> None:
    """As fast as the scheduler takes it; answers are read, and thrown away."""
    beat = codec.encode(ClientHeartbeat())
    while True:
        for _ in range(_BURST):
            dealer.send(frame())
        dealer.send(beat)
        for _ in _drain(dealer):
            pass
        flood.did(_BURST)


def tasks(flood: Flood) -> None:
    """a client sends tasks that nobody runs"""
    client, dealer = flood.client()
    _send_all(flood, dealer, _Frames(_task(client)).one)


def requirements(flood: Flood) -> None:
    """each task requires something else"""
    client, dealer = flood.client()

    def frame() -> bytes:
        return codec.encode(replace(_task(client, b"", os.urandom(8).hex()), task_id=new_task_id()))

    _send_all(flood, dealer, frame)


def results(flood: Flood) -> None:
    """a client never reads its results"""
    client, dealer = flood.client(deaf=True)
    worker = flood.worker(_BURST)
    frames = _Frames(_task(client))
    poller = zmq.Poller()
    poller.register(worker, zmq.POLLIN)
    poller.register(dealer, zmq.POLLOUT)
    while True:
        ready = dict(poller.poll())
        if flood.beat_is_due():
            worker.send(_beat(_BURST))
        if worker in ready:
            for frame in _drain(worker):
                message = codec.decode(frame)
                if isinstance(message, Task):
                    result = TaskResult(message.task_id, TaskResultType.SUCCESS, bytes(16), (new_object_id(client),))
                    worker.send(codec.encode(result))
                    flood.did(1)
        if dealer in ready:
            for _ in range(10):
                with contextlib.suppress(zmq.Again):
                    dealer.send(frames.one(), zmq.NOBLOCK)


def worker(flood: Flood) -> None:
    """a worker takes every task and never reads one"""
    client, dealer = flood.client()
    worker = flood.worker(2**31, deaf=True)
    frames = _Frames(_task(client))

    def frame() -> bytes:
        if flood.beat_is_due():
            worker.send(_beat(2**31))
        return frames.one()

    _send_all(flood, dealer, frame)


def subscriber(flood: Flood) -> None:
    """monitor subscribers that stall"""
    stalled = [flood.subscriber() for _ in range(3)]
    client, dealer = flood.client()
    _send_all(flood, dealer, _Frames(_task(client)).one)
    del stalled


def peers(flood: Flood) -> None:
    """clients and workers connect by the thousand"""
    dealers = []
    beats = codec.encode(ClientHeartbeat()), codec.encode(WorkerHeartbeat(queue_size=0))
    for number in range(_CONNECTIONS):
        dealers.append(flood.dealer(new_worker_id("flood") if number % 2 else new_client_id()))
    while True:  # two heartbeats a second of each, as real ones
        for number, dealer in enumerate(dealers):
            dealer.send(beats[number % 2])
            for _ in _drain(dealer):
                pass
            if not number % 40:
                time.sleep(0.01)
        flood.did(len(dealers))


def objects(flood: Flood) -> None:
    """a client announces objects, with long names"""
    client, dealer = flood.client()
    name, prefix = b"n" * 1_000, new_object_id(client)[:16]

    def frame() -> bytes:
        ids = tuple([ObjectId(prefix + os.urandom(16)) for _ in range(100)])
        metadata = ObjectMetadata(ids, (), (name,) * 100, (1,) * 100)
        return codec.encode(ObjectInstruction(ObjectInstructionType.CREATE, client, metadata))

    while True:
        dealer.send(frame())
        flood.did(100)


def large(flood: Flood) -> None:
    """a client sends tasks of 60 MiB"""
    client, dealer = flood.client()
    dealer.setsockopt(zmq.SNDHWM, 2)
    frames = _Frames(_task(client, bytes(60 << 20)))
    while True:
        dealer.send(frames.one(), copy=False)
        for _ in _drain(dealer):
            pass
        flood.did(1)


def logs(flood: Flood) -> None:
    """a worker sends TaskLogs of 64 KiB to a client that does not read"""
    client, dealer = flood.client(deaf=True)
    worker = flood.worker(1)
    frame = _Frames(_task(client)).one()
    text = "x" * (1 << 16)
    dealer.send(frame)
    task_id = _next_task(worker)
    log = codec.encode(TaskLog(task_id, LogType.STDOUT, text))
    while True:
        if flood.beat_is_due():
            worker.send(_beat(1))
        worker.send(log)
        flood.did(1)
        for received in _drain(worker):
            message = codec.decode(received)
            if isinstance(message, TaskCancel):  # the client is lost: once more
                worker.send(codec.encode(TaskResult(message.task_id, TaskResultType.SUCCESS)))
                dealer.send(_Frames(_task(client)).one())
                log = codec.encode(TaskLog(_next_task(worker), LogType.STDOUT, text))


def _next_task(worker: zmq.Socket[bytes]) -> TaskId:
    while True:
        message = codec.decode(worker.recv())
        if isinstance(message, Task):
            return message.task_id


def questions(flood: Flood) -> None:
    """a client with 100,000 tasks asks for all tasks, again and again"""
    client, dealer = flood.client()
    frames = _Frames(_task(client))
    for _ in range(100_000):
        dealer.send(frames.one())
    question = codec.encode(InformationRequest(encode_query(InformationQuery(1, "tasks", TaskFilter()))))
    while True:
        for _ in range(10):
            dealer.send(question)
        for _ in range(10):
            dealer.recv()
        flood.did(10)


def cancels(flood: Flood) -> None:
    """a client cancels tasks that nobody knows"""
    _, dealer = flood.client()
    _send_all(flood, dealer, _Frames(TaskCancel(_MARKER, TaskCancelFlags(True))).one)


def cancels_unread(flood: Flood) -> None:
    """a client cancels tasks that nobody knows, and reads no answer"""
    _, dealer = flood.client(deaf=True)
    frames = _Frames(TaskCancel(_MARKER, TaskCancelFlags(True)))
    while True:
        for _ in range(_BURST):
            dealer.send(frames.one())
        flood.did(_BURST)


def garbage(flood: Flood) -> None:
    """a client sends what is no message"""
    _, dealer = flood.client()
    junk = os.urandom(1 << 10)
    while True:
        for _ in range(_BURST):
            dealer.send(junk)
        flood.did(_BURST)


# ---- of the object storage ----


def _greeted(flood: Flood) -> socket.socket:
    opened = flood.storage()
    opened.sendall(storage.greeting(new_client_id()))
    return opened


def storage_unread(flood: Flood) -> None:
    """a connection asks for a large object, again and again, and never reads it"""
    opened = _greeted(flood)
    client = new_client_id()
    object_id = new_object_id(client)
    opened.sendall(b"".join(storage.set_request(1, object_id, os.urandom(_LARGE))))
    request = b"".join(storage.get_request(2, object_id, WHOLE)) * 100
    opened.settimeout(1.0)
    while True:
        with contextlib.suppress(TimeoutError):
            opened.send(request)
        flood.did(100)


def storage_halves(flood: Flood) -> None:
    """connections by the thousand send half a header each"""
    for number in range(_CONNECTIONS):
        opened = flood.storage()
        greeting = storage.greeting(new_client_id())
        half = greeting[:10] if number % 2 else greeting + b"".join(storage.get_request(1, ObjectId(bytes(32))))[:20]
        opened.sendall(half)
        flood.done += 1
    flood.did(0)
    signal.pause()


def storage_fills(flood: Flood) -> None:
    """a client stores objects of 1 MiB until nothing more fits"""
    opened = _greeted(flood)
    client = new_client_id()
    opened.settimeout(None)
    answers = opened.dup()
    answers.settimeout(0.0)
    flood.sockets.append(answers)
    while True:
        opened.sendall(b"".join(storage.set_request(1, new_object_id(client), os.urandom(_LARGE))))
        with contextlib.suppress(BlockingIOError):
            answers.recv(1 << 16)
        flood.did(1)


def storage_waits(flood: Flood) -> None:
    """a connection asks for objects that do not exist"""
    opened = _greeted(flood)
    client = new_client_id()
    while True:
        opened.sendall(b"".join(b"".join(storage.get_request(1, new_object_id(client))) for _ in range(100)))
        flood.did(100)


SCHEDULER_FLOODS: tuple[Callable[[Flood], None], ...] = (
    tasks, requirements, results, worker, subscriber, peers, objects, large, logs, questions, cancels, cancels_unread,
    garbage,
)  # fmt: skip
STORAGE_FLOODS: tuple[Callable[[Flood], None], ...] = (storage_unread, storage_halves, storage_fills, storage_waits)
FLOODS = {flood.__name__: flood for flood in (*SCHEDULER_FLOODS, *STORAGE_FLOODS)}


def _end(number: int, frame: FrameType | None) -> None:
    raise _Ended


def main() -> int:
    name, *addresses = sys.argv[1:]
    os.nice(5)  # it would have a machine of its own
    signal.signal(signal.SIGTERM, _end)
    flood = Flood(Target(*addresses))
    fault = ""
    try:
        FLOODS[name](flood)
    except _Ended:
        pass
    except OSError as error:  # such as a connection that is closed
        fault = str(error)
        with contextlib.suppress(_Ended):
            flood.did(0)
            signal.pause()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(json.dumps({"done": flood.done, "fault": fault}), flush=True)
    os._exit(0)  # without taking leave


if __name__ == "__main__":
    sys.exit(main())
