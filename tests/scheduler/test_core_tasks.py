"""The scheduler core against the requirements on tasks and cancellation, one message at a time."""

from __future__ import annotations

import logging

import pytest

from protocol.identifiers import ClientId, content_object_id
from protocol.lifecycle import State
from protocol.messages import (
    LogType,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectMetadata,
    Task,
    TaskLog,
    TaskResult,
    TaskResultType,
)
from reference_impl.scheduler.placement import TaskQueue
from tests.fuzz.growth import holdings
from tests.scheduler.world import C1, C2, CANCELED, FAILED, NOT_FOUND, W1, W2, World, cancel, confirm


@pytest.fixture
def world() -> World:
    world = World(load_balance=-1.0)
    world.client()
    return world


def test_a_task_goes_to_the_worker_as_it_came_and_its_result_comes_back_as_it_came(world: World) -> None:
    world.worker()
    task = world.task()
    assert world.take(W1) == [Task(task, C1, b"", content_object_id(C1, b"f"))]
    world.result(task)
    assert world.take(C1) == [TaskResult(task, TaskResultType.SUCCESS, b"", (content_object_id(C1, task),))]
    world.assert_silent()


def test_frames_are_forwarded_byte_for_byte(world: World) -> None:
    from protocol.envelope import Envelope
    from reference_impl.scheduler.instructions import Send

    world.worker()
    frame = Envelope.of(Task(b"t" * 16, C1, b"meta", b"f" * 32)).frame  # type: ignore[arg-type]
    (sent,) = world.core.receive(C1, Envelope.parse(frame), 0.0)
    assert isinstance(sent, Send)
    assert sent.to == W1
    assert sent.envelope.frame is frame


def test_tsk_05_queue_is_first_in_first_out_and_no_worker_holds_more_than_its_queue_size(world: World) -> None:
    tasks = [world.task() for _ in range(5)]
    world.worker(W1, queue_size=2)
    assert [m.task_id for m in world.take(W1)] == tasks[:2]
    world.result(tasks[1])
    assert [m.task_id for m in world.take(W1)] == tasks[2:3]


def test_tsk_05_the_least_loaded_worker_is_next(world: World) -> None:
    world.worker(W1, queue_size=10)
    world.worker(W2, queue_size=10)
    for _ in range(4):
        world.task()
    assert (len(world.take(W1)), len(world.take(W2))) == (2, 2)


def test_a_worker_without_places_gets_nothing(world: World) -> None:
    world.worker(W1, queue_size=0)
    task = world.task()
    assert world.state(task) is State.INACTIVE
    world.assert_silent()


def test_can_04_a_queued_task_is_canceled_at_once_and_never_dispatched(world: World) -> None:
    task = world.task()
    world.cancel(task)
    assert world.take(C1) == [confirm(task, CANCELED)]
    world.worker()
    world.assert_silent()


def test_nothing_is_kept_of_the_message_of_a_queued_task_that_was_canceled(world: World) -> None:
    """Behind, and before, one that goes on waiting: its place in the queue stays, the message may be large."""
    tasks = [world.task() for _ in range(3)]
    records = [world.core.tasks[task] for task in tasks]
    for task in (tasks[0], tasks[2]):
        world.cancel(task)
    assert [bool(record.frame) for record in records] == [False, True, False]
    world.take(C1)
    world.worker()
    assert [message.task_id for message in world.take(W1)] == [tasks[1]]  # type: ignore[union-attr]
    assert holdings(world.core.queue) == holdings(TaskQueue())


@pytest.mark.parametrize("force", [True, False])
def test_can_05_the_cancel_goes_to_the_worker_with_its_flags(world: World, force: bool) -> None:
    world.worker()
    task = world.task()
    world.take(W1)
    world.cancel(task, force=force)
    assert world.take(W1) == [cancel(task, force)]
    assert world.state(task) is State.CANCELING
    world.assert_silent()


@pytest.mark.parametrize("kind", [CANCELED, NOT_FOUND])
def test_can_02_and_03_the_confirm_of_the_worker_reaches_the_client_and_frees_the_place(
    world: World, kind: type[CANCELED]
) -> None:
    world.worker()
    task, following = world.task(), world.task()
    world.cancel(task)
    world.take(W1)
    world.confirm(task, kind)
    assert world.take(C1) == [confirm(task, kind)]
    assert [m.task_id for m in world.take(W1)] == [following]


def test_can_03_not_found_is_normal_traffic(world: World) -> None:
    world.worker()
    task = world.task()
    world.cancel(task)
    world.confirm(task, NOT_FOUND)
    assert all(note.level < logging.ERROR for note in world.notes)


def test_can_06_a_refused_cancel_is_passed_on_and_the_result_follows(world: World) -> None:
    world.worker()
    task = world.task()
    world.cancel(task, force=False)
    world.take(W1)
    world.confirm(task, FAILED)
    assert world.take(C1) == [confirm(task, FAILED)]
    assert world.state(task) is State.RUNNING
    world.result(task)
    assert [type(m) for m in world.take(C1)] == [TaskResult]


def test_can_06_after_a_refusal_a_new_cancel_is_sent_again(world: World) -> None:
    world.worker()
    task = world.task()
    world.cancel(task, force=False)
    world.confirm(task, FAILED)
    world.take(W1)
    world.cancel(task, force=True)
    assert world.take(W1) == [cancel(task, True)]
    world.confirm(task, CANCELED)
    assert world.take(C1) == [confirm(task, FAILED), confirm(task, CANCELED)]


def test_can_07_a_result_that_overtakes_the_confirm_is_the_answer_and_the_confirm_is_ignored(world: World) -> None:
    world.worker()
    task = world.task()
    world.cancel(task)
    world.take(W1)
    world.result(task)
    assert [type(m) for m in world.take(C1)] == [TaskResult]
    world.confirm(task, NOT_FOUND)
    world.assert_silent()


def test_can_08_the_worker_is_lost_while_canceling(world: World) -> None:
    world.worker()
    task = world.task()
    world.cancel(task)
    world.take(W1)
    world.worker_leaves()
    assert world.take(C1) == [confirm(task, CANCELED)]
    world.worker(W2)
    world.assert_silent()


def test_can_09_a_second_cancel_in_flight_sends_nothing(world: World) -> None:
    world.worker()
    task = world.task()
    world.cancel(task)
    world.take(W1)
    world.cancel(task)
    world.assert_silent()
    world.confirm(task, CANCELED)
    assert world.take(C1) == [confirm(task, CANCELED)]


def test_can_12_force_that_came_while_an_unforced_cancel_was_in_flight_is_not_lost(world: World) -> None:
    world.worker()
    task = world.task()
    world.cancel(task, force=False)
    world.take(W1)
    world.cancel(task, force=True)
    world.assert_silent()
    world.confirm(task, FAILED)
    assert world.take(W1) == [cancel(task, True)]
    assert world.take(C1) == []
    world.confirm(task, CANCELED)
    assert world.take(C1) == [confirm(task, CANCELED)]


def test_can_10_an_unknown_id_is_not_found(world: World) -> None:
    world.cancel(b"x" * 16)  # type: ignore[arg-type]
    assert world.take(C1) == [confirm(b"x" * 16, NOT_FOUND)]  # type: ignore[arg-type]


@pytest.mark.parametrize("held", [True, False])
def test_can_11_another_clients_task_is_not_found_and_untouched(world: World, held: bool) -> None:
    if held:
        world.worker()
    task = world.task()
    world.take(W1)
    state = world.state(task)
    world.cancel(task, client=C2)
    assert world.take(C2) == [confirm(task, NOT_FOUND)]
    assert world.state(task) is state
    world.assert_silent()


@pytest.mark.parametrize("kind", [CANCELED, NOT_FOUND, FAILED])
def test_tsk_04_answers_of_a_worker_that_does_not_hold_the_task_are_ignored_and_noted(
    world: World, kind: type[CANCELED]
) -> None:
    world.worker(W1)
    task = world.task()
    world.worker(W2)
    world.cancel(task)
    world.take(W1)
    world.notes.clear()
    world.result(task, worker=W2)
    world.confirm(task, kind, worker=W2)
    assert world.state(task) is State.CANCELING
    assert len(world.notes) == 2
    world.assert_silent()


@pytest.mark.parametrize("kind", [CANCELED, NOT_FOUND, FAILED])
def test_tsk_04_a_confirm_that_nobody_asked_for_is_ignored(world: World, kind: type[CANCELED]) -> None:
    world.worker()
    task = world.task()
    world.take(W1)
    world.confirm(task, kind)
    assert world.state(task) is State.RUNNING
    world.assert_silent()


def test_tsk_04_the_result_of_a_replaced_worker_is_ignored(world: World) -> None:
    world.worker(W1)
    task = world.task()
    world.worker_leaves(W1)
    world.worker(W2)
    world.take(W1), world.take(W2)
    world.result(task, worker=W1)
    world.assert_silent()
    world.result(task, worker=W2)
    assert len(world.take(C1)) == 1


def test_tsk_03_a_second_task_with_a_living_id_does_not_run_twice(world: World) -> None:
    world.worker(queue_size=5)
    task = world.task()
    world.take(W1)
    world.task(task_id=task)
    world.client(C2)
    world.send(C2, Task(task, C2, b"", b"f" * 32))
    world.assert_silent()
    world.result(task)
    assert len(world.take(C1)) == 1


def test_tsk_06_the_tasks_of_a_lost_worker_go_elsewhere_first_and_in_order(world: World) -> None:
    world.worker(W1, queue_size=2)
    tasks = [world.task() for _ in range(4)]
    world.worker_leaves(W1)
    world.worker(W2, queue_size=10)
    assert [m.task_id for m in world.take(W2)] == tasks


def test_tsk_06_a_silent_worker_is_lost_and_only_heartbeats_keep_it(world: World) -> None:
    world.worker(W1)
    task = world.task()
    world.take(W1)
    world.now += 59
    world.send(W1, TaskLog(task, LogType.STDOUT, "still here"))
    world.client()
    world.advance(2)
    assert world.state(task) is State.INACTIVE


def test_tsk_07_a_task_that_loses_too_many_workers_fails(world: World) -> None:
    task = world.task()
    for _ in range(3):
        assert world.take(C1) == []
        world.worker(W1)
        world.take(W1)
        world.worker_leaves(W1)
    assert world.take(C1) == [TaskResult(task, TaskResultType.FAILED_WORKER_DIED)]
    assert world.state(task) is State.UNKNOWN


def test_task_logs_reach_the_client_from_the_holder_only(world: World) -> None:
    world.worker(W1)
    task = world.task()
    world.worker(W2)
    world.take(W1)
    log = TaskLog(task, LogType.STDERR, "hello\n")
    world.send(W2, log)
    world.assert_silent()
    world.send(W1, log)
    assert world.take(C1) == [log]


# ---- clients that leave ----


def test_liv_06_a_client_that_leaves_takes_its_tasks_with_it_by_force(world: World) -> None:
    world.worker(W1)
    running, queued = world.task(), world.task()
    world.take(W1)
    world.client_leaves()
    assert world.take(W1) == [cancel(running, True)]
    assert (world.state(running), world.state(queued)) == (State.ABANDONED, State.UNKNOWN)
    world.confirm(running, CANCELED)
    world.assert_silent()
    world.assert_empty()


def test_liv_06_a_silent_client_is_lost(world: World) -> None:
    task = world.task()
    world.advance(61)
    assert world.state(task) is State.UNKNOWN
    world.assert_empty()


def test_liv_06_an_unforced_cancel_in_flight_becomes_a_forced_one(world: World) -> None:
    world.worker(W1)
    task = world.task()
    world.cancel(task, force=False)
    world.take(W1)
    world.client_leaves()
    world.assert_silent()
    world.confirm(task, FAILED)
    assert world.take(W1) == [cancel(task, True)]
    world.confirm(task, FAILED)
    assert world.state(task) is State.ABANDONED
    world.result(task)
    assert world.deleted == [content_object_id(C1, task)]
    assert world.take(C1) == []
    world.assert_empty()


@pytest.mark.parametrize("how", ["confirm", "result", "worker lost"])
def test_liv_07_nothing_of_a_client_is_left(world: World, how: str) -> None:
    world.worker(W1)
    ids = (content_object_id(C1, b"a"), content_object_id(C1, b"b"))
    world.send(C1, ObjectInstruction(ObjectInstructionType.CREATE, C1, ObjectMetadata(ids)))
    task = world.task()
    world.take(W1)
    world.client_leaves()
    assert set(world.deleted) == set(ids)
    if how == "confirm":
        world.confirm(task, NOT_FOUND)
    elif how == "result":
        world.result(task)
        assert content_object_id(C1, task) in world.deleted
    else:
        world.worker_leaves()
    assert world.take(C1) == []
    world.assert_empty()


def test_a_client_that_comes_back_under_the_same_identity_gets_no_answers_of_its_old_tasks(world: World) -> None:
    world.worker(W1)
    task = world.task()
    world.client_leaves()
    world.client()
    world.cancel(task)
    assert world.take(C1) == [confirm(task, NOT_FOUND)]
    world.result(task)
    assert world.take(C1) == []


def test_sec_01_a_task_in_anothers_name_is_ignored(world: World) -> None:
    world.worker(W1)
    world.send(C1, Task(b"t" * 16, C2, b"", b"f" * 32))  # type: ignore[arg-type]
    world.send(W1, Task(b"t" * 16, ClientId(W1), b"", b"f" * 32))  # type: ignore[arg-type]
    assert world.core.tasks == {}
    assert len(world.notes) == 2
    world.assert_silent()
