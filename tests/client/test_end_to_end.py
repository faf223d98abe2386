"""The client with the reference scheduler, storage and workers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.messages import TaskList, VersionInfo
from protocol.payloads import TaskMetadata
from reference_impl.client import CancelAnswer, Client
from reference_impl.cluster import EmbeddedCluster
from reference_impl.errors import ProcessorDiedError
from reference_impl.serialization import serialize


class OwnError(Exception):
    """Of a module that the workers lack."""


class Point:
    """A class that the workers lack."""

    def __init__(self, x: int) -> None:
        self.x = x


def fail(text: str) -> None:
    raise OwnError(text)


def mirror(point: Point) -> Point:
    return Point(-point.x)


def say(text: str) -> None:
    print(text, flush=True)


def announce_and_sleep(path: str) -> None:
    Path(path).touch()
    time.sleep(600)


def wait_for(path: Path) -> None:
    """Until a task has written this file; there is no other channel from within a task before it ends."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster.start(2, tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def client(cluster: EmbeddedCluster) -> Iterator[Client]:
    made = Client(cluster.scheduler_address)
    yield made
    made.close()


def test_results_in_order(client: Client) -> None:
    assert list(client.map(pow, range(100), [2] * 100)) == [n * n for n in range(100)]
    assert list(client.map(lambda n: n + 1, range(100), chunksize=7)) == list(range(1, 101))


def test_values_and_errors_of_own_classes_cross_both_ways(client: Client) -> None:
    back = client.submit(mirror, Point(3)).result(60)
    assert isinstance(back, Point) and back.x == -3
    with pytest.raises(OwnError, match="told") as caught:
        client.submit(fail, "told").result(60)
    assert "fail" in [entry.name for entry in caught.traceback]


def test_large_values(client: Client) -> None:
    payload = os.urandom(5_000_000)
    assert client.submit(bytes.__add__, payload, b"!").result(60) == payload + b"!"


def test_a_running_task_is_cancelled(client: Client, tmp_path: Path) -> None:
    future = client.submit(announce_and_sleep, str(tmp_path / "started"))
    wait_for(tmp_path / "started")
    assert future.cancel(timeout=60) is True
    assert future.cancelled() and future.cancel_answer is CancelAnswer.CANCELED
    assert client.submit(abs, -1).result(60) == 1


def test_an_unforced_cancel_of_a_running_task_is_refused_and_a_forced_one_is_not(
    client: Client, tmp_path: Path
) -> None:
    future = client.submit(announce_and_sleep, str(tmp_path / "started"))
    wait_for(tmp_path / "started")
    assert future.cancel(timeout=60, force=False) is False
    assert future.running() and future.cancel_answer is CancelAnswer.FAILED
    assert future.cancel(timeout=60) is True


def test_cancelling_many_at_once(client: Client) -> None:
    futures = [client.submit(time.sleep, 600) for _ in range(50)]
    for future in futures:
        future.request_cancel()
    done, pending = concurrent.futures.wait(futures, 60)
    assert not pending and all(future.cancelled() for future in done)


def test_a_foreign_task_can_not_be_cancelled(cluster: EmbeddedCluster, client: Client, tmp_path: Path) -> None:
    future = client.submit(announce_and_sleep, str(tmp_path / "started"))
    wait_for(tmp_path / "started")
    with Client(cluster.scheduler_address) as other:
        assert other.cancel_task(future.task_id).result(60) is CancelAnswer.NOT_FOUND
    assert future.running()
    future.cancel(timeout=60)


def test_a_processor_that_dies_is_named(client: Client) -> None:
    with pytest.raises(ProcessorDiedError, match="SIGKILL"):
        client.submit(lambda: os.kill(os.getpid(), signal.SIGKILL)).result(60)


def test_output_is_streamed(client: Client) -> None:
    lines: list[str] = []
    future = client.submit_pickled(
        serialize(say, by_value=True),
        [serialize("hello")],
        metadata=TaskMetadata(stream_output=True),
        on_log=lambda _, __, text: lines.append(text),
    )
    future.result(60)
    assert "".join(lines).strip() == "hello"


def test_await_in_many_coroutines(client: Client) -> None:
    async def main() -> list[object]:
        return await asyncio.gather(*[client.submit(abs, -n) for n in range(20)])

    assert asyncio.run(main()) == list(range(20))


def test_questions(client: Client) -> None:
    version = client.query("version", timeout=60).value
    assert isinstance(version, VersionInfo) and version.implementation
    tasks = client.query("tasks", timeout=60).value
    assert isinstance(tasks, TaskList) and tasks.total == 0
    assert len(client.query("workers", timeout=60).value) == 2  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no query"):
        client.query("weather")


def test_the_cluster_ends_when_a_client_asks(tmp_path: Path) -> None:
    with EmbeddedCluster.start(1, tmp_path) as cluster:
        client = Client(cluster.scheduler_address)
        client.shutdown_cluster(60)
        client.close()
