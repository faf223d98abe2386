"""What is measured: each candidate starts its roles the way its own documentation does, and is driven by a client in a
process of its own (``workload.py``)."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import scalercli
from reference_impl.cluster import EmbeddedCluster

HERE = Path(__file__).parent
_START_SECONDS = 60.0
_JOB_SECONDS = 300.0
_STOP_SECONDS = 20.0


class CandidateFailed(Exception):
    """A candidate did not do what it was asked; the text is one line for people."""


@dataclass
class Roles:
    """Processes of a candidate's cluster, by role."""

    address: str = ""
    processes: dict[str, int] = field(default_factory=dict)


class Driver:
    """A client process."""

    def __init__(self, name: str, python: str, environ: dict[str, str], log: Path, *arguments: str) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [python, str(HERE / "workload.py"), name, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=environ,
            )
        self._pending = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def read(self, seconds: float) -> dict[str, Any]:
        """The next answer; raises CandidateFailed if none comes."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise CandidateFailed(f"no answer for {seconds:g} s")
                piece = os.read(self._process.stdout.fileno(), 1 << 16)
                if not piece:
                    tail = self._log.read_text(errors="replace").strip().splitlines()[-1:]
                    raise CandidateFailed(f"its client ended: {' '.join(tail) or 'it said nothing'}")
                self._pending += piece
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def do(self, job: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"job": job, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # reading says why
        return self.read(_JOB_SECONDS)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        _end(self._process, ask=False)
        self._process.stdout.close()


class Candidate(ABC):
    """One implementation. ``roles`` and ``client`` are context managers."""

    key: str
    title: str
    schedules = True
    """Whether it has a scheduler that hand-made peers can talk to."""

    def __init__(self, python: str, logs: Path) -> None:
        self.python = python
        self.logs = logs
        self.environ = {**os.environ, "TMPDIR": str(logs)}  # where some leave what nobody removes

    @property
    @abstractmethod
    def version(self) -> str:
        """Of the library; "" if it is not there."""

    @abstractmethod
    def roles(self, workers: int) -> contextlib.AbstractContextManager[Roles]:
        """A running cluster, with workers or without."""

    @contextlib.contextmanager
    def client(self, roles: Roles, workers: int) -> Iterator[Driver]:
        """A client process that is connected; raises CandidateFailed."""
        log = self.logs / f"{self.key}-client.log"
        driver = Driver(self.key, self.python, self.environ, log, roles.address, str(workers))
        try:
            driver.read(_START_SECONDS)
            yield driver
        finally:
            driver.close()

    def start_seconds(self, workers: int) -> float:
        """From nothing (imports aside) to the first result of an embedded cluster; raises CandidateFailed."""
        log = self.logs / f"{self.key}-start.log"
        driver = Driver(self.key, self.python, self.environ, log, "start", str(workers))
        try:
            return float(driver.read(_START_SECONDS)["elapsed"])
        finally:
            driver.close()


class Reference(Candidate):
    key, title = "ours", "scalercli"

    def __init__(self, python: str, logs: Path) -> None:
        super().__init__(python, logs)
        self.environ["PYTHONPATH"] = str(HERE.parent)

    @property
    def version(self) -> str:
        return scalercli.__version__

    @contextlib.contextmanager
    def roles(self, workers: int) -> Iterator[Roles]:
        with EmbeddedCluster.start(workers, self.logs) as cluster:
            yield Roles(cluster.scheduler_address, cluster.processes)


class Peer(Candidate):
    key, title = "peer", "opengris-scaler"

    def __init__(self, python: str, logs: Path) -> None:
        super().__init__(python, logs)
        self.environ["SCALER_NETWORK_BACKEND"] = "zmq"

    @property
    def version(self) -> str:
        return _version_in(self.python, "opengris-scaler")

    @contextlib.contextmanager
    def roles(self, workers: int) -> Iterator[Roles]:
        tools = Path(self.python).parent
        port, storage_port = _free_ports()
        scheduler, storage = f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{storage_port}"
        manager = [str(tools / "scaler_worker_manager"), "baremetal_native", scheduler]
        manager += ["--worker-manager-id", "bench", "--mode", "fixed", "--max-task-concurrency", str(workers)]
        commands = {
            "object_storage": ([str(tools / "scaler_object_storage_server"), storage], storage_port),
            "scheduler": ([str(tools / "scaler_scheduler"), scheduler, "--object-storage-address", storage], port),
        }
        if workers:
            commands["worker"] = (manager, 0)
        with _processes(self, commands) as processes:
            yield Roles(scheduler, processes)


class Dask(Candidate):
    key, title = "dask", "dask.distributed"
    schedules = False

    @property
    def version(self) -> str:
        return _version_in(self.python, "distributed")

    @contextlib.contextmanager
    def roles(self, workers: int) -> Iterator[Roles]:
        port, _ = _free_ports()
        address = f"tcp://127.0.0.1:{port}"
        main = [self.python, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]
        worker = [self.python, "-m", "distributed.cli.dask_worker", address, "--nworkers", str(workers)]
        commands = {
            "scheduler": (main + ["--no-dashboard"], port),
            "worker": (worker + ["--nthreads", "1", "--no-dashboard"], 0),
        }
        with _processes(self, commands) as processes:
            yield Roles(address, processes)


class Pool(Candidate):
    key, title = "pool", "ProcessPoolExecutor"
    schedules = False

    @property
    def version(self) -> str:
        return _version_in(self.python, "")

    @contextlib.contextmanager
    def roles(self, workers: int) -> Iterator[Roles]:
        yield Roles()


class Bare(Candidate):
    """No scheduler at all: a ROUTER that passes messages on, after one decode of each. What pyzmq allows."""

    key, title = "bare", "bare pyzmq"

    @property
    def version(self) -> str:
        return importlib.metadata.version("pyzmq")

    @contextlib.contextmanager
    def roles(self, workers: int) -> Iterator[Roles]:
        port, _ = _free_ports()
        address = f"tcp://127.0.0.1:{port}"
        self.environ["PYTHONPATH"] = str(HERE.parent)
        command = [self.python, "-m", "benchmarks.bare_router", address]
        with _processes(self, {"scheduler": (command, port)}) as processes:
            yield Roles(address, processes)


def candidates(ours: str, peer: str, dask: str, logs: Path) -> list[Candidate]:
    return [Reference(ours, logs), Peer(peer, logs), Dask(dask, logs), Pool(ours, logs), Bare(ours, logs)]


@contextlib.contextmanager
def _processes(candidate: Candidate, commands: dict[str, tuple[list[str], int]]) -> Iterator[dict[str, int]]:
    """Starts commands one after the other, each when the port of the one before is open; role to process id."""
    started: dict[str, subprocess.Popen[bytes]] = {}
    log = candidate.logs / f"{candidate.key}.log"
    try:
        with log.open("ab") as stream:
            for role, (command, port) in commands.items():
                started[role] = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    env=candidate.environ,
                    cwd=candidate.logs,
                )
                if port:
                    _await_port(port, started[role], log)
        yield {role: process.pid for role, process in started.items()}
    finally:
        for process in reversed(started.values()):
            _end(process)


def _end(process: subprocess.Popen[bytes], ask: bool = True) -> None:
    """Ends a process, and what it has started and not ended itself."""
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    if ask:
        process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in psutil.wait_procs(children, 1)[1]:
        with contextlib.suppress(psutil.Error):
            child.kill()


def _free_ports() -> tuple[int, int]:
    """Two ports: a scheduler's (with its monitor's, two above) and a storage's."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port: int = first.getsockname()[1]
            with (
                contextlib.suppress(OSError, OverflowError),
                socket.create_server(("127.0.0.1", port + 2)),
                socket.create_server(("127.0.0.1", 0)) as storage,
            ):
                return port, storage.getsockname()[1]


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionError:
            time.sleep(0.02)  # it says nowhere when it is ready
    tail = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise CandidateFailed(f"it does not start: {' '.join(tail) or 'it said nothing'}")


def _version_in(python: str, package: str) -> str:
    """The version of a package in another Python, or of that Python itself; "" if it has none."""
    code = "import platform; print(platform.python_version())"
    if package:
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60)
    except OSError:
        return ""
    return done.stdout.strip()


THIS_PYTHON = sys.executable
