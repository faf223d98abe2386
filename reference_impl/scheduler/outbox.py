"""Long messages to peers that may not read them: how many bytes wait for each (SPEC section 14, LIM-07).

ZeroMQ counts the messages that wait, and refuses more of them. It does not count how long they are, but tells when it
has let go of one that was not copied. That costs more than a copy, so it is asked for once a MiB: what was sent before
such a message has left before it.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress

import zmq

from protocol.identifiers import Identity

LONG_BYTES = 4 << 10
"""Of shorter messages the number says enough: to know more of them would cost as much as to send them."""
_TRACKED_BYTES = 1 << 20
_NEWS_SECONDS = 0.05
"""For so long a peer gets the benefit of the doubt, once: pyzmq hears in a thread of its own what ZeroMQ has let go of,
and that thread may not have run."""


class _Waiting:
    """What is on its way to one peer, the oldest first."""

    __slots__ = ("doubted", "since", "total", "tracked")

    def __init__(self) -> None:
        self.tracked: deque[tuple[zmq.MessageTracker, int]] = deque()  # each with the bytes up to its end
        self.since = 0  # bytes since the last of them
        self.total = 0
        self.doubted = False  # nothing has left since it was waited for in vain

    def unsent(self) -> int:
        """Bytes that may not have left yet."""
        tracked = self.tracked
        while tracked and tracked[0][0].done:
            self.total -= tracked.popleft()[1]
            self.doubted = False
        return self.total

    def has_room(self, size: int, limit: int) -> bool:
        """Whether so many bytes more may wait, or something that is there has to leave first."""
        until = 0.0
        while self.unsent() + size > limit and self.tracked:
            until = until or time.monotonic() + _NEWS_SECONDS
            left = until - time.monotonic()
            if self.doubted or left <= 0:
                self.doubted = True
                return False
            with suppress(zmq.NotDone):
                self.tracked[0][0].wait(left)
        return True


class Outbox:
    """What is sent by a ROUTER with ZMQ_ROUTER_MANDATORY. ``limit`` is in bytes, for each peer."""

    def __init__(self, router: zmq.Socket[bytes], limit: int) -> None:
        self._router = router
        self._limit = limit
        self._waiting: dict[Identity, _Waiting] = {}

    def send(self, to: Identity, frame: bytes | memoryview) -> None:
        """Raises zmq.Again if nothing more may wait for the peer, zmq.ZMQError if there is no connection to it."""
        waiting = self._waiting.get(to)
        if waiting is None:
            waiting = self._waiting[to] = _Waiting()
        if not waiting.has_room(len(frame), self._limit):
            raise zmq.Again
        size = waiting.since + len(frame)
        if size < _TRACKED_BYTES:
            self._router.send_multipart((to, frame), zmq.NOBLOCK)
            waiting.since = size
        else:
            tracker = self._router.send_multipart((to, frame), zmq.NOBLOCK, copy=False, track=True)
            assert isinstance(tracker, zmq.MessageTracker)
            waiting.tracked.append((tracker, size))
            waiting.since = 0
        waiting.total += len(frame)

    def tidy(self) -> None:
        """Forgets peers for which nothing waits. Call it now and then."""
        for peer, waiting in list(self._waiting.items()):
            if waiting.unsent() == waiting.since:
                del self._waiting[peer]
