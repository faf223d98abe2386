"""Exit codes, in one place, and which of several counts."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from protocol.control import CancelOutcome, ShownState


class ExitCode(IntEnum):
    OK = 0
    TASK_FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    ALREADY_DONE = 4
    REFUSED = 5
    CANCELED = 6
    LOST = 7
    PENDING = 8
    UNREACHABLE = 10
    PROTOCOL = 11
    NOT_CONFORMANT = 12
    DIVERGED = 13
    TIMED_OUT = 124
    INTERNAL = 125
    NOT_EXECUTABLE = 126
    COMMAND_NOT_FOUND = 127
    INTERRUPTED = 130
    CLOSED_PIPE = 141
    TERMINATED = 143


MEANINGS = {
    ExitCode.OK: "ok",
    ExitCode.TASK_FAILED: "a task failed (`run -- CMD`: the command's own code)",
    ExitCode.USAGE: "usage; nothing was sent",
    ExitCode.NOT_FOUND: "not found",
    ExitCode.ALREADY_DONE: "already done",
    ExitCode.REFUSED: "refused",
    ExitCode.CANCELED: "canceled",
    ExitCode.LOST: "worker died, or lost",
    ExitCode.PENDING: "still pending",
    ExitCode.UNREACHABLE: "scheduler, agent or storage unreachable",
    ExitCode.PROTOCOL: "protocol or version error",
    ExitCode.NOT_CONFORMANT: "not conformant: a MUST failed",
    ExitCode.DIVERGED: "a replay diverged, or two runs differ",
    ExitCode.TIMED_OUT: "timed out",
    ExitCode.INTERNAL: "internal error; ours under `run -- CMD`",
    ExitCode.NOT_EXECUTABLE: "not executable on the worker",
    ExitCode.COMMAND_NOT_FOUND: "not found on the worker",
    ExitCode.INTERRUPTED: "SIGINT (Ctrl-C)",
    ExitCode.CLOSED_PIPE: "the reader of stdout is gone",
    ExitCode.TERMINATED: "SIGTERM",
}
"""What each means: `scalercli help exit-codes` and the README have it from here."""

WORST_FIRST = (125, 11, 10, 124, 7, 1, 6, 5, 3, 4, 8, 0)

OF_STATE = {
    ShownState.SUCCESS: ExitCode.OK,
    ShownState.FAILED: ExitCode.TASK_FAILED,
    ShownState.CANCELED: ExitCode.CANCELED,
    ShownState.WORKER_DIED: ExitCode.LOST,
    ShownState.LOST: ExitCode.LOST,
    ShownState.NOT_FOUND: ExitCode.NOT_FOUND,
    ShownState.TIMED_OUT: ExitCode.TIMED_OUT,
}
"""By how a task ended; states that are not in here are PENDING."""

OF_OUTCOME = {
    CancelOutcome.CANCELED: ExitCode.OK,
    CancelOutcome.REQUESTED: ExitCode.OK,
    CancelOutcome.ALREADY_DONE: ExitCode.ALREADY_DONE,
    CancelOutcome.REFUSED: ExitCode.REFUSED,
    CancelOutcome.NOT_FOUND: ExitCode.NOT_FOUND,
}


def of_state(state: ShownState) -> ExitCode:
    return OF_STATE.get(state, ExitCode.PENDING)


def worst(codes: Iterable[int]) -> int:
    """The one code that stands for several; 0 for none."""
    there = set(codes)
    return next((code for code in WORST_FIRST if code in there), 0)
