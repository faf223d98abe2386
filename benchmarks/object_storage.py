"""Measures object storage servers side by side: ours, and with ``--peer COMMAND`` another one.

    python benchmarks/object_storage.py
    python benchmarks/object_storage.py --peer 'scaler_object_storage_server {address}' --rounds 9
    python benchmarks/object_storage.py --only spilled

Servers run as processes of their own and take turns, so that a busy machine is busy for both. Reported is the median
round of each server with its worst and best, and the ratio of the medians (above 1: ours is faster). The client is
this process: a bare socket that sends requests made before and reads the responses without decoding them. Linux only.
"""

from __future__ import annotations

import argparse
import os
import shlex
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from protocol import storage
from protocol.identifiers import ObjectId
from protocol.storage import ResponseType, Total

_HEADER = 88  # a response without payload
_TYPE_AT = 40  # in it
_LARGE = 64 << 20
_BUFFER = bytearray(_LARGE + 4096)


class Figure(NamedTuple):
    value: float
    higher_is_better: bool
    unit: str


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server process of a command, and one connection to it."""

    def __init__(self, name: str, command: str) -> None:
        self.name = name
        port = free_port()
        words = shlex.split(command.format(address=f"tcp://127.0.0.1:{port}"))
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        self.socket = self._connect(port)
        self.socket.settimeout(None)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(storage.greeting(b"Client|benchmark"))
        self.read(len(storage.greeting(storage.SERVER_IDENTITY)))

    def _connect(self, port: int) -> socket.socket:
        deadline = time.monotonic() + 20
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port), 30)
            except ConnectionRefusedError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"error: {self.name} does not start: {self.process.args!r}") from None
                time.sleep(0.02)  # it says nowhere when it is ready

    def read(self, count: int) -> memoryview:
        view = memoryview(_BUFFER)[:count]
        got = 0
        while got < count:
            n = self.socket.recv_into(view[got:])
            if not n:
                raise SystemExit(f"error: {self.name} closed the connection")
            got += n
        return view

    def cpu_seconds(self) -> float:
        """User and system time of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait()


def small_requests(server: Server) -> dict[str, Figure]:
    """Set, get and delete of 100 bytes, pipelined: 100 to 200 are under way."""
    batches = 100
    size = 100
    ids = [ObjectId(i.to_bytes(32, "big")) for i in range(1, 101)]
    payload = bytes(range(size))
    contents = [i.to_bytes(4, "big") + payload[4:] for i in range(len(ids))]
    kinds: dict[str, tuple[bytes, int]] = {
        "set": (b"".join(b"".join(storage.set_request(i, o, contents[i])) for i, o in enumerate(ids)), _HEADER),
        "get": (b"".join(b"".join(storage.get_request(i, o)) for i, o in enumerate(ids)), _HEADER + 8 + size),
        "delete": (b"".join(b"".join(storage.delete_request(i, o)) for i, o in enumerate(ids)), _HEADER),
    }
    figures = {}
    total = 0.0
    cpu = server.cpu_seconds()
    for kind, (batch, answer) in kinds.items():
        # Two batches are under way all the time, so that neither side waits for the other.
        start = time.perf_counter()
        server.socket.sendall(batch)
        for _ in range(batches - 1):
            server.socket.sendall(batch)
            server.read(answer * len(ids))
        server.read(answer * len(ids))
        elapsed = time.perf_counter() - start
        total += elapsed
        figures[f"pipelined {kind}"] = Figure(batches * len(ids) / elapsed, True, "/s")
    figures["pipelined, all three"] = Figure(3 * batches * len(ids) / total, True, "/s")
    cpu = server.cpu_seconds() - cpu
    figures["CPU time of a request"] = Figure(cpu / (3 * batches * len(ids)) * 1e6, False, "us")
    return figures


def round_trips(server: Server) -> dict[str, Figure]:
    """Set and get of 100 bytes, one at a time. Where the kernel puts the two processes decides most of it (waking an
    idle core of a virtual machine costs tens of microseconds), so they are pinned: to one core, then to two."""
    object_id = ObjectId(bytes([7]) * 32)
    content = bytes(100)
    requests = (
        (b"".join(storage.set_request(1, object_id, content)), _HEADER),
        (b"".join(storage.get_request(2, object_id)), _HEADER + 8 + len(content)),
    )
    allowed = os.sched_getaffinity(0)
    figures = {}
    for label, core in (("one core", min(allowed)), ("two cores", max(allowed))):
        os.sched_setaffinity(0, {min(allowed)})
        for task in Path(f"/proc/{server.process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})
        times = []
        for _ in range(1000):
            for request, answer in requests:
                start = time.perf_counter()
                server.socket.sendall(request)
                server.read(answer)
                times.append(time.perf_counter() - start)
        figures[f"round trip, {label}"] = Figure(statistics.median(times) * 1e6, False, "us")
    os.sched_setaffinity(0, allowed)
    return figures


def payloads(server: Server, size: int, repeat: int) -> dict[str, Figure]:
    """Set and get of large payloads, each under an id of its own and unlike the others; then all deleted."""
    content = bytearray(os.urandom(4096) * (size // 4096))
    ids = [ObjectId(i.to_bytes(32, "big")) for i in range(1, repeat + 1)]
    setting = getting = 0.0
    for number, object_id in enumerate(ids):
        content[:8] = number.to_bytes(8, "big")
        head, _ = storage.set_request(number, object_id, content)
        start = time.perf_counter()
        server.socket.sendall(head)
        server.socket.sendall(content)
        server.read(_HEADER)
        middle = time.perf_counter()
        server.socket.sendall(b"".join(storage.get_request(number, object_id)))
        answer = server.read(_HEADER + 8 + size)
        getting += time.perf_counter() - middle
        setting += middle - start
        if answer[_HEADER + 8 :][:8] != content[:8]:
            raise SystemExit(f"error: {server.name} returned another payload")
        server.socket.sendall(b"".join(storage.delete_request(number, object_id)))
        server.read(_HEADER)
    amount = size * repeat / 1e9
    label = f"{size >> 20} MiB" if size >> 20 else f"{size >> 10} KiB"
    return {
        f"{label} set": Figure(amount / setting, True, "GB/s"),
        f"{label} get": Figure(amount / getting, True, "GB/s"),
        f"{label} set + get": Figure(2 * amount / (setting + getting), True, "GB/s"),
    }


def waiting(server: Server) -> dict[str, Figure]:
    """2,000 gets that wait until the object is set."""
    count = 2000
    object_id = ObjectId(bytes([7]) * 32)
    start = time.perf_counter()
    server.socket.sendall(b"".join(b"".join(storage.get_request(i, object_id)) for i in range(count)))
    server.socket.sendall(b"".join(storage.total_request(0)))
    answer = server.read(_HEADER + 8 + 48)
    if Total.from_bytes(answer[_HEADER + 8 :]).pending_requests != count:
        raise SystemExit(f"error: {server.name} does not wait ({ResponseType.INFO_GET_TOTAL_OK.name} says)")
    server.socket.sendall(b"".join(storage.set_request(1, object_id, b"x")))
    server.read(count * (_HEADER + 9) + _HEADER)
    elapsed = time.perf_counter() - start
    server.socket.sendall(b"".join(storage.delete_request(3, object_id)))
    server.read(_HEADER)
    return {"waiting gets": Figure(count / elapsed, True, "/s")}


def spilled(server: Server) -> dict[str, Figure]:
    """Sixteen payloads of 16 MiB under a memory limit of two of them, in a file each but for two; then read. The same
    requests without a limit are the figures "in memory" of the same run."""
    size, count = 16 << 20, 16
    content = bytearray(os.urandom(4096) * (size // 4096))
    start = time.perf_counter()
    for number in range(count):
        content[:8] = number.to_bytes(8, "big")
        head, _ = storage.set_request(number, ObjectId(number.to_bytes(32, "big")), content)
        server.socket.sendall(head)
        server.socket.sendall(content)
        if server.read(_HEADER)[_TYPE_AT] != ResponseType.SET_OK:
            raise SystemExit(f"error: {server.name} refused a payload")
    middle = time.perf_counter()
    for number in range(count):
        server.socket.sendall(b"".join(storage.get_request(number, ObjectId(number.to_bytes(32, "big")))))
        if server.read(_HEADER + 8 + size)[_HEADER + 8 :][:8] != number.to_bytes(8, "big"):
            raise SystemExit(f"error: {server.name} returned another payload")
    end = time.perf_counter()
    amount = size * count / 1e6
    return {
        "16 x 16 MiB set": Figure(amount / (middle - start), True, "MB/s"),
        "16 x 16 MiB get": Figure(amount / (end - middle), True, "MB/s"),
    }


WORK: list[Callable[[Server], dict[str, Figure]]] = [
    small_requests,
    round_trips,
    waiting,
    lambda server: payloads(server, 1 << 16, 200),
    lambda server: payloads(server, 1 << 20, 40),
    lambda server: payloads(server, _LARGE, 3),
]
_SPILL_LIMIT = "32M"


def cell(rounds: list[Figure]) -> str:
    values = sorted(figure.value for figure in rounds)
    text = " ".join(f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}" for value in (values[0], values[-1]))
    middle = statistics.median(values)
    return f"{f'{middle:,.4g}' if middle < 1e4 else f'{middle:,.0f}'} {rounds[0].unit:4} ({text.replace(' ', ' to ')})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each server is measured (default 5)")
    parser.add_argument("--only", choices=("all", "memory", "spilled"), default="all", help="a part of it")
    parser.add_argument("--peer", metavar="COMMAND", help="another server's command; {address} becomes its address")
    options = parser.parse_args()
    ours = shlex.join([sys.executable, "-m", "reference_impl.object_storage", "--log-level", "WARNING", "{address}"])
    commands = {"ours": ours}
    if options.peer:
        commands["peer"] = options.peer if "{address}" in options.peer else options.peer + " {address}"
    rounds: dict[str, dict[str, list[Figure]]] = {}
    for _ in range(options.rounds if options.only != "memory" else 0):
        for kind, more in (("in memory", "--memory-limit unlimited"), ("spilled", f"--memory-limit {_SPILL_LIMIT}")):
            with closing(Server("ours", f"{ours} {more}")) as server:
                for label, figure in spilled(server).items():
                    rounds.setdefault(f"{label}, {kind}", {}).setdefault("ours", []).append(figure)
    for work in WORK if options.only != "spilled" else ():
        for _ in range(options.rounds):
            for name, command in commands.items():
                with closing(Server(name, command)) as server:
                    for label, figure in work(server).items():
                        rounds.setdefault(label, {}).setdefault(name, []).append(figure)
    print(f"{'':34}{'ours':>36}" + (f"{'peer':>36}{'ratio':>8}" if options.peer else ""))
    for label, row in rounds.items():
        line = f"{label:34}" + "".join(f"{cell(figures):>36}" for figures in row.values())
        if "peer" in row:
            mine, other = (statistics.median(figure.value for figure in row[name]) for name in ("ours", "peer"))
            line += f"{mine / other if row['ours'][0].higher_is_better else other / mine:>8.2f}"
        print(line)


if __name__ == "__main__":
    main()
