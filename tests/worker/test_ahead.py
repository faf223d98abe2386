"""Tasks that are handed to a processor while it runs another one: which of them start, and which are taken back."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from protocol.identifiers import new_task_id
from protocol.messages import Task, TaskCancelConfirmType, WorkerHeartbeat
from reference_impl.serialization import deserialize
from reference_impl.worker.held import Held
from reference_impl.worker.instructions import Instruction, Kill, Recall, Resume, Spare, Start, Store, Suspend
from reference_impl.worker.turns import AHEAD
from tests.worker.harness import Cluster, cluster
from tests.worker.slot import PROFILE, TERMINAL, Slot, task_id
from tests.worker.test_processes import CLIENT, SERIALIZER, Bench, bench  # noqa: F401 - a fixture


class Played(Slot):
    """A slot with processors that claim, run and answer what they are handed when the test says so; recalls are carried
    out as the agent does."""

    def __init__(self, **settings: float) -> None:
        self.queues: dict[int, list[int]] = {}  # by pid: not started
        self.runs: dict[int, int] = {}  # by pid: started, and not answered
        self.answered: dict[int, list[int]] = {}  # by pid: what the agent has not read
        self.claimed: list[int] = []
        self.stopped: set[int] = set()
        super().__init__(True, **settings)

    def do(self, instructions: list[Instruction]) -> list[Instruction]:
        self.wants += instructions
        for instruction in instructions:
            if isinstance(instruction, Start):
                number = int.from_bytes(instruction.task.task_id, "big")
                self.queues.setdefault(instruction.pid, []).append(number)
            elif isinstance(instruction, Recall):
                self._recall(instruction.pid)
            elif isinstance(instruction, (Kill, Suspend, Spare)):
                # None with tasks that others could run; the one that counts as running need not have started.
                mine = self.core._turns.on.get(instruction.pid, task_id(0))
                assert self.queues.get(instruction.pid, []) in ([], [int.from_bytes(mine, "big")])
                if isinstance(instruction, Suspend):
                    self.stopped.add(instruction.pid)
            elif isinstance(instruction, Resume):
                self.stopped.discard(instruction.pid)
        return instructions

    def _recall(self, pid: int) -> None:
        unstarted = [task_id(number) for number in self.queues.pop(pid, [])]
        self.read(pid)
        self.do(self.core.recalled(pid, unstarted, self.now))

    def small(self, number: int, priority: int = 0, *, stream: bool = False) -> None:
        self.task(number, priority, arrive=False, stream=stream)
        self.do(self.core.objects_arrived(task_id(number), self.now, True))

    def claim(self, pid: int | None = None) -> None:
        """The processor starts the next one, if it is free."""
        pid = pid or self.core.processor or 0
        if pid not in self.runs and pid not in self.stopped and self.queues.get(pid):
            self.runs[pid] = self.queues[pid].pop(0)
            self.claimed.append(self.runs[pid])

    def answer(self, pid: int | None = None) -> None:
        """The processor ends what it runs."""
        pid = pid or self.core.processor or 0
        if pid in self.runs and pid not in self.stopped:
            self.answered.setdefault(pid, []).append(self.runs.pop(pid))

    def read(self, pid: int | None = None) -> None:
        """The agent reads what the processor has answered."""
        pid = pid or self.core.processor or 0
        answered = self.answered.get(pid, [])
        while answered:
            number = answered.pop(0)
            self.do(self.core.finished(pid, task_id(number), True, b"payload", PROFILE, self.now))

    def dies(self, pid: int | None = None) -> None:
        pid = pid or self.core.processor or 0
        self.read(pid)
        unstarted = [task_id(number) for number in self.queues.pop(pid, [])]
        self.runs.pop(pid, None)
        self.stopped.discard(pid)
        self.do(self.core.processor_gone(pid, 9, self.now, unstarted))

    def states(self) -> list[str]:
        return [held.name for held in self.core.held.values()]


def test_small_tasks_are_handed_over_behind_the_running_one_up_to_a_number() -> None:
    slot = Played()
    for number in range(1, AHEAD + 4):
        slot.small(number)
    assert slot.started == list(range(1, AHEAD + 2))
    assert slot.states() == ["RUNNING"] + ["HANDED"] * AHEAD + ["READY"] * 2
    slot.tick(5.0)
    (beat,) = [m for m in slot.sent if isinstance(m, WorkerHeartbeat)]
    assert beat.queued_tasks == AHEAD + 2


def test_what_is_large_or_writes_output_or_has_a_memory_limit_is_not() -> None:
    slot = Played()
    slot.small(1)
    slot.task(2)
    slot.small(3)
    assert slot.states() == ["RUNNING", "READY", "READY"], "nothing overtakes a large one"
    slot = Played()
    slot.small(1)
    slot.small(2, stream=True)
    assert slot.states() == ["RUNNING", "READY"]
    slot = Played()
    slot.small(1, stream=True)
    slot.small(2)
    assert slot.states() == ["RUNNING", "READY"]
    slot = Played(memory_limit=1 << 30)
    slot.small(1)
    slot.small(2)
    assert slot.states() == ["RUNNING", "READY"]


@pytest.mark.parametrize("force", [False, True])
def test_a_canceled_task_that_was_handed_over_never_starts(force: bool) -> None:
    slot = Played()
    for number in (1, 2, 3):
        slot.small(number)
    slot.claim()
    slot.cancel(2, force=force)
    assert slot.answers(2) == ["CANCELED"]
    assert slot.states() == ["RUNNING", "HANDED"] and slot.kills == []
    for _ in range(4):
        slot.answer()
        slot.claim()
    assert slot.claimed == [1, 3]


@pytest.mark.parametrize("force", [False, True])
def test_one_that_has_started_meanwhile_is_treated_so(force: bool) -> None:
    slot = Played()
    for number in (1, 2, 3):
        slot.small(number)
    slot.claim()
    slot.answer()
    slot.claim()
    slot.cancel(2, force=force)
    assert slot.core.held[task_id(1)] is Held.FINISHING
    assert slot.kills == (["SIGKILL"] if force else [])
    if force:
        slot.dies()
        slot.new_processor()
        assert slot.answers(2) == ["CANCELED"]
    else:
        assert slot.answers(2) == ["CANCEL_FAILED"]
        slot.answer()
        slot.read()
    slot.claim()
    assert slot.claimed == [1, 2, 3], "the one behind it is untouched"


def test_a_cancel_of_a_task_that_has_ended_and_was_not_read_is_answered_after_its_result() -> None:
    slot = Played()
    slot.small(1)
    slot.small(2)
    slot.claim()
    slot.answer()
    slot.claim()
    slot.cancel(1)
    slot.stored(1)
    assert slot.answers(1) == ["SUCCESS", "CANCEL_NOT_FOUND"] and slot.kills == []


def test_what_a_dead_processor_had_not_started_runs_on_another_one_once() -> None:
    slot = Played()
    for number in (1, 2, 3):
        slot.small(number)
    slot.claim()
    slot.dies()
    assert slot.states() == ["FINISHING", "READY", "READY"]
    slot.new_processor()
    for _ in range(3):
        slot.claim()
        slot.answer()
        slot.read()
    assert slot.claimed == [1, 2, 3]


def test_a_more_urgent_task_suspends_the_running_one_alone() -> None:
    slot = Played()
    slot.small(1)
    slot.small(2)
    slot.claim()
    slot.small(3, 1)
    assert slot.states() == ["SUSPENDED", "READY", "READY"]
    slot.new_processor()
    assert slot.states() == ["SUSPENDED", "READY", "RUNNING"]
    slot.claim()
    slot.answer()
    slot.read()
    assert slot.states() == ["RUNNING", "HANDED", "FINISHING"]


def test_one_that_comes_before_another_by_priority_or_arrival_is_handed_over_before_it() -> None:
    slot = Played()
    slot.small(1, 5)
    slot.task(2, arrive=False)
    slot.small(3)
    slot.claim()
    slot.do(slot.core.objects_arrived(task_id(2), slot.now, True))
    slot.small(4, 3)
    for _ in range(4):
        slot.answer()
        slot.read()
        slot.claim()
    assert slot.claimed == [1, 4, 2, 3]


def test_a_processor_that_starts_a_task_without_an_answer_to_the_one_before_is_ended() -> None:
    slot = Played()
    for number in (1, 2, 3):
        slot.small(number)
    slot.queues[slot.core.processor or 0] = [3]  # a task has taken the claims
    slot.cancel(2)
    assert slot.kills[0] == "SIGKILL"
    slot.queues.clear()
    slot.dies()
    for number in (1, 3):
        slot.stored(number)
    assert slot.answers(1) == ["FAILED"] and slot.answers(2) == ["CANCELED"]
    slot.new_processor()
    assert slot.states() == ["RUNNING"], "the third one"


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("grace", [0.0, 1.0])
def test_whatever_happens_in_whatever_order(seed: int, grace: float) -> None:
    """One terminal answer each; nothing starts twice, nor after ``canceled``; the order is that of the priorities."""
    rng = random.Random(seed)
    slot = Played(cancel_grace_seconds=grace)
    numbers = range(1, 13)
    checked = 0

    def pids() -> list[int]:
        found = set(slot.core._turns.on) | ({slot.core.processor} if slot.core.processor else set())
        return sorted(found)

    def step(kind: str) -> None:
        nonlocal checked
        number = rng.choice(numbers)
        pid = rng.choice(pids() or [0])
        if kind == "task" and not slot.answers(number) and task_id(number) not in slot.core.held:
            slot.task(number, rng.choice((0, 0, 0, 1, 2)), arrive=False, stream=rng.random() < 0.1)
        elif kind == "arrive":
            slot.do(slot.core.objects_arrived(task_id(number), slot.now, rng.random() < 0.8))
        elif kind == "cancel":
            canceled = slot.answers(number).count("CANCELED")
            slot.cancel(number, force=rng.random() < 0.6)
            if slot.answers(number).count("CANCELED") > canceled:
                assert number not in slot.claimed, "what was canceled at once had not started"
        elif kind in ("claim", "answer", "read") and pid:
            getattr(slot, kind)(pid)
        elif kind == "die" and pid:
            slot.dies(pid)
        elif kind == "fork" and slot.core.processor is None:
            slot.new_processor()
        elif kind == "store":
            for store in slot.of(Store)[checked:]:
                slot.stored(int.from_bytes(store.task_id, "big"))
            checked = len(slot.of(Store))
        elif kind == "tick":
            slot.tick(0.3)
        assert not slot.core._turns.recalling
        for queue in slot.queues.values():
            held = [slot.core._held[task_id(n)] for n in queue if task_id(n) in slot.core._held]
            places = [task.place for task in held if task.state is Held.HANDED]
            assert places == sorted(places)

    kinds = ("task", "task", "arrive", "arrive", "cancel", "claim", "claim", "answer", "read", "die", "fork", "store")
    for _ in range(300):
        step(rng.choice(("tick", *kinds)))
    for _ in range(200):
        for number in numbers:
            slot.do(slot.core.objects_arrived(task_id(number), slot.now, True))
        for pid in pids():
            slot.claim(pid)
            slot.answer(pid)
            slot.read(pid)
        for kind in ("fork", "store", "tick"):
            step(kind)
        if rng.random() < 0.1:
            step("die")
    for pid in pids():  # what was to be killed
        if pid in {kill.pid for kill in slot.of(Kill)}:
            slot.dies(pid)
    for _ in range(20):
        for kind in ("fork", "store"):
            step(kind)
        for pid in pids():
            slot.claim(pid)
            slot.answer(pid)
            slot.read(pid)
    assert slot.core.held == {}
    assert len(set(slot.claimed)) == len(slot.claimed)
    for number in numbers:
        answers = slot.answers(number)
        if any(i.task_id == task_id(number) for i in slot.of(Store)) or answers:
            assert sum(answer in TERMINAL for answer in answers) <= 1, answers


# ---- with real processes ----


def write(path: str) -> str:
    with Path(path).open("a") as file:
        file.write("x")
    return "written"


def wait_for(path: str, then: str) -> str:
    while not Path(path).exists():
        time.sleep(0.002)
    if then == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return then


def handed(one: Cluster, count: int) -> None:
    """Waits until so many tasks are at the worker, all fetched."""
    while one.heartbeat().queued_tasks < count:
        pass
    one.barrier()


def test_a_real_task_that_was_handed_over_and_canceled_leaves_no_trace(tmp_path: Path) -> None:
    gate, written = str(tmp_path / "gate"), str(tmp_path / "written")
    with cluster() as one:
        first = one.submit(wait_for, gate, "done")
        second, third = one.submit(write, written), one.submit(abs, -3)
        handed(one, 2)
        one.cancel(second, force=False)
        assert one.canceled(second) is TaskCancelConfirmType.CANCELED
        Path(gate).touch()
        assert one.result(first) == "done"
        assert one.result(third) == 3
        assert not Path(written).exists()


def test_what_waits_behind_a_killed_processor_runs_elsewhere_once(tmp_path: Path) -> None:
    gate, written = str(tmp_path / "gate"), str(tmp_path / "written")
    with cluster() as one:
        first, second = one.submit(wait_for, gate, "die"), one.submit(write, written)
        handed(one, 1)
        Path(gate).touch()
        assert "SIGKILL" in str(one.result(first))
        assert one.result(second) == "written"
        assert Path(written).read_text() == "x"


def test_a_cancel_by_force_ends_only_the_task_it_names(tmp_path: Path) -> None:
    gate, written = str(tmp_path / "gate"), str(tmp_path / "written")
    with cluster() as one:
        first = one.submit(wait_for, gate, "done")
        others = [one.submit(write, written) for _ in range(5)]
        handed(one, 5)
        one.cancel(first)
        assert one.canceled(first) is TaskCancelConfirmType.CANCELED
        assert [one.result(other) for other in others] == ["written"] * 5
        assert Path(written).read_text() == "xxxxx"


def test_results_come_while_the_next_task_runs(tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    with cluster() as one:
        opener = one.submit(wait_for, gate, "open")
        quick, slow = one.submit(abs, -1), one.submit(wait_for, gate + "2", "done")
        handed(one, 2)
        Path(gate).touch()
        assert one.result(opener) == "open"
        assert one.result(quick) == 1
        assert one.answers(slow) == []
        Path(gate + "2").touch()
        assert one.result(slow) == "done"


def test_many_short_tasks_on_two_slots_each_run_once(tmp_path: Path) -> None:
    with cluster(slots=2) as one:
        while len(one.workers) < 2:
            one.heartbeat()
        ids = [one.submit(abs, -i, to=one.workers[i % 2], profiling=False) for i in range(300)]
        assert [one.result(each) for each in ids] == list(range(300))


def test_a_processor_skips_what_was_taken_back_and_keeps_what_came_with_it(bench: Bench) -> None:  # noqa: F811
    processor = bench.spawn()
    function = bench.put(os.getpid)
    task = Task(new_task_id(), CLIENT, b"", function)
    processor.start(task, SERIALIZER, bench.payloads.__getitem__)
    assert processor.recall() == [task.task_id]
    processor.flush()
    assert bench.run(processor, abs, -5) == 5
    del bench.payloads[function]
    bench.start(processor, function)
    assert deserialize(bench.record(processor).payload) == processor.pid
