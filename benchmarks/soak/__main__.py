"""``make soak``: mixed work at half of the measured capacity, for two hours, and whether anything grows.

Starts a cluster and its session agent in directories of their own, measures how much of the mix they can do, and then
starts operations at a part of that rate, whether earlier ones are done or not (up to a bound). Every operation checks
what comes. Each minute a line with what every process uses goes to the report, so that an aborted run keeps it:
``--judge FILE`` reads such a report. Exit code 1 if something grew by more than 5 % between the first and the last
quarter, or was lost, wrong or left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console

from benchmarks.soak import work
from benchmarks.soak.verdict import judge
from benchmarks.soak.watch import Watch
from scalercli import link
from scalercli.places import EMBEDDED, Places

_THREADS = 16
_BACKLOG = 400
_SAMPLES = 24
_SETTLING = 0.1
"""Such a part of the time comes before the first sample: caches that are bounded are full then."""
_COMMAND_SECONDS = 5.0
_MANY = 100
_JOIN_SECONDS = 2 * work.SECONDS
Report = Callable[..., None]


class Counts:
    """How many operations of each kind there were, and how they ended. Thread-safe."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._lock = threading.Lock()
        self.failures = 0
        self.by_kind = {
            name: dict.fromkeys(("done", "tasks", "lost", "wrong"), 0) for name in (*work.KINDS, "commands")
        }
        self._times = {name: [0.0, 0.0] for name in self.by_kind}

    def run(self, kind: str, seed: int, operation: Callable[[], None]) -> None:
        began = time.monotonic()
        outcome, what = "done", ""
        try:
            operation()
        except work.LATE as error:
            outcome, what = "lost", f"no answer in {work.SECONDS:g} s: {error}"
        except (Exception, CancelledError) as error:
            outcome, what = "wrong", f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - began
        with self._lock:
            count, times = self.by_kind[kind], self._times[kind]
            count[outcome] += 1
            if outcome == "done":
                count["tasks"] += work.KINDS[kind].tasks if kind in work.KINDS else 1
                times[0] += seconds
                times[1] = max(times[1], seconds)
            else:
                self.failures += 1
        if what:
            self._report("failure", operation=kind, seed=seed, outcome=outcome, what=what[:2000])

    def done(self) -> int:
        return sum(count["done"] for count in self.by_kind.values())

    def shown(self) -> dict[str, dict[str, Any]]:
        with self._lock:
            return {
                kind: {**count, "seconds": round(self._times[kind][0], 3), "longest": round(self._times[kind][1], 4)}
                for kind, count in self.by_kind.items()
            }


class Mix:
    """Operations of all kinds, drawn with their weights, in threads."""

    def __init__(self, shared: work.Work, seed: int, counts: Counts, kinds: Sequence[str]) -> None:
        self._kinds, self._weights = kinds, [work.KINDS[kind].weight for kind in kinds]
        self._shared, self._counts, self._random = shared, counts, Random(seed)
        self._queue: queue.Queue[tuple[str, int] | None] = queue.Queue(_BACKLOG)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(_THREADS)]
        self.held_back = 0
        for thread in self._threads:
            thread.start()

    def flood(self, seconds: float) -> None:
        """As much as is done, for some time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Full):
                self._queue.put(self._draw(), timeout=0.1)
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    def pace(self, rate: float, stop: threading.Event) -> None:
        """``rate`` operations per second until ``stop``."""
        due = time.monotonic()
        while not stop.is_set():
            due += 1 / rate
            if stop.wait(max(0.0, due - time.monotonic())):
                return
            try:
                self._queue.put_nowait(self._draw())
            except queue.Full:
                self.held_back += 1

    def close(self) -> bool:
        """Waits for what is under way; False if that does not end."""
        for _ in self._threads:
            self._queue.put(None)
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _draw(self) -> tuple[str, int]:
        (kind,) = self._random.choices(self._kinds, self._weights)
        return kind, self._random.getrandbits(63)

    def _run(self) -> None:
        self._shared.link()
        while True:
            entry = self._queue.get()
            if entry is None:
                return
            kind, seed = entry
            self._counts.run(kind, seed, lambda: work.KINDS[kind].run(self._shared, Random(seed)))  # noqa: B023


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """A session agent with a cluster of two slots, in directories of their own."""
    home = Path(tempfile.mkdtemp(prefix="soak-"))
    for name in [name for name in os.environ if name.startswith(("SCALERCLI_", "XDG_"))]:
        del os.environ[name]
    os.environ["XDG_CONFIG_HOME"] = str(home / "config")
    os.environ |= {"SCALERCLI_RUNTIME_DIR": str(home / "r"), "SCALERCLI_STATE_DIR": str(home / "s")}
    scalercli = [sys.executable, "-m", "scalercli", "cluster"]
    try:
        subprocess.run([*scalercli, "up", "--workers", "2"], check=True, stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            subprocess.run([*scalercli, "down"], check=False, stdout=subprocess.DEVNULL)
    finally:
        shutil.rmtree(home)


def soak(options: argparse.Namespace, report: Report, stop: threading.Event) -> None:
    """The run; everything that it finds goes to the report."""
    faults: list[str] = []
    seconds = options.hours * 3600
    with cluster():
        agent = link.find_agent(Places(EMBEDDED))
        assert agent is not None
        watch = Watch(agent.info, Places(EMBEDDED))
        before = watch.holdings()
        shared = work.Work(agent.info.scheduler_address)
        counts = Counts(report)
        mix = Mix(shared, options.seed, counts, options.only or tuple(work.KINDS))
        mix.flood(options.capacity_seconds / 4)  # everything is there and warm
        done, began = counts.done(), time.monotonic()
        mix.flood(options.capacity_seconds)
        capacity = (counts.done() - done) / (time.monotonic() - began)
        rate = capacity * options.rate_fraction
        report(
            "start", seed=options.seed, seconds=seconds, capacity=capacity, fraction=options.rate_fraction, rate=rate
        )
        threads = [
            threading.Thread(target=mix.pace, args=(rate, stop)),
            threading.Thread(target=_type_commands, args=(counts, Random(options.seed), stop)),
        ]
        for thread in threads:
            thread.start()
        stop.wait(seconds * _SETTLING)
        began, every = time.monotonic(), min(60.0, seconds / _SAMPLES)
        for number in range(1, max(1, round(seconds / every)) + 1):
            if stop.wait(max(0.0, began + number * every - time.monotonic())):
                faults.append("it was stopped early")
                break
            if gone := watch.gone():
                faults.append(f"{', '.join(gone)} ended")
                break
            if counts.failures > _MANY:
                faults.append("there were too many failures")
                break
            try:
                sample = watch.sample()
            except OSError as error:  # a query that was not answered, too
                faults.append(f"no sample could be taken: {error}")
                continue
            at = round(time.monotonic() - began, 1)
            report("sample", at=at, **sample, operations=counts.shown(), held_back=mix.held_back)
        stop.set()
        for thread in threads:
            thread.join()
        if not mix.close():
            faults.append("an operation did not end")
        shared.close()
        held, settled = watch.settled(before)
        if not settled:
            faults.append("something is left of clients that are gone")
        watch.close()
        agent.close()
    if left := watch.left():
        faults.append(f"processes are left behind: {', '.join(left)}")
    report("end", faults=faults, held=held, held_before=before)


def _type_commands(counts: Counts, random: Random, stop: threading.Event) -> None:
    environ = dict(os.environ)
    while not stop.wait(_COMMAND_SECONDS):
        seed = random.getrandbits(63)
        counts.run("commands", seed, lambda: work.commands(environ, Random(seed)))  # noqa: B023


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=2.0, help="how long")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"), help="what is done, and when")
    parser.add_argument("--report", type=Path, metavar="FILE", help="lines of JSON (default: soak-SEED.jsonl)")
    parser.add_argument("--rate-fraction", type=float, default=0.5, help="of the measured capacity")
    parser.add_argument("--capacity-seconds", type=float, default=20.0, help="how long to measure it")
    parser.add_argument("--only", action="append", choices=work.KINDS, help="operations of this kind (repeatable)")
    parser.add_argument("--judge", type=Path, metavar="FILE", help="run nothing, read a report")
    options = parser.parse_args(argv)
    path = options.judge or options.report or Path(f"soak-{options.seed}.jsonl")
    console = Console(width=120)
    if not options.judge:
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        with path.open("w") as file:
            lock = threading.Lock()

            def report(line: str, **what: object) -> None:
                with lock:
                    file.write(json.dumps({"line": line, "clock": round(time.time(), 1), **what}) + "\n")
                    file.flush()

            console.print(f"seed {options.seed}, report {path}", highlight=False)
            soak(options, report, stop)
    with path.open() as file:
        return 0 if judge(map(json.loads, file), console) else 1


if __name__ == "__main__":
    raise SystemExit(main())
