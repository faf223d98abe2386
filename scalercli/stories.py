"""From the facts about a task to sentences: why it is not running, or how it came to its end.

Pure: facts in, a story out. Each state has one function.
"""

from __future__ import annotations

from typing import NamedTuple

from protocol.control import Explanation, ShownState, TaskKind
from scalercli import durations
from scalercli.records import clock
from scalercli.task_options import capability_text

_SOURCES = {
    "scheduler": "the scheduler, asked just now",
    "monitor": "inferred from the monitor stream: this scheduler does not answer status queries",
    "agent": "the session agent; the scheduler has not told",
    "ledger": "the ledger of the session",
}
_ADDRESS = "SCHEDULER_ADDRESS"
_DEPENDENCY = "dependency "


class Story(NamedTuple):
    """``rules`` are ids of SPEC.md, ``hints`` commands to run."""

    why: str
    lines: tuple[str, ...]
    rules: tuple[str, ...]
    hints: tuple[str, ...]
    source: str


def tell(facts: Explanation, scheduler_address: str = "") -> Story:
    """The story of one task. ``why`` is a word or two for programs."""
    name = facts.row.task_id.hex()
    why, lines, rules, hints = _TELLERS[facts.row.state](facts, name)
    row = facts.row
    if row.attempt > 1:
        lines.append(f"this is attempt {row.attempt} of at most {row.options.retries + 1}")
    if row.retry_of:
        lines.append(f"it repeats task {row.retry_of.hex()}")
    source = _SOURCES.get(facts.source, facts.source)
    if row.state is ShownState.WAITING:
        source = "the session agent, which holds it"
    hints = [hint.replace(_ADDRESS, scheduler_address or _ADDRESS) for hint in hints]
    return Story(why, tuple(lines), tuple(rules), tuple(hints), source)


_Told = tuple[str, list[str], list[str], list[str]]


# ---- not over ----


def _waiting(facts: Explanation, name: str) -> _Told:
    lines = [
        f"it waits for task {other.task_id.hex()} ({other.text}), which is {other.state.label}"
        for other in facts.waits_for
    ] or ["it waits for other tasks"]
    lines.append("the scheduler does not know of it yet")
    hints = [f"scalercli explain {facts.waits_for[0].task_id.hex()}"] if facts.waits_for else []
    return "dependencies", lines, [], [*hints, f"scalercli cancel {name}"]


def _pending(facts: Explanation, name: str) -> _Told:
    if facts.row.reason and not facts.worker:
        return "pending", [facts.row.reason], [], [f"scalercli status {name}"]
    return (
        "not-told",
        ["it was handed over, and nobody tells how far it is: the scheduler does not answer status queries"],
        ["INF-06"],
        [f"scalercli wait {name}"],
    )


def _queued(facts: Explanation, name: str) -> _Told:
    if facts.worker:
        ahead = f"{facts.held_before} others" if facts.held_before != 1 else "one other"
        line = f"worker {facts.worker} has it, but runs {ahead} first" if facts.held_before else ""
        line = line or f"worker {facts.worker} has it and has not begun"
        return "behind-others", [line], ["TSK-05"], [f"scalercli wait {name}", "scalercli top"]
    if facts.workers_known and not facts.workers:
        return (
            "no-workers",
            ["the cluster has no workers"],
            ["TSK-02"],
            [f"scalercli worker {_ADDRESS}", f"scalercli cancel {name}"],
        )
    if facts.lacking:
        lacking = ", ".join(facts.lacking)
        nobody = "the only worker does not offer" if facts.workers == 1 else f"none of {facts.workers} workers offers"
        lines = [f"it requires {_wanted(facts)}, and {nobody} {lacking}"]
        if facts.managers:
            lines.append(f"{facts.managers} worker managers could start one that does")
        return "no-such-worker", lines, ["TSK-12"], ["scalercli top", f"scalercli cancel {name}"]
    lines = []
    if facts.row.options.capabilities and facts.fitting < facts.workers:
        lines.append(f"it requires {_wanted(facts)}; {facts.fitting} of {_workers(facts)} offer that")
    elif facts.row.options.capabilities and not facts.fitting:
        lines.append(f"no single worker offers all that it requires: {_wanted(facts)}")
    if facts.with_room:
        lines.append("a worker with room for it is there: it is about to be handed over")
    elif facts.row.queue_position:
        lines.append(f"all workers that it can run on are full; it is number {facts.row.queue_position} in the queue")
    else:
        lines.append("no worker has taken it yet")
    if facts.slots:
        lines.append(f"{_workers(facts)} hold {facts.held} of at most {facts.slots} tasks")
    if facts.lost_workers:
        lines.append(_lost_workers(facts))
    return "all-busy", lines, ["TSK-05"], ["scalercli top", f"scalercli wait {name}"]


def _running(facts: Explanation, name: str) -> _Told:
    where = f" on worker {facts.worker}" if facts.worker else ""
    lines = [f"it runs{where}"]
    if facts.row.options.timeout_seconds:
        lines.append(f"it is canceled when it has run {durations.show(facts.row.options.timeout_seconds)}")
    if facts.lost_workers:
        lines.append(_lost_workers(facts))
    refused = any("refused to cancel" in event.text for event in facts.history)
    show = "logs -f" if facts.row.kind is TaskKind.COMMAND else "wait"
    return "running", lines, ["CAN-06"] if refused else [], [f"scalercli {show} {name}", f"scalercli cancel {name}"]


def _canceling(facts: Explanation, name: str) -> _Told:
    where = f"worker {facts.worker}" if facts.worker else "the worker that holds it"
    asked = next((event.at for event in reversed(facts.history) if "cancel" in event.text), 0.0)
    since = f" {durations.show(max(0.0, clock() - asked))} ago" if asked else ""
    lines = [f"its cancel was requested{since}; {where} has not answered yet"]
    if not facts.force:
        lines.append("without force: a task that runs already is not stopped")
    return (
        "canceling",
        lines,
        ["CAN-02", "CAN-05"],
        [f"scalercli wait {name}", *([] if facts.force else [f"scalercli cancel {name}"])],
    )


# ---- over ----


def _success(facts: Explanation, name: str) -> _Told:
    row = facts.row
    took = f" after {durations.show(row.ended_at - row.started_at)}" if row.started_at else ""
    what = "its command ended with exit code 0" if row.kind is TaskKind.COMMAND else "it returned a result"
    return "success", [f"{what}{took}"], ["TSK-01"], [f"scalercli result {name}"]


def _failed(facts: Explanation, name: str) -> _Told:
    row = facts.row
    retry = f"scalercli retry {name}"
    if row.has_exit_code:
        code = row.exit_code
        lines = [f"its command ended with exit code {code}{_EXIT_CODES.get(code, '')}"]
        if code > 128 and code - 128 in _SIGNALS:
            lines = [f"its command was ended by signal {_SIGNALS[code - 128]} (exit code {code})"]
        return "exit-code", lines, ["TSK-01"], [f"scalercli logs {name}", retry]
    fault = f"it raised {facts.fault}" if facts.fault else "it raised an exception"
    return "exception", [fault], ["TSK-01"], [f"scalercli result {name}", retry]


def _canceled(facts: Explanation, name: str) -> _Told:
    row = facts.row
    if row.reason.startswith(_DEPENDENCY):
        other = row.reason.split()[1]
        lines = [f"{row.reason}; it was to run only after that had succeeded, and was never handed over"]
        return "dependency", lines, [], [f"scalercli explain {other}", f"scalercli retry {name}"]
    hints = [f"scalercli retry --force {name}"]
    if "had ended before" in row.reason:
        return "canceled-late", [row.reason], ["CAN-03", "FUT-02"], hints
    if row.reason:
        return "canceled", [row.reason], [], hints
    return "canceled", ["it was canceled, and that was confirmed"], ["CAN-02"], hints


def _worker_died(facts: Explanation, name: str) -> _Told:
    reason = facts.row.reason or "its worker died"
    hints = [f"scalercli retry {name}", "scalercli cluster logs"]
    if "too many workers" in reason:
        line = f"{reason}: the scheduler gives a task up that takes its workers down"
        return "workers-lost", [line], ["TSK-06", "TSK-07"], hints
    lines = [reason]
    if "SIGKILL" in reason:
        lines.append("nobody canceled it: most often that is the system, out of memory")
    elif "SIGSEGV" in reason or "SIGABRT" in reason or "SIGBUS" in reason:
        lines.append("that is a crash in the code that it ran, or in a library of it")
    return "process-died", lines, ["WRK-05", "WRK-15"], hints


def _lost(facts: Explanation, name: str) -> _Told:
    lines = [facts.row.reason or "nobody can know any more how it ended"]
    lines.append("it may have run: what it did outside stays done")
    return "lost", lines, ["FUT-10"], [f"scalercli retry {name}"]


def _timed_out(facts: Explanation, name: str) -> _Told:
    lines = [facts.row.reason, "the session agent canceled it with force; the limit is that of --timeout"]
    return "timed-out", lines, ["CAN-05"], [f"scalercli retry {name}"]


def _wanted(facts: Explanation) -> str:
    return ", ".join(map(capability_text, facts.row.options.capabilities))


def _workers(facts: Explanation) -> str:
    return "the 1 worker" if facts.workers == 1 else f"{facts.workers} workers"


def _lost_workers(facts: Explanation) -> str:
    count = facts.lost_workers
    return f"{count} worker{' was' if count == 1 else 's were'} lost while it was there (SPEC TSK-06)"


_EXIT_CODES = {126: ": not executable on the worker", 127: ": not found on the worker"}
_SIGNALS = {1: "HUP", 2: "INT", 3: "QUIT", 4: "ILL", 6: "ABRT", 7: "BUS", 8: "FPE", 9: "KILL", 11: "SEGV", 15: "TERM"}
_TELLERS = {
    ShownState.WAITING: _waiting,
    ShownState.PENDING: _pending,
    ShownState.QUEUED: _queued,
    ShownState.RUNNING: _running,
    ShownState.CANCELING: _canceling,
    ShownState.SUCCESS: _success,
    ShownState.FAILED: _failed,
    ShownState.CANCELED: _canceled,
    ShownState.WORKER_DIED: _worker_died,
    ShownState.LOST: _lost,
    ShownState.TIMED_OUT: _timed_out,
}
