"""States that are inferred from a monitor stream."""

from __future__ import annotations

import pytest

from protocol.control import ShownState
from protocol.messages import (
    Message,
    ProcessorStatus,
    StateScheduler,
    StateTask,
    TaskState,
    WorkerManagerStatus,
    WorkerStatus,
)
from scalercli.agent.watch import Observations

A, B, C = (bytes([n]) * 16 for n in range(1, 4))
W1, W2 = b"Worker|w|1", b"Worker|w|2"
QUEUED, RUNNING, CANCELING = ShownState.QUEUED, ShownState.RUNNING, ShownState.CANCELING


def at(task_id: bytes, state: TaskState, worker: bytes = b"") -> StateTask:
    return StateTask(task_id, state=state, worker=worker)


def report(worker: bytes, current: bytes, *, suspended: bool = False) -> StateScheduler:
    processors = (ProcessorStatus(1, True, bool(current), suspended, current_task_id=current),)
    workers = (WorkerStatus(worker, processor_statuses=processors), WorkerStatus(b"Worker|other|3"))
    return StateScheduler(worker_manager=WorkerManagerStatus(workers))


def seen(*messages: Message) -> Observations:
    observations = Observations()
    for message in messages:
        observations.take(message)
    return observations


HELD_BY_ONE = (at(A, TaskState.INACTIVE), at(A, TaskState.RUNNING, W1), at(B, TaskState.RUNNING, W1))


@pytest.mark.parametrize(
    ("messages", "states"),
    [
        ((), {A: None}),
        ((at(A, TaskState.INACTIVE),), {A: QUEUED}),
        ((at(A, TaskState.RUNNING, W1),), {A: RUNNING}),
        (HELD_BY_ONE, {A: RUNNING, B: QUEUED}),
        ((*HELD_BY_ONE, at(A, TaskState.SUCCESS, W1)), {A: None, B: RUNNING}),
        ((*HELD_BY_ONE, at(A, TaskState.CANCELING, W1)), {A: CANCELING, B: QUEUED}),
        ((*HELD_BY_ONE, at(A, TaskState.CANCELING), at(A, TaskState.CANCELED)), {A: None, B: RUNNING}),
        (
            (*HELD_BY_ONE, at(B, TaskState.BALANCE_CANCELING, W1), at(B, TaskState.RUNNING, W2)),
            {A: RUNNING, B: RUNNING},
        ),
        ((*HELD_BY_ONE, at(A, TaskState.INACTIVE)), {A: QUEUED, B: RUNNING}),
        ((*HELD_BY_ONE, report(W1, B)), {A: QUEUED, B: RUNNING}),
        ((*HELD_BY_ONE, report(W1, B, suspended=True)), {A: RUNNING, B: QUEUED}),
        ((*HELD_BY_ONE, report(W1, C)), {A: RUNNING, B: QUEUED}),
        ((at(A, TaskState.SUCCESS, W1), report(W2, C)), {A: None, C: RUNNING}),
        ((report(W2, C), report(W2, b"")), {C: None}),
    ],
)
def test_the_first_that_a_worker_holds_runs(messages: list[Message], states: dict[bytes, ShownState | None]) -> None:
    observations = seen(*messages)
    for task_id, state in states.items():
        found = observations.state(task_id)
        assert (found[0] if found else None) is state


def test_the_worker_is_named_while_it_holds_the_task() -> None:
    assert seen(at(A, TaskState.RUNNING, W1)).state(A) == (RUNNING, "Worker|w|1")
    assert seen(at(A, TaskState.RUNNING, W1), at(A, TaskState.INACTIVE)).state(A) == (QUEUED, "")


def test_workers_are_counted_once_a_report_has_come() -> None:
    assert seen(at(A, TaskState.INACTIVE)).workers is None
    assert seen(report(W1, b"")).workers == 2


def test_nothing_is_kept_of_tasks_that_are_over() -> None:
    messages = [at(t, s, W1) for t in (A, B, C) for s in (TaskState.INACTIVE, TaskState.RUNNING, TaskState.SUCCESS)]
    observations = seen(*messages)
    assert not observations._tasks and not observations._held
