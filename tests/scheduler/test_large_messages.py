"""Large messages go through the scheduler without being copied by it: meanwhile nobody else would be served."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import zmq

from protocol import codec
from protocol.envelope import Envelope
from protocol.identifiers import ClientId, Identity, TaskId, content_object_id
from protocol.messages import (
    Argument,
    ArgumentType,
    GraphTask,
    LogType,
    Message,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectMetadata,
    StateTask,
    Task,
    TaskLog,
    TaskResult,
    TaskResultType,
    WorkerHeartbeat,
)
from reference_impl.scheduler.instructions import Instruction, Publish, Send
from reference_impl.scheduler.limits import Limits
from reference_impl.scheduler.outbox import Outbox
from reference_impl.scheduler.router import VIEWED_BYTES, Router
from tests.scheduler.processes import Running
from tests.scheduler.world import C1, W1, World

LARGE = VIEWED_BYTES + 1
TASK_ID = TaskId(b"t" * 16)
FUNCTION = content_object_id(C1, b"f")


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.mark.parametrize("size", [0, VIEWED_BYTES - 1, VIEWED_BYTES, 4 * VIEWED_BYTES])
def test_a_router_passes_on_what_it_has_received(context: zmq.Context[zmq.Socket[bytes]], size: int) -> None:
    router = Router(context)
    with router.socket, context.socket(zmq.DEALER) as dealer:
        router.socket.bind("inproc://router")
        dealer.setsockopt(zmq.IDENTITY, b"peer")
        dealer.setsockopt(zmq.RCVTIMEO, 20_000)
        dealer.connect("inproc://router")
        content = os.urandom(size)
        dealer.send(content)
        assert router.socket.poll(20_000)
        received = router.receive()
        assert received is not None
        sender, frame = received
        assert (sender, frame) == (b"peer", content)
        assert frame is not None
        if size < VIEWED_BYTES:
            assert type(frame) is bytes
        else:
            assert isinstance(frame, memoryview)
            assert isinstance(frame.obj, zmq.Frame), "it is what libzmq has received"
            assert frame.readonly
        Outbox(router.socket, 1 << 30).send(sender, frame)
        router.send(sender, frame)
        del received, frame
        assert [dealer.recv(), dealer.recv()] == [content, content]


def _receive(world: World, sender: Identity, message: Message) -> tuple[memoryview, list[Instruction]]:
    view = memoryview(codec.encode(message))
    return view, world.core.receive(sender, Envelope.parse(view), world.now)


def _sent(instructions: list[Instruction], to: Identity) -> bytes | memoryview:
    (sent,) = [i for i in instructions if isinstance(i, Send) and i.to == to]
    return sent.envelope.frame


def test_tasks_results_and_logs_are_passed_on_as_they_came() -> None:
    world = World()
    world.core.monitored = True
    world.client()
    world.worker()
    argument = Argument(ArgumentType.OBJECT_ID, bytes(LARGE))
    task = Task(TASK_ID, C1, bytes(LARGE), FUNCTION, (argument,))
    view, instructions = _receive(world, C1, task)
    assert _sent(instructions, W1) is view
    assert any(isinstance(i, Publish) and isinstance(i.message, StateTask) for i in instructions)
    view, instructions = _receive(world, W1, TaskLog(TASK_ID, LogType.STDOUT, "x" * LARGE))
    assert _sent(instructions, C1) is view
    result = content_object_id(C1, b"r")
    view, instructions = _receive(world, W1, TaskResult(TASK_ID, TaskResultType.SUCCESS, bytes(LARGE), (result,)))
    assert _sent(instructions, C1) is view
    (last,) = [i.message for i in instructions if isinstance(i, Publish)]
    assert isinstance(last, StateTask)
    assert len(codec.encode(last)) > LARGE  # it has the metadata


def test_a_task_that_waits_stays_where_it_was_received() -> None:
    world = World(limits=Limits(task_bytes=3 * LARGE))
    world.client()
    view, _ = _receive(world, C1, Task(TASK_ID, C1, bytes(LARGE), FUNCTION))
    assert world.core.tasks[TASK_ID].frame is view
    assert world.core.lifecycle.task_bytes == len(view)
    world.send(W1, WorkerHeartbeat(queue_size=1))
    (task,) = [message for message in world.take(W1) if isinstance(message, Task)]
    assert task.task_id == TASK_ID


def test_what_is_kept_of_other_messages_has_its_own_bytes() -> None:
    world = World()
    world.client()
    world.worker(queue_size=10)
    ids = tuple([content_object_id(C1, n.to_bytes(4, "big")) for n in range(10_000)])
    _receive(
        world, C1, ObjectInstruction(ObjectInstructionType.CREATE, C1, ObjectMetadata(ids, (), (b"n",) * len(ids)))
    )
    assert {type(object_id) for object_id in world.core.clients[C1].objects} == {bytes}
    nodes = tuple([Task(TaskId(bytes([n]) * 16), C1, bytes(LARGE), FUNCTION) for n in (1, 2)])
    _receive(world, C1, GraphTask(TASK_ID, C1, (nodes[0].task_id,), nodes))
    graph = world.core.graphs.living[TASK_ID]
    assert [type(node.task.metadata) for node in graph.nodes.values()] == [bytes, bytes]
    _receive(world, W1, WorkerHeartbeat(queue_size=10, hostname="h" * LARGE))
    assert world.core.workers[W1].heartbeat.hostname == ""


def test_a_long_name_is_cut_where_it_is_noted() -> None:
    world = World()
    world.client()
    _receive(world, C1, Task(TASK_ID, ClientId(b"x" * LARGE), b"", FUNCTION))
    world.send(C1, ObjectInstruction(ObjectInstructionType.DELETE, b"y" * LARGE, ObjectMetadata()))
    _, instructions = _receive(world, C1, Task(TASK_ID, ClientId(b"x" * LARGE), b"", FUNCTION))
    world._collect(instructions)
    assert len(world.notes) == 2
    assert all(len(note.text) < 200 for note in world.notes)


def test_large_messages_make_their_way(running: Running) -> None:
    client_id, client = running.client()
    _, worker = running.worker()
    task = Task(TASK_ID, client_id, os.urandom(4 * LARGE), os.urandom(32))
    client.send(codec.encode(task))
    assert codec.decode(worker.recv()) == task
    result = TaskResult(TASK_ID, TaskResultType.SUCCESS, os.urandom(LARGE))
    worker.send(codec.encode(result))
    assert codec.decode(client.recv()) == result
