"""Whether the scheduler can be heard, and when it hears from us (SPEC section 8)."""

from __future__ import annotations

from collections import deque

from reference_impl.client.instructions import Beat

_LATENCY_MAX = 2**32 - 1
_BEATS = 1000


class Liveness:
    """Times in seconds: a heartbeat each ``interval``; after ``timeout`` without a message the scheduler is silent."""

    def __init__(self, interval: float, timeout: float) -> None:
        self.timeout = timeout
        self.beat_at = 0.0
        """When the next heartbeat is due."""
        self._interval = interval
        self._now = 0.0
        self._heard: float | None = None  # when the scheduler last said something; None before the first tick
        self._beats: deque[float] = deque(maxlen=_BEATS)  # when those were sent that have no echo, the oldest first
        self._latency = 0
        self.is_first = False
        """The last heartbeat was the first one since an echo."""
        self._waits = False  # for an echo of that one, or of one before it

    @property
    def unanswered(self) -> int:
        """So many heartbeats may be echoed yet."""
        return len(self._beats)

    def missed(self, now: float) -> float | None:
        """Time has passed, and this is asked before ``is_silent``: since when the scheduler may have missed so many
        heartbeats that it gave us up: this process itself did not run. None: it has not."""
        return self._now if self._heard is not None and now - self._now > 3 * self._interval else None

    def is_silent(self, now: float) -> bool:
        """Time has passed: whether it was silent for too long."""
        if self._heard is None or now - self._now > max(3 * self._interval, self.timeout / 2):
            self._heard = now  # the first tick, or this process itself did not run: nobody was silent
        self._now = now
        return now - self._heard > self.timeout

    def beat(self, now: float) -> Beat | None:
        """The heartbeat that is due, if one is."""
        if now < self.beat_at:
            return None
        self._beats.append(now)
        self.is_first, self._waits = not self._waits, True
        self.beat_at = now + self._interval
        return Beat(self._latency)

    def hear(self, now: float) -> None:
        """It says something, whatever it is."""
        self._heard = now

    def hear_echo(self, now: float) -> float | None:
        """It echoes a heartbeat: the latency is measured. Returns when that heartbeat was sent, if that is so long ago
        that it may have given us up meanwhile."""
        self._waits = False
        if not self._beats:
            return None
        sent = self._beats.popleft()
        self._latency = min(int((now - sent) * 1e6), _LATENCY_MAX)
        return sent if now - sent > 3 * self._interval else None

    def settle(self, asked_at: float) -> None:
        """What was sent then is answered: no heartbeat from before will be echoed. (A cut may have swallowed some.)"""
        while self._beats and self._beats[0] < asked_at:
            self._beats.popleft()
