"""The whole path: Python client, scheduler, workers and object storage as real processes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import as_completed, wait
from pathlib import Path

import psutil
import pytest

from protocol import storage
from protocol.messages import ClientInfo, TaskFilter, TaskList, WorkerInfo
from protocol.storage import Total
from reference_impl.addresses import Address
from reference_impl.client import Client
from reference_impl.cluster import ClusterFailed, EmbeddedCluster
from reference_impl.errors import ProcessorDiedError, WorkerDiedError
from reference_impl.storage_connection import StorageConnection


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster.start(2, tmp_path_factory.mktemp("logs")) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: EmbeddedCluster) -> Iterator[Client]:
    with Client(cluster.scheduler_address) as client:
        yield client


def _storage_total(cluster: EmbeddedCluster) -> Total:
    connection = StorageConnection(Address.parse(cluster.object_storage_address), b"Test|total")
    try:
        connection.send(storage.total_request(1))
        while True:
            connection.flush()
            for response in connection.receive():
                return Total.from_bytes(response.payload)
    finally:
        connection.close()


def _when_started(path: Path) -> int:
    """Waits until a task has written its process id to a FIFO."""
    with path.open() as fifo:
        return int(fifo.read())


def _write_pid_and_sleep(path: str) -> None:
    with open(path, "w") as fifo:  # noqa: PTH123  (runs in a worker)
        fifo.write(str(os.getpid()))
    time.sleep(600)


def _write_pid_and_sleep_once(path: str, flag: str) -> str:
    """Sleeps when it runs for the first time, returns at once the second time."""
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "ran again"
    _write_pid_and_sleep(path)
    return "slept"


def _fifo(directory: Path) -> Path:
    path = directory / "started"
    os.mkfifo(path)
    return path


def test_results_and_exceptions_arrive(client: Client) -> None:
    assert client.submit(pow, 2, 10).result(60) == 1024
    assert list(client.map(lambda x, y: x * y, range(20), range(20))) == [x * x for x in range(20)]
    with pytest.raises(ZeroDivisionError):
        client.submit(lambda: 1 // 0).result(60)


def test_standard_library_functions_work_on_the_futures(client: Client) -> None:
    futures = [client.submit(abs, -i) for i in range(10)]
    assert sorted(future.result() for future in as_completed(futures, 60)) == list(range(10))
    assert wait(futures, 60).not_done == set()


def test_a_canceled_task_is_gone_with_its_process(client: Client, tmp_path: Path) -> None:
    fifo = _fifo(tmp_path)
    future = client.submit(_write_pid_and_sleep, str(fifo))
    pid = _when_started(fifo)
    assert future.cancel(60) is True
    assert future.cancelled()
    assert not psutil.pid_exists(pid)


def test_200_tasks_submitted_and_canceled_at_once_each_end_exactly_once(cluster: EmbeddedCluster) -> None:
    ends: Counter[int] = Counter()
    with Client(cluster.scheduler_address) as client:
        futures = [client.submit(abs, -i) for i in range(200)]
        for i, future in enumerate(futures):
            future.add_done_callback(lambda _, i=i: ends.update([i]))  # type: ignore[misc]
        threads = [threading.Thread(target=future.cancel, args=(60,)) for future in futures]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert wait(futures, 60).not_done == set()
        assert all(future.cancelled() for future in futures)
        identity = client.identity
        left = client.query("tasks", TaskFilter(own_only=True)).value
        assert isinstance(left, TaskList)
        assert left.total == 0
    assert ends == Counter(range(200))
    with Client(cluster.scheduler_address) as observer:
        clients = observer.query("clients").value
        assert isinstance(clients, tuple)
        assert [c for c in clients if isinstance(c, ClientInfo) and c.client_id == identity] == []
        tasks = observer.query("tasks", TaskFilter()).value
        assert isinstance(tasks, TaskList)
        assert tasks.total == 0
        workers = observer.query("workers").value
        assert isinstance(workers, tuple)
        assert [w.held for w in workers if isinstance(w, WorkerInfo)] == [0, 0]


def test_nothing_of_a_client_is_left_in_the_object_storage(tmp_path: Path) -> None:
    with EmbeddedCluster.start(2, tmp_path) as cluster:
        with Client(cluster.scheduler_address) as client:
            futures = client.submit_many(abs, [(-i,) for i in range(300)])
            for future in futures[::3]:
                future.request_cancel()
            wait(futures, 60)
        deadline = time.monotonic() + 60
        while (total := _storage_total(cluster)).object_count and time.monotonic() < deadline:
            pass  # each round trip lets the storage go on
        assert total.object_count == 0


def test_a_task_whose_worker_is_killed_runs_elsewhere(tmp_path: Path) -> None:
    fifo = _fifo(tmp_path)
    with EmbeddedCluster.start(1, tmp_path, scheduler_options=("--worker-timeout-seconds", "1")) as cluster:
        with Client(cluster.scheduler_address) as client:
            future = client.submit(_write_pid_and_sleep_once, str(fifo), str(tmp_path / "flag"))
            processor = _when_started(fifo)
            cluster.add_workers("second worker", 1)
            os.kill(cluster.processes["worker"], signal.SIGKILL)
            assert future.result(60) == "ran again"
        psutil.wait_procs([p for p in psutil.process_iter() if p.pid == processor], 20)
        assert not psutil.pid_exists(processor)


def test_a_task_that_outlives_too_many_workers_fails(tmp_path: Path) -> None:
    options = ("--worker-timeout-seconds", "1", "--lost-workers-limit", "1")
    fifo = _fifo(tmp_path)
    with (
        EmbeddedCluster.start(1, tmp_path, scheduler_options=options) as cluster,
        Client(cluster.scheduler_address) as client,
    ):
        future = client.submit(_write_pid_and_sleep, str(fifo))
        _when_started(fifo)
        os.kill(cluster.processes["worker"], signal.SIGKILL)
        with pytest.raises(WorkerDiedError):
            future.result(60)


def test_a_worker_process_with_several_slots_that_is_started_again_counts_as_one_loss(tmp_path: Path) -> None:
    """What one of its slots has lost is not given to the next one, which died with it."""
    fifo = _fifo(tmp_path)
    with (
        EmbeddedCluster.start(4, tmp_path / "logs", scheduler_options=("--lost-workers-limit", "2")) as cluster,
        Client(cluster.scheduler_address) as client,
    ):
        future = client.submit(_write_pid_and_sleep_once, str(fifo), str(tmp_path / "flag"))
        _when_started(fifo)
        os.kill(cluster.processes["worker"], signal.SIGKILL)
        assert cluster.restart("worker") == cluster.processes["worker"]
        assert future.result(30) == "ran again"


def test_a_role_that_can_not_be_started_again_says_how_it_ended(tmp_path: Path) -> None:
    with EmbeddedCluster.start(0, tmp_path) as cluster:
        os.kill(cluster.processes["scheduler"], signal.SIGKILL)
        with pytest.raises(
            ClusterFailed, match=r"the scheduler of the embedded cluster \(pid \d+\) was killed by SIGKILL$"
        ):
            cluster.restart("scheduler")


def test_a_task_whose_processor_is_killed_fails_and_names_the_signal(client: Client, tmp_path: Path) -> None:
    fifo = _fifo(tmp_path)
    future = client.submit(_write_pid_and_sleep, str(fifo))
    os.kill(_when_started(fifo), signal.SIGKILL)
    with pytest.raises(ProcessorDiedError, match="SIGKILL"):
        future.result(60)
    assert client.submit(abs, -1).result(60) == 1


def test_random_bytes_on_both_ports_disturb_nobody(cluster: EmbeddedCluster, client: Client) -> None:
    rng = random.Random(11)
    for address in (cluster.scheduler_address, cluster.object_storage_address):
        for size in (1, 7, 8, 100, 100_000):
            with contextlib.suppress(ConnectionError), socket.create_connection(Address.parse(address)) as connection:
                connection.sendall(rng.randbytes(size))
        assert client.submit(abs, -3).result(60) == 3


def test_a_stopped_cluster_leaves_no_process(tmp_path: Path) -> None:
    with EmbeddedCluster.start(2, tmp_path) as cluster:
        family = [psutil.Process(pid) for pid in cluster.processes.values()]
        family += [child for process in family for child in process.children(recursive=True)]
        assert len(family) > 4
        with Client(cluster.scheduler_address) as client:
            assert client.submit(abs, -1).result(60) == 1
    _, alive = psutil.wait_procs(family, 20)
    assert alive == []


@pytest.mark.parametrize("options", [{"scheduler_options": ["--wrong"]}, {"worker_options": ["--wrong"]}])
def test_a_role_that_does_not_start_says_why_and_leaves_no_process(
    tmp_path: Path, options: dict[str, list[str]]
) -> None:
    role = next(iter(options)).partition("_")[0]
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(ClusterFailed, match=f"the {role} did not start: error: .*--wrong"):
        EmbeddedCluster.start(1, tmp_path, **options)  # type: ignore[arg-type]
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.parametrize(("said", "error"), [(b"", "''"), (b"nonsense\n", "'nonsense'")])
def test_an_address_from_stdin_that_is_none_is_a_usage_error(said: bytes, error: str) -> None:
    for command in ("worker", "-"), ("scheduler", "tcp://127.0.0.1:0", "--object-storage-address", "-"):
        done = subprocess.run(
            [sys.executable, "-m", f"reference_impl.{command[0]}", *command[1:]], input=said, capture_output=True
        )
        first, *rest = done.stderr.decode().splitlines()
        assert done.returncode == 2
        assert first.startswith("error: ") and error in first
        assert len(rest) == 1
