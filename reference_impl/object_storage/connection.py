"""One connection of the object storage (SPEC section 7.3): who is there, what comes, what goes, and which of the two it
is waited for."""

from __future__ import annotations

import selectors
import time

from protocol import storage
from reference_impl.access.stream import Stream
from reference_impl.object_storage.outgoing import Outgoing

WRITE_LIMIT_BYTES = 1 << 23
"""A connection with more bytes than this to be sent is not read from until it has taken some. What was received
from it before (at most 256 KiB of requests) is still answered, so this is the bound of what one that never reads
makes the server queue, apart from the responses to what it left pending (``core.PENDING_REQUESTS``). Payloads are
queued by reference: the same object, queued often, is in memory once."""


class Connection:
    """One peer: what came of it, and what is to be sent to it."""

    __slots__ = (
        "connected_at",
        "events",
        "host",
        "identified",
        "number",
        "outgoing",
        "paused",
        "port",
        "side",
        "socket",
    )

    def __init__(
        self, number: int, sock: Stream, peer: tuple[str, int], side: storage.ServerSide, outgoing: Outgoing
    ) -> None:
        self.number = number
        self.socket = sock
        self.host, self.port = peer
        self.side = side
        self.outgoing = outgoing
        self.identified = False
        self.connected_at = time.monotonic()
        self.paused = False  # not read from until a set of it has ended
        self.events = 0  # registered for; 0: not registered

    @property
    def log_key(self) -> bytes:
        """What log lines are limited by: the identity, or the host of one that has none yet."""
        return self.side.peer or self.host.encode()

    def register(self, selector: selectors.BaseSelector, may_read: bool) -> None:
        """Waits for what it can do next."""
        size = self.outgoing.size
        events = selectors.EVENT_READ if may_read and not self.paused and size <= WRITE_LIMIT_BYTES else 0
        if size:
            events |= selectors.EVENT_WRITE
        if events == self.events:
            return
        if not self.events:
            selector.register(self.socket, events, self)
        elif events:
            selector.modify(self.socket, events, self)
        else:
            selector.unregister(self.socket)
        self.events = events

    def close(self, selector: selectors.BaseSelector) -> None:
        """Closes the socket, and forgets what is to be sent."""
        if self.events:
            selector.unregister(self.socket)
        self.socket.close()
        self.outgoing.close()
