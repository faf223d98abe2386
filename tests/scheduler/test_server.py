"""The scheduler as a process, seen from its sockets."""

from __future__ import annotations

import os
import random
import socket

import pytest
import zmq

from protocol import codec
from protocol.identifiers import ClientId, new_task_id, new_worker_id
from protocol.messages import (
    ClientDisconnect,
    ClientHeartbeat,
    ClientHeartbeatEcho,
    ClientShutdownResponse,
    DisconnectType,
    Message,
    StateScheduler,
    StateTask,
    StateWorker,
    Task,
    TaskResult,
    TaskResultType,
    WorkerHeartbeat,
)
from reference_impl.addresses import Address
from tests.scheduler.processes import Running, exchange, start


def test_the_monitor_is_at_the_port_plus_two(running: Running) -> None:
    assert running.monitor == Address("127.0.0.1", running.address.port + 2)


def test_a_task_makes_its_way(running: Running) -> None:
    client_id, client = running.client()
    _, worker = running.worker()
    task = Task(new_task_id(), client_id, b"", os.urandom(32))
    client.send(codec.encode(task))
    assert codec.decode(worker.recv()) == task
    result = TaskResult(task.task_id, TaskResultType.SUCCESS)
    worker.send(codec.encode(result))
    assert codec.decode(client.recv()) == result


def test_mal_garbage_on_the_port_disturbs_nobody(running: Running) -> None:
    client_id, client = running.client()
    _, worker = running.worker(queue_size=1000)
    rng = random.Random(7)
    raw = [socket.create_connection(running.address) for _ in range(3)]
    raw[0].sendall(rng.randbytes(10_000))
    raw[1].sendall(b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL")  # half a ZMTP greeting, then silence
    hostile = running.dealer(b"Client|hostile")
    good = codec.encode(Task(new_task_id(), ClientId(b"Client|hostile"), b"", os.urandom(32)))
    for _ in range(300):
        frame = bytearray(good)
        for _ in range(rng.randint(1, 8)):
            frame[rng.randrange(len(frame))] = rng.randrange(256)
        hostile.send(bytes(frame[: rng.choice((0, 8, 16, 64, len(frame), len(frame) - 3))]))
    hostile.send(b"")
    hostile.send_multipart([good, good])
    hostile.send_multipart([b"", b"", b""])
    hostile.send(rng.randbytes(1 << 20))
    # The echo on the same connection proves that all of it has been looked at.
    hostile.send(codec.encode(ClientHeartbeat()))
    while not isinstance(codec.decode(hostile.recv()), ClientHeartbeatEcho):
        pass
    task = Task(new_task_id(), client_id, b"", os.urandom(32))
    client.send(codec.encode(task))
    received = codec.decode(worker.recv())
    while received != task:  # a mutated frame may still be a task
        assert isinstance(received, Task)
        received = codec.decode(worker.recv())
    for connection in raw:
        connection.close()


def test_the_monitor_stream(running: Running) -> None:
    subscriber = running.socket(zmq.SUB)
    subscriber.subscribe(b"")
    subscriber.connect(str(running.monitor))
    assert isinstance(codec.decode(subscriber.recv()), StateScheduler)  # each second: now it listens
    client_id, client = running.client()
    worker_id, worker = running.worker()
    client.send(codec.encode(Task(new_task_id(), client_id, b"", os.urandom(32))))
    worker.recv()
    seen: list[Message] = []
    while not (seen and isinstance(seen[-1], StateTask) and seen[-1].event == "HasCapacity"):
        seen.append(codec.decode(subscriber.recv()))
    assert [m.worker_id for m in seen if isinstance(m, StateWorker)] == [worker_id]
    state = next(m for m in iter(lambda: codec.decode(subscriber.recv()), None) if isinstance(m, StateScheduler))
    assert [w.sent for w in state.worker_manager.workers] == [1]
    assert [c.num_task for c in state.client_manager.clients] == [1]


def test_a_client_shuts_the_cluster_down(running: Running) -> None:
    _, client = running.client()
    _, worker = running.worker()
    assert exchange(client, ClientDisconnect(DisconnectType.SHUTDOWN)) == ClientShutdownResponse(True)
    assert codec.decode(worker.recv()) == ClientDisconnect(DisconnectType.SHUTDOWN)
    assert running.process.wait(20) == 0


@pytest.mark.parametrize("running", [("--protected",)], indirect=True)
def test_a_protected_scheduler_stays(running: Running) -> None:
    _, client = running.client()
    assert exchange(client, ClientDisconnect(DisconnectType.SHUTDOWN)) == ClientShutdownResponse(False)
    assert isinstance(exchange(client, ClientHeartbeat()), ClientHeartbeatEcho)


@pytest.mark.parametrize("running", [("--worker-timeout-seconds", "0.2")], indirect=True)
def test_a_silent_worker_is_lost(running: Running) -> None:
    client_id, client = running.client()
    _, silent = running.worker(queue_size=1)
    task = Task(new_task_id(), client_id, b"", os.urandom(32))
    client.send(codec.encode(task))
    assert codec.decode(silent.recv()) == task
    other = running.dealer(new_worker_id("other"))
    received: Message | None = None
    while received != task:  # it goes on heartbeating until the silent one is given up
        received = exchange(other, WorkerHeartbeat(queue_size=1))


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("nonsense",), 2, "tcp://HOST:PORT"),
        (("tcp://127.0.0.1:99999", "-osa", "tcp://127.0.0.1:1"), 2, "0 to 65535"),
        (("tcp://127.0.0.1:0",), 2, "--object-storage-address"),
        (("tcp://127.0.0.1:0", "-osa", "tcp://127.0.0.1:1", "-wt", "-1"), 2, "-wt"),
        (("tcp://127.0.0.1:0", "-osa", "tcp://127.0.0.1:1", "--max-tasks", "0"), 2, "--max-tasks"),
        (("tcp://127.0.0.1:0", "-osa", "tcp://127.0.0.1:1", "--max-message-bytes", "1M"), 2, "16M is the least"),
        (("tcp://127.0.0.1:{taken}", "-osa", "tcp://127.0.0.1:1"), 10, "in use"),
        (("tcp://192.0.2.1:1234", "-osa", "tcp://127.0.0.1:1", "--insecure"), 10, "can't listen"),
        (("tcp://0.0.0.0:0", "-osa", "tcp://127.0.0.1:1"), 2, "can be reached from other machines"),
        (("tcp://*:0", "-osa", "tcp://127.0.0.1:1"), 2, "can be reached from other machines"),
        (("tcp://127.0.0.1:0", "-ma", "tcp://0.0.0.0:0", "-osa", "tcp://127.0.0.1:1"), 2, "tcp://0.0.0.0:0 can be"),
    ],
)
def test_bad_input_is_one_line_and_a_hint(options: tuple[str, ...], code: int, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = start(*(option.replace("{taken}", port) for option in options))
        out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert lines[1].startswith("hint: ")
