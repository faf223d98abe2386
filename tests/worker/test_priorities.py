"""Priorities and suspension in a slot (SPEC section 5.8), without processes."""

from __future__ import annotations

import random
import signal

import pytest

from protocol.messages import LogType, TaskLog, WorkerHeartbeat
from reference_impl.worker.held import Held
from reference_impl.worker.instructions import Kill, Resume, Send, Spare, Start, Store, Suspend
from tests.worker.slot import TERMINAL, Slot, task_id


def moves(slot: Slot) -> list[str]:
    """What happened to processors, in order: start 1, suspend 1, resume 1…"""
    names = {slot.pid(number): number for number in range(9, 0, -1) if slot.pid(number)}
    found = []
    for instruction in slot.wants:
        if isinstance(instruction, Start):
            found.append(f"start {int.from_bytes(instruction.task.task_id, 'big')}")
        elif isinstance(instruction, (Suspend, Resume)):
            found.append(f"{type(instruction).__name__.lower()} {names[instruction.pid]}")
    return found


def test_a_higher_priority_suspends_and_the_lower_one_goes_on_afterwards() -> None:
    slot = Slot()
    slot.task(1)
    assert slot.task(2, 1) and slot.core.held == {task_id(1): Held.SUSPENDED, task_id(2): Held.READY}
    slot.new_processor()
    assert slot.core.held == {task_id(1): Held.SUSPENDED, task_id(2): Held.RUNNING}
    assert slot.pid(2) != slot.pid(1)
    slot.finish(2)
    assert moves(slot) == ["start 1", "suspend 1", "start 2", "resume 1"]
    assert slot.of(Spare) == [Spare(slot.pid(2))]
    slot.finish(1)
    slot.stored(1)
    slot.stored(2)
    assert slot.answers(1) == slot.answers(2) == ["SUCCESS"]
    assert slot.core.processor == slot.pid(1)


@pytest.mark.parametrize("priority", [-1, 0])
def test_an_equal_or_lower_priority_waits(priority: int) -> None:
    slot = Slot()
    slot.task(1)
    slot.task(2, priority)
    slot.finish(1)
    assert moves(slot) == ["start 1", "start 2"]


def test_what_waits_goes_by_priority_then_by_arrival() -> None:
    slot = Slot()
    slot.task(1, 9)
    slot.task(2, 1, arrive=False)
    for number, priority in ((3, 0), (4, 2), (5, 1), (6, 2)):
        slot.task(number, priority)
    slot.arrive(2)  # its objects were late, it was not
    while slot.core.current is not None:
        slot.finish(int.from_bytes(slot.core.current, "big"))
    assert slot.started == [1, 4, 6, 2, 5, 3]
    assert slot.of(Suspend) == []


def test_a_suspended_task_goes_before_one_of_its_priority_that_has_not_started() -> None:
    slot = Slot()
    slot.task(1)
    slot.task(2)
    slot.task(3, 1)
    slot.task(4, 1)
    slot.new_processor()
    slot.finish(3)
    slot.finish(4)
    slot.finish(1)
    assert moves(slot) == ["start 1", "suspend 1", "start 3", "start 4", "resume 1", "start 2"]


def test_the_suspended_are_a_stack() -> None:
    slot = Slot()
    for number in range(1, 6):
        slot.task(number, number)
        if number > 1:
            slot.new_processor()
    for number in range(5, 0, -1):
        slot.finish(number)
    assert moves(slot)[-4:] == ["resume 4", "resume 3", "resume 2", "resume 1"]


def test_a_task_whose_objects_are_missing_suspends_nothing() -> None:
    slot = Slot()
    slot.task(1)
    slot.task(2, 5, arrive=False)
    assert slot.of(Suspend) == []
    slot.arrive(2)
    assert len(slot.of(Suspend)) == 1


def test_a_higher_one_that_is_cancelled_before_it_starts_lets_the_other_go_on() -> None:
    slot = Slot()
    slot.task(1)
    slot.task(2, 1)
    slot.cancel(2)
    assert slot.core.held == {task_id(1): Held.RUNNING}
    assert moves(slot) == ["start 1", "suspend 1", "resume 1"]


def test_cancel_of_a_suspended_task() -> None:
    slot = Slot()
    slot.task(1)
    slot.task(2, 1)
    slot.new_processor()
    slot.cancel(1, force=False)
    assert slot.answers(1) == ["CANCEL_FAILED"]
    slot.cancel(1)
    assert slot.of(Kill) == [Kill(slot.pid(1), signal.SIGKILL)]
    slot.gone(pid=slot.pid(1))
    assert slot.answers(1) == ["CANCEL_FAILED", "CANCELED"]
    assert slot.core.held == {task_id(2): Held.RUNNING}
    slot.finish(2)
    assert slot.of(Resume) == []


def test_a_suspended_task_has_its_grace_too() -> None:
    slot = Slot(cancel_grace_seconds=1.0)
    slot.task(1)
    slot.task(2, 1)
    slot.new_processor()
    slot.cancel(1)
    slot.cancel(2)
    assert slot.of(Kill) == [Kill(slot.pid(n), signal.SIGTERM) for n in (1, 2)]
    assert slot.of(Resume) == [Resume(slot.pid(1))]
    slot.gone(pid=slot.pid(2))
    slot.tick(1.0)
    assert slot.of(Kill)[2:] == [Kill(slot.pid(1), signal.SIGKILL)]
    slot.gone(pid=slot.pid(1))
    assert slot.answers(1) == slot.answers(2) == ["CANCELED"]


def test_a_task_that_is_being_killed_is_not_suspended() -> None:
    slot = Slot()
    slot.task(1)
    slot.cancel(1)
    slot.task(2, 1)
    assert slot.of(Suspend) == []
    slot.gone()
    slot.new_processor()
    assert slot.started == [1, 2]


def test_a_suspended_processor_that_dies_fails_its_task_only() -> None:
    slot = Slot()
    slot.task(1)
    slot.task(2, 1)
    slot.new_processor()
    slot.gone(9, pid=slot.pid(1))
    assert "SIGKILL" in str(slot.failure(1))
    assert slot.core.held[task_id(2)] is Held.RUNNING
    slot.finish(2)
    assert slot.of(Resume) == []


def test_a_suspended_task_goes_on_at_once_when_the_other_processor_dies() -> None:
    slot = Slot()
    slot.task(1)
    slot.task(2, 1)
    slot.new_processor()
    slot.gone()
    assert moves(slot) == ["start 1", "suspend 1", "start 2", "resume 1"]
    assert slot.core.processor == slot.pid(1)


def test_an_answer_that_was_on_its_way_counts_and_frees_the_processor() -> None:
    slot = Slot()
    slot.task(1)
    slot.task(2, 1)
    slot.finish(1)
    slot.new_processor()
    slot.stored(1)
    assert slot.answers(1) == ["SUCCESS"]
    assert slot.of(Spare) == [Spare(slot.pid(1))]
    slot.finish(2)
    assert slot.of(Resume) == []


def test_output_of_a_suspended_task_is_its_own() -> None:
    slot = Slot()
    slot.task(1, stream=True)
    slot.task(2, 1, stream=True)
    slot.new_processor()
    slot.output(1, LogType.STDOUT, "one\n")
    slot.output(2, LogType.STDOUT, "two\n")
    logs = [(m.task_id, m.content) for m in slot.sent if isinstance(m, TaskLog)]
    assert logs == [(task_id(1), "one\n"), (task_id(2), "two\n")]


def test_heartbeats_show_suspended_processors() -> None:
    slot = Slot()
    slot.task(1)
    slot.task(2, 1)
    slot.new_processor()
    slot.task(3)
    slot.tick(5.0)
    (beat,) = [m for m in slot.sent if isinstance(m, WorkerHeartbeat)]
    assert [(p.pid, p.current_task_id, p.suspended) for p in beat.processors] == [
        (slot.pid(2), task_id(2), False),
        (slot.pid(1), task_id(1), True),
    ]
    assert (beat.queued_tasks, beat.task_lock) == (1, False)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("grace", [0.0, 1.0])
def test_whatever_happens_in_whatever_order(seed: int, grace: float) -> None:
    """One terminal answer; what runs has the highest priority; no processor is lost or used twice."""
    rng = random.Random(seed)
    slot = Slot(cancel_grace_seconds=grace)
    priorities: dict[int, int] = {}
    seen = 0
    stopped: set[int] = set()  # by the agent's view
    storing: set[int] = set()
    doomed: set[int] = set()
    idle: set[int] = set()

    def alive() -> set[int]:
        pids = set(slot.core._turns.on)
        return pids | ({slot.core.processor} if slot.core.processor else set())

    def settle() -> None:
        nonlocal seen
        while seen < len(slot.wants):
            instruction = slot.wants[seen]
            seen += 1
            if isinstance(instruction, Store):
                storing.add(int.from_bytes(instruction.task_id, "big"))
            elif isinstance(instruction, Suspend):
                assert instruction.pid not in stopped
                stopped.add(instruction.pid)
            elif isinstance(instruction, Resume):
                assert instruction.pid in stopped
                stopped.discard(instruction.pid)
            elif isinstance(instruction, Spare):
                stopped.discard(instruction.pid)
                idle.add(instruction.pid)
            elif isinstance(instruction, Start):
                assert instruction.pid not in stopped | idle
            elif isinstance(instruction, Kill) and instruction.signal is signal.SIGKILL:
                doomed.add(instruction.pid)
        held = slot.core.held
        suspended = [priorities[int.from_bytes(i, "big")] for i, s in held.items() if s is Held.SUSPENDED]
        assert len(set(suspended)) == len(suspended)
        current = slot.core.current
        if current is not None and held[current] is Held.RUNNING:
            ready = [priorities[int.from_bytes(i, "big")] for i, s in held.items() if s is Held.READY]
            mine = priorities[int.from_bytes(current, "big")]
            assert all(mine >= p for p in ready) and all(mine > p for p in suspended)
            assert slot.core.processor not in stopped

    def step(kind: str) -> None:
        number = rng.randint(1, 8)
        if kind == "task" and not slot.answers(number) and task_id(number) not in slot.core.held:
            priorities[number] = rng.randint(-1, 3)
            slot.task(number, priorities[number], arrive=rng.random() < 0.7)
        elif kind == "arrive":
            slot.arrive(number)
        elif kind == "cancel":
            slot.cancel(number, force=rng.random() < 0.6)
        elif kind == "finish" and slot.core._turns.on:
            pid, which = rng.choice(list(slot.core._turns.on.items()))
            if pid not in stopped or rng.random() < 0.2:
                slot.finish(int.from_bytes(which, "big"), success=rng.random() < 0.5)
        elif kind == "die" and alive():
            pid = rng.choice(sorted(alive() & doomed or alive()))
            slot.gone(pid=pid)
            stopped.discard(pid)
        elif kind == "fork" and slot.core.processor is None:
            slot.new_processor()
        elif kind == "store" and storing:
            slot.stored(storing.pop())
        elif kind == "tick":
            slot.tick(0.3)
        settle()

    for _ in range(150):
        step(rng.choice(("task", "task", "arrive", "cancel", "finish", "die", "fork", "fork", "store", "tick")))
    for _ in range(80):
        for number in range(1, 9):
            slot.arrive(number)
            settle()
        for kind in ("fork", "finish", "die", "fork", "store"):
            step(kind)
    assert slot.core.held == {}
    assert slot.core._turns.on == {} and slot.core._turns.ready == [] and slot.core._turns.suspended == []
    for number in priorities:
        answers = slot.answers(number)
        assert sum(answer in TERMINAL for answer in answers) == 1, answers
        assert slot.started.count(number) <= 1
    assert not any(isinstance(i, Send) and isinstance(i.message, TaskLog) for i in slot.wants)
