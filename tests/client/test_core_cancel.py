"""Cancellation in the client core: every order of confirm, result and second cancel (R1 to R6, D1)."""

from __future__ import annotations

import itertools

import pytest

from protocol.identifiers import new_task_id
from protocol.messages import TaskCancel, TaskCancelConfirmType, TaskResultType
from reference_impl.client.instructions import Answered, Broken, CancelAnswer, Canceled, Completed, Fetch
from reference_impl.errors import SchedulerLost
from tests.client.world import World

CANCELED = TaskCancelConfirmType.CANCELED
NOT_FOUND = TaskCancelConfirmType.CANCEL_NOT_FOUND
FAILED = TaskCancelConfirmType.CANCEL_FAILED


@pytest.mark.parametrize(
    ("confirm", "answer"), [(CANCELED, CancelAnswer.CANCELED), (NOT_FOUND, CancelAnswer.NOT_FOUND)]
)
def test_a_confirm_ends_the_task_as_canceled(confirm: TaskCancelConfirmType, answer: CancelAnswer) -> None:
    world = World()
    task = world.submit()
    world.cancel(task, "waiter")
    assert [cancel.flags.force for cancel in world.sent(TaskCancel)] == [True]
    assert not world.ends(task)
    world.confirm(task, confirm)
    assert world.ends(task) == [(task, Canceled(), answer, ("waiter",))]


def test_a_result_that_overtakes_the_confirm_is_dropped_and_deleted() -> None:
    world = World()
    task = world.submit()
    world.cancel(task, "waiter")
    result = world.result(task)
    assert world.ends(task) == [(task, Canceled(), CancelAnswer.RESULT, ("waiter",))]
    assert not world.of(Fetch)
    world.pass_time(0.2)
    assert world.deleted() == [result]


def test_cancel_failed_answers_and_the_result_comes_as_if_nobody_had_asked() -> None:
    world = World()
    task = world.submit()
    world.cancel(task, "waiter")
    world.confirm(task, FAILED)
    assert world.of(Answered) == [(task, CancelAnswer.FAILED, ("waiter",), None)]
    world.complete(task)
    assert world.ends(task) == [(task, Completed(TaskResultType.SUCCESS, b"value", None), None, ())]


def test_a_refusal_that_was_learned_otherwise_counts_as_cancel_failed() -> None:
    world = World()
    task = world.submit()
    assert world.core.refused(task) == [], "no cancel is in flight"
    world.cancel(task, "waiter")
    assert world.core.refused(task) == [Answered(task, CancelAnswer.FAILED, ("waiter",))]
    assert world.core.refused(task) == [] and world.core.refused(new_task_id()) == []
    world.complete(task)
    assert world.ends(task) == [(task, Completed(TaskResultType.SUCCESS, b"value", None), None, ())]


def test_after_cancel_failed_a_second_cancel_asks_again() -> None:
    world = World()
    task = world.submit()
    world.cancel(task, 1)
    world.confirm(task, FAILED)
    world.cancel(task, 2)
    assert len(world.sent(TaskCancel)) == 2
    world.confirm(task, CANCELED)
    assert world.ends(task) == [(task, Canceled(), CancelAnswer.CANCELED, (2,))]


def test_cancels_share_one_request_and_all_get_the_answer() -> None:
    world = World()
    task = world.submit()
    for token in (1, 2, 3):
        world.cancel(task, token)
    assert len(world.sent(TaskCancel)) == 1
    world.confirm(task, FAILED)
    assert world.of(Answered) == [(task, CancelAnswer.FAILED, (1, 2, 3), None)]


def test_force_is_sent_on_after_an_unforced_cancel_but_not_the_other_way_round() -> None:
    world = World()
    task = world.submit()
    for force in (False, False, True, True, False):
        world.cancel(task, force=force)
    assert [cancel.flags.force for cancel in world.sent(TaskCancel)] == [False, True]


def test_a_cancel_before_the_task_was_sent_needs_no_scheduler() -> None:
    world = World(auto_store=False)
    task = world.submit()
    world.cancel(task, "waiter")
    assert world.ends(task) == [(task, Canceled(), CancelAnswer.CANCELED, ("waiter",))]
    for store in list(world.log):
        if hasattr(store, "payload"):
            world.note(world.core.stored(store.object_id))
    assert not world.sent(TaskCancel)
    assert task not in [getattr(message, "task_id", None) for message in world.sent(object)]


def test_a_cancel_while_the_result_is_fetched_counts_as_completed() -> None:
    world = World()
    task = world.submit()
    result = world.result(task)
    world.cancel(task, "waiter")
    assert world.ends(task) == [(task, Canceled(), CancelAnswer.RESULT, ("waiter",))]
    assert not world.sent(TaskCancel)
    world.note(world.core.fetched(result, b"late"))
    world.pass_time(0.2)
    assert len(world.ends(task)) == 1
    assert world.deleted() == [result]


def test_a_cancel_of_a_completed_task_sends_nothing() -> None:
    world = World()
    task = world.submit()
    world.complete(task)
    world.cancel(task, "waiter")
    assert world.of(Answered) == [(task, CancelAnswer.RESULT, ("waiter",), None)]
    assert not world.sent(TaskCancel)


def test_any_id_can_be_canceled() -> None:
    world = World()
    task = new_task_id()
    world.cancel(task, 1, own=False)
    world.cancel(task, 2, own=False)
    assert [cancel.task_id for cancel in world.sent(TaskCancel)] == [task]
    world.confirm(task, NOT_FOUND)
    assert world.of(Answered) == [(task, CancelAnswer.NOT_FOUND, (1, 2), None)]
    assert world.core.pending == 0


def test_a_cancel_of_another_id_is_told_when_no_answer_can_come() -> None:
    world = World(timeout_seconds=5, heartbeat_interval_seconds=1)
    task = new_task_id()
    world.cancel(task, 1, own=False)
    world.pass_time(6)
    (answered,) = world.of(Answered)
    assert answered.answer is None
    assert answered.broken is not None and answered.broken.error is SchedulerLost
    world.cancel(task, 2, own=False)
    assert world.of(Answered)[-1].broken == answered.broken


_STEPS = {
    "cancel": lambda world, task: world.cancel(task, "waiter"),
    "unforced": lambda world, task: world.cancel(task, "waiter", force=False),
    "canceled": lambda world, task: world.confirm(task, CANCELED),
    "notFound": lambda world, task: world.confirm(task, NOT_FOUND),
    "failed": lambda world, task: world.confirm(task, FAILED),
    "result": lambda world, task: world.complete(task),
    "worker died": lambda world, task: world.result(task, TaskResultType.FAILED_WORKER_DIED),
}


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_every_order_of_events_gives_one_end_and_answers_every_cancel(length: int) -> None:
    """The oracle: what the requirements say about the first event that decides."""
    for names in itertools.product(_STEPS, repeat=length):
        world = World()
        task = world.submit()
        asked = False
        expected: type | None = None
        waiting = 0
        for name in names:
            _STEPS[name](world, task)
            if name in ("cancel", "unforced"):
                waiting += 1
                asked = asked or expected is None
            elif expected is None:
                if name == "failed":
                    asked = False
                elif name in ("canceled", "notFound"):
                    expected = Canceled
                else:
                    expected = Canceled if asked else Completed
            if name not in ("cancel", "unforced"):
                waiting = 0
            elif expected is not None:
                waiting -= 1  # answered at once
        ends = world.ends(task)
        assert [type(finish.end) for finish in ends] == ([expected] if expected else []), names
        told = sum(len(finish.tokens) for finish in ends) + sum(len(a.tokens) for a in world.of(Answered))
        assert told == sum(name in ("cancel", "unforced") for name in names) - waiting, names
        assert world.core.pending == (0 if expected else 1), names


def test_leaving_ends_what_is_pending_as_canceled() -> None:
    world = World()
    task = world.submit()
    world.cancel(task, 1)
    foreign = new_task_id()
    world.cancel(foreign, 2, own=False)
    world.note(world.core.disconnect())
    assert world.ends(task) == [(task, Canceled(), CancelAnswer.CANCELED, (1,))]
    (answered,) = world.of(Answered)
    assert answered.tokens == (2,) and isinstance(answered.broken, Broken)
    assert world.core.pending == 0
