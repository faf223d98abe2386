"""What a worker or a client may have stored, and was lost before it told anybody (SPEC OBJ-18 to OBJ-20)."""

from __future__ import annotations

import pytest

from protocol.identifiers import ObjectId, everything_of, result_object_id, serializer_object_id
from protocol.messages import ObjectInstruction, ObjectInstructionType, ObjectMetadata, TaskResult, TaskResultType
from tests.scheduler.world import C1, W1, W2, World

TIMEOUT = 60.0


def _announce(world: World, *objects: ObjectId) -> None:
    world.send(C1, ObjectInstruction(ObjectInstructionType.CREATE, C1, ObjectMetadata(objects)))


@pytest.fixture
def world() -> World:
    world = World(worker_timeout=TIMEOUT, client_timeout=2 * TIMEOUT)
    world.client()
    world.worker()
    return world


def test_they_are_deleted_when_it_does_not_come_back(world: World) -> None:
    task = world.task()
    world.worker_leaves()
    world.advance(TIMEOUT - 1)
    assert not world.deleted
    world.client()  # it is still there
    world.advance(2)
    assert world.deleted == [result_object_id(C1, W1, task)]


def test_who_comes_back_says_itself_what_it_has_stored(world: World) -> None:
    world.task()
    world.worker_leaves()
    world.worker()
    world.client()
    world.advance(TIMEOUT - 1)
    world.worker()
    world.client()
    world.advance(2)
    assert not world.deleted


def test_who_comes_back_and_leaves_again_has_lost_only_what_it_held_then(world: World) -> None:
    task = world.task()
    world.worker_leaves()
    world.worker()
    world.result(task)  # it got the task again, and its result lies where the first one would
    world.worker_leaves()
    world.client()
    world.advance(TIMEOUT + 1)
    assert result_object_id(C1, W1, task) not in world.deleted


def test_what_an_answer_names_stays(world: World) -> None:
    """It came back with another identity, got the task again, and says what it had stored before it was lost."""
    task = world.task()
    world.worker_leaves()
    world.worker(W2)
    old = result_object_id(C1, W1, task)
    world.send(W2, TaskResult(task, TaskResultType.SUCCESS, b"", (old,)))
    world.client()
    world.advance(TIMEOUT + 1)
    assert old not in world.deleted


def test_nothing_is_kept_of_a_client_that_is_lost(world: World) -> None:
    task = world.task()
    world.worker_leaves()
    world.client_leaves()
    assert result_object_id(C1, W1, task) in world.deleted
    world.assert_empty()
    world.deleted.clear()
    world.advance(TIMEOUT + 1)
    assert not world.deleted


def test_everything_goes_of_a_client_that_was_silent_and_does_not_come_back(world: World) -> None:
    world.advance(2 * TIMEOUT + 1)
    assert everything_of(C1) not in world.deleted
    world.advance(2 * TIMEOUT)
    assert everything_of(C1) in world.deleted


def test_a_client_that_comes_back_keeps_what_it_stores_then(world: World) -> None:
    world.advance(2 * TIMEOUT + 1)
    world.client()
    world.advance(2 * TIMEOUT)
    assert everything_of(C1) not in world.deleted


def test_who_says_goodbye_has_said_what_it_stored(world: World) -> None:
    world.client_leaves()
    world.advance(5 * TIMEOUT)
    assert not world.deleted


def test_everything_goes_of_a_client_whose_worker_was_lost(world: World) -> None:
    world.task()
    world.worker_leaves()
    world.worker(W2)
    world.client_leaves()
    assert everything_of(C1) in world.deleted


def test_no_deletion_can_hit_what_a_client_stores_that_was_only_silent(world: World) -> None:
    """A deletion may reach the storage late: none is asked for that names what the client will store again."""
    serializer = serializer_object_id(C1)
    task = world.task()
    world.worker_leaves()  # there is doubt about what lies in the storage
    _announce(world, serializer)
    world.advance(2 * TIMEOUT + 1)
    assert result_object_id(C1, W1, task) in world.deleted
    assert not {everything_of(C1), serializer} & set(world.deleted)
    world.client()
    world.advance(2 * TIMEOUT)
    assert not {everything_of(C1), serializer} & set(world.deleted)
    world.client()
    world.client_leaves()
    assert everything_of(C1) in world.deleted


def test_the_serializer_goes_with_a_client_that_does_not_come_back(world: World) -> None:
    serializer = serializer_object_id(C1)
    _announce(world, serializer)
    world.advance(2 * TIMEOUT + 1)
    assert serializer not in world.deleted
    world.advance(2 * TIMEOUT)
    assert serializer in world.deleted


def test_it_goes_at_once_with_one_that_says_goodbye(world: World) -> None:
    serializer = serializer_object_id(C1)
    _announce(world, serializer)
    world.client_leaves()
    assert serializer in world.deleted
