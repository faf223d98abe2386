"""What floods and slow peers cost: memory of the scheduler (or the object storage), and the round trip of a client that
does nothing wrong, without and with the flood.

For each flood a fresh scheduler and object storage. A client and its worker, which only that client's tasks may use,
send one task at a time to and fro; for the object storage a connection stores, fetches and deletes an object. The flood
runs in a process of its own, which is stopped and continued, so that what else the machine does falls on both sides; in
the end it goes without taking leave. Reported are the memory before, the highest, and after the flood's peers have
timed out, the median round trip without and with the flood, and their ratio; and how much of a round trip the server's
main thread works, for whomever: that does not depend on what else the machine does.
``python -m benchmarks.floods [--quick] [--only NAME …] [--seconds S] [--jsonl FILE]``
It ends with 1 if somebody who did nothing wrong got no answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import psutil
import zmq
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.flooders import FLOODS, STORAGE_FLOODS
from protocol import codec, storage
from protocol.envelope import Envelope
from protocol.identifiers import ClientId, new_client_id, new_object_id, new_task_id, new_worker_id
from protocol.messages import (
    ClientHeartbeat,
    Kind,
    Task,
    TaskCapability,
    TaskResult,
    TaskResultType,
    WorkerHeartbeat,
)
from protocol.storage import ResponseType
from reference_impl.addresses import Address
from reference_impl.cluster import EmbeddedCluster

_TIMEOUT, _QUICK_TIMEOUT = 5.0, 1.0  # of clients and workers, seconds
_PATIENCE_SECONDS = 60.0
_MIB = 1 << 20
_TURNS = 8  # of the flood, and of the time without it
_TAIL = 0.25  # of a turn, not measured
_OPTIONS: dict[str, tuple[str, ...]] = {
    "results": ("--max-unsent-messages", "10000"),
    "worker": ("--max-unsent-messages", "10000"),
    "cancels_unread": ("--max-unsent-messages", "10000"),
    "requirements": ("--max-tasks-per-client", "200000"),
    "objects": ("--max-objects-per-client", "500000"),
    "peers": ("--max-peers", "500"),
    "large": ("--max-task-bytes", "1G"),
}
"""Limits that are lower than the defaults, so that a flood of some seconds meets them."""
_STORAGE_OPTIONS: dict[str, tuple[str, ...]] = {
    "storage_fills": ("--memory-limit", "256M", "--disk-limit", "256M"),
}


class NoAnswer(Exception):
    """Whoever does nothing wrong gets no answer; the text says which."""


class Honest(Protocol):
    """Somebody who does nothing wrong."""

    refused: int

    def trip(self) -> None:
        """There and back once."""

    def close(self) -> None: ...


class HonestClient:
    """A client, and a worker that only its tasks may use."""

    def __init__(self, address: str, timeout: float) -> None:
        self.refused = 0
        self._timeout = timeout
        self._context = zmq.Context()
        self._id = ClientId(new_client_id())
        self._client, self._worker = self._dealer(self._id, address), self._dealer(new_worker_id("honest"), address)
        self._offer = (TaskCapability("honest", 1),)
        self._function = new_object_id(self._id)
        self._poller = zmq.Poller()
        for dealer in (self._client, self._worker):
            self._poller.register(dealer, zmq.POLLIN)
        self.beat()

    def _dealer(self, identity: bytes, address: str) -> zmq.Socket[bytes]:
        dealer = self._context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.IDENTITY, identity)
        dealer.connect(address)
        return dealer

    def beat(self) -> None:
        self._next_beat = time.monotonic() + self._timeout / 4
        self._client.send(codec.encode(ClientHeartbeat()))
        self._worker.send(codec.encode(WorkerHeartbeat(queue_size=1, capabilities=self._offer)))

    def trip(self) -> None:
        patience = time.monotonic() + _PATIENCE_SECONDS
        again = 0.0
        while (now := time.monotonic()) < patience:
            if now > again:  # after a while once more: if it was taken for lost, so is the task
                again = now + self._timeout
                task = Task(new_task_id(), self._id, b"", self._function, (), self._offer)
                self._client.send(codec.encode(task))
            if now > self._next_beat:
                self.beat()
            ready = dict(self._poller.poll(int(self._timeout * 250)))
            if self._worker in ready and (given := Envelope.parse(self._worker.recv())).kind is Kind.TASK:
                self._worker.send(codec.encode(TaskResult(given.task_id, TaskResultType.SUCCESS)))
            if self._client in ready and Envelope.parse(self._client.recv()).kind is Kind.TASK_RESULT:
                return
        raise NoAnswer(f"no TaskResult for {_PATIENCE_SECONDS:g} s")

    def close(self) -> None:
        self._context.destroy(linger=0)


class HonestConnection:
    """A connection to the object storage."""

    def __init__(self, address: str) -> None:
        self._socket = socket.create_connection(Address.parse(address), _PATIENCE_SECONDS)
        self._socket.sendall(storage.greeting(new_client_id()))
        self._side = storage.ClientSide()
        self._id = new_object_id(new_client_id())
        self.refused = 0
        """How many objects there was no room for."""

    def _ask(self, request: list[storage.Buffer]) -> ResponseType:
        try:
            self._socket.sendall(b"".join(request))
            while received := self._socket.recv_into(self._side.buffer()):
                for response in self._side.received(received):
                    return response.type
        except OSError as error:  # such as nothing for so long
            raise NoAnswer(f"no response: {error}") from None
        raise NoAnswer("no response: the connection was closed")

    def trip(self) -> None:
        stored = self._ask(storage.set_request(1, self._id, b"p" * 1000)) is ResponseType.SET_OK
        self.refused += not stored
        # There is nothing to fetch of what was refused (STO-22): to ask for it would be to wait until it is there.
        self._ask(storage.get_request(2, self._id) if stored else storage.total_request(2))
        self._ask(storage.delete_request(3, self._id))

    def close(self) -> None:
        self._socket.close()


@dataclass
class Measured:
    """One flood. Bytes of memory; seconds of round trips."""

    flood: str
    what: str
    of: str
    done: int = 0
    memory_before: int = 0
    memory_peak: int = 0
    memory_after: int = 0
    trip_before: float = 0.0
    trip_during: float = 0.0
    work_before: float = 0.0
    work_during: float = 0.0
    trips_during: int = 0
    refused: int = 0
    """How many of the round trips ended with a refusal, as there was no room."""
    fault: str = ""
    """What went wrong for the flood."""
    failure: str = ""
    """What went wrong for who does nothing wrong."""

    @property
    def ratio(self) -> float:
        return self.trip_during / self.trip_before if self.trip_before else 0.0

    @property
    def work_ratio(self) -> float:
        return self.work_during / self.work_before if self.work_before else 0.0


class Flooder:
    """The process of a flood, which can be stopped for a while."""

    def __init__(self, name: str, cluster: EmbeddedCluster) -> None:
        addresses = (cluster.scheduler_address, cluster.object_storage_address, cluster.monitor_address)
        command = [sys.executable, "-m", "benchmarks.flooders", name, *addresses]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def started(self) -> bool:
        """Whether its flood runs. Raises NoAnswer if it never will."""
        if self._process.poll() is not None:
            raise NoAnswer("the flood did not start")
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def run(self, running: bool) -> None:
        self._process.send_signal(signal.SIGCONT if running else signal.SIGSTOP)

    def end(self, trip: Callable[[], None]) -> tuple[int, str]:
        """How much it has done, and what went wrong; ``trip`` is called until it has ended."""
        assert self._process.stdout is not None
        self._process.terminate()
        while self._process.poll() is None:
            trip()
        report = json.loads(self._process.stdout.read().splitlines()[-1])
        return report["done"], report["fault"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


Trip = tuple[float, float]
"""Seconds that a round trip takes, and for how many of them the server's main thread is on a processor meanwhile."""


def _on_processor(pid: int) -> float:
    """Seconds that the main thread of a process has run so far; 0 where the system does not tell (Linux does)."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _trips(honest: Honest, pid: int, seconds: float, look: Callable[[], None]) -> list[Trip]:
    """Round trips, one after the other, with a look in between about every 50 ms."""
    times: list[Trip] = []
    end, next_look = time.perf_counter() + seconds, 0.0
    while (start := time.perf_counter()) < end:
        busy = _on_processor(pid)
        honest.trip()
        now = time.perf_counter()
        times.append((now - start, _on_processor(pid) - busy))
        if now > next_look:
            next_look = now + 0.05
            look()
    return times


def _settle(honest: Honest, pid: int, usual: float) -> None:
    """Round trips until what the flood has sent is worked off: the server works no more than usual during some."""
    calm, patience = 0, time.monotonic() + _PATIENCE_SECONDS / 6
    while calm < 5 and time.monotonic() < patience:
        busy = _on_processor(pid)
        honest.trip()
        calm = calm + 1 if _on_processor(pid) - busy <= 1.5 * usual else 0


def measure(name: str, seconds: float, timeout: float) -> Measured:
    """A flood of so many seconds."""
    flood = FLOODS[name]
    of_storage = flood in STORAGE_FLOODS
    measured = Measured(name, (flood.__doc__ or "").strip(), "object storage" if of_storage else "scheduler")
    try:
        _measure(measured, of_storage, seconds, timeout)
    except NoAnswer as error:
        measured.failure = str(error)
    return measured


def _measure(measured: Measured, of_storage: bool, seconds: float, timeout: float) -> None:
    name = measured.flood
    options = ("-ct", str(timeout), "-wt", str(timeout), *_OPTIONS.get(name, ()))
    with (
        tempfile.TemporaryDirectory() as logs,
        EmbeddedCluster.start(
            0, Path(logs), scheduler_options=options, storage_options=_STORAGE_OPTIONS.get(name, ())
        ) as cluster,
    ):
        process = psutil.Process(cluster.processes["object_storage" if of_storage else "scheduler"])
        honest: Honest = (
            HonestConnection(cluster.object_storage_address)
            if of_storage
            else HonestClient(cluster.scheduler_address, timeout)
        )

        def look() -> None:
            measured.memory_peak = max(measured.memory_peak, process.memory_info().rss)

        with contextlib.closing(honest):
            usual = statistics.median(trip[1] for trip in _trips(honest, process.pid, seconds / 8, look))
            measured.memory_before = measured.memory_peak = process.memory_info().rss
            before: list[Trip] = []
            during: list[Trip] = []
            with contextlib.closing(Flooder(name, cluster)) as flooder:
                while not flooder.started():
                    _trips(honest, process.pid, 0.1, look)
                for _ in range(_TURNS):
                    flooder.run(False)
                    _settle(honest, process.pid, usual)
                    before += _trips(honest, process.pid, seconds / 2 / _TURNS, look)
                    flooder.run(True)
                    _trips(honest, process.pid, _TAIL * seconds / _TURNS, look)
                    during += _trips(honest, process.pid, seconds / _TURNS, look)
                measured.done, measured.fault = flooder.end(honest.trip)
            _trips(honest, process.pid, timeout + 2.0 if timeout > _QUICK_TIMEOUT else 0.2, look)
            measured.memory_after = process.memory_info().rss
        measured.trip_before, measured.work_before = map(statistics.median, zip(*before, strict=True))
        measured.trip_during, measured.work_during = map(statistics.median, zip(*during, strict=True))
        measured.trips_during = len(during)
        measured.refused = honest.refused


def table(measurements: Sequence[Measured]) -> Table:
    result = Table(title="Floods and slow peers", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    result.add_column("flood")
    for heading in (
        "done",
        "MiB before",
        "highest",
        "after",
        "p50 without",
        "with, ms",
        "ratio",
        "of them busy",
        "ratio",
    ):
        result.add_column(heading, justify="right", no_wrap=True)
    for m in measurements:
        refused = f"{m.refused:,} round trips refused" if m.refused else ""
        result.add_row(
            f"{m.what} [dim]({'; '.join(filter(None, (m.of, m.fault, refused)))})[/dim]",
            f"{m.done:,}",
            *(f"{bytes_ / _MIB:.0f}" for bytes_ in (m.memory_before, m.memory_peak, m.memory_after)),
            f"{1e3 * m.trip_before:.2f}",
            f"{1e3 * m.trip_during:.2f}",
            f"{m.ratio:.1f}",
            f"{1e3 * m.work_before:.2f} … {1e3 * m.work_during:.2f}",
            f"{m.work_ratio:.1f}",
        )
    return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.floods", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=FLOODS, metavar="NAME", help=f"of {', '.join(FLOODS)}")
    parser.add_argument("--seconds", type=float, default=8.0, metavar="S", help="of each flood (default 8)")
    parser.add_argument("--quick", action="store_true", help="half a second each: that it works")
    parser.add_argument("--jsonl", type=Path, metavar="FILE", help="write what was measured")
    options = parser.parse_args(argv)
    if not options.seconds > 0:
        parser.error("--seconds: above 0")
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    measurements = []
    for name in options.only or FLOODS:
        seconds, timeout = (0.5, _QUICK_TIMEOUT) if options.quick else (options.seconds, _TIMEOUT)
        measurements.append(measure(name, seconds, timeout))
        if not sys.stdout.isatty():
            last = measurements[-1]
            print(f"{name}: {last.failure or f'{last.ratio:.1f}, {last.work_ratio:.1f}'}", file=sys.stderr, flush=True)
    console.print(table(measurements))
    for m in measurements:
        if m.failure:
            console.print(f"[red]{m.flood} failed: {m.failure}[/red]")
    console.print(f"load average {os.getloadavg()[0]:.1f}; the flood's own process shares the {os.cpu_count()} cores")
    if options.jsonl:
        options.jsonl.write_text(
            "".join(
                json.dumps({**asdict(m), "ratio": m.ratio, "work_ratio": m.work_ratio}) + "\n" for m in measurements
            )
        )
    return int(any(m.failure for m in measurements))


if __name__ == "__main__":
    sys.exit(main())
