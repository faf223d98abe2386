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
    TIMED_OUT = 124
    INTERNAL = 125
    INTERRUPTED = 130
    CLOSED_PIPE = 141
    TERMINATED = 143


_WORST_FIRST = (125, 11, 10, 124, 7, 1, 6, 5, 3, 4, 8, 0)

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
    return next((code for code in _WORST_FIRST if code in there), 0)
