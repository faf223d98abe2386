"""One run of a campaign: the work goes on while the faults of the plan happen, then what is left is looked for."""

from __future__ import annotations

import contextlib
import json
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.faults import remains
from tests.faults.arena import Arena
from tests.faults.plan import RESTARTS, Fault, Kind, plan
from tests.faults.truth import Truth

HANG_SECONDS = 40.0
_TELL_SECONDS = 1.0
"""So long without a word of any client is a hang."""
CLIENTS = 3
_RETRIES = (0, 3)
"""A user of the command line with each of these ``--retries``."""
_SESSION_SHARE = 20
"""Each has so much less to do than all clients together."""


@dataclass
class Outcome:
    """What came of a run."""

    name: str
    seed: int
    truth: Truth
    faults: Counter[Kind] = field(default_factory=Counter)
    left: list[str] = field(default_factory=list)
    forgotten: int = 0
    """Objects that only schedulers knew of that were killed: they stay in the storage (SPEC section 8.2)."""
    seconds: float = 0.0
    log: str = ""

    @property
    def passed(self) -> bool:
        return not (self.truth.lost or self.truth.doubled or self.truth.wrong or self.left)


class _Line:
    """A client's place: a driver, and the next one when it was killed."""

    def __init__(self, first: int) -> None:
        self.index = 0  # of the process
        self.next = first
        self.process: subprocess.Popen[bytes] | None = None
        self.buffer = b""


class Campaign:
    """``run`` does it. ``directory`` is for logs."""

    def __init__(
        self, name: str, seed: int, tasks: int, per_fault: int, kinds: frozenset[Kind], workers: int = 2
    ) -> None:
        self._seed = seed
        self._workers = workers
        self._plan = plan(seed, tasks, per_fault, kinds)
        self._tasks = tasks
        self._session_tasks = tasks // _SESSION_SHARE
        self._truth = Truth(tasks + len(_RETRIES) * self._session_tasks)
        self._outcome = Outcome(name, seed, self._truth)
        self._lines = [_Line(index) for index in range(CLIENTS)]
        self._sessions: list[_Line] = []
        self._number = 0  # of the next client
        self._later: list[tuple[float, psutil.Process]] = []  # who is to be continued, and when
        self._selector = selectors.DefaultSelector()

    def run(self, directory: Path) -> Outcome:
        started = time.monotonic()
        self._outcome.log = str(directory / "log")
        with Arena(directory, self._workers) as arena, self._selector:
            for line in self._lines:
                self._open(arena, line)
            for retries in _RETRIES:
                self._open_session(arena, retries)
            self._work(arena)
            left, self._outcome.forgotten = remains.of_the_work(
                arena, forgotten=bool(self._outcome.faults[Kind.RESTART_SCHEDULER])
            )
            self._outcome.left += arena.broken + left
            self._outcome.left += arena.stop_roles()
            self._outcome.left += remains.of_processes(arena)
        self._outcome.seconds = time.monotonic() - started
        return self._outcome

    # ---- clients ----

    def _open(self, arena: Arena, line: _Line) -> None:
        line.process = arena.client(self._seed, line.next, CLIENTS, self._tasks)
        self._watch(line)

    def _open_session(self, arena: Arena, retries: int) -> None:
        line = _Line(self._tasks + _RETRIES.index(retries) * self._session_tasks)
        line.process = arena.session(line.next, self._session_tasks, retries)
        self._sessions.append(line)
        self._watch(line)

    def _watch(self, line: _Line) -> None:
        assert line.process is not None and line.process.stdout is not None
        line.index, line.buffer = self._number, b""
        self._number += 1
        self._selector.register(line.process.stdout, selectors.EVENT_READ, line)

    def _read(self, arena: Arena, line: _Line) -> None:
        process = line.process
        assert process is not None and process.stdout is not None
        data = process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
        *lines, line.buffer = (line.buffer + data).split(b"\n")
        for text in lines:
            facts: dict[str, Any] = json.loads(text)
            self._truth.heard(line.index, facts)
            if "submitted" in facts:
                line.next = facts["submitted"] + CLIENTS
        if data:
            return
        self._selector.unregister(process.stdout)
        process.stdout.close()
        code = process.wait()
        line.process = None
        if code == -signal.SIGKILL:
            self._truth.client_killed(line.index)
            if line.next < self._tasks:
                self._open(arena, line)
        elif code:
            self._outcome.left.append(f"a client ended with exit code {code}, see the log")

    # ---- the work ----

    def _work(self, arena: Arena) -> None:
        faults = deque(self._plan)
        due: list[Fault] = []
        heard = time.monotonic()
        while any(line.process for line in (*self._lines, *self._sessions)):
            for key, _ in self._selector.select(0.05):
                heard = time.monotonic()
                self._read(arena, key.data)
            while faults and len(self._truth.over) >= faults[0].at:
                due.append(faults.popleft())
            due = [fault for fault in due if not self._inject(arena, fault)]  # those wait for somebody to hit
            self._continue(time.monotonic())
            arena.tend()
            if time.monotonic() - heard > HANG_SECONDS:
                self._give_up(arena)
                return
        self._continue(float("inf"))

    def _give_up(self, arena: Arena) -> None:
        self._outcome.left.append(f"hang: nobody said anything for {HANG_SECONDS:g} s")
        self._continue(float("inf"))
        self._outcome.left += remains.of_the_work(arena, forgotten=False, patience_seconds=0.0)[0]
        for line in self._lines:  # the log has what they wait for
            if line.process is not None:
                line.process.send_signal(signal.SIGUSR1)
        time.sleep(_TELL_SECONDS)
        for line in (*self._lines, *self._sessions):
            if line.process is not None:
                line.process.kill()
                line.process.wait()
                assert line.process.stdout is not None
                line.process.stdout.close()

    # ---- faults ----

    def _inject(self, arena: Arena, fault: Fault) -> bool:
        kind = fault.kind
        if kind in _CUTS:
            before, what = _CUTS[kind]
            proxy = arena.scheduler_proxy if before == "scheduler" else arena.storage_proxy
            hit = bool(getattr(proxy, what)(fault.where, fault.seconds))
        elif kind in RESTARTS:
            arena.restart_scheduler() if kind is Kind.RESTART_SCHEDULER else arena.restart_storage()
            hit = True
        else:
            hit = self._signal(fault, self._victims(arena, kind))
        self._outcome.faults[kind] += hit
        return hit

    def _victims(self, arena: Arena, kind: Kind) -> list[psutil.Process]:
        if kind in (Kind.KILL_PROCESSOR, Kind.PAUSE_PROCESSOR):
            return arena.processors()
        if kind is Kind.KILL_AGENT:
            return arena.agents()
        if kind is Kind.KILL_ZYGOTE:
            return arena.zygotes()
        if kind in (Kind.KILL_CLIENT, Kind.PAUSE_CLIENT):
            return [psutil.Process(line.process.pid) for line in self._lines if line.process is not None]
        return [psutil.Process(worker.pid) for worker in arena.workers]

    def _signal(self, fault: Fault, victims: list[psutil.Process]) -> bool:
        if not victims:
            return False
        victim = victims[int(fault.where * len(victims))]
        pause = fault.kind in (Kind.PAUSE_WORKER, Kind.PAUSE_PROCESSOR, Kind.PAUSE_CLIENT)
        try:
            victim.send_signal(signal.SIGSTOP if pause else signal.SIGKILL)
        except psutil.NoSuchProcess:
            return False
        if pause:
            self._later.append((time.monotonic() + fault.seconds, victim))
        return True

    def _continue(self, now: float) -> None:
        for entry in [entry for entry in self._later if entry[0] <= now]:
            self._later.remove(entry)
            with contextlib.suppress(psutil.NoSuchProcess):
                entry[1].send_signal(signal.SIGCONT)


_CUTS = {
    Kind.DROP_SCHEDULER: ("scheduler", "drop"),
    Kind.DELAY_SCHEDULER: ("scheduler", "delay"),
    Kind.HALVE_SCHEDULER: ("scheduler", "halve"),
    Kind.REORDER_SCHEDULER: ("scheduler", "reorder"),
    Kind.DROP_STORAGE: ("storage", "drop"),
    Kind.DELAY_STORAGE: ("storage", "delay"),
    Kind.HALVE_STORAGE: ("storage", "halve"),
    Kind.REORDER_STORAGE: ("storage", "reorder"),
}


def run(name: str, seed: int, tasks: int, per_fault: int, kinds: frozenset[Kind]) -> Outcome:
    """A run, called ``name`` in the report, whose log stays only if something was found."""
    directory = Path(tempfile.mkdtemp(prefix=f"faults-{seed}-"))
    outcome = Campaign(name, seed, tasks, per_fault, kinds).run(directory)
    if outcome.passed:
        shutil.rmtree(directory)
    return outcome
