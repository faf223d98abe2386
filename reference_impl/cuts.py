"""Whether the connection of a socket to the scheduler was cut (SPEC section 8.2): what was on its way may be lost.

libzmq connects again by itself and says nothing; it is asked now and then, which costs nothing in between.
"""

from __future__ import annotations

import zmq
from zmq.utils.monitor import parse_monitor_message

_WATCHED = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED


class CutWatch:
    """Of one socket, from before it connects. It goes with the context, or is closed before."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.open = False
        """Whether it was cut, and is not there again, as far as known."""
        self._healed = False
        self._socket = socket
        self._events = socket.get_monitor_socket(_WATCHED)

    def cut(self) -> bool:
        """Whether it was cut since it was made."""
        self._read()
        return self.open or self._healed

    def healed(self) -> bool:
        """Whether it was cut since the last True, and is there again."""
        self._read()
        healed, self._healed = self._healed, False
        return healed

    def _read(self) -> None:
        while True:
            try:
                frames = self._events.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if parse_monitor_message(frames)["event"] == zmq.EVENT_DISCONNECTED:
                self.open, self._healed = True, False
            elif self.open:
                self.open, self._healed = False, True

    def close(self) -> None:
        self._socket.disable_monitor()
        self._events.close()
