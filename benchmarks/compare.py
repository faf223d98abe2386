"""The reference beside opengris-scaler 2.9.0, in the same run: round trip, tasks per second, cancel of a running task.

Both clusters run on this machine, each with its own scheduler, object storage and as many workers; the rounds
alternate (A B A B …). Medians over all rounds; the ratio is the median of the ratios of neighbouring rounds.

Usage: ``python benchmarks/compare.py``; ``--peer-python PYTHON`` names another Python that has
``opengris-scaler[zmq]==2.9.0``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from reference_impl.cluster import EmbeddedCluster

HERE = Path(__file__).parent
PEER_ENVIRONMENT = {**os.environ, "SCALER_NETWORK_BACKEND": "zmq"}

Row = tuple[str, str, bool, Callable[[dict[str, Any]], float]]
ROWS: list[Row] = [
    ("round trip of one empty task, p50", "ms", False, lambda r: median(r["round_trips"]) * 1e3),
    (
        "round trip of one empty task, p99",
        "ms",
        False,
        lambda r: sorted(r["round_trips"])[int(0.99 * len(r["round_trips"]))] * 1e3,
    ),
    ("empty tasks, map", "tasks/s", True, lambda r: float(r["tasks_per_second"])),
    ("client CPU per task", "µs", False, lambda r: r["client_cpu"] * 1e6),
    ("cancel of a running task, p50", "ms", False, lambda r: median(r["cancels"]) * 1e3),
]


class Candidate:
    """One implementation: its client process, driven round by round."""

    def __init__(self, name: str, python: str, address: str, tasks: int, environment: dict[str, str]) -> None:
        self.name = name
        self.rounds: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [python, str(HERE / "workload.py"), name, address, str(tasks)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise SystemExit(f"error: the client of {self.name} ended")

    def round(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self.rounds.append(self._read())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _free_ports() -> tuple[int, int]:
    """Two ports: the scheduler's (with its monitor's, two above) and the storage's."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
            with (
                contextlib.suppress(OSError),
                socket.create_server(("127.0.0.1", port + 2)),
                socket.create_server(("127.0.0.1", 0)) as storage,
            ):
                return port, storage.getsockname()[1]


def _await_port(port: int) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionError:
            time.sleep(0.05)


@contextlib.contextmanager
def peer_cluster(python: str, workers: int, directory: Path) -> Iterator[str]:
    """The peer's roles as its own commands start them; gives the scheduler's address."""
    tools = Path(python).parent
    port, storage_port = _free_ports()
    scheduler, storage = f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{storage_port}"
    manager = [str(tools / "scaler_worker_manager"), "baremetal_native", scheduler]
    manager += ["--worker-manager-id", "bench", "--mode", "fixed", "--max-task-concurrency", str(workers)]
    commands = [
        ([str(tools / "scaler_object_storage_server"), storage], storage_port),
        ([str(tools / "scaler_scheduler"), scheduler, "--object-storage-address", storage], port),
        (manager, 0),
    ]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with (directory / "peer.log").open("wb") as log:
            for command, wait_for in commands:
                processes.append(
                    subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=PEER_ENVIRONMENT, cwd=directory
                    )
                )
                if wait_for:
                    _await_port(wait_for)
        yield scheduler
    finally:
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has opengris-scaler[zmq]==2.9.0")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=2000, help="empty tasks per round")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if not (Path(options.peer_python).parent / "scaler_scheduler").exists():
        parser.error(f"{options.peer_python} has no opengris-scaler: pip install 'opengris-scaler[zmq]==2.9.0'")
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(
        f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{options.workers} workers, {options.rounds} rounds of {options.tasks} tasks, in turns"
    )
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        directory = Path(temporary)
        ours = stack.enter_context(EmbeddedCluster.start(options.workers, directory))
        theirs = stack.enter_context(peer_cluster(options.peer_python, options.workers, directory))
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
        candidates = [
            Candidate("ours", sys.executable, ours.scheduler_address, options.tasks, environment),
            Candidate("peer", options.peer_python, theirs, options.tasks, PEER_ENVIRONMENT),
        ]
        try:
            for candidate in candidates:  # a first round that does not count
                candidate.round()
                candidate.rounds.clear()
            for _ in range(options.rounds):
                for candidate in candidates:
                    candidate.round()
        finally:
            for candidate in candidates:
                candidate.close()
    table = Table("", "unit", "scalercli", "opengris-scaler 2.9.0", "ratio")
    for name, unit, more_is_better, measure in ROWS:
        a, b = ([measure(r) for r in c.rounds] for c in candidates)
        ratio = median(x / y if more_is_better else y / x for x, y in zip(a, b, strict=True))
        table.add_row(name, unit, _spread(a), _spread(b), f"{ratio:.1f} times better")
    console.print(table)


def _spread(values: list[float]) -> str:
    return f"{median(values):,.2f} ({min(values):,.2f} … {max(values):,.2f})"


if __name__ == "__main__":
    main()
