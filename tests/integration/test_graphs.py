"""Graphs and futures as arguments through the whole cluster."""

from __future__ import annotations

import concurrent.futures
import graphlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reference_impl.client import Client
from reference_impl.cluster import EmbeddedCluster
from reference_impl.errors import DependencyFailed


def add(*values: int) -> int:
    return sum(values) % 1_000_003


def refuse(value: int) -> int:
    raise ValueError("no", value)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster.start(2, tmp_path_factory.mktemp("logs")) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: EmbeddedCluster) -> Iterator[Client]:
    with Client(cluster.scheduler_address) as client:
        yield client


def test_a_graph_gives_what_is_asked_for(client: Client) -> None:
    graph = {"a": 1, "b": (add, "a", "a"), "c": (add, "a", "b"), 4: (add, "c"), "unneeded": (refuse, "a")}
    assert client.get(graph, [4, "a", "b"]) == {4: 3, "a": 1, "b": 2}
    futures = client.get(graph, ["c"], block=False)
    assert futures["c"].result(30) == 3
    assert client.get({}, []) == {}


def test_a_node_that_raises_fails_what_is_behind_it(client: Client) -> None:
    futures = client.get({"a": 1, "b": (refuse, "a"), "c": (add, "b"), "d": (add, "c")}, ["b", "d"], block=False)
    for future in futures.values():
        with pytest.raises(ValueError, match="no"):
            future.result(30)


def test_a_cancel_of_one_future_cancels_the_graph(client: Client) -> None:
    graph = {"long": 600, "a": (time.sleep, "long"), "b": (add, "a"), "c": (add, "b")}
    futures = client.get(graph, ["b", "c"], block=False)
    assert futures["c"].cancel(30)
    concurrent.futures.wait(futures.values(), 30)
    assert all(future.cancelled() for future in futures.values())


@pytest.mark.parametrize(
    ("graph", "keys", "error"),
    [
        ({"a": (add, "b"), "b": (add, "a")}, ["a"], graphlib.CycleError),
        ({"a": (add, "x")}, ["a"], KeyError),
        ({"a": 1}, ["x"], KeyError),
        ({"a": 1}, ["a", "a"], KeyError),
        ({"a": (add, [1])}, ["a"], TypeError),
        ({"a": os.fork}, ["a"], None),
    ],
)
def test_what_cannot_run_is_refused_here(client: Client, graph: Any, keys: list[str], error: type[Exception]) -> None:
    if error is None:
        assert client.get(graph, keys) == {"a": os.fork}, "a callable alone is a constant"
        return
    with pytest.raises(error):
        client.get(graph, keys)


def test_futures_are_arguments(client: Client) -> None:
    one = client.submit(add, 1)
    assert client.submit(add, one, client.submit(add, one, 2)).result(30) == 4
    assert one.result(30) == 1
    assert client.submit(add, one, one).result(30) == 2, "it is done: its value"
    assert client.submit(dict, a=client.submit(add, 5), b=6).result(30) == {"a": 5, "b": 6}
    assert list(client.map(add, [client.submit(add, 7), 8])) == [7, 8]


def test_a_failed_argument_fails_the_task_and_says_why(client: Client) -> None:
    failed = client.submit(refuse, 1)
    for future in (client.submit(add, failed), client.submit(add, client.submit(add, failed))):
        error = future.exception(30)
        assert isinstance(error, DependencyFailed)
        assert isinstance(error.__cause__, ValueError)
        assert "ValueError" in str(error)
    failed.exception(30)
    assert isinstance(client.submit(add, failed).exception(30), DependencyFailed)


def test_a_future_of_another_client_is_refused(cluster: EmbeddedCluster, client: Client) -> None:
    with Client(cluster.scheduler_address) as other, pytest.raises(ValueError, match="another client"):
        client.submit(add, other.submit(add, 1))


def test_a_random_graph_gives_the_same_as_evaluating_it_while_workers_are_killed(tmp_path: Path) -> None:
    """1,000 nodes; three times a worker is killed while the graph runs."""
    rng = random.Random(5)
    graph: dict[str, Any] = {f"c{i}": i for i in range(20)}
    for i in range(1000):
        graph[f"n{i}"] = (add, *rng.sample(list(graph)[-200:], rng.randrange(1, 5)))
    values: dict[str, int] = {}
    for key, entry in graph.items():
        values[key] = add(*[values[name] for name in entry[1:]]) if isinstance(entry, tuple) else entry
    keys = [f"n{i}" for i in range(0, 1000, 10)]
    options = ("--worker-timeout-seconds", "1", "--lost-workers-limit", "10")
    with (
        EmbeddedCluster.start(1, tmp_path, scheduler_options=options) as cluster,
        Client(cluster.scheduler_address) as client,
    ):
        victim = cluster.add_workers("victim 0", 2)
        futures = client.get(graph, keys, block=False)
        for number, key in enumerate(("n10", "n200", "n500"), 1):
            futures[key].result(60)
            os.kill(victim, signal.SIGKILL)
            victim = cluster.add_workers(f"victim {number}", 2)
        assert {key: future.result(120) for key, future in futures.items()} == {key: values[key] for key in keys}
