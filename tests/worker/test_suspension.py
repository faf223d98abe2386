"""Suspension with real processes (SPEC section 5.8)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from protocol.identifiers import TaskId
from protocol.messages import TaskCancelConfirmType, TaskLog, WorkerHeartbeat
from reference_impl.errors import ProcessorDiedError
from tests.worker.harness import Cluster, cluster, wait_gone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes as Linux shows them")


def family(path: str) -> str:
    """Starts two processes, one in a session of its own, and waits until the FIFO is written."""
    import subprocess

    child = subprocess.Popen(["sleep", "3600"])
    away = subprocess.Popen(["sleep", "3600"], start_new_session=True)
    print(os.getpid(), child.pid, away.pid, flush=True)
    with open(path) as fifo:  # noqa: PTH123
        fifo.read()
    for process in (child, away):
        process.kill()
        process.wait()
    return "went on"


@pytest.fixture
def one() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


def stopped(pids: list[int]) -> list[bool]:
    return [psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in pids]


def start_family(one: Cluster, tmp_path: Path) -> tuple[TaskId, list[int], Path]:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    task = one.submit(family, str(fifo), stream=True)
    pids = list(map(int, one.receive(TaskLog, task).content.split()))
    assert len(pids) == 3
    return task, pids, fifo


def suspended(beat: WorkerHeartbeat) -> list[int]:
    return [status.pid for status in beat.processors if status.suspended]


def test_a_suspended_task_is_stopped_with_all_its_processes_and_goes_on(one: Cluster, tmp_path: Path) -> None:
    low, pids, fifo = start_family(one, tmp_path)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    high = one.submit(lambda path: open(path).read(), str(gate), priority=1)  # noqa: SIM115, PTH123
    with gate.open("w") as writer:  # it runs
        beat = one.heartbeat()
        assert suspended(beat) == [pids[0]]
        while not all(stopped(pids)):  # it has been asked to before the other one started
            one.heartbeat()
        writer.write("x")
    assert one.result(high) == "x"
    with fifo.open("w"):
        pass
    assert one.result(low) == "went on"
    assert suspended(one.heartbeat()) == []


def test_cancel_of_a_suspended_task(one: Cluster, tmp_path: Path) -> None:
    low, pids, _ = start_family(one, tmp_path)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    high = one.submit(lambda path: open(path).read(), str(gate), priority=1)  # noqa: SIM115, PTH123
    processes = [psutil.Process(pid) for pid in pids]
    with gate.open("w"):
        one.cancel(low, force=False)
        assert one.canceled(low) is TaskCancelConfirmType.CANCEL_FAILED
        one.cancel(low)
        assert one.canceled(low) is TaskCancelConfirmType.CANCELED
        wait_gone(processes[:2])
    assert one.result(high) == ""


def test_a_suspended_process_that_is_killed_fails_its_task(one: Cluster, tmp_path: Path) -> None:
    low, pids, _ = start_family(one, tmp_path)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    high = one.submit(lambda path: open(path).read(), str(gate), priority=1)  # noqa: SIM115, PTH123
    with gate.open("w"):
        os.kill(pids[0], signal.SIGKILL)
        error = one.result(low)
        assert isinstance(error, ProcessorDiedError) and "SIGKILL" in str(error)
    assert one.result(high) == ""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_suspended_outlives_the_worker(how: signal.Signals, tmp_path: Path) -> None:
    with cluster() as one:
        _, pids, _ = start_family(one, tmp_path)
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        one.submit(lambda path: open(path).read(), str(gate), priority=1)  # noqa: SIM115, PTH123
        with gate.open("w"):
            assert suspended(one.heartbeat()) == [pids[0]]
            processes = [psutil.Process(pid) for pid in pids]
            one.process.send_signal(how)
            wait_gone(processes)
