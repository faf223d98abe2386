"""Heartbeats, objects, shutdown, questions, malformed input: the scheduler core beside the tasks."""

from __future__ import annotations

import logging
import os

import pytest

from protocol.codec import decode_answer, encode_query
from protocol.envelope import Envelope
from protocol.identifiers import ObjectId, content_object_id
from protocol.messages import (
    Argument,
    ArgumentType,
    ClientDisconnect,
    ClientHeartbeat,
    ClientHeartbeatEcho,
    ClientShutdownResponse,
    DisconnectType,
    InformationAnswer,
    InformationQuery,
    InformationRequest,
    InformationResponse,
    Kind,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectMetadata,
    ObjectStorageAddress,
    ProcessorInitialized,
    StateTask,
    StateWorker,
    Task,
    TaskFilter,
    TaskList,
    TaskState,
    VersionInfo,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
    WorkerManagerHeartbeat,
    WorkerManagerHeartbeatEcho,
    WorkerState,
)
from tests.scheduler.world import C1, C2, CANCELED, W1, W2, World

ADDRESS = ObjectStorageAddress("127.0.0.1", 1234, "tcp")
CREATE, DELETE, CLEAR = ObjectInstructionType


@pytest.fixture
def world() -> World:
    return World()


def _instruct(world: World, sender: bytes, kind: ObjectInstructionType, owner: bytes, *ids: ObjectId) -> None:
    world.send(sender, ObjectInstruction(kind, owner, ObjectMetadata(ids)))


def test_each_heartbeat_is_echoed_with_the_storage_address(world: World) -> None:
    for _ in range(2):
        world.send(C1, ClientHeartbeat())
        world.send(W1, WorkerHeartbeat(queue_size=1))
        assert world.take(C1) == [ClientHeartbeatEcho(ADDRESS)]
        assert world.take(W1) == [WorkerHeartbeatEcho(ADDRESS)]
    world.send(b"manager", WorkerManagerHeartbeat())
    assert world.take(b"manager") == [WorkerManagerHeartbeatEcho()]


def test_heartbeats_of_the_wrong_role_register_nobody(world: World) -> None:
    world.send(W1, ClientHeartbeat())
    world.send(C1, WorkerHeartbeat(queue_size=1))
    assert (world.core.clients, world.core.workers) == ({}, {})
    world.assert_silent()


def test_the_queue_size_is_read_once(world: World) -> None:
    world.worker(W1, queue_size=1)
    world.worker(W1, queue_size=9)
    world.task(), world.task()
    assert len(world.take(W1)) == 1


def test_objects_deleted_by_their_owner_are_deleted_everywhere(world: World) -> None:
    world.worker(W1), world.worker(W2), world.client()
    mine = content_object_id(C1, b"mine")
    _instruct(world, C1, CREATE, C1, mine)
    _instruct(world, C1, DELETE, C1, mine)
    assert world.deleted == [mine]
    expected = [ObjectInstruction(DELETE, b"", ObjectMetadata((mine,)))]
    assert (world.take(W1), world.take(W2)) == (expected, expected)


def test_clear_deletes_all_of_the_clients_objects(world: World) -> None:
    mine = {content_object_id(C1, b"a"), content_object_id(C1, b"b")}
    _instruct(world, C1, CREATE, C1, *mine)
    _instruct(world, C1, CLEAR, C1)
    assert set(world.deleted) == mine
    assert len(world.core.objects) == 0


@pytest.mark.parametrize("claimed", [C1, C2, b""])
def test_sec_02_nobody_deletes_or_takes_another_clients_objects(world: World, claimed: bytes) -> None:
    hers = content_object_id(C1, b"hers")
    _instruct(world, C1, CREATE, C1, hers)
    for kind in (CREATE, DELETE, CLEAR):
        _instruct(world, C2, kind, claimed, hers)
    assert world.deleted == []
    world.client_leaves(C2)
    assert world.deleted == []
    assert hers in world.core.clients[C1].objects


def test_sec_03_a_worker_creates_objects_only_for_the_client_of_a_task_that_it_holds(world: World) -> None:
    world.client(), world.worker(W1), world.worker(W2)
    task = world.task()
    result = content_object_id(C1, task)
    _instruct(world, W2, CREATE, C1, result)
    _instruct(world, W1, DELETE, C1, result)
    assert len(world.core.objects) == 0
    _instruct(world, W1, CREATE, C1, result)
    assert world.core.clients[C1].objects == {result}


def test_liv_07_a_result_created_for_a_client_that_left_is_deleted(world: World) -> None:
    world.client(), world.worker(W1)
    task = world.task()
    world.client_leaves()
    _instruct(world, W1, CREATE, C1, content_object_id(C1, task))
    assert world.deleted == [content_object_id(C1, task)]
    assert len(world.core.objects) == 0


def test_a_shutdown_is_confirmed_and_passed_on(world: World) -> None:
    world.worker(W1)
    world.send(C1, ClientDisconnect(DisconnectType.SHUTDOWN))
    assert world.take(C1) == [ClientShutdownResponse(True)]
    assert world.take(W1) == [ClientDisconnect(DisconnectType.SHUTDOWN)]
    assert world.stopped


def test_a_protected_scheduler_refuses() -> None:
    world = World(protected=True)
    world.worker(W1)
    world.send(C1, ClientDisconnect(DisconnectType.SHUTDOWN))
    assert world.take(C1) == [ClientShutdownResponse(False)]
    assert not world.stopped
    world.assert_silent()


def _ask(world: World, query: InformationQuery, client: bytes = C1) -> InformationAnswer:
    from protocol.codec import decode_query  # the query must survive its own wire

    payload = encode_query(query)
    assert decode_query(payload) == query
    world.send(client, InformationRequest(payload))
    (response,) = world.take(client)
    assert isinstance(response, InformationResponse)
    return decode_answer(response.response)


def test_questions_about_tasks(world: World) -> None:
    world.client(C1), world.client(C2), world.worker(W1)
    running, queued, other = world.task(C1), world.task(C1), world.task(C2)
    world.now = 2.5
    answer = _ask(world, InformationQuery(7, "tasks", TaskFilter(own_only=True)))
    assert answer.query_id == 7
    assert isinstance(answer.value, TaskList)
    states = [(t.task_id, t.state, t.worker, t.queue_position, t.age_milliseconds) for t in answer.value.tasks]
    assert states == [(running, TaskState.RUNNING, W1, 0, 2500), (queued, TaskState.INACTIVE, b"", 1, 2500)]
    everything = _ask(world, InformationQuery(8, "tasks", TaskFilter(limit=1))).value
    assert isinstance(everything, TaskList)
    assert (len(everything.tasks), everything.total) == (1, 3)
    named = _ask(world, InformationQuery(9, "tasks", TaskFilter((other,)))).value
    assert isinstance(named, TaskList)
    assert [t.task_id for t in named.tasks] == [other]
    foreign = _ask(world, InformationQuery(9, "tasks", TaskFilter((other,), own_only=True))).value
    assert isinstance(foreign, TaskList)
    assert foreign.tasks == ()


def test_a_task_that_waits_inside_its_worker_says_so(world: World) -> None:
    world.client(), world.worker(W1, queue_size=3)
    world.task(), world.task()
    answer = _ask(world, InformationQuery(7, "tasks", TaskFilter())).value
    assert isinstance(answer, TaskList)
    assert [(t.state, t.held_before) for t in answer.tasks] == [(TaskState.RUNNING, 0), (TaskState.RUNNING, 1)]


def test_questions_about_peers_and_version(world: World) -> None:
    world.client(), world.worker(W1, queue_size=4)
    world.task()
    (worker,) = _ask(world, InformationQuery(1, "workers")).value  # type: ignore[misc]
    assert (worker.worker_id, worker.queue_size, worker.held) == (W1, 4, 1)
    (client,) = _ask(world, InformationQuery(2, "clients")).value  # type: ignore[misc]
    assert (client.client_id, client.tasks) == (C1, 1)
    version = _ask(world, InformationQuery(3, "version")).value
    assert isinstance(version, VersionInfo)
    assert (version.implementation, version.spec_version) == ("scalercli", 1)


def test_a_question_that_is_not_understood_is_answered(world: World) -> None:
    world.send(C1, InformationRequest(b"what?"))
    (response,) = world.take(C1)
    assert isinstance(response, InformationResponse)
    assert decode_answer(response.response).variant == "error"


def test_mal_malformed_bytes_are_noted_and_change_nothing(world: World) -> None:
    world._collect(world.core.receive_malformed(C1, "not a message"))
    # Well-formed for a peek, broken beyond: the argument list points nowhere.
    good = Envelope.of(Task(b"t" * 16, C1, b"", b"f" * 32, (Argument(ArgumentType.OBJECT_ID, os.urandom(32)),))).frame  # type: ignore[arg-type]
    bad = bytearray(good)
    pointer = 16 + 16 + 4 * 8  # header, root struct, the fifth pointer of the Task
    bad[pointer : pointer + 4] = (0x7FFFFFFD).to_bytes(4, "little")
    world._collect(world.core.receive(C1, Envelope.parse(bytes(bad)), 0.0))
    assert [(note.peer, note.level) for note in world.notes] == [(C1, logging.WARNING)] * 2
    assert world.core.tasks == {}


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_from_every_role_is_survived(world: World, kind: Kind) -> None:
    from tests.scheduler.examples import EXAMPLES

    for sender in (C1, W1, b"\0auto", b""):
        world.send(sender, EXAMPLES[kind])
    world.advance(1)


def test_a_goodbye_of_an_older_version_is_noted_with_both_versions(world: World) -> None:
    """Before 2.7 the number of ProcessorInitialized was that of ClientDisconnect."""
    world.send(C1, ProcessorInitialized())
    assert world.notes[-1].text == (
        "PROCESSOR_INITIALIZED is not for a scheduler; number 20 is clientDisconnect in opengris-scaler before 2.7,"
        " this scheduler speaks 2.7.0 to 2.9.0"
    )


def test_the_monitor_stream_tells_each_transition(world: World) -> None:
    world.core.monitored = True
    world.client(), world.worker(W1)
    task = world.task()
    world.cancel(task)
    world.result(task)
    world.worker_leaves(W1)
    assert [m for m in world.published if isinstance(m, StateWorker)] == [
        StateWorker(W1, WorkerState.CONNECTED),
        StateWorker(W1, WorkerState.DISCONNECTED),
    ]
    seen = [(m.state, m.worker, m.event) for m in world.published if isinstance(m, StateTask)]
    assert seen == [
        (TaskState.INACTIVE, b"", ""),
        (TaskState.RUNNING, W1, "HasCapacity"),
        (TaskState.CANCELING, W1, "TaskCancelRequested"),
        (TaskState.SUCCESS, W1, "TaskResultReceived"),
    ]


def test_nothing_is_published_when_nobody_listens(world: World) -> None:
    world.client(), world.worker(W1)
    world.result(world.task())
    assert world.published == []


def test_a_result_that_was_announced_before_its_client_left_goes_with_its_worker() -> None:
    world = World()
    world.client()
    world.worker()
    task = world.task()
    result = content_object_id(C1, b"result")
    _instruct(world, W1, CREATE, C1, result)
    world.client_leaves()
    assert world.deleted == [result]  # and then the worker stores it, and is killed
    world.worker_leaves()
    assert world.deleted == [result, result]
    assert task not in world.core.tasks


def test_what_a_worker_has_announced_is_forgotten_when_it_holds_nothing() -> None:
    world = World()
    world.client()
    world.worker()
    task = world.task()
    _instruct(world, W1, CREATE, C1, content_object_id(C1, b"result"))
    assert len(world.core.workers[W1].announced) == 1
    world.client_leaves()
    world.confirm(task, CANCELED)
    assert not world.core.workers[W1].announced
    world.deleted.clear()
    world.worker_leaves()
    assert world.deleted == []
