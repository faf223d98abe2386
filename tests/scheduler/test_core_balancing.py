"""Balancing: the scheduler takes queued tasks back from busy workers for idle ones (SPEC BAL-01 to BAL-05)."""

from __future__ import annotations

import pytest

from protocol.identifiers import TaskId
from protocol.lifecycle import State
from tests.scheduler.world import C1, CANCELED, FAILED, NOT_FOUND, W1, W2, World, cancel, confirm


@pytest.fixture
def world() -> World:
    world = World(load_balance=1.0)
    world.client()
    return world


def _balanced(world: World) -> tuple[TaskId, TaskId]:
    """Worker 1 holds two tasks, worker 2 is idle, and the newer task is being taken back."""
    world.worker(W1, queue_size=5)
    older, newer = world.task(), world.task()
    world.worker(W2, queue_size=5)
    world.take(W1)
    world.advance(1)
    assert world.take(W1) == [cancel(newer, False)]
    assert world.state(newer) is State.BALANCE_CANCELING
    return older, newer


@pytest.mark.parametrize("kind", [CANCELED, NOT_FOUND])
def test_bal_02_what_is_given_back_goes_to_the_idle_worker(world: World, kind: type[CANCELED]) -> None:
    _, newer = _balanced(world)
    world.confirm(newer, kind)
    assert [m.task_id for m in world.take(W2)] == [newer]
    world.assert_silent()


def test_bal_03_what_is_refused_runs_where_it_is(world: World) -> None:
    _, newer = _balanced(world)
    world.confirm(newer, FAILED)
    assert world.state(newer) is State.RUNNING
    world.assert_silent()


def test_bal_04_a_worker_lost_meanwhile(world: World) -> None:
    older, newer = _balanced(world)
    world.worker_leaves(W1)
    assert [m.task_id for m in world.take(W2)] == [older, newer]
    world.assert_silent()


def test_bal_05_a_cancel_meanwhile_sends_nothing_and_the_confirm_ends_it(world: World) -> None:
    _, newer = _balanced(world)
    world.cancel(newer)
    assert world.state(newer) is State.CANCELING
    world.assert_silent()
    world.confirm(newer, CANCELED)
    assert world.take(C1) == [confirm(newer, CANCELED)]
    world.assert_silent()


def test_bal_05_the_force_of_a_cancel_meanwhile_is_not_lost(world: World) -> None:
    _, newer = _balanced(world)
    world.cancel(newer, force=True)
    world.confirm(newer, FAILED)
    assert world.take(W1) == [cancel(newer, True)]
    assert world.take(C1) == []
    world.confirm(newer, CANCELED)
    assert world.take(C1) == [confirm(newer, CANCELED)]


def test_bal_05_an_unforced_cancel_meanwhile_is_refused_with_the_balancing(world: World) -> None:
    _, newer = _balanced(world)
    world.cancel(newer, force=False)
    world.confirm(newer, FAILED)
    assert world.take(C1) == [confirm(newer, FAILED)]
    assert world.take(W1) == []


def test_a_result_meanwhile_is_the_answer(world: World) -> None:
    _, newer = _balanced(world)
    world.result(newer)
    assert [m.task_id for m in world.take(C1)] == [newer]
    world.confirm(newer, NOT_FOUND)
    world.assert_silent()


def test_a_client_that_leaves_meanwhile(world: World) -> None:
    older, newer = _balanced(world)
    world.client_leaves()
    assert world.take(W1) == [cancel(older, True)]
    world.confirm(newer, FAILED)
    assert world.take(W1) == [cancel(newer, True)]
    world.confirm(newer, CANCELED)
    world.confirm(older, CANCELED)
    world.assert_silent()
    world.assert_empty()


def test_only_as_many_as_level_the_loads_and_never_the_oldest(world: World) -> None:
    world.worker(W1, queue_size=9)
    tasks = [world.task() for _ in range(5)]
    world.worker(W2, queue_size=9)
    world.take(W1)
    world.advance(1)
    assert [m.task_id for m in world.take(W1)] == [tasks[4], tasks[3]]
    world.advance(1)  # nothing has come back yet: what is on its way counts
    world.assert_silent()
    world.confirm(tasks[4], CANCELED)
    world.confirm(tasks[3], CANCELED)
    assert [m.task_id for m in world.take(W2)] == [tasks[4], tasks[3]]
    world.advance(1)
    world.assert_silent()


def test_no_balancing_between_levelled_workers_or_when_it_is_off() -> None:
    world = World(load_balance=-1.0)
    world.client()
    world.worker(W1, queue_size=5)
    world.task(), world.task()
    world.worker(W2, queue_size=5)
    world.take(W1)
    world.advance(10)
    world.assert_silent()
