"""Whether the connection of a socket to the scheduler was cut (SPEC section 8.2): what was on its way may be lost.

libzmq connects again by itself and says nothing; it is asked now and then, which costs nothing in between.
"""

from __future__ import annotations

import zmq


class CutWatch:
    """Of one socket, from before it connects. It is closed with the context of the socket."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._events = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)

    def happened(self) -> bool:
        """Whether the connection was cut since the last call."""
        cut = False
        while True:
            try:
                self._events.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return cut
            cut = True
