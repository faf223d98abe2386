"""``retry``: which tasks can be submitted again, and as what."""

from __future__ import annotations

from protocol.control import RetryResult, ShownState, TaskRow
from scalercli.agent.ledger import Ledger, Work
from scalercli.agent.lifetimes import DEPENDENCY
from scalercli.exits import ExitCode


def refusal(row: TaskRow, force: bool, work: Work | None, ledger: Ledger) -> RetryResult | None:
    """Why this task can't be submitted again; None if it can."""
    name = row.task_id.hex() or row.wanted
    if row.state is ShownState.NOT_FOUND:
        return _refused(row, f"there is no task {name}", "scalercli status lists the tasks", ExitCode.NOT_FOUND)
    if not row.state.over:
        hint = f"scalercli wait {name}, or scalercli cancel {name}"
        return _refused(row, f"task {name} is not over: {row.state.label}", hint, ExitCode.PENDING)
    if row.state is ShownState.SUCCESS:
        return _refused(row, f"task {name} has succeeded", f"scalercli result {name}", ExitCode.ALREADY_DONE)
    if row.state is ShownState.CANCELED and not force and not row.reason.startswith(DEPENDENCY):
        hint = f"scalercli retry --force {name}"
        return _refused(row, f"task {name} was canceled; only --force submits it again", hint, ExitCode.REFUSED)
    later = ledger.retry_of(row.task_id)
    if later is not None and not later.row.state.over:
        hint = f"scalercli status {later.row.task_id.hex()}"
        return _refused(
            row, f"task {name} was submitted again already, as {later.row.task_id.hex()}", hint, ExitCode.REFUSED
        )
    if work is None:
        why = "what was submitted for it is not kept: it was too big, or an older scalercli submitted it"
        return _refused(row, f"task {name} can't be submitted again: {why}", "submit it anew", ExitCode.REFUSED)
    return None


def again(row: TaskRow, task_id: bytes, submitted: float) -> TaskRow:
    """The new task in place of one that is over. What that waited for, it does not wait for again."""
    return TaskRow(
        task_id,
        kind=row.kind,
        text=row.text,
        state=ShownState.PENDING,
        submitted_at=submitted,
        options=row.options._replace(after=(), after_any=()),
        key=row.key,
        attempt=1,
        retry_of=row.task_id,
    )


def _refused(row: TaskRow, reason: str, hint: str, code: int) -> RetryResult:
    return RetryResult(row, True, reason, hint, code)
