"""The worker manager as a process, with a scheduler that the test plays, and in a whole cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import zmq

from protocol import codec
from protocol.identifiers import ClientId, Identity, TaskId, new_task_id
from protocol.messages import (
    DesiredTaskConcurrencyRequest,
    Message,
    ObjectStorageAddress,
    Task,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelFlags,
    TaskCapability,
    WorkerDisconnectNotification,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
    WorkerManagerCommand,
    WorkerManagerHeartbeat,
    WorkerManagerHeartbeatEcho,
)
from reference_impl.client import Client
from reference_impl.cluster import EmbeddedCluster

HANG_SECONDS = 60.0
GPU = TaskCapability("gpu", 1)


def start(scheduler: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "reference_impl.worker_manager", scheduler, "--log-level", "ERROR", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Scheduler:
    """Echoes heartbeats, and says how many workers it wants."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.LINGER, 0)
        self.address = f"tcp://127.0.0.1:{self.router.bind_to_random_port('tcp://127.0.0.1')}"
        self.manager = Identity(b"")
        self.workers: dict[Identity, WorkerHeartbeat] = {}
        """Those that are there."""

    def close(self) -> None:
        self.router.close()
        self.context.term()

    def send(self, to: Identity, message: Message) -> None:
        self.router.send_multipart((to, codec.encode(message)))

    def next(self) -> tuple[Identity, Message]:
        """The next message of anybody; heartbeats are answered."""
        assert self.router.poll(HANG_SECONDS * 1000), "nothing came"
        sender, frame = self.router.recv_multipart()
        message = codec.decode(frame)
        if isinstance(message, WorkerManagerHeartbeat):
            self.manager = Identity(sender)
            self.send(self.manager, WorkerManagerHeartbeatEcho())
        elif isinstance(message, WorkerHeartbeat):
            self.workers[Identity(sender)] = message
            self.send(Identity(sender), WorkerHeartbeatEcho(ObjectStorageAddress("127.0.0.1", 9, "tcp")))
        elif isinstance(message, WorkerDisconnectNotification):
            del self.workers[Identity(sender)]
        return Identity(sender), message

    def want(self, count: int, *capabilities: TaskCapability) -> None:
        request = DesiredTaskConcurrencyRequest(count, capabilities)
        self.send(self.manager, WorkerManagerCommand((request,)))

    def until_there_are(self, count: int) -> None:
        while len(self.workers) != count:
            self.next()

    def give_a_task(self, worker: Identity) -> Task:
        """One that it holds for ever, because the object storage of this scheduler does not exist. It has arrived."""
        task = Task(new_task_id(), ClientId(b"Client|" + b"1" * 32), b"", b"f" * 32)
        self.send(worker, task)
        self.cancel(worker, new_task_id())  # the answer to a cancel of an unknown id is a barrier
        return task

    def cancel(self, worker: Identity, task_id: TaskId) -> None:
        """Waits for the answer."""
        self.send(worker, TaskCancel(task_id, TaskCancelFlags(True)))
        while not isinstance(self.next()[1], TaskCancelConfirm):
            pass

    def heartbeats(self, of: Identity, count: int) -> None:
        """Time passes: so many more heartbeats have come from one peer."""
        while count:
            count -= self.next()[0] == of


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    made = Scheduler()
    yield made
    made.close()


@contextlib.contextmanager
def managed(scheduler: Scheduler, *options: str) -> Iterator[subprocess.Popen[str]]:
    process = start(scheduler.address, "-his", "0.05", "-wmi", "fleet", *options)
    with process:
        try:
            _, hello = scheduler.next()
            assert isinstance(hello, WorkerManagerHeartbeat)
            assert hello.worker_manager_id == b"fleet"
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready worker-manager pid=")
            yield process
        finally:
            process.terminate()
            assert process.wait(HANG_SECONDS) == 0
            assert process.stderr is not None
            assert process.stderr.read() == ""


def test_it_starts_workers_that_name_it_and_lets_those_go_that_hold_nothing(scheduler: Scheduler) -> None:
    with managed(scheduler, "--max", "2", "-sdc", "0", "-pwc", "gpu=1", "-wtqs", "3") as process:
        scheduler.want(5, GPU)
        scheduler.until_there_are(2)
        for worker, heartbeat in scheduler.workers.items():
            assert worker.startswith(b"Worker|")
            assert (heartbeat.worker_manager_id, heartbeat.capabilities, heartbeat.queue_size) == (b"fleet", (GPU,), 3)
        holder = next(iter(scheduler.workers))
        scheduler.give_a_task(holder)
        scheduler.want(0)
        scheduler.until_there_are(1)
        assert list(scheduler.workers) == [holder]
        scheduler.heartbeats(scheduler.manager, 10)
        assert list(scheduler.workers) == [holder], "it is asked again and again, and stays"
        children = psutil.Process(process.pid).children(recursive=True)
    assert not psutil.wait_procs(children, 10)[1]
    goodbye = False
    while scheduler.workers or not goodbye:  # when the manager ends, it says so, and its workers take leave
        _, message = scheduler.next()
        goodbye |= isinstance(message, WorkerManagerHeartbeat) and message.max_task_concurrency == 0


def test_a_worker_that_dies_is_replaced(scheduler: Scheduler) -> None:
    process = start(scheduler.address, "-his", "0.05", "--max", "1", "-wmi", "fleet")
    with process:
        scheduler.next()
        scheduler.want(1)
        scheduler.until_there_are(1)
        (child,) = psutil.Process(process.pid).children()
        child.kill()
        while len(scheduler.workers) < 2:  # nobody took leave for it
            scheduler.next()
        process.terminate()
        _, errors = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 0
    assert "worker 1 ended by signal 9; the next is started in 1 s at the earliest" in errors


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_its_workers_do_not_outlive_it(scheduler: Scheduler) -> None:
    with start(scheduler.address, "-his", "0.05", "--max", "2") as process:
        scheduler.next()
        scheduler.want(2)
        scheduler.until_there_are(2)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
        process.kill()
    assert not psutil.wait_procs(children, HANG_SECONDS)[1]


def test_it_ends_when_the_scheduler_is_silent_for_too_long() -> None:
    with start("tcp://127.0.0.1:9", "-his", "0.05", "-dts", "0.2") as process:
        out, errors = process.communicate(timeout=HANG_SECONDS)
    assert (process.returncode, out) == (10, "")
    assert errors == (
        "error: the scheduler has been silent for 0.2 s\nhint: is a scheduler running at tcp://127.0.0.1:9?\n"
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--max", "0"], "argument -mtc/--max/--max-task-concurrency: invalid positive whole number value: '0'"),
        (["-pwc", "=1"], "'=1' has no name"),
        (["-pwc", "gpu=x"], "the value of 'gpu' is a whole number, not 'x'"),
        (["-sdc", "-1"], "invalid number from 0 value: '-1'"),
        (["-wmi", "a|b"], "invalid name (1 to 200 bytes, no '|') value: 'a|b'"),
        (["--", "--cancel-grace-seconds", "x"], "invalid number from 0 value: 'x'"),
        (["--", "--no-such-option"], "unrecognized arguments: --no-such-option"),
    ],
)
def test_a_wrong_option_is_one_line_and_starts_nothing(options: list[str], text: str) -> None:
    with start("tcp://127.0.0.1:9", *options) as process:
        out, errors = process.communicate(timeout=HANG_SECONDS)
    assert (process.returncode, out) == (2, "")
    first, second = errors.splitlines()
    assert first.startswith("error: ")
    assert text in first
    assert second.startswith("hint: ")


# ---- a whole cluster ----


def pid_after(path: str) -> int:
    """Runs until the file is there."""
    deadline = time.monotonic() + HANG_SECONDS
    while not Path(path).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return os.getpid()


def test_a_cluster_grows_with_the_work_and_shrinks_to_nothing_and_loses_nothing(tmp_path: Path) -> None:
    with EmbeddedCluster.start(0, tmp_path) as cluster:
        options = ("-his", "0.1", "-sdc", "0", "-pwc", "gpu=1")
        cluster.add_manager(2, options)
        with Client(cluster.scheduler_address) as client:
            gates = [tmp_path / f"gate-{n}" for n in range(3)]
            futures = [client.submit_verbose(pid_after, (str(gate),), capabilities={"gpu": 1}) for gate in gates]
            _workers(client, 2, busy=2)
            gates[0].touch()
            gates[1].touch()
            pids = {futures[0].result(HANG_SECONDS), futures[1].result(HANG_SECONDS)}
            _workers(client, 1)  # the one that runs the third task stays
            assert not futures[2].done()
            gates[2].touch()
            assert len({*pids, futures[2].result(HANG_SECONDS)}) == 2
            _workers(client, 0)
            assert client.submit_verbose(abs, (-1,), capabilities={"gpu": 1}).result(HANG_SECONDS) == 1
            client.shutdown_cluster()
        manager = psutil.Process(cluster.processes["worker_manager"])
        assert manager.wait(HANG_SECONDS) == 0


def _workers(client: Client, count: int, busy: int = 0) -> None:
    """Waits until so many workers are registered, of which at least ``busy`` hold tasks."""
    deadline = time.monotonic() + HANG_SECONDS
    while True:
        found = client.query("workers").value
        assert isinstance(found, tuple)
        if len(found) == count and sum(worker.held > 0 for worker in found) >= busy:  # type: ignore[union-attr]
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def test_sigusr1_ends_a_worker_only_if_it_holds_nothing(scheduler: Scheduler) -> None:
    command = [sys.executable, "-m", "reference_impl.worker", scheduler.address, "-c", "1", "-his", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        worker, _ = scheduler.next()
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready worker ")
        task = scheduler.give_a_task(worker)
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "busy\n"
        scheduler.cancel(worker, task.task_id)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(HANG_SECONDS) == 0
        scheduler.until_there_are(0)
