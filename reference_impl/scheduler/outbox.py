"""Long messages to peers that may not read them: how many bytes wait for each (SPEC section 14, LIM-07).

ZeroMQ counts the messages that wait, and refuses more of them. It does not count how long they are, but tells when it
has let go of one that was not copied.
"""

from __future__ import annotations

from collections import deque

import zmq

from protocol.identifiers import Identity

LONG_BYTES = 4 << 10
"""Of shorter messages the number says enough: to know more of them would cost as much as to send them."""


class _Waiting:
    """What is on its way to one peer, the oldest first."""

    __slots__ = ("messages", "total")

    def __init__(self) -> None:
        self.messages: deque[tuple[zmq.MessageTracker, int]] = deque()
        self.total = 0

    def unsent(self) -> int:
        """Bytes that have not left yet."""
        messages = self.messages
        while messages and messages[0][0].done:
            self.total -= messages.popleft()[1]
        return self.total


class Outbox:
    """What is sent by a ROUTER with ZMQ_ROUTER_MANDATORY. ``limit`` is in bytes, for each peer."""

    def __init__(self, router: zmq.Socket[bytes], limit: int) -> None:
        self._router = router
        self._limit = limit
        self._waiting: dict[Identity, _Waiting] = {}

    def send(self, to: Identity, frame: bytes) -> None:
        """Raises zmq.Again if nothing more may wait for the peer, zmq.ZMQError if there is no connection to it."""
        waiting = self._waiting.get(to)
        if waiting is not None and waiting.unsent() + len(frame) > self._limit and waiting.messages:
            raise zmq.Again
        tracker = self._router.send_multipart((to, frame), zmq.NOBLOCK, copy=False, track=True)
        assert isinstance(tracker, zmq.MessageTracker)
        if waiting is None:
            waiting = self._waiting[to] = _Waiting()
        waiting.messages.append((tracker, len(frame)))
        waiting.total += len(frame)

    def tidy(self) -> None:
        """Forgets peers for which nothing waits. Call it now and then."""
        for peer in [peer for peer, waiting in self._waiting.items() if not waiting.unsent()]:
            del self._waiting[peer]
