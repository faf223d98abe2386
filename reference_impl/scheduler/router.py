"""A ROUTER socket whose messages are one frame each (SPEC section 2), with as little of pyzmq around it as can be.

``recv_multipart`` and ``send_multipart`` cost three times as much: for each part a look-up of RCVMORE among the socket
options, checks of types, options that nobody uses here.
"""

from __future__ import annotations

import zmq

_NOBLOCK = int(zmq.NOBLOCK)
_EVENTS, _READABLE = int(zmq.EVENTS), int(zmq.POLLIN)
_MORE_NOBLOCK = int(zmq.NOBLOCK | zmq.SNDMORE)
VIEWED_BYTES = 1 << 18
"""A frame at least as long is not copied: it is a read-only view of where libzmq has received it. (To copy 60 MiB takes
30 ms in which nobody else is served: most of it the kernel's, which finds and clears 15,000 pages.)"""


class Router:
    """Neither of its methods waits."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self._receive = self.socket.recv
        self._send = super(zmq.Socket, self.socket).send  # what Socket.send calls
        self._get = super(zmq.Socket, self.socket).get

    def receive(self) -> tuple[bytes, bytes | memoryview | None] | None:
        """(sender, frame) of the next message; the frame is None if there were several; None if there is no message."""
        try:
            sender = self._receive(_NOBLOCK)
        except zmq.Again:
            return None
        last = self._receive(_NOBLOCK, False)  # not copied yet: such a frame knows whether it is the last one
        if not last.more:
            return sender, last.bytes if len(last) < VIEWED_BYTES else last.buffer.toreadonly()
        while last.more:
            last = self._receive(_NOBLOCK, False)
        return sender, None

    def receive_authenticated(self) -> tuple[bytes, bytes | memoryview | None, bytes] | None:
        """The same, and the User-Id that ZAP has given to its sender's connection."""
        try:
            sender = self._receive(_NOBLOCK)
        except zmq.Again:
            return None
        first = last = self._receive(_NOBLOCK, False)
        while last.more:
            last = self._receive(_NOBLOCK, False)
        user = str(first.get("User-Id")).encode()
        if last is not first:
            return sender, None, user
        return sender, first.bytes if len(first) < VIEWED_BYTES else first.buffer.toreadonly(), user

    def look(self) -> bool:
        """Whose messages have come? As long as there are messages, libzmq asks itself that after each 100 parts only,
        and others wait, however long these take. Returns whether there are any, for less than it costs to try."""
        return bool(int(self._get(_EVENTS)) & _READABLE)

    def send(self, to: bytes, frame: bytes | memoryview) -> None:
        """One message. Raises zmq.ZMQError if it can't be sent."""
        self._send(to, _MORE_NOBLOCK)
        self._send(frame, _NOBLOCK)
