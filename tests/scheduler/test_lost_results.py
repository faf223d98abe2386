"""Results that a worker may have stored, and was lost before it told anybody (SPEC OBJ-18, OBJ-19)."""

from __future__ import annotations

import pytest

from protocol.identifiers import result_object_id
from tests.scheduler.world import C1, W1, World

TIMEOUT = 60.0


@pytest.fixture
def world() -> World:
    world = World(worker_timeout=TIMEOUT)
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


def test_nothing_is_kept_of_a_client_that_is_lost(world: World) -> None:
    task = world.task()
    world.worker_leaves()
    world.client_leaves()
    assert result_object_id(C1, W1, task) in world.deleted
    world.assert_empty()
    world.deleted.clear()
    world.advance(TIMEOUT + 1)
    assert not world.deleted
