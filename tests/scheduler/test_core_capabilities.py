"""Capabilities: which worker gets which task, and what waits (SPEC TSK-12, TSK-16, TSK-17, INF-07)."""

from __future__ import annotations

import random

import pytest

from protocol.codec import decode_answer, encode_query
from protocol.identifiers import TaskId, WorkerId
from protocol.lifecycle import State
from protocol.messages import (
    InformationQuery,
    InformationRequest,
    InformationResponse,
    Task,
    TaskCancel,
    TaskCapability,
    TaskFilter,
    TaskInfo,
    TaskList,
    WorkerHeartbeat,
)
from tests.scheduler.world import C1, CANCELED, FAILED, W1, W2, World, cancel

W3 = WorkerId(b"Worker|three|03")


@pytest.fixture
def world() -> World:
    world = World(load_balance=1.0)
    world.client()
    return world


def _got(world: World, worker: WorkerId) -> list[TaskId]:
    return [m.task_id for m in world.take(worker) if isinstance(m, Task)]


def test_tsk_12_a_task_waits_for_all_of_its_names_and_others_pass_it(world: World) -> None:
    world.worker(W1, 9, ["gpu"])
    world.worker(W2, 9, ["linux"])
    both, gpu, plain = world.task(needs=["gpu", "linux"]), world.task(needs=["gpu"]), world.task()
    assert (_got(world, W1), _got(world, W2)) == ([gpu], [plain])
    assert world.state(both) is State.INACTIVE
    world.worker(W3, 1, ["linux", "tape", "gpu"])
    assert _got(world, W3) == [both]


def test_tsk_12_a_worker_that_comes_gets_what_stands_behind_a_task_that_it_can_not_run(world: World) -> None:
    world.task(needs=["gpu"])
    plain = world.task()
    assert _got(world, world.worker(W1, 9)) == [plain]


def test_tsk_16_the_oldest_first_whatever_it_requires(world: World) -> None:
    """In one moment of the clock, and over time; a task that comes back is the oldest."""
    needs = [(), ("gpu",), (), ("linux",), ("gpu", "linux"), ("tape",), ("gpu",), ()]
    tasks = [world.task(needs=n) for n in needs]
    world.now += 1
    tasks += [world.task(needs=n) for n in needs]
    runnable = [task for task, n in zip(tasks, needs * 2, strict=True) if n != ("tape",)]
    world.worker(W1, 1, ["gpu", "linux"])
    for task in runnable[:4]:
        assert _got(world, W1) == [task]
        world.result(task)
    assert _got(world, W1) == [runnable[4]]
    world.worker_leaves(W1)
    world.worker(W1, 1, ["gpu", "linux"])
    for task in runnable[4:]:
        assert _got(world, W1) == [task]
        world.result(task)


def test_tsk_16_against_a_model_of_one_list() -> None:
    """Random tasks, places and ends: a free place always goes to the first task of the list that fits."""
    rng = random.Random(5)
    world = World(load_balance=-1.0)
    world.client()
    kinds = [(), ("gpu",), ("linux",), ("gpu", "linux"), ("tape",)]
    offers: dict[WorkerId, frozenset[str]] = {
        W1: frozenset(),
        W2: frozenset(["gpu"]),
        W3: frozenset(["gpu", "linux", "tape"]),
    }
    held: dict[WorkerId, list[TaskId]] = {w: [] for w in offers}
    for worker, names in offers.items():
        world.worker(worker, 2, sorted(names))
    waiting: list[tuple[TaskId, frozenset[str]]] = []
    for _ in range(3000):
        world.now += rng.choice([0, 0, 1])
        if rng.random() < 0.5:
            needs = rng.choice(kinds)
            waiting.append((world.task(needs=needs), frozenset(needs)))
        elif waiting and rng.random() < 0.3:
            index = rng.randrange(len(waiting))
            world.cancel(waiting.pop(index)[0])
        else:
            worker = rng.choice([w for w in offers if held[w]] or [W1])
            if held[worker]:
                world.result(held[worker].pop(0), worker)
        for worker in offers:
            for task in _got(world, worker):
                held[worker].append(task)
                position = [t for t, _ in waiting].index(task)
                needs = waiting.pop(position)[1]
                assert needs <= offers[worker]
                passed_by = [n for _, n in waiting[:position] if n <= offers[worker]]
                assert not passed_by
        assert [t.task_id for t in world.core.queue] == [t for t, _ in waiting]
        world.take(C1)


def test_tsk_17_values_are_not_compared_and_names_count_once(world: World) -> None:
    world.worker(W1, 9, ["gpu"])
    for number, value in enumerate((-1, 0, 7)):
        task = TaskId(bytes([number]) * 16)
        both = (TaskCapability("gpu", value), TaskCapability("gpu", value + 1))
        world.send(C1, Task(task, C1, b"", b"f" * 32, (), both))
        assert _got(world, W1) == [task]


def test_tsk_17_what_is_offered_is_said_when_registering(world: World) -> None:
    world.worker(W1, 9)
    task = world.task(needs=["gpu"])
    world.send(W1, WorkerHeartbeat(queue_size=9, capabilities=(TaskCapability("gpu", 1),)))
    assert _got(world, W1) == []
    world.worker_leaves(W1)
    world.worker(W1, 9, ["gpu"])
    assert _got(world, W1) == [task]


def test_many_kinds_of_waiting_tasks_are_not_looked_at_again_and_again(world: World) -> None:
    """Each message would cost as much as there are kinds of tasks that wait."""
    for number in range(500):
        world.task(needs=[f"rare-{number}"])
    world.worker(W1, 1)
    asked = 0
    placement = world.core.peers.placement
    before = placement.least_loaded

    def counted(*needs: frozenset[str]) -> object:
        nonlocal asked
        asked += 1
        return before(*needs)

    placement.least_loaded = counted  # type: ignore[method-assign, assignment]
    for _ in range(100):
        world.result(world.task())
    assert asked < 1000


def test_liv_07_nothing_of_the_requirements_stays(world: World) -> None:
    world.worker(W1, 1, ["gpu"])
    tasks = [world.task(needs=needs) for needs in (["gpu"], ["gpu"], ["tape"], ["tape", "gpu"], ["gpu"])]
    world.cancel(tasks[1])
    world.client_leaves()
    world.take(W1)
    world.confirm(tasks[0], CANCELED)
    world.worker_leaves(W1)
    world.assert_empty()
    queue, placement = world.core.queue, world.core.peers.placement
    assert (queue._demanding, queue._named, queue._try) == ({}, {}, {})
    assert (placement._offering, placement._naming, placement._opened) == ({}, {}, set())


# ---- balancing ----


def test_bal_08_only_what_the_idle_worker_can_run_is_taken_back(world: World) -> None:
    world.worker(W1, 9, ["gpu"])
    plain = [world.task() for _ in range(2)]
    for _ in range(3):
        world.task(needs=["gpu"])
    world.worker(W2, 9)
    world.take(W1)
    world.advance(1)
    assert world.take(W1) == [cancel(plain[1], False)]
    world.confirm(plain[1], CANCELED)
    assert _got(world, W2) == [plain[1]]
    world.advance(1)
    world.assert_silent()


def test_bal_01_a_full_worker_is_relieved_for_a_task_that_only_it_can_run(world: World) -> None:
    world.worker(W1, 2, ["gpu"])
    first, second = world.task(), world.task()
    gpu = world.task(needs=["gpu"])
    world.worker(W2, 2)
    assert _got(world, W1) == [first, second]
    world.advance(1)
    assert world.take(W1) == [cancel(second, False)]
    world.confirm(second, CANCELED)
    assert (_got(world, W1), _got(world, W2)) == ([gpu], [second])


def test_bal_08_different_idle_workers_get_what_each_can_run(world: World) -> None:
    world.worker(W1, 9, ["gpu", "tape"])
    gpu = [world.task(needs=["gpu"]) for _ in range(3)]
    tape = [world.task(needs=["tape"]) for _ in range(3)]
    world.worker(W2, 9, ["gpu"])
    world.worker(W3, 9, ["tape"])
    world.take(W1)
    world.advance(1)
    taken = [m.task_id for m in world.take(W1)]  # type: ignore[attr-defined]
    assert sorted(taken) == sorted([gpu[1], gpu[2], tape[1], tape[2]])
    world.advance(1)
    world.assert_silent()
    for task in taken:
        world.confirm(task, CANCELED)
    assert (sorted(_got(world, W2)), sorted(_got(world, W3))) == (sorted(gpu[1:]), sorted(tape[1:]))


def test_bal_07_what_was_refused_is_not_asked_for_again_until_it_is_elsewhere(world: World) -> None:
    world.worker(W1, 9)
    tasks = [world.task() for _ in range(3)]
    world.worker(W2, 9)
    world.take(W1)
    world.advance(1)
    assert world.take(W1) == [cancel(tasks[2], False)]
    world.confirm(tasks[2], FAILED)
    world.advance(1)
    assert world.take(W1) == [cancel(tasks[1], False)]
    world.confirm(tasks[1], FAILED)
    world.advance(1)
    world.assert_silent()
    world.result(tasks[2])
    assert world.core.workers[W1].refused == {tasks[1]}
    world.worker_leaves(W1)
    assert _got(world, W2) == [tasks[0], tasks[1]]
    world.worker(W1, 9)
    world.take(C1)
    world.advance(1)
    assert world.take(W2) == [cancel(tasks[1], False)]  # the other worker has not refused it


def test_bal_08_random_loads_come_to_rest_and_nobody_is_idle_for_no_reason() -> None:
    rng = random.Random(3)
    for _ in range(60):
        world = World(load_balance=1.0, worker_timeout=1000.0, client_timeout=1000.0)
        world.client()
        workers = [WorkerId(b"Worker|w|%d" % i) for i in range(5)]
        offers = {worker: rng.choice([(), (), ("gpu",)]) for worker in workers}
        busy, idle = workers[:2], workers[2:]
        for worker in busy:
            world.worker(worker, 20, offers[worker])
        world.task(needs=["tape"])  # waits all the time, and stops nothing
        for _ in range(rng.randrange(25)):
            world.task(needs=rng.choice([(), (), ("gpu",)]))
        for worker in idle:
            world.worker(worker, 20, offers[worker])
        rounds = 0
        while rounds < 10:
            rounds += 1
            world.sent.clear()
            world.advance(1)
            moved = [(w, m.task_id) for w in workers for m in world.take(w) if isinstance(m, TaskCancel)]
            if not moved:
                break
            for worker, task in moved:
                world.confirm(task, CANCELED, worker)
        assert rounds <= 3, "one round levels, the next at most corrects, the last finds nothing to do"
        for worker in (w for w in workers if not world.core.workers[w].held):
            for other in world.core.workers.values():
                names = world.core.workers[worker].offers
                assert not [t for t in list(other.held.values())[1:] if t.needs <= names]


# ---- the answer about a task ----


def _about(world: World, task: TaskId) -> TaskInfo:
    query = InformationQuery(1, "tasks", TaskFilter((task,)))
    world.send(C1, InformationRequest(encode_query(query)))
    (response,) = world.take(C1)
    assert isinstance(response, InformationResponse)
    answer = decode_answer(response.response).value
    assert isinstance(answer, TaskList)
    return answer.tasks[0]


def test_inf_07_what_a_task_requires_and_who_offers_it(world: World) -> None:
    world.worker(W1, 1, ["gpu"])
    world.worker(W2, 1, ["linux"])
    running = world.task(needs=["gpu"])
    world.task()
    waits, nobody, together, plain = (world.task(needs=n) for n in (["gpu"], ["tape", "gpu"], ["gpu", "linux"], []))
    seen = [_about(world, t) for t in (running, waits, nobody, together, plain)]
    assert [(i.offering, i.with_room, i.missing, i.queue_position) for i in seen] == [
        (1, 0, (), 0),
        (1, 0, (), 1),
        (0, 0, ("tape",), 2),
        (0, 0, (), 3),
        (2, 0, (), 4),
    ]
    assert set(seen[2].requirements) == {TaskCapability("tape", 1), TaskCapability("gpu", 1)}
    assert seen[4].requirements == ()
    world.result(running, W1)
    world.take(C1)
    assert _about(world, plain).queue_position == 3
