"""Whether the scheduler can be heard, and when it hears from us (SPEC section 8)."""

from __future__ import annotations

from reference_impl.client.instructions import Beat

_LATENCY_MAX = 2**32 - 1


class Liveness:
    """Times in seconds: a heartbeat each ``interval``; after ``timeout`` without a message the scheduler is silent."""

    def __init__(self, interval: float, timeout: float) -> None:
        self.timeout = timeout
        self.beat_at = 0.0
        """When the next heartbeat is due."""
        self._interval = interval
        self._now = 0.0
        self._heard: float | None = None  # when the scheduler last said something; None before the first tick
        self._beat_sent: float | None = None  # of the heartbeat that has no echo yet
        self._latency = 0
        self.unanswered = 0
        """So many heartbeats were sent since the last echo."""

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
        if self._beat_sent is None:
            self._beat_sent = now
        self.beat_at = now + self._interval
        self.unanswered += 1
        return Beat(self._latency)

    def hear(self, now: float) -> None:
        """It says something, whatever it is."""
        self._heard = now

    def hear_echo(self, now: float) -> float | None:
        """It echoes a heartbeat: the latency is measured. Returns when that heartbeat was sent, if that is so long ago
        that it may have given us up meanwhile."""
        sent, self._beat_sent, self.unanswered = self._beat_sent, None, 0
        if sent is None:
            return None
        self._latency = min(int((now - sent) * 1e6), _LATENCY_MAX)
        return sent if now - sent > 3 * self._interval else None
