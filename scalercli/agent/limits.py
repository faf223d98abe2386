"""Time limits of tasks. The protocol has none, so the agent watches the clock and cancels.

A limit counts from when the task is seen to run, not while it is queued: as long as some task has a limit, the
scheduler is asked how these tasks are, at a fraction of the limit. Where nobody tells, it counts from the submission.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from protocol.control import ShownState
from scalercli.agent.tasks import Living

LEAST_SECONDS = 0.05
_MOST_SECONDS = 1.0
_FRACTION = 0.2  # of a limit: how often it is looked


class Limits:
    """The tasks with a limit that are with the scheduler."""

    def __init__(
        self,
        later: Callable[[float, Callable[[], None]], None],
        look: Callable[[list[bytes], Callable[[], None]], None],
        expired: Callable[[Living], None],
    ) -> None:
        """``look(task ids, then)`` finds out how the tasks are."""
        self._later = later
        self._look = look
        self._expired = expired
        self._watched: dict[bytes, Living] = {}
        self._looking = False

    def watch(self, living: Living) -> None:
        """From now on, until ``forget``."""
        self._watched[living.row.task_id] = living
        self._schedule()

    def forget(self, living: Living) -> None:
        self._watched.pop(living.row.task_id, None)

    def _schedule(self) -> None:
        if self._watched and not self._looking:
            self._looking = True
            now = time.monotonic()
            self._later(min(_pause(living, now) for living in self._watched.values()), self._tick)

    def _tick(self) -> None:
        self._look(list(self._watched), self._seen)

    def _seen(self) -> None:
        self._looking = False
        now = time.monotonic()
        for living in list(self._watched.values()):
            since = _since(living, now)
            if since is not None and now - since >= living.row.options.timeout_seconds:
                self.forget(living)
                self._expired(living)
        self._schedule()


def _since(living: Living, now: float) -> float | None:
    """When its time began; None if it has not."""
    state = living.row.state
    if state is ShownState.QUEUED:
        living.seen_running_at = None
    elif living.seen_running_at is None:
        if state is ShownState.PENDING:  # nobody tells
            return living.launched_at
        living.seen_running_at = now
    return living.seen_running_at


def _pause(living: Living, now: float) -> float:
    limit = living.row.options.timeout_seconds
    look = min(max(_FRACTION * limit, LEAST_SECONDS), _MOST_SECONDS)
    if living.seen_running_at is None:
        return look
    return max(LEAST_SECONDS, min(look, living.seen_running_at + limit - now))
