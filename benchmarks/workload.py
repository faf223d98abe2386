"""One candidate of ``compare.py``: runs the workload with our client or the peer's, a round for each line on stdin.

Usage: ``python workload.py ours|peer SCHEDULER_ADDRESS TASKS``. Prints one JSON object per round: seconds of one
empty task (a list), empty tasks per second, seconds to cancel a running task (a list), client CPU seconds per task.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

ROUND_TRIPS = 100
CANCELS = 5


def empty(_: int = 0) -> None:
    return None


def touch_and_sleep(path: str) -> None:
    Path(path).touch()
    time.sleep(60)


def connect(which: str, address: str) -> Any:
    if which == "ours":
        from reference_impl.client import Client

        return Client(address)
    from scaler import Client as PeerClient  # type: ignore[import-not-found]

    return PeerClient(address=address)


def cancel_running(client: Any, directory: Path, number: int) -> float:
    """Seconds from ``cancel()`` to a future that is cancelled, for a task that has certainly started."""
    flag = directory / f"started-{number}"
    future = client.submit(touch_and_sleep, str(flag))
    while not flag.exists():
        time.sleep(0.001)
    start = time.perf_counter()
    future.cancel()
    assert future.cancelled()
    elapsed = time.perf_counter() - start
    flag.unlink()
    return elapsed


def one_round(client: Any, tasks: int, directory: Path) -> dict[str, Any]:
    trips = []
    for _ in range(ROUND_TRIPS):
        start = time.perf_counter()
        client.submit(empty, 0).result()
        trips.append(time.perf_counter() - start)
    cpu, start = time.process_time(), time.perf_counter()
    results = list(client.map(empty, range(tasks)))
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert results == [None] * tasks
    cancels = [cancel_running(client, directory, i) for i in range(CANCELS)]
    return {"round_trips": trips, "tasks_per_second": tasks / elapsed, "cancels": cancels, "client_cpu": cpu / tasks}


def main() -> None:
    import tempfile

    which, address, tasks = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with tempfile.TemporaryDirectory() as directory:
        client = connect(which, address)
        client.submit(empty, 0).result()
        print(json.dumps({"ready": which}), flush=True)
        for _ in sys.stdin:
            print(json.dumps(one_round(client, tasks, Path(directory))), flush=True)
        client.disconnect()


if __name__ == "__main__":
    main()
