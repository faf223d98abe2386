"""The scheduler and its worker managers (SPEC section 8.4)."""

from __future__ import annotations

import pytest

from protocol.codec import decode_answer, encode_query
from protocol.messages import (
    BinderStatus,
    InformationQuery,
    InformationRequest,
    InformationResponse,
    ManagedWorkers,
    ObjectStorageStatus,
    Resource,
    TaskCapability,
    TaskFilter,
    TaskList,
    WorkerManagerCommand,
    WorkerManagerDetail,
    WorkerManagerHeartbeat,
    WorkerManagerHeartbeatEcho,
)
from reference_impl.scheduler.information import state_scheduler
from tests.scheduler.world import C1, W1, W2, World

M1, M2 = b"Manager|one|01", b"42|worker_manager_native|two"
GPU = (TaskCapability("gpu", 1),)


@pytest.fixture
def world() -> World:
    world = World(worker_timeout=60.0, client_timeout=1000.0)
    world.client()
    return world


def _wanted(
    world: World, sender: bytes = M1, name: bytes = b"fleet", limit: int = 4, offers: tuple[TaskCapability, ...] = ()
) -> int:
    """What the manager is asked for with its next heartbeat."""
    world.send(sender, WorkerManagerHeartbeat(limit, offers, name))
    echo, command = world.take(sender)
    assert echo == WorkerManagerHeartbeatEcho()
    assert isinstance(command, WorkerManagerCommand)
    (request,) = command.set_desired_task_concurrency_requests
    assert request.capabilities == offers
    return request.task_concurrency


def test_man_02_as_many_as_there_is_work_for(world: World) -> None:
    assert _wanted(world) == 0
    for _ in range(3):
        world.task()
    assert _wanted(world) == 0, "a wish stays for a second"
    world.now += 1
    assert _wanted(world) == 3
    for _ in range(9):
        world.task()
    world.now += 1
    assert _wanted(world) == 4


def test_man_08_tasks_that_wait_inside_workers_count_whoever_they_belong_to(world: World) -> None:
    world.worker(W1, 9)
    world.worker(W2, 9, manager=b"fleet")
    for _ in range(4):
        world.task()
    assert [len(w.held) for w in world.core.workers.values()] == [2, 2]
    assert _wanted(world) == 3, "one is busy, and one task waits in each worker"


def test_man_08_never_fewer_than_are_busy_and_none_when_all_is_done(world: World) -> None:
    world.worker(W1, 1, manager=b"fleet")
    world.worker(W2, 1, manager=b"fleet")
    first, second = world.task(), world.task()
    assert _wanted(world) == 2
    world.result(first, W1)
    world.now += 1
    assert _wanted(world) == 1
    world.result(second, W2)
    world.now += 1
    assert _wanted(world) == 0


def test_man_09_work_that_its_workers_could_not_do_is_none_of_its_business(world: World) -> None:
    world.task(needs=["gpu"])
    assert _wanted(world) == 0
    assert _wanted(world, M2, b"cards", offers=GPU) == 1


def test_man_10_who_has_the_id_is_the_manager(world: World) -> None:
    world.task()
    assert _wanted(world, M1) == 1
    assert _wanted(world, M2) == 1
    assert "which was b'Manager|one|01'" in world.notes[-1].text
    world.now += 50
    assert _wanted(world, M2) == 1
    world.advance(50)
    assert len(world.core.managers) == 1
    world.advance(20)
    assert len(world.core.managers) == 0
    assert "lost" in world.notes[-1].text


def test_man_10_without_an_id_there_are_no_commands(world: World) -> None:
    world.task()
    world.send(M1, WorkerManagerHeartbeat(4))
    assert world.take(M1) == [WorkerManagerHeartbeatEcho()]


def test_sec_04_clients_and_workers_are_no_managers(world: World) -> None:
    for peer in (C1, W1):
        world.send(peer, WorkerManagerHeartbeat(4, (), b"fleet"))
    world.assert_silent()
    assert len(world.core.managers) == 0


def test_the_monitor_sees_managers_and_their_workers(world: World) -> None:
    world.worker(W1, 1, manager=b"fleet")
    world.worker(W2, 1)
    for _ in range(5):
        world.task()
    assert _wanted(world, offers=(TaskCapability("gpu", 1), TaskCapability("linux", -1))) == 4
    world.now += 3
    report = state_scheduler(world.core, world.now, BinderStatus(), Resource(), 0, ObjectStorageStatus())
    assert report.scaling_manager.managed_workers == (ManagedWorkers(b"fleet", (W1,)),)
    assert report.scaling_manager.worker_manager_details == (
        WorkerManagerDetail(b"fleet", M1.decode(), 3, 4, "gpu=1,linux", 3),
    )


def test_inf_07_the_answer_about_a_task_counts_managers_that_could_help(world: World) -> None:
    task = world.task(needs=["gpu"])
    _wanted(world, M1, b"plain")
    _wanted(world, M2, b"cards", offers=GPU)
    _wanted(world, b"m3", b"none", limit=0, offers=GPU)
    world.send(C1, InformationRequest(encode_query(InformationQuery(1, "tasks", TaskFilter((task,))))))
    (response,) = world.take(C1)
    assert isinstance(response, InformationResponse)
    answer = decode_answer(response.response).value
    assert isinstance(answer, TaskList)
    assert (answer.tasks[0].offering, answer.tasks[0].missing, answer.tasks[0].managers_offering) == (0, ("gpu",), 1)


def test_a_changed_limit_or_offer_counts_at_once(world: World) -> None:
    for _ in range(9):
        world.task(needs=["gpu"])
    assert _wanted(world, limit=4) == 0
    world.now += 1
    assert _wanted(world, limit=4, offers=GPU) == 4
    assert _wanted(world, limit=2, offers=GPU) == 2
