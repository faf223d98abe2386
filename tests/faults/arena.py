"""All processes of a campaign: storage, scheduler, workers and clients, and proxies before the first two.

Workers and clients that were killed come again, so that the work goes on. The scheduler and the storage keep their
addresses over a restart.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from reference_impl.addresses import Address
from tests.faults import session
from tests.faults.driver import BEAT_SECONDS
from tests.faults.proxy import Proxy

START_SECONDS = 60.0
STOP_SECONDS = 20.0
TIMEOUT_SECONDS = 3.0
"""After which the scheduler gives up a client or a worker."""
_BROKEN = 125
"""With this a worker ends whose zygote was killed too often in a short time."""
SLOTS = 2
QUEUE_SIZE = 8


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Arena:
    """Use as a context manager: everything has ended when it is left."""

    def __init__(self, directory: Path, workers: int) -> None:
        self._directory = directory
        self._worker_count = workers
        self._log = (directory / "log").open("ab")
        self.storage: subprocess.Popen[bytes] | None = None
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self.broken: list[str] = []
        """Roles that ended though nobody killed them."""
        self.sessions: list[Path] = []
        self.seen: dict[int, psutil.Process] = {}
        """Every process that there was, of which none may be left."""

    def __enter__(self) -> Arena:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        storage_port, scheduler_port, _ = ports = _free_ports(3)
        assert len(set(ports)) == 3
        self.storage_address = Address("127.0.0.1", storage_port)
        self.scheduler_address = Address("127.0.0.1", scheduler_port)
        self.monitor_address = Address("127.0.0.1", ports[2])
        self.storage_proxy, self.scheduler_proxy = Proxy(self.storage_address), Proxy(self.scheduler_address)
        self.start_storage()
        self.start_scheduler()
        self.tend()
        for worker in self.workers:
            _wait_ready(worker)

    def start_storage(self) -> None:
        self.storage = self._spawn("object_storage", str(self.storage_address), "--gone-seconds", str(TIMEOUT_SECONDS))
        _wait_ready(self.storage)

    def start_scheduler(self) -> None:
        self.scheduler = self._spawn(
            "scheduler",
            str(self.scheduler_address),
            *("--object-storage-address", str(self.storage_proxy.address)),
            *("--advertised-object-storage-address", str(self.storage_proxy.address)),
            *("--monitor-address", str(self.monitor_address)),
            *("--client-timeout-seconds", str(TIMEOUT_SECONDS), "--worker-timeout-seconds", str(TIMEOUT_SECONDS)),
            *("--load-balance-seconds", "0.2", "--status-report-interval-seconds", "0.2"),
        )
        _wait_ready(self.scheduler)

    def restart_scheduler(self) -> None:
        """It is killed, and comes back with nothing at its address."""
        _end(self.scheduler)
        self.start_scheduler()

    def restart_storage(self) -> None:
        """The same."""
        _end(self.storage)
        self.start_storage()

    def tend(self) -> None:
        """Starts workers in place of those that have ended."""
        for worker in [worker for worker in self.workers if worker.poll() is not None]:
            self.workers.remove(worker)
            self._note_end("worker", worker)
            assert worker.stdout is not None
            worker.stdout.close()
        while len(self.workers) < self._worker_count:
            self.workers.append(
                self._spawn(
                    "worker",
                    str(self.scheduler_proxy.address),
                    *("--concurrency", str(SLOTS), "--per-worker-task-queue-size", str(QUEUE_SIZE)),
                    *("--heartbeat-interval-seconds", str(BEAT_SECONDS)),
                )
            )
        self._remember()

    def _note_end(self, role: str, child: subprocess.Popen[bytes]) -> None:
        if child.returncode not in (-signal.SIGKILL, _BROKEN):
            self.broken.append(f"a {role} ended by itself, with exit code {child.returncode}: see the log")

    def _remember(self) -> None:
        for worker in self.workers:
            with suppress(psutil.Error):
                for process in psutil.Process(worker.pid).children(recursive=True):
                    self.seen.setdefault(process.pid, process)

    def zygotes(self) -> list[psutil.Process]:
        found = []
        for worker in self.workers:
            with suppress(psutil.Error):
                found += psutil.Process(worker.pid).children()
        return [process for process in found if process.is_running()]

    def processors(self) -> list[psutil.Process]:
        self._remember()
        found = []
        for zygote in self.zygotes():
            with suppress(psutil.Error):
                found += zygote.children()
        return found

    def client(self, seed: int, first: int, step: int, count: int) -> subprocess.Popen[bytes]:
        """A driver (see there) that submits these tasks."""
        arguments = [str(self.scheduler_proxy.address), *(str(n) for n in (seed, first, step, count))]
        return self._popen("tests.faults.driver", *arguments)

    def session(self, first: int, count: int, retries: int) -> subprocess.Popen[bytes]:
        """A user of the command line (see there), with a directory of its own."""
        directory = self._directory / f"session-{retries}"
        self.sessions.append(directory)
        arguments = (str(self.scheduler_proxy.address), str(directory), str(first), str(count), str(retries))
        return self._popen("tests.faults.session", *arguments)

    def agents(self) -> list[psutil.Process]:
        """The session agents that are there."""
        found = []
        for pid in filter(None, map(session.agent, self.sessions)):
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                if "scalercli.agent" in process.cmdline():
                    self.seen[pid] = process
                    found.append(process)
        return found

    def _spawn(self, role: str, *arguments: str) -> subprocess.Popen[bytes]:
        return self._popen(f"reference_impl.{role}", *arguments, "--die-with-parent", str(os.getpid()))

    def _popen(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        self.seen[child.pid] = psutil.Process(child.pid)
        return child

    def stop_roles(self) -> list[str]:
        """Ends workers, scheduler and storage by SIGTERM; says which did not end."""
        self._remember()
        stubborn = []
        for child in (*self.workers, self.scheduler, self.storage):
            if child is None:
                continue
            child.send_signal(signal.SIGCONT)
            child.terminate()
        for child in (*self.workers, self.scheduler, self.storage):
            if child is None:
                continue
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                stubborn.append(f"process {child.pid} did not end on SIGTERM")
                child.kill()
                child.wait()
            assert child.stdout is not None
            child.stdout.close()
        self.workers, self.scheduler, self.storage = [], None, None
        return stubborn

    def close(self) -> None:
        self.stop_roles()
        for process in self.seen.values():
            with suppress(psutil.Error):
                process.kill()
        for name in ("scheduler_proxy", "storage_proxy"):
            if hasattr(self, name):
                getattr(self, name).close()
        self._log.close()


def _end(child: subprocess.Popen[bytes] | None) -> None:
    assert child is not None and child.stdout is not None
    child.kill()
    child.wait()
    child.stdout.close()


def _wait_ready(child: subprocess.Popen[bytes]) -> None:
    assert child.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        if not selector.select(START_SECONDS) or not child.stdout.readline().startswith(b"ready"):
            raise RuntimeError(f"process {child.pid} did not start: {child.args}")
