"""The client's side of one candidate, run by the Python that has it: needs nothing but the candidate.

``python workload.py CANDIDATE ADDRESS WORKERS`` connects, then carries out one job for each line of JSON on stdin and
answers each with a line of JSON. ``python workload.py CANDIDATE start WORKERS`` is one job: an embedded cluster, one
task, its result. Seconds everywhere.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def empty(_: int = 0) -> None:
    return None


def size_of(data: bytes, _: int = 0) -> int:
    return len(data)


def make(size: int) -> bytes:
    return bytes(size)


def same(data: bytes) -> bytes:
    return data


def run_until(started: str, stop: str) -> None:
    """Says that it runs, then runs for a minute, or, where nobody can end it, until it is asked to stop."""
    Path(started).touch()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not Path(stop).exists():
        time.sleep(0.01)


# ---- the candidates: each has submit, map, share, close, and what is different about it ----


class Ours:
    def __init__(self, address: str, workers: int) -> None:
        from reference_impl.client import Client

        self.client: Any = Client(address)
        self.submit = self.client.submit

    def map(self, count: int) -> list[Any]:
        return list(self.client.map(empty, range(count)))

    def share(self, data: bytes) -> Any:
        return self.client.submit(same, data)

    def close(self) -> None:
        self.client.close()


class Peer(Ours):
    def __init__(self, address: str, workers: int) -> None:
        from scaler import Client

        self.client = Client(address=address)
        self.submit = self.client.submit

    def share(self, data: bytes) -> Any:
        return self.client.send_object(data)

    def close(self) -> None:
        self.client.disconnect()


class Dask:
    def __init__(self, address: str, workers: int) -> None:
        from distributed import Client

        self.client: Any = Client(address, set_as_default=False)

    def submit(self, function: Any, *arguments: Any) -> Any:
        return self.client.submit(function, *arguments, pure=False)

    def map(self, count: int) -> list[Any]:
        results: list[Any] = self.client.gather(self.client.map(empty, range(count), pure=False))
        return results

    def share(self, data: bytes) -> Any:
        return self.client.scatter(data, broadcast=True)

    def close(self) -> None:
        self.client.close()


class Pool:
    def __init__(self, address: str, workers: int) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self.pool = ProcessPoolExecutor(workers)
        self.submit = self.pool.submit

    def map(self, count: int) -> list[Any]:
        return list(self.pool.map(empty, range(count)))

    def close(self) -> None:
        self.pool.shutdown()


ADAPTERS: dict[str, Any] = {"ours": Ours, "peer": Peer, "dask": Dask, "pool": Pool}


# ---- jobs on a connected candidate ----


def job_map(c: Any, directory: Path, count: int) -> dict[str, Any]:
    cpu, start = time.process_time(), time.perf_counter()
    results = c.map(count)
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert results == [None] * count
    return {"elapsed": elapsed, "cpu": cpu}


def job_trips(c: Any, directory: Path, count: int) -> dict[str, Any]:
    trips = []
    for i in range(count):
        start = time.perf_counter()
        c.submit(empty, i).result()
        trips.append(time.perf_counter() - start)
    return {"trips": trips}


def job_cancels(c: Any, directory: Path, count: int) -> dict[str, Any]:
    """From ``cancel()`` to a future that is cancelled, for tasks that have certainly started; and whether such a task
    runs on all the same."""
    cancels, runs_on = [], False
    for i in range(count):
        started, stop = directory / f"started-{i}", directory / f"stop-{i}"
        future = c.submit(run_until, str(started), str(stop))
        while not started.exists():
            time.sleep(0.001)
        start = time.perf_counter()
        future.cancel()
        while not future.cancelled():
            time.sleep(0.0001)
        cancels.append(time.perf_counter() - start)
        if isinstance(c, Dask):
            runs_on = True
            stop.touch()  # its workers run tasks in threads, which nothing ends
            c.submit(empty, i).result()
        started.unlink()
    return {"cancels": cancels, "runs_on": runs_on}


def job_move(c: Any, directory: Path, size: int) -> dict[str, Any]:
    data = os.urandom(4096) * (size // 4096)
    start = time.perf_counter()
    assert c.submit(size_of, data).result() == size
    middle = time.perf_counter()
    assert len(c.submit(make, size).result()) == size
    return {"argument": middle - start, "result": time.perf_counter() - middle}


def job_share(c: Any, directory: Path, count: int, size: int) -> dict[str, Any]:
    data = os.urandom(4096) * (size // 4096)
    start = time.perf_counter()
    shared = c.share(data)
    futures = [c.submit(size_of, shared, i) for i in range(count)]
    assert all(future.result() == size for future in futures)
    return {"elapsed": time.perf_counter() - start}


def job_idle(c: Any, directory: Path, seconds: float) -> dict[str, Any]:
    """Nothing is asked of it: for who measures what that costs."""
    time.sleep(seconds)
    return {}


JOBS: dict[str, Any] = {
    "map": job_map,
    "trips": job_trips,
    "cancels": job_cancels,
    "move": job_move,
    "share": job_share,
    "idle": job_idle,
}


# ---- an embedded cluster: from nothing to the first result ----


def start_ours(workers: int, directory: Path) -> float:
    from reference_impl.client import Client
    from reference_impl.cluster import EmbeddedCluster

    begin = time.perf_counter()
    with EmbeddedCluster.start(workers, directory) as cluster, Client(cluster.scheduler_address) as client:
        client.submit(empty, 0).result()
        return time.perf_counter() - begin


def start_peer(workers: int, directory: Path) -> float:
    from scaler import Client, SchedulerClusterCombo

    begin = time.perf_counter()
    cluster = SchedulerClusterCombo(n_workers=workers)
    client = Client(address=cluster.get_address())
    client.submit(empty, 0).result()
    elapsed = time.perf_counter() - begin
    client.disconnect()
    cluster.shutdown()
    return elapsed


def start_dask(workers: int, directory: Path) -> float:
    from distributed import Client, LocalCluster

    begin = time.perf_counter()
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.submit(empty, 0).result()
        return time.perf_counter() - begin


def start_pool(workers: int, directory: Path) -> float:
    begin = time.perf_counter()
    pool = Pool("", workers)
    pool.submit(empty, 0).result()
    elapsed = time.perf_counter() - begin
    pool.close()
    return elapsed


STARTS: dict[str, Any] = {"ours": start_ours, "peer": start_peer, "dask": start_dask, "pool": start_pool}


def main() -> None:
    which, address, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a candidate prints is no answer
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        if address == "start":
            print(json.dumps({"elapsed": STARTS[which](workers, directory)}), file=answers)
            return
        candidate = ADAPTERS[which](address, workers)
        candidate.submit(empty, 0).result()
        print(json.dumps({"ready": which, "pid": os.getpid()}), file=answers)
        for line in sys.stdin:
            order = json.loads(line)
            print(json.dumps(JOBS[order.pop("job")](candidate, directory, **order)), file=answers)
        candidate.close()


if __name__ == "__main__":
    main()
