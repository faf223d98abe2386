"""Payloads that are on their way in: how much memory they take before they are objects, and which of them must wait.

Memory is used as the bytes come. When all that have begun take more than there is for them, only the connection that
has come the furthest is read from, so that one after the other is completed; and who does not get on is given up.
"""

from __future__ import annotations

STALLED_SECONDS = 60.0
"""A payload of which no byte has come for so long is given up, with its connection."""


class Arrivals:
    """``limit`` is in bytes; None: no limit. Connections are numbers."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._bytes: dict[int, int] = {}
        self._moved_at: dict[int, float] = {}
        self.total = 0
        self.waiting: set[int] = set()
        """Connections that are not to be read from."""

    def came(self, connection: int, incoming: int, now: float) -> set[int]:
        """So many bytes of a large payload of a connection are there, 0 if none is on its way (any more). Returns the
        connections for which it has changed whether they wait."""
        before = self._bytes.get(connection, 0)
        if incoming:
            self._bytes[connection] = incoming
            self._moved_at[connection] = now
        elif before:
            del self._bytes[connection], self._moved_at[connection]
        else:
            return set()
        self.total += incoming - before
        if self._limit is None or (self.total <= self._limit and not self.waiting):
            return set()
        return self._choose(now)

    def gone(self, connection: int, now: float) -> set[int]:
        """There is no such connection any more. Returns as ``came`` does."""
        self.waiting.discard(connection)
        return self.came(connection, 0, now)

    def _choose(self, now: float) -> set[int]:
        assert self._limit is not None
        before = self.waiting
        if self.total <= self._limit:
            self.waiting = set()
        else:
            furthest = max(self._bytes, key=lambda number: self._bytes[number])
            self.waiting = self._bytes.keys() - {furthest}
        resumed = before - self.waiting
        for number in resumed & self._moved_at.keys():
            self._moved_at[number] = now
        return before ^ self.waiting

    def stalled(self, now: float) -> list[int]:
        """Connections that could have sent more of a payload, and have not for too long."""
        return [
            number
            for number, moved_at in self._moved_at.items()
            if now - moved_at > STALLED_SECONDS and number not in self.waiting
        ]
