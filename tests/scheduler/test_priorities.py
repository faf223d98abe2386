"""Priorities in the scheduler: the order of the queue, and room for what is urgent (SPEC PRI-10, PRI-11)."""

from __future__ import annotations

import random

import pytest

from protocol.identifiers import TaskId, content_object_id
from protocol.lifecycle import State
from protocol.messages import (
    Message,
    ProcessorStatus,
    Task,
    TaskCancel,
    TaskCancelFlags,
    TaskCapability,
    WorkerHeartbeat,
)
from protocol.payloads import TaskMetadata
from tests.scheduler.world import C1, CANCELED, FAILED, NOT_FOUND, W1, W2, World, cancel

UNFORCED = TaskCancelFlags(False)


def task(world: World, number: int, priority: int = 0, needs: str = "") -> TaskId:
    task_id = TaskId(number.to_bytes(16, "big"))
    capabilities = (TaskCapability(needs, 1),) if needs else ()
    metadata = TaskMetadata(priority=priority).to_bytes()
    world.send(C1, Task(task_id, C1, metadata, content_object_id(C1, b"f"), (), capabilities))
    return task_id


def numbers(messages: list[Message]) -> list[int]:
    return [int.from_bytes(m.task_id, "big") for m in messages if isinstance(m, Task)]


@pytest.fixture
def world() -> World:
    world = World(load_balance=1000.0)
    world.client()
    return world


def test_the_queue_goes_by_priority_then_by_age(world: World) -> None:
    priorities = {1: 0, 2: 3, 3: 0, 4: -1, 5: 3, 6: 1}
    for number, priority in priorities.items():
        task(world, number, priority)
    assert [t.task_id[-1] for t in world.core.queue] == [2, 5, 6, 1, 3, 4]
    world.worker(queue_size=6)
    assert numbers(world.take(W1)) == [2, 5, 6, 1, 3, 4]


def test_room_is_wanted_only_for_tasks_that_still_wait(world: World) -> None:
    for number, priority in {1: 0, 2: 3, 3: -1, 4: 1}.items():
        task(world, number, priority, "gpu" if number < 3 else "")
    tasks = {number: TaskId(number.to_bytes(16, "big")) for number in range(1, 6)}
    queue = world.core.lifecycle.queue
    assert [t.task_id for t in queue.above()] == [tasks[2], tasks[4]]
    world.worker(queue_size=1)
    assert numbers(world.take(W1)) == [4]
    world.cancel(tasks[2])
    assert list(queue.above()) == []
    task(world, 5, 3, "gpu")
    assert [t.task_id for t in queue.above()] == [tasks[5]]


def test_priorities_and_requirements_together(world: World) -> None:
    task(world, 1)
    task(world, 2, 1, "gpu")
    task(world, 3, 0, "gpu")
    task(world, 4, 2)
    world.worker(queue_size=4)
    assert numbers(world.take(W1)) == [4, 1]
    world.send(W2, WorkerHeartbeat(queue_size=4, capabilities=(TaskCapability("gpu", -1),)))
    assert numbers(world.take(W2)) == [2, 3]


def test_what_cannot_be_read_has_no_priority(world: World) -> None:
    world.send(C1, Task(TaskId(bytes(15) + b"\x01"), C1, b"nonsense", content_object_id(C1, b"f")))
    task(world, 2, 1)
    world.worker(queue_size=2)
    assert numbers(world.take(W1)) == [2, 1]


@pytest.mark.parametrize("answer", [CANCELED, NOT_FOUND])
def test_a_queued_task_is_taken_back_for_a_higher_priority(world: World, answer: object) -> None:
    world.worker(queue_size=2)
    one, two = task(world, 1), task(world, 2)
    world.take(W1)
    task(world, 3, 1)
    assert world.take(W1) == [cancel(two, False)]  # the newest
    world.confirm(two, answer)  # type: ignore[arg-type]
    assert numbers(world.take(W1)) == [3]
    assert world.state(two) is State.INACTIVE
    world.result(one)
    assert numbers(world.take(W1)) == [2]


def test_what_has_started_is_not_asked_for_again(world: World) -> None:
    world.worker(queue_size=2)
    one, two = task(world, 1), task(world, 2)
    world.take(W1)
    task(world, 3, 1)
    world.take(W1)
    world.confirm(two, FAILED)
    assert world.take(W1) == [cancel(one, False)]
    world.confirm(one, FAILED)
    task(world, 4, 1)
    world.assert_silent()
    world.result(one)
    assert numbers(world.take(W1)) == [3]


def test_a_task_that_runs_by_the_heartbeat_is_not_asked_for(world: World) -> None:
    world.worker(queue_size=2)
    one, two = task(world, 1), task(world, 2)
    world.send(W1, WorkerHeartbeat(queue_size=2, processors=(ProcessorStatus(1, True, True, current_task_id=two),)))
    world.take(W1)
    task(world, 3, 1)
    assert world.take(W1) == [cancel(one, False)]


def test_one_place_for_each_and_the_least_urgent_first(world: World) -> None:
    world.worker(queue_size=3)
    _, two, three = task(world, 1, 2), task(world, 2, 0), task(world, 3, 1)
    world.take(W1)
    task(world, 4, 3)
    assert world.take(W1) == [cancel(two, False)]
    task(world, 5, 3)
    assert world.take(W1) == [cancel(three, False)]
    world.confirm(two, CANCELED)
    world.confirm(three, CANCELED)
    assert numbers(world.take(W1)) == [4, 5]
    assert [t.task_id[-1] for t in world.core.queue] == [3, 2]


def test_an_equal_priority_waits(world: World) -> None:
    world.worker(queue_size=2)
    task(world, 1, 1), task(world, 2, 1)
    world.take(W1)
    task(world, 3, 1)
    world.assert_silent()


def test_only_where_it_helps(world: World) -> None:
    world.worker(W1, queue_size=1)
    world.send(W2, WorkerHeartbeat(queue_size=1, capabilities=(TaskCapability("gpu", -1),)))
    world.take(W2)
    one, two = task(world, 1), task(world, 2)
    held = {numbers(world.take(worker))[0]: worker for worker in (W1, W2)}
    task(world, 3, 5, "gpu")
    wanted = one if held[1] == W2 else two
    assert world.take(W2) == [cancel(wanted, False)]
    world.assert_silent()


def test_nothing_is_taken_back_without_balancing() -> None:
    world = World(load_balance=-1.0)
    world.client()
    world.worker()
    task(world, 1)
    world.take(W1)
    task(world, 2, 1)
    world.assert_silent()


def test_room_is_made_in_the_next_round_for_what_could_not_have_it_at_once(world: World) -> None:
    world.worker(queue_size=1)
    one = task(world, 1)
    world.take(W1)
    first, _ = task(world, 2, 1), task(world, 3, 1)
    assert world.take(W1) == [cancel(one, False)]
    world.confirm(one, CANCELED)
    assert numbers(world.take(W1)) == [2]
    world.result(first)
    assert numbers(world.take(W1)) == [3]
    world.take(C1)
    world.advance(1000.0)
    world.assert_silent()


@pytest.mark.parametrize("seed", range(20))
def test_no_task_is_lost_and_none_runs_before_a_higher_one_that_could(seed: int) -> None:
    rng = random.Random(seed)
    world = World(load_balance=1000.0)
    world.client()
    world.worker(W1, queue_size=2)
    world.worker(W2, queue_size=3)
    count = 0
    for _ in range(150):
        kind = rng.choice(("task", "result", "confirm"))
        held = [(w.worker_id, t) for w in world.core.workers.values() for t in w.held.values()]
        if kind == "task":
            count += 1
            task(world, count, rng.choice((0, 0, 0, 1, 2, -1)))
        elif kind == "result" and held:
            worker, record = rng.choice(held)
            world.result(record.task_id, worker)
        elif kind == "confirm":
            asked = [(w, t) for w, t in held if t.state is State.BALANCE_CANCELING]
            if asked:
                worker, record = rng.choice(asked)
                world.confirm(record.task_id, rng.choice((CANCELED, FAILED)), worker)
        waiting = max((t.priority for t in world.core.queue), default=-9)
        for worker_record in world.core.workers.values():
            free = worker_record.queue_size - len(worker_record.held)
            assert free == 0 or not len(world.core.queue)
        for record in (t for w in world.core.workers.values() for t in w.held.values()):
            if record.state is State.BALANCE_CANCELING:
                assert record.priority < max(waiting, 2)
    while world.core.tasks:
        for worker_record in world.core.workers.values():
            for held_task in list(worker_record.held.values()):
                world.result(held_task.task_id, worker_record.worker_id)
    answers = [m for m in world.take(C1) if not isinstance(m, TaskCancel)]
    assert len(answers) == count
