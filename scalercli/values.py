"""Results as people and programs see them. Only here are they unpickled: the user's own tasks returned them."""

from __future__ import annotations

import json
import traceback
from typing import Any

from protocol.control import ShownState, TaskKind, TaskRow
from scalercli import records
from scalercli.exits import of_state
from scalercli.output import Cell, Record, message, one_line


class CannotLoad:
    """A result that can't be unpickled here."""

    def __init__(self, error: Exception) -> None:
        self.reason = f"{type(error).__name__}: {error}"

    def __repr__(self) -> str:
        return f"<a result that can't be loaded here: {self.reason}>"


def load(row: TaskRow) -> Any:
    """What a successful task returned."""
    from reference_impl.serialization import deserialize

    try:
        return deserialize(row.payload)
    except Exception as error:
        return CannotLoad(error)


def as_text(value: Any) -> str:
    """Strings as they are, all else as Python shows it."""
    return value if isinstance(value, str) else repr(value)


def as_json(value: Any) -> Any:
    """The value where JSON can hold it, else ``{"repr": ...}``."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return {"repr": repr(value)}
    return value


def failure(row: TaskRow) -> dict[str, str | None]:
    """How a task failed: its exception's type, message and traceback, null where there are none."""
    if row.kind is TaskKind.COMMAND and row.has_exit_code:
        return {"type": None, "message": f"exit code {row.exit_code}", "traceback": None}
    if not row.has_payload:
        return {"type": None, "message": row.reason or row.state.label, "traceback": None}
    from reference_impl.errors import RemoteError
    from reference_impl.serialization import deserialize_exception

    error = deserialize_exception(row.payload)
    if isinstance(error, RemoteError):
        return {"type": error.type_name or None, "message": error.message, "traceback": error.traceback_text or None}
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return {"type": type(error).__name__, "message": str(error), "traceback": "".join(lines)}


def result(row: TaskRow) -> Record:
    """The result of a task that is over, as ``scalercli.result/1``; in text, just the value."""
    fields = records.task_fields(row) | {"result": None, "error": None}
    cells: list[Cell] = []
    if row.kind is TaskKind.COMMAND:
        fields["stdout"] = "".join(chunk.text for chunk in row.output if not chunk.stderr)
        fields["stderr"] = "".join(chunk.text for chunk in row.output if chunk.stderr)
    if row.state is ShownState.SUCCESS and row.has_payload:
        value = load(row)
        fields["result"] = as_json(value)
        cells = [Cell("result", as_text(value))]
    elif row.state.over:
        fields["error"] = failure(row)
    return Record("scalercli.result/1", records.id_of(row), fields, cells)


def explain(row: TaskRow, *, traceback_too: bool = True) -> None:
    """Says on stderr why a task has no result."""
    code = of_state(row.state)
    if not code:
        return
    task_id = records.id_of(row)
    if row.state is not ShownState.FAILED:
        message(f"error: task {task_id}: {row.state.label}{f' ({row.reason})' if row.reason else ''}")
        return
    told = failure(row)
    if traceback_too and told["traceback"]:
        message(told["traceback"].rstrip())
    what = ": ".join(filter(None, (told["type"], told["message"])))
    message(f"error: task {task_id} failed: {one_line(what)}")
