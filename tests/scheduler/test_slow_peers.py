"""Peers that do not read what the scheduler sends them, as a process sees it (SPEC section 14)."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest
import zmq

from protocol import codec, storage
from protocol.envelope import Envelope
from protocol.identifiers import ClientId, TaskId, WorkerId, new_client_id, new_task_id, new_worker_id, object_id
from protocol.messages import (
    ClientHeartbeat,
    LogType,
    Task,
    TaskCancel,
    TaskCancelFlags,
    TaskLog,
    TaskResult,
    TaskResultType,
    WorkerHeartbeat,
)
from reference_impl.addresses import Address
from reference_impl.scheduler.instructions import Instruction, Send, StoreThenSend
from reference_impl.scheduler.outbox import Outbox
from reference_impl.scheduler.storage_link import StorageLink
from tests.scheduler.processes import Running, exchange
from tests.scheduler.world import C1

TASK = TaskId(b"t" * 16)
FEW = ("--max-unsent-messages", "10")
LONG = 1 << 19  # bytes: a few of these fill what lies between two processes


def _deaf(running: Running, identity: bytes) -> zmq.Socket[bytes]:
    """A connection that takes hardly anything, unless somebody reads from it."""
    dealer = running.socket(zmq.DEALER)
    dealer.setsockopt(zmq.IDENTITY, identity)
    dealer.setsockopt(zmq.RCVHWM, 1)
    dealer.setsockopt(zmq.RCVBUF, 4096)
    dealer.connect(str(running.address))
    return dealer


@pytest.mark.parametrize("running", [FEW, ("--max-unsent-bytes", "2M")], indirect=True)
def test_lim07_a_client_that_never_reads_is_lost_and_others_are_served(running: Running) -> None:
    deaf_id = ClientId(new_client_id())
    deaf = _deaf(running, deaf_id)
    _, worker = running.worker()
    task = Task(new_task_id(), deaf_id, b"", os.urandom(32))
    deaf.send(codec.encode(ClientHeartbeat()))
    deaf.send(codec.encode(task))
    assert codec.decode(worker.recv()) == task
    log = codec.encode(TaskLog(task.task_id, LogType.STDOUT, "x" * LONG))
    for _ in range(100):
        worker.send(log)
    assert codec.decode(worker.recv()) == TaskCancel(task.task_id, TaskCancelFlags(True))
    client_id, client = running.client()
    other = Task(new_task_id(), client_id, b"", os.urandom(32))
    client.send(codec.encode(other))
    assert codec.decode(worker.recv()) == other


@pytest.mark.parametrize("running", [FEW, ("--max-unsent-bytes", "6M")], indirect=True)
def test_lim07_the_tasks_of_a_worker_that_never_reads_go_elsewhere(running: Running) -> None:
    deaf_id = WorkerId(new_worker_id("deaf"))
    deaf = _deaf(running, deaf_id)
    deaf.send(codec.encode(WorkerHeartbeat(queue_size=1000)))
    deaf.recv()
    client_id, client = running.client()
    tasks = [Task(new_task_id(), client_id, bytes(LONG), os.urandom(32)) for _ in range(60)]
    for task in tasks:
        client.send(codec.encode(task))
    assert exchange(client, ClientHeartbeat())
    _, worker = running.worker(queue_size=5)
    for _ in tasks:
        task = codec.decode(worker.recv())
        assert isinstance(task, Task)
        worker.send(codec.encode(TaskResult(task.task_id, TaskResultType.SUCCESS)))
    results = [codec.decode(client.recv()) for _ in tasks]
    assert {result.task_id for result in results if isinstance(result, TaskResult)} == {task.task_id for task in tasks}


class _HeardLate(threading.Event):
    """Of what is long since so, the thread that says it had no time to run yet."""

    def wait(self, timeout: float | None = None) -> bool:
        self.set()
        return True


class _Tracking:
    """A ROUTER that lets go of messages when it is told to, but for the first."""

    def __init__(self) -> None:
        self.kept: list[threading.Event] = []

    def send_multipart(self, frames: object, flags: int, copy: bool = True, track: bool = False) -> object:
        if not track:
            return None
        self.kept.append(threading.Event() if self.kept else _HeardLate())
        return zmq.MessageTracker(self.kept[-1])


def test_lim07_who_reads_is_not_lost_because_that_is_heard_late() -> None:
    router = _Tracking()
    outbox = Outbox(router, 2 << 20)  # type: ignore[arg-type]
    frame = bytes(1 << 20)
    for _ in range(2):
        outbox.send(C1, frame)
    outbox.send(C1, frame)
    with pytest.raises(zmq.Again):
        outbox.send(C1, frame)  # this one does not read
    assert len(router.kept) == 3
    router.kept[1].set()
    outbox.send(C1, frame)


def test_lim03_a_storage_that_says_nothing_does_not_prevent_a_refusal() -> None:
    why = object_id(C1, b"w" * 16)
    named, bare = (Envelope.of(TaskResult(TASK, TaskResultType.FAILED, b"", ids)) for ids in ((why,), ()))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        link = StorageLink(Address(*silent.getsockname()), b"test", storage.MAGIC)
        link.maintain(time.monotonic())
        link.store(StoreThenSend(why, b"payload", C1, named, bare))
        assert link.take_answers() == []
        link.maintain(time.monotonic() + 60.0)
        assert link.take_answers() == [Send(C1, bare)]
        for _ in range(2_000):
            link.store(StoreThenSend(why, b"payload", C1, named, bare))
        assert len(link.take_answers()) == 1_000  # so many are not even asked for
        link.close()


def test_lim03_a_storage_that_is_away_or_full_does_not_prevent_a_refusal() -> None:
    why = object_id(C1, b"w" * 16)
    named, bare = (Envelope.of(TaskResult(TASK, TaskResultType.FAILED, b"", ids)) for ids in ((why,), ()))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address(*server.getsockname())
        link = StorageLink(address, b"test", storage.MAGIC)
        link.store(StoreThenSend(why, b"payload", C1, named, bare))
        assert link.take_answers() == [Send(C1, bare)]
        link.maintain(time.monotonic())
        for _ in range(2):
            link.store(StoreThenSend(why, b"payload", C1, named, bare))
        poller = zmq.Poller()
        link.update(poller)
        peer, _ = server.accept()
        with peer:
            peer.sendall(storage.greeting(storage.SERVER_IDENTITY, storage.MAGIC))
            for number, kind in ((1, storage.ResponseType.SET_OK), (2, storage.ResponseType.DEL_NOT_EXISTS)):
                peer.sendall(b"".join(storage.response(number, kind, why)))
            answers: list[Instruction] = []
            while len(answers) < 2:
                link.handle(dict(poller.poll(20_000)), poller)
                answers += link.take_answers()
            assert answers == [Send(C1, named), Send(C1, bare)]
            link.store(StoreThenSend(why, b"payload", C1, named, bare))
        while not (answers := link.take_answers()):
            link.handle(dict(poller.poll(20_000)), poller)
        assert answers == [Send(C1, bare)]
        link.close()
