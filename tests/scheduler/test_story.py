"""What the scheduler tells about the life of one task (SPEC section 13)."""

from __future__ import annotations

import pytest

from protocol.codec import decode_answer, encode_query
from protocol.identifiers import Identity, TaskId
from protocol.messages import InformationQuery, InformationRequest, InformationResponse, TaskState, TaskStory
from reference_impl.scheduler.story import MAX_EVENTS
from tests.scheduler.world import C1, C2, CANCELED, FAILED, W1, W2, World


def story(world: World, task: TaskId, asker: Identity = C2) -> TaskStory:
    world.send(asker, InformationRequest(encode_query(InformationQuery(7, "story", task))))
    answer = world.sent[asker].pop()
    assert isinstance(answer, InformationResponse)
    told = decode_answer(answer.response)
    assert told.query_id == 7
    assert isinstance(told.value, TaskStory)
    assert told.value.task_id == task
    return told.value


def told(story: TaskStory) -> list[tuple[str, str, bytes]]:
    return [(event.event, event.state.name, bytes(event.worker)) for event in story.events]


@pytest.fixture
def world() -> World:
    world = World(load_balance=-1.0)
    world.client()
    return world


def test_from_acceptance_to_result_with_times(world: World) -> None:
    task = world.task()
    assert told(story(world, task)) == [("Task", "INACTIVE", b"")]
    world.now += 1
    world.worker()
    world.now += 2
    world.result(task)
    world.now += 4
    end = story(world, task)
    assert end.client == C1
    assert told(end) == [
        ("Task", "INACTIVE", b""),
        ("hasCapacity", "RUNNING", W1),
        ("TaskResult", "SUCCESS", W1),
    ]
    assert [event.ago_milliseconds for event in end.events] == [7000, 6000, 4000]


def test_cancels_lost_workers_and_what_was_ignored(world: World) -> None:
    task = world.task()
    world.worker()
    world.worker_leaves()
    world.worker(W2)
    world.result(task, W1)  # too late
    world.cancel(task, force=False)
    world.confirm(task, FAILED, W2)
    world.cancel(task, force=True)
    world.confirm(task, CANCELED, W2)
    end = story(world, task)
    assert told(end) == [
        ("Task", "INACTIVE", b""),
        ("hasCapacity", "RUNNING", W1),
        ("workerLost", "INACTIVE", W1),
        ("hasCapacity", "RUNNING", W2),
        ("foreignAnswer", "RUNNING", W2),
        ("TaskCancel", "CANCELING", W2),
        ("cancelFailed", "RUNNING", W2),
        ("TaskCancel", "CANCELING", W2),
        ("canceled", "CANCELED", W2),
    ]
    details = {event.event + str(i): event.detail for i, event in enumerate(end.events) if event.detail}
    assert details == {
        "foreignAnswer4": "from Worker|one|01, ignored: only the worker that holds the task speaks for it",
        "TaskCancel7": "with force",
    }


def test_a_task_that_was_cancelled_in_the_queue(world: World) -> None:
    task = world.task()
    world.cancel(task)
    assert told(story(world, task))[1:] == [("TaskCancel", "CANCELED", b"")]


def test_the_events_of_one_story_are_bounded(world: World) -> None:
    task = world.task()
    world.worker()
    world.worker(W2)
    for _ in range(1000):
        world.result(task, W2)
    world.result(task)
    end = story(world, task)
    assert MAX_EVENTS <= len(end.events) <= MAX_EVENTS + 2
    assert end.events[1].event == "hasCapacity"
    assert end.events[-1].state is TaskState.SUCCESS
    assert end.left_out + len(end.events) == 1003


def test_the_stories_of_one_client_are_bounded() -> None:
    world = World(load_balance=-1.0, ended_stories=2)
    world.client()
    world.worker()
    tasks = [world.task() for _ in range(3)]
    for task in tasks:
        world.result(task)
    assert [len(story(world, task).events) for task in tasks] == [0, 3, 3]


def test_the_last_task_of_an_id_counts(world: World) -> None:
    world.worker()
    task = world.task()
    world.result(task)
    world.task(task_id=task)
    world.cancel(task)
    world.confirm(task, CANCELED)
    assert story(world, task).events[-1].state is TaskState.CANCELED


def test_stories_are_gone_with_their_client(world: World) -> None:
    world.worker()
    tasks = [world.task() for _ in range(3)]
    world.result(tasks[0])
    world.client_leaves()
    world.confirm(tasks[1], CANCELED)
    for task in (tasks[0], tasks[1], tasks[2], TaskId(b"x" * 16)):
        assert story(world, task) == TaskStory(task)


def test_without_stories_there_is_only_the_beginning_of_what_lives() -> None:
    world = World(load_balance=-1.0, ended_stories=0)
    world.client()
    world.worker()
    task = world.task()
    assert told(story(world, task)) == [("Task", "INACTIVE", b"")]
    world.result(task)
    assert story(world, task) == TaskStory(task)
