"""How tasks, cancels and results look as records."""

from __future__ import annotations

import time
from typing import Any

from protocol.control import AgentInfo, TaskKind, TaskRow
from scalercli import durations
from scalercli.exits import of_state
from scalercli.output import SHORT_ID, Cell, Record

INFERRED = "inferred from the monitor stream: this scheduler does not answer status queries"
"""The reason of a state that nobody has told."""


def clock() -> float:
    """The wall clock: seconds since 1970."""
    return time.time()


def id_of(row: TaskRow) -> str:
    """The full id, or what was asked for where there is no such task."""
    return row.task_id.hex() or row.wanted


def id_cell(task_id: str) -> Cell:
    return Cell("id", task_id, task_id[:SHORT_ID], "id")


def state_cell(label: str, header: str = "state") -> Cell:
    return Cell(header, label, style=label)


def task_fields(row: TaskRow) -> dict[str, Any]:
    """Of ``scalercli.task/1``. Times are seconds since 1970; null where not known."""
    options = row.options
    return {
        "id": id_of(row),
        "state": row.state.label,
        "reason": row.reason or None,
        "kind": row.kind.name.lower(),
        "what": row.text,
        "exit_code": row.exit_code if row.has_exit_code else None,
        "submitted": row.submitted_at or None,
        "started": row.started_at or None,
        "ended": row.ended_at or None,
        "seconds": seconds(row),
        "worker": row.worker or None,
        "queue_position": row.queue_position or None,
        "peak_bytes": row.peak_bytes or None,
        "exit": int(of_state(row.state)),
        "name": options.name or None,
        "key": row.key or None,
        "attempt": row.attempt,
        "retries": options.retries,
        "retry_of": row.retry_of.hex() or None,
        "timeout": options.timeout_seconds or None,
        "priority": options.priority,
        "require": {capability.name: capability.value for capability in options.capabilities},
        "after": [*options.after],
        "after_any": [*options.after_any],
    }


def task(row: TaskRow, *, details: bool = False) -> Record:
    """A task; in text its id and state, with ``details`` the exit code, age, run time and what it is too."""
    cells = [id_cell(id_of(row)), state_cell(row.state.label)]
    if details:
        took = seconds(row)
        age = max(0.0, clock() - row.submitted_at) if row.submitted_at else None
        cells += [
            Cell("exit", str(row.exit_code) if row.has_exit_code else "", None),
            Cell("age", "" if age is None else f"{age:.3f}", "" if age is None else durations.show(age)),
            Cell("took", "" if took is None else f"{took:.3f}", "" if took is None else durations.show(took)),
            Cell("what", row.text),
            Cell("name", row.options.name),
        ]
    elif row.has_exit_code and row.exit_code:
        cells.append(Cell("exit", None, f"exit code {row.exit_code}"))
    return Record("scalercli.task/1", id_of(row), task_fields(row), cells)


def seconds(row: TaskRow) -> float | None:
    """How long it ran, where the worker said so."""
    if not row.started_at or not row.ended_at:
        return None
    return max(0.0, round(row.ended_at - row.started_at, 6))  # the clock may have been set back meanwhile


def submitted(task_id: str, kind: TaskKind, text: str) -> Record:
    fields = {"id": task_id, "state": "pending", "kind": kind.name.lower(), "what": text}
    return Record("scalercli.task/1", task_id, fields, [Cell("id", task_id)])


def canceled(task_id: str, outcome: str, *, state: str, reason: str, milliseconds: float | None, code: int) -> Record:
    fields = {
        "id": task_id,
        "outcome": outcome,
        "state": state,
        "reason": reason or None,
        "milliseconds": None if milliseconds is None else round(milliseconds, 3),
        "exit": code,
    }
    took = "" if milliseconds is None else f"{milliseconds:.1f} ms"
    cells = [id_cell(task_id), state_cell(outcome, "outcome"), Cell("took", None, took), Cell("why", None, reason)]
    return Record("scalercli.cancel/1", task_id, fields, cells)


def cluster(info: AgentInfo | None, name: str) -> Record:
    """The session's cluster; None when no agent lives."""
    if info is None:
        return Record(
            "scalercli.cluster/1", "", {"cluster": name, "state": "down"}, [state_cell("down"), Cell("", name)]
        )
    fields = {
        "cluster": name,
        "state": "up",
        "embedded": info.embedded,
        "scheduler_address": info.scheduler_address,
        "object_storage_address": info.object_storage_address or None,
        "monitor_address": info.monitor_address or None,
        "workers": info.workers or None,
        "memory_limit_per_task": info.memory_limit or None,
        "living_tasks": info.living,
        "agent_pid": info.pid,
        "processes": {process.role: process.pid for process in info.processes},
        "started": info.started_at,
        "idle_seconds": info.idle_seconds or None,
        "state_directory": info.state_directory,
    }
    return Record("scalercli.cluster/1", "", fields)
