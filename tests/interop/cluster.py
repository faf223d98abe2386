"""The processes of one combination: object storage, scheduler, two workers of one slot each, on free loopback ports.

They end with the thread that started them, however that ends (Linux), and ``close`` leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from protocol import storage
from protocol.storage import Total
from reference_impl.addresses import Address
from reference_impl.storage_connection import StorageConnection
from tests.interop import peer
from tests.interop.combinations import OURS, Combination
from tests.interop.monitor import Monitor

SOURCE = Path(__file__).parents[2]
SLOTS = 2
QUEUE_SIZE = 4
LOST_SECONDS = 6
"""After this much silence a scheduler gives a worker or client up."""

_MARK = "SCALER_INTEROP_RUN"
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Cluster:
    """Starts in the constructor, ends with ``close``. A context manager."""

    def __init__(self, combination: Combination, directory: Path, *, queue_size: int = QUEUE_SIZE) -> None:
        """Raises RuntimeError with the end of the log if a role does not start. ``directory`` gets the logs."""
        self.combination = combination
        self.directory = directory
        self._mark = uuid.uuid4().hex
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        port, storage_port = _free_ports()
        self.scheduler_address = f"tcp://127.0.0.1:{port}"
        self.monitor_address = f"tcp://127.0.0.1:{port + 2}"
        self.storage_address = f"tcp://127.0.0.1:{storage_port}"
        try:
            self._start_storage(storage_port)
            self._start_scheduler(port)
            self.monitor = Monitor(self.monitor_address)
            self._start_workers(queue_size)
        except BaseException:
            self.close()
            raise

    def environment(self, who: str) -> dict[str, str]:
        """For a process of this combination."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("COV_")}
        mine = {"PYTHONPATH": str(SOURCE)} if who == OURS else peer.ENVIRONMENT
        return {**kept, **mine, _MARK: self._mark, "PYTHONUNBUFFERED": "1"}

    def start(self, name: str, who: str, command: list[str], **pipes: Any) -> subprocess.Popen[bytes]:
        """A process that ends with this thread; its stderr, and stdout if it is no pipe, go to a log."""
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _DIE_WITH_PARENT, str(os.getpid()), *command],
                stdin=pipes.get("stdin", subprocess.DEVNULL),
                stdout=pipes.get("stdout", log),
                stderr=log,
                env=self.environment(who),
                cwd=self.directory,
                start_new_session=True,
            )
        self._processes[name] = process
        return process

    def _start_storage(self, port: int) -> None:
        if self.combination.storage == OURS:
            command = [sys.executable, "-m", "reference_impl.object_storage", self.storage_address]
        else:
            command = [peer.command("scaler_object_storage_server"), self.storage_address]
        self.start("storage", self.combination.storage, command)
        self._await_port("storage", port)

    def _start_scheduler(self, port: int) -> None:
        timeouts = ["-wt", str(LOST_SECONDS), "-ct", str(LOST_SECONDS)]
        common = [self.scheduler_address, "--object-storage-address", self.storage_address, *timeouts]
        if self.combination.scheduler == OURS:
            command = [sys.executable, "-m", "reference_impl.scheduler", *common]
        else:
            command = [peer.command("scaler_scheduler"), *common]
        self.start("scheduler", self.combination.scheduler, command)
        self._await_port("scheduler", port)

    def _start_workers(self, queue_size: int) -> None:
        common = ["-wtqs", str(queue_size), "-his", "1"]
        if self.combination.worker == OURS:
            for number in range(SLOTS):
                command = [sys.executable, "-m", "reference_impl.worker", self.scheduler_address]
                self.start(f"worker-{number}", OURS, [*command, "--concurrency", "1", *common])
        else:
            command = [peer.command("scaler_worker_manager"), "baremetal_native", self.scheduler_address]
            command += ["--worker-manager-id", "interop", "--mode", "fixed", "--max-task-concurrency", str(SLOTS)]
            self.start("workers", self.combination.worker, [*command, *common])

    def _await_port(self, name: str, port: int) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._processes[name].poll() is None:
            with contextlib.suppress(ConnectionError):
                socket.create_connection(("127.0.0.1", port)).close()
                return
            select.select([], [], [], 0.02)
        raise RuntimeError(f"the {name} ({self.combination.name}) did not start: {self.log_tail(name)}")

    # ---- what the workload asks for ----

    def storage_total(self) -> Total:
        """What lies in the object storage."""
        connection = StorageConnection(Address.parse(self.storage_address), f"Interop|{uuid.uuid4().hex}".encode())
        try:
            connection.send(storage.total_request(1))
            while True:
                select.select([connection], [connection] if connection.wants_write else [], [])
                connection.flush()
                for response in connection.receive():
                    return Total.from_bytes(response.payload)
        finally:
            connection.close()

    def kill_worker_of(self, processor: int) -> int:
        """SIGKILLs the worker process whose processor this is; returns its process id."""
        ours = {p.pid for name, p in self._processes.items() if name.startswith("worker-")}
        for ancestor in psutil.Process(processor).parents():
            if not ours or ancestor.pid in ours:  # the peer's processors are children of their worker
                os.kill(ancestor.pid, signal.SIGKILL)
                return ancestor.pid
        raise RuntimeError(f"process {processor} belongs to no worker")

    # ---- the end ----

    def left_over(self) -> list[psutil.Process]:
        """Living processes of this combination that are neither roles nor clients that we started."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def orphans(self) -> list[psutil.Process]:
        """Those whose parent is not of this combination."""
        left = {process.pid: process for process in self.left_over()}
        mine = {*left, os.getpid()}
        orphans = [process for process in left.values() if process.ppid() not in mine]
        return [p for orphan in orphans for p in (orphan, *orphan.children(recursive=True))]

    def stop(self) -> list[str]:
        """Ends the roles, workers first; returns complaints: who did not end, what was left."""
        complaints = []
        for name, process in reversed(list(self._processes.items())):
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                complaints.append(f"{name} did not end within {_STOP_SECONDS:g} s of SIGTERM")
                process.kill()
                process.wait()
        left = self.left_over()
        _, left = psutil.wait_procs(left, 5)
        complaints += [f"left running: {process.pid} {' '.join(process.cmdline()[:6])}" for process in left]
        self.close()
        return complaints

    def close(self) -> None:
        """Ends everything at once."""
        if hasattr(self, "monitor"):
            self.monitor.close()
            del self.monitor
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._processes.clear()
        for stray in self.left_over():
            with contextlib.suppress(psutil.NoSuchProcess):
                stray.kill()

    def log_tail(self, name: str, lines: int = 8) -> str:
        path = self.directory / f"{name}.log"
        return " / ".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "no log"

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class ClientProcess:
    """A run of ``workload.py`` by the combination's client; JSON lines both ways."""

    def __init__(self, cluster: Cluster, name: str, mode: str, **options: Any) -> None:
        who = cluster.combination.client
        python = sys.executable if who == OURS else peer.python()
        arguments = [str(Path(__file__).with_name("workload.py")), who, cluster.scheduler_address, mode]
        self.process = cluster.start(
            name, who, [python, *arguments, json.dumps(options)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it says, until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(b"{"):
                yield json.loads(line)

    def say(self, answer: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(answer).encode() + b"\n")
        self.process.stdin.flush()


_ports_lock = threading.Lock()
_ports_used: set[int] = set()


def _free_ports() -> tuple[int, int]:
    """The scheduler's port, with its monitor's two above, and the storage's; outside of the range from which
    the system takes the ports of outgoing connections."""
    with _ports_lock:
        while True:
            port = random.randrange(20000, 32000)
            wanted = {port, port + 2, port + 4}
            if wanted & _ports_used:
                continue
            with contextlib.ExitStack() as stack:
                try:
                    for number in sorted(wanted):
                        stack.enter_context(socket.create_server(("127.0.0.1", number)))
                except OSError:
                    continue
            _ports_used.update(wanted)
            return port, port + 4
