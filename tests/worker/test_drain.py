"""A worker that is told to end lets what it has begun come to its end, if it is started with that."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from protocol.messages import (
    TaskLog,
    TaskResult,
    WorkerDisconnectNotification,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
)
from reference_impl.client import Client
from reference_impl.cluster import EmbeddedCluster
from reference_impl.worker.held import Held
from reference_impl.worker.instructions import Recall
from tests.worker.harness import SECONDS, Cluster, cluster
from tests.worker.slot import Slot, task_id


def test_what_has_started_goes_on_and_nothing_else_starts() -> None:
    slot = Slot()
    slot.task(1)
    slot.task(2)
    slot.do(slot.core.drain(slot.now))
    assert not slot.core.drained
    slot.task(3, priority=5)  # would suspend the first one
    slot.finish(1)
    assert slot.started == [1] and not slot.core.drained  # its result is on the way to the storage
    slot.stored(1)
    assert slot.core.drained
    assert slot.answers(1) == ["SUCCESS"]
    assert set(slot.core.held.values()) == {Held.READY}


def test_liv21_the_scheduler_is_told_before_it_leaves() -> None:
    slot = Slot()
    slot.do(slot.core.drain(slot.now))
    slot.tick(0.0)
    (beat,) = slot.sent
    assert isinstance(beat, WorkerHeartbeat) and beat.queue_size == 0
    assert not slot.core.may_leave
    slot.message(WorkerHeartbeatEcho())
    assert slot.core.may_leave


def test_what_was_handed_ahead_is_taken_back() -> None:
    slot = Slot()
    for number in (1, 2):
        slot.task(number, arrive=False)
        slot.do(slot.core.objects_arrived(task_id(number), slot.now, True))
    assert slot.started == [1, 2]
    slot.do(slot.core.drain(slot.now))
    (recall,) = slot.of(Recall)
    slot.do(slot.core.recalled(recall.pid, [task_id(2)], slot.now))
    slot.finish(1)
    slot.stored(1)
    assert slot.core.drained and slot.core.held == {task_id(2): Held.READY}


def test_what_is_suspended_goes_on() -> None:
    slot = Slot()
    slot.task(1)
    slot.task(2, priority=5)
    slot.new_processor()
    slot.do(slot.core.drain(slot.now))
    slot.finish(2)
    slot.stored(2)
    assert slot.started == [1, 2] and not slot.core.drained
    slot.finish(1)
    slot.stored(1)
    assert slot.core.drained


def wait_for_line(path: str) -> str:
    print("ready", flush=True)
    with Path(path).open() as fifo:
        return fifo.read()


def run_until_killed_once(fifo: str) -> str:
    began = Path(fifo + ".began")
    if began.exists():
        return "again"
    began.touch()
    Path(fifo).write_text("started")
    while True:
        signal.pause()


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def begin(made: Cluster, fifo: Path) -> tuple[object, object]:
    """A task that runs until something is written, and one behind it; then the worker is told to end."""
    task = made.submit(wait_for_line, str(fifo), stream=True)
    made.receive(TaskLog, task)
    behind = made.submit(abs, -1)
    made.process.send_signal(signal.SIGTERM)
    made.barrier()  # it goes on
    return task, behind


def test_sigterm_waits_for_the_running_task_and_leaves_the_others(fifo: Path) -> None:
    with cluster("--drain-seconds", "60") as made:
        task, behind = begin(made, fifo)
        fifo.write_text("well")
        assert made.result(task) == "well"  # type: ignore[arg-type]
        made.receive(WorkerDisconnectNotification)
        assert made.process.wait(SECONDS) == 0
        assert not [m for _, m in made.inbox if isinstance(m, TaskResult)], behind


def test_a_second_signal_ends_it(fifo: Path) -> None:
    with cluster("--drain-seconds", "600") as made:
        begin(made, fifo)
        made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(SECONDS) == 0


def test_the_time_is_limited(fifo: Path) -> None:
    with cluster("--drain-seconds", "0.3") as made:
        task = made.submit(wait_for_line, str(fifo), stream=True)
        made.receive(TaskLog, task)
        made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(SECONDS) == 0


def test_tasks_of_a_worker_that_ends_do_not_go_through_all_of_its_slots(tmp_path: Path) -> None:
    """They wait for the next worker, and are not given up as if they had killed four of them (LIV-21)."""
    with EmbeddedCluster.start(0, tmp_path) as made, Client(made.scheduler_address) as client:
        made.add_workers("first", 4)
        fifos = [tmp_path / f"fifo-{number}" for number in range(4)]
        for fifo in fifos:
            os.mkfifo(fifo)
        futures = [client.submit(run_until_killed_once, str(fifo)) for fifo in fifos]
        for fifo in fifos:
            assert fifo.read_text() == "started"
        os.kill(made.processes["first"], signal.SIGTERM)
        made.add_workers("second", 4)
        assert [future.result(SECONDS) for future in futures] == ["again"] * 4


def test_without_tasks_it_ends_at_once() -> None:
    with cluster("--drain-seconds", "600") as made:
        assert made.stop()[0] == 0
