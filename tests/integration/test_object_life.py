"""Nothing of a client stays anywhere after it left, whatever happened to its tasks (SPEC LIV-06, LIV-07)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, TimeoutError, wait
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import zmq

from protocol import codec, storage
from protocol.messages import InformationQuery, InformationRequest, InformationResponse, TaskFilter, TaskList
from protocol.storage import Total
from reference_impl.addresses import Address
from reference_impl.client import Client
from reference_impl.cluster import EmbeddedCluster
from reference_impl.storage_connection import StorageConnection
from tests.interop.monitor import Monitor

PATIENCE_SECONDS = 60.0
TIMEOUT_SECONDS = 3.0

KILLED_CLIENT = """
import sys, time
from reference_impl.client import Client

def work(number, data):
    if number % 3 == 0:
        time.sleep(600)
    return data + bytes(100_000)

client = Client(sys.argv[1])
futures = [client.submit(work, n, bytes([n]) * 100_000) for n in range(60)]
futures[1].result()
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[EmbeddedCluster]:
    timeouts = ("--client-timeout-seconds", str(TIMEOUT_SECONDS), "--worker-timeout-seconds", str(TIMEOUT_SECONDS))
    options = (*timeouts, "--status-report-interval-seconds", "0.1")
    beats = ("--heartbeat-interval-seconds", "0.2")
    with EmbeddedCluster.start(2, tmp_path, scheduler_options=options, worker_options=beats) as cluster:
        yield cluster


def _client(cluster: EmbeddedCluster) -> Client:
    return Client(cluster.scheduler_address, heartbeat_interval_seconds=0.3)


class Observer:
    """Asks scheduler and storage what they hold, without being a registered client."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.ROUTING_ID, b"Client|observer")
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(cluster.scheduler_address)
        self._storage = StorageConnection(Address.parse(cluster.object_storage_address), b"Test|observer")

    def ask(self, variant: str, value: object = None) -> object:
        query = InformationQuery(1, variant, value)  # type: ignore[arg-type]
        self._socket.send(codec.encode(InformationRequest(codec.encode_query(query))))
        assert self._socket.poll(int(1000 * PATIENCE_SECONDS))
        message = codec.decode(self._socket.recv())
        assert isinstance(message, InformationResponse)
        return codec.decode_answer(message.response).value

    def total(self) -> Total:
        self._storage.send(storage.total_request(self._storage.next_id()))
        while True:
            self._storage.flush()
            for response in self._storage.receive():
                return Total.from_bytes(response.payload)

    def close(self) -> None:
        self._storage.close()
        self._socket.close()
        self._context.term()


@pytest.fixture
def observer(cluster: EmbeddedCluster) -> Iterator[Observer]:
    observer = Observer(cluster)
    yield observer
    observer.close()


def nothing_is_left(cluster: EmbeddedCluster, observer: Observer) -> None:
    """Waits, report by report, until scheduler and storage hold nothing; fails with what is left."""
    with Monitor(cluster.monitor_address) as monitor:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            total, objects = observer.total(), monitor.objects(PATIENCE_SECONDS)
            tasks = observer.ask("tasks", TaskFilter((), False, 0))
            assert isinstance(tasks, TaskList)
            clients, workers = observer.ask("clients"), observer.ask("workers")
            held = [(worker.held, worker.queued) for worker in workers]  # type: ignore[attr-defined]
            left = (total, objects.total_objects, tasks.total, clients, held)
            if left == (Total(0, 0, 0, 0, 0, 0), 0, 0, (), [(0, 0)] * len(held)):
                return
            assert time.monotonic() < deadline, f"left: {left}"


def _random_work(number: int, data: bytes) -> bytes:
    if number % 5 == 4:
        raise ValueError(data)
    if number % 5 == 3:
        time.sleep(600)
    return data[::-1]


def test_after_results_failures_and_cancels_in_races(cluster: EmbeddedCluster, observer: Observer) -> None:
    chosen = random.Random(5)
    with _client(cluster) as client:
        futures = [client.submit(_random_work, n, bytes([n % 50]) * 70_000) for n in range(100)]
        chosen.shuffle(futures)
        for future in futures[:50]:
            future.cancel()
        for future in futures[50:]:
            with suppress(TimeoutError, ValueError, CancelledError):
                future.result(0.01)
        assert observer.total().object_count > 0
        client.shutdown(cancel_futures=True)
    nothing_is_left(cluster, observer)


def test_after_clear_the_client_goes_on(cluster: EmbeddedCluster, observer: Observer) -> None:
    with _client(cluster) as client:
        futures = [client.submit(_random_work, n, bytes([n]) * 70_000) for n in range(20)]
        futures[0].result(PATIENCE_SECONDS)
        client.clear(PATIENCE_SECONDS)
        assert all(future.done() for future in futures)
        with Monitor(cluster.monitor_address) as monitor:
            while monitor.objects(PATIENCE_SECONDS).total_objects > 1:  # the serializer
                pass
        assert client.submit(_random_work, 0, b"ab").result(PATIENCE_SECONDS) == b"ba"
    nothing_is_left(cluster, observer)


def test_after_a_client_was_killed(cluster: EmbeddedCluster, observer: Observer) -> None:
    client = subprocess.Popen(
        [sys.executable, "-c", KILLED_CLIENT, cluster.scheduler_address], stdout=subprocess.PIPE, text=True
    )
    try:
        assert client.stdout is not None
        with client.stdout as stdout:
            assert stdout.readline() == "ready\n"
        assert observer.total().object_count > 10
    finally:
        client.kill()
        client.wait()
    nothing_is_left(cluster, observer)


def test_after_a_worker_was_killed(cluster: EmbeddedCluster, observer: Observer) -> None:
    """While its tasks run. (Killed in the instant in which it stores a result, it may leave that one behind.)"""
    beats = ("--heartbeat-interval-seconds", "0.2")
    with _client(cluster) as client, Monitor(cluster.monitor_address) as monitor:
        pid = cluster.add_workers("victim", 2, beats)
        futures = [client.submit(_random_work, 3, bytes([n]) * 70_000) for n in range(12)]
        monitor.report_when(
            "work for all", lambda report: [w.sent > 0 for w in report.worker_manager.workers] == [True] * 4, 60
        )
        children = psutil.Process(pid).children(recursive=True)
        os.kill(pid, signal.SIGKILL)
        monitor.report_when("its loss", lambda report: len(report.worker_manager.workers) == 2, 60)
        psutil.wait_procs(children, PATIENCE_SECONDS)
        for future in futures:
            assert future.cancel()
    nothing_is_left(cluster, observer)


def test_after_the_cluster_was_shut_down(cluster: EmbeddedCluster, observer: Observer) -> None:
    with _client(cluster) as other:
        future = other.submit(time.sleep, 600)
        with _client(cluster) as client:
            client.submit(bytes, 100_000).result(PATIENCE_SECONDS)
            assert observer.total().object_count > 0
            client.shutdown_cluster(PATIENCE_SECONDS)
        with pytest.raises(CancelledError):
            future.result(PATIENCE_SECONDS)
        psutil.wait_procs([psutil.Process(cluster.processes["scheduler"])], PATIENCE_SECONDS)
        total = observer.total()
        assert (total.object_count, total.total_bytes) == (0, 0)
        other.close()


def test_after_a_worker_was_thought_lost_and_came_back(cluster: EmbeddedCluster, observer: Observer) -> None:
    beats = ("--heartbeat-interval-seconds", "0.2")
    with _client(cluster) as client, Monitor(cluster.monitor_address) as monitor:
        pid = cluster.add_workers("sleepy", 2, beats)
        futures = [client.submit(time.sleep, 0.05) for _ in range(100)]
        futures[0].result(PATIENCE_SECONDS)
        os.kill(pid, signal.SIGSTOP)
        try:
            monitor.report_when(
                "the loss of the worker", lambda report: len(report.worker_manager.workers) == 2, PATIENCE_SECONDS
            )
        finally:
            os.kill(pid, signal.SIGCONT)
        wait(futures, PATIENCE_SECONDS)
        monitor.report_when(
            "the return of the worker", lambda report: len(report.worker_manager.workers) == 4, PATIENCE_SECONDS
        )
    nothing_is_left(cluster, observer)
