"""Runs one combination and judges its cells."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.interop import deviations
from tests.interop.cluster import LOST_SECONDS, ClientProcess, Cluster
from tests.interop.combinations import OURS, Combination
from tests.interop.monitor import MonitorSilent, living, workers

COMPLETE, DEVIATION, FAILED = "complete", "complete with documented deviation", "failed"
BIG = 64 << 20
_SETTLE_SECONDS = 40.0


@dataclass
class Cell:
    """One check of one combination."""

    check: str
    state: str
    text: str = ""
    seconds: float = 0.0


@dataclass
class Row:
    """One combination."""

    combination: Combination
    cells: list[Cell] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def state(self) -> str:
        states = {cell.state for cell in self.cells}
        if not states or FAILED in states:
            return FAILED
        return DEVIATION if DEVIATION in states else COMPLETE

    def problems(self) -> list[str]:
        return [f"{self.combination.name} {c.check}: {c.text}" for c in self.cells if c.state == FAILED]


def run(
    combination: Combination, directory: Path, *, big: int = BIG, only: Sequence[str] = (), seconds: float = 300.0
) -> Row:
    """Starts the combination, runs the workload (``only``: these checks), stops everything. ``big`` is the largest
    payload in bytes, ``directory`` gets the logs. Never raises for what the roles do wrong. The processes end with the
    thread that calls it."""
    row = Row(combination)
    start = time.monotonic()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with Cluster(combination, directory) as cluster:
            _Run(cluster, row).workload(big, only, seconds)
            _nothing_left(cluster, row)
    except Exception as error:
        row.cells.append(Cell("harness", FAILED, f"{type(error).__name__}: {error}"))
    row.seconds = time.monotonic() - start
    return row


class _Run:
    """Reads what the workload reports, and answers what it asks."""

    def __init__(self, cluster: Cluster, row: Row) -> None:
        self._cluster = cluster
        self._row = row
        self._leaver: ClientProcess | None = None
        self._leavers = 0

    def workload(self, big: int, only: Sequence[str], seconds: float) -> None:
        cluster, row = self._cluster, self._row
        options = {"directory": str(cluster.directory), "big": big, "only": [*only]}
        client = ClientProcess(cluster, "client", "checks", **options, skip=deviations.not_run(row.combination))
        watchdog = threading.Timer(seconds, client.process.kill)
        watchdog.start()
        left = False
        try:
            for line in client.lines():
                if "ask" in line:
                    client.say(self._answer(line.pop("ask"), line))
                elif "check" in line:
                    row.cells.append(judge(row.combination, line))
                left = left or "left" in line
            code = client.process.wait()
        finally:
            watchdog.cancel()
        if not left or code:
            text = f"it ended with code {code}, before its time ({seconds:g} s) or by it: {cluster.log_tail('client')}"
            row.cells.append(Cell("client", FAILED, text))

    def _answer(self, what: str, details: dict[str, Any]) -> Any:
        try:
            answer: Callable[..., Any] = getattr(self, f"_answer_{what}")
            return answer(**details)
        except Exception as error:
            return {"error": f"{what}: {type(error).__name__}: {error}"}

    def _answer_workers(self) -> int:
        return workers(self._cluster.monitor.report_when("2 workers", lambda r: workers(r) == 2, _SETTLE_SECONDS))

    def _answer_tasks_gone(self) -> int:
        return living(self._cluster.monitor.report_when("no task", lambda r: not living(r), _SETTLE_SECONDS))

    def _answer_storage_total(self) -> tuple[int, ...]:
        return tuple(self._cluster.storage_total())

    def _answer_storage_settled(self) -> tuple[int, ...]:
        """The total, when it is the same as at the scheduler's report before: objects are deleted in batches."""
        last, total = None, self._cluster.storage_total()
        deadline = time.monotonic() + _SETTLE_SECONDS
        while total != last and time.monotonic() < deadline:
            self._cluster.monitor.report_when("a report", lambda r: True, _SETTLE_SECONDS)
            last, total = total, self._cluster.storage_total()
        return tuple(total)

    def _answer_storage_at_most(self, objects: int) -> int:
        found = storage_at_most(self._cluster, objects)
        if found > objects:
            raise AssertionError(f"{found} objects stay in the storage, not {objects}")
        return found

    def _answer_leaver(self, port: int) -> bool:
        self._leavers += 1
        self._leaver = ClientProcess(self._cluster, f"leaver-{self._leavers}", "leaver", port=port)
        return next(self._leaver.lines(), {}).get("submitted") is not None

    def _answer_leave(self) -> bool:
        assert self._leaver is not None
        self._leaver.say("leave")
        left = any("left" in line for line in self._leaver.lines())
        if not left or self._leaver.process.wait():
            raise AssertionError(f"the client that leaves failed: {self._cluster.log_tail(f'leaver-{self._leavers}')}")
        return True

    def _answer_kill_leaver(self, tasks: int) -> int:
        """Kills it when the scheduler has so many tasks: what a client has not announced yet, nobody can delete."""
        assert self._leaver is not None
        self._cluster.monitor.report_when(f"{tasks} tasks", lambda r: living(r) >= tasks, _SETTLE_SECONDS)
        self._leaver.process.kill()
        return self._leaver.process.wait()

    def _answer_kill_worker_of(self, processor: int) -> int:
        return self._cluster.kill_worker_of(processor)

    def _answer_process_gone(self, pid: int) -> bool:
        """Whether this processor of a killed worker is gone. What is left of that worker is killed."""
        try:
            psutil.Process(pid).wait(2)
        except psutil.TimeoutExpired:
            for orphan in self._cluster.orphans():
                orphan.kill()
            return False
        except psutil.NoSuchProcess:
            pass
        return True


def storage_at_most(cluster: Cluster, objects: int) -> int:
    """Waits until no more than that many objects are stored and returns how many; more only when nobody is left to
    delete them: for three reports the scheduler knows none and their number stays the same; and longer for one that
    deletes the rest of a client that was silent when that is not back after its timeout (OBJ-20). Raises
    AssertionError."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    reports = 3 + (LOST_SECONDS if cluster.combination.scheduler == OURS else 0)  # one each second
    unknown, last = 0, None
    while (total := cluster.storage_total()).object_count > objects:
        known = cluster.monitor.objects(_SETTLE_SECONDS)
        unknown = 0 if known.total_objects or total != last else unknown + 1
        last = total
        if unknown > reports:
            break
        if time.monotonic() > deadline:
            names = [detail.name for detail in known.objects][:8]
            raise AssertionError(
                f"{total.object_count} objects ({total.total_bytes} bytes) stay in the storage, not {objects};"
                f" the scheduler knows {known.total_objects}: {names}"
            )
    return total.object_count


def nothing_left(cluster: Cluster) -> tuple[list[str], list[str], str]:
    """After the last client has left: no task, no object, and after the end no process. Returns complaints, and what
    was seen that may be documented, with a text."""
    complaints, seen, text = [], [], ""
    try:
        cluster.monitor.report_when("no task", lambda r: not living(r), _SETTLE_SECONDS)
        if stray := storage_at_most(cluster, 0):
            seen, text = ["stray-result"], f"{stray} objects stay in the storage, and the scheduler knows none of them"
    except (MonitorSilent, AssertionError) as error:
        complaints.append(str(error))
    complaints += cluster.stop()
    return complaints, seen, text


def _nothing_left(cluster: Cluster, row: Row) -> None:
    start = time.monotonic()
    complaints, seen, text = nothing_left(cluster)
    state = "failed" if complaints else "seen" if seen else "complete"
    line: dict[str, Any] = {
        "check": "nothing_left",
        "state": state,
        "seen": seen,
        "text": "; ".join([*complaints, text]),
    }
    row.cells.append(judge(row.combination, line | {"seconds": time.monotonic() - start}))


def judge(combination: Combination, line: dict[str, Any]) -> Cell:
    """The cell of a check's report."""
    check, state, seen, text = line["check"], line["state"], line["seen"], line["text"]
    cell = Cell(check, COMPLETE, text, line["seconds"])
    if state == "failed":
        cell.state = FAILED
        return cell
    excuses = [deviations.documented(combination, check, keyword) for keyword in seen]
    if None in excuses:
        return Cell(check, FAILED, f"{text} (not documented for this combination)", cell.seconds)
    if missing := deviations.stale(combination, check, seen):
        return Cell(check, FAILED, f"a documented deviation was not seen: {missing[0].reason}", cell.seconds)
    if excuses:
        cell.state = DEVIATION
        cell.text = "; ".join(excuse.reason for excuse in excuses if excuse is not None)
    return cell
