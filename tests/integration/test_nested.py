"""Tasks that submit tasks (SPEC section 5.9), on real clusters."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.messages import ClientInfo
from reference_impl.client import Client
from reference_impl.cluster import EmbeddedCluster
from reference_impl.nesting import surroundings


@pytest.fixture(scope="module")
def one_slot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster.start(1, tmp_path_factory.mktemp("logs")) as cluster:
        yield cluster


@pytest.fixture
def client(one_slot: EmbeddedCluster) -> Iterator[Client]:
    with Client(one_slot.scheduler_address) as client:
        yield client


def _depth(levels: int) -> int:
    if levels == 0:
        return 0
    with Client() as client:
        return 1 + client.submit(_depth, levels - 1).result()


def _fibonacci(client: Client, n: int) -> int:
    if n < 2:
        return n
    parts = [client.submit(_fibonacci, client, n - 1), client.submit(_fibonacci, client, n - 2)]
    return sum(part.result() for part in parts)


def test_five_levels_on_one_slot(client: Client) -> None:
    assert client.submit(_depth, 5).result(60) == 5


def test_stopped_parents(tmp_path: Path) -> None:
    """Their clients can't heartbeat meanwhile, which is no harm in a short time."""
    options = ("--hard-processor-suspend",)
    with (
        EmbeddedCluster.start(1, tmp_path, worker_options=options) as cluster,
        Client(cluster.scheduler_address) as client,
    ):
        assert client.submit(_depth, 3).result(60) == 3


def test_more_parents_than_the_worker_has_places(tmp_path: Path) -> None:
    """What they wait for comes behind them all, and finds every place taken."""
    options = ("--per-worker-task-queue-size", "3")
    with (
        EmbeddedCluster.start(1, tmp_path, worker_options=options) as cluster,
        Client(cluster.scheduler_address) as client,
    ):
        assert [future.result(60) for future in client.submit_many(_depth, [(1,)] * 10)] == [1] * 10


def test_the_client_as_an_argument(client: Client) -> None:
    assert client.submit(_fibonacci, client, 6).result(60) == 8


def test_a_client_outside_of_a_task_needs_an_address() -> None:
    with pytest.raises(ValueError, match="needs the scheduler's address"):
        Client()


def test_what_a_task_and_its_subprocesses_know(client: Client, one_slot: EmbeddedCluster) -> None:
    def look() -> tuple[Any, str]:
        import subprocess

        code = "from reference_impl.nesting import surroundings; print(surroundings())"
        return surroundings(), subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout

    here, below = client.submit_verbose(look, priority=3).result(60)
    assert (here.scheduler, here.storage, here.priority) == (
        one_slot.scheduler_address,
        one_slot.object_storage_address,
        3,
    )
    assert f"scheduler='{one_slot.scheduler_address}'" in below and "priority=3" in below
    here, _ = client.submit(look).result(60)
    assert here.priority == 0


def test_a_priority_is_checked(client: Client) -> None:
    for bad in (-1, 2**31):
        with pytest.raises(ValueError, match="a priority is a number from 0"):
            client.submit_verbose(abs, (1,), priority=bad)


def test_a_suspended_parent_keeps_its_client(tmp_path: Path) -> None:
    """Its child runs for longer than the client timeout."""

    def child(path: str) -> int:
        with open(path) as fifo:  # noqa: PTH123
            return len(fifo.read())

    def parent(path: str) -> tuple[int, int]:
        with Client() as client:
            return os.getpid(), client.submit(child, path).result()

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with (
        EmbeddedCluster.start(1, tmp_path / "logs", scheduler_options=("-ct", "1")) as cluster,
        Client(cluster.scheduler_address, heartbeat_interval_seconds=0.2) as client,
    ):
        future = client.submit(parent, str(fifo))
        with fifo.open("w") as writer:  # the child runs
            while True:
                answer = client.query("clients").value
                nested = [c for c in answer if isinstance(c, ClientInfo) and c.client_id != client.identity]
                assert len(nested) == 1, "the client of the suspended task is lost"
                if nested[0].connected_milliseconds > 3000:
                    break
                time.sleep(0.1)  # between questions
            (worker,) = client.query("workers").value
            assert worker.suspended == (future.task_id,)
            writer.write("word")
        assert future.result(60)[1] == 4
