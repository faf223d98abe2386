"""What becomes of handshakes. ZeroMQ tries again and again, and says nothing to who sends; its socket monitor tells."""

from __future__ import annotations

import struct
from collections import deque
from enum import Enum, auto
from typing import NamedTuple

import zmq

_EVENT = struct.Struct(
    "=HI"
)  # what, a value; pyzmq's own reader would import asyncio, which takes longer than the rest
_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_BREAKS_OFF = "breaks off every connection: it may demand a key, or be no scheduler"
_HOW = "--key-file and --server-key: scalercli help access"
_KEPT = 100
_PATIENCE = 5
"""After so many handshakes in a row that the other side broke off, it is no accident."""


class Handshake(Enum):
    """How one ended."""

    DONE = auto()
    KEY_REFUSED = auto()
    OTHER_MECHANISM = auto()
    """One side has keys, the other has none."""
    WRONG_SERVER_KEY = auto()
    """Seen by the server: the peer has taken it for another one."""
    BROKEN_OFF = auto()
    """By the other side, which does not say why."""


_OF_PROTOCOL_ERROR = {
    int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH): Handshake.OTHER_MECHANISM,
    int(zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC): Handshake.WRONG_SERVER_KEY,
}


class HandshakeWatch:
    """The handshakes of one socket, from before it binds or connects. Poll ``socket``, ``close`` it before that.

    With ``cuts``, for a socket that connects: whether its connection was cut (SPEC section 8.2). libzmq connects again
    by itself and says nothing; it is asked now and then, which costs nothing in between.
    """

    def __init__(self, watched: zmq.Socket[bytes], *, cuts: bool = False) -> None:
        self.open = False
        """Whether the connection was cut, and is not there again, as far as known."""
        self._watched = watched
        self._found: deque[Handshake] = deque(maxlen=_KEPT)
        self._up = False
        self._healed = False
        address = f"inproc://handshakes-{watched.FD}"
        watched.monitor(address, _EVENTS | zmq.EVENT_DISCONNECTED if cuts else _EVENTS)
        self.socket: zmq.Socket[bytes] = watched.context.socket(zmq.PAIR)
        self.socket.setsockopt(zmq.RCVHWM, 0)  # else libzmq's thread, and everybody, waits until these have been read
        self.socket.connect(address)

    def ended(self) -> list[Handshake]:
        """How those ended that have ended since the last call, the last ones of many."""
        self._read()
        found = list(self._found)
        self._found.clear()
        return found

    def cut(self) -> bool:
        """Whether the connection was cut since the last ``healed`` that was true."""
        self._read()
        return self.open or self._healed

    def healed(self) -> bool:
        """Whether it was cut since the last True, and is there again."""
        self._read()
        healed, self._healed = self._healed, False
        return healed

    def _read(self) -> None:
        found = self._found
        while True:
            try:
                event, _ = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            kind, value = _EVENT.unpack(event)
            if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                found.append(Handshake.DONE)
                self._up, self.open, self._healed = True, False, self._healed or self.open
            elif kind == zmq.EVENT_DISCONNECTED:
                if self._up:
                    self._up, self.open, self._healed = False, True, False
            elif kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                found.append(Handshake.KEY_REFUSED)
            elif kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                found.append(_OF_PROTOCOL_ERROR.get(value, Handshake.BROKEN_OFF))
            elif kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                found.append(Handshake.BROKEN_OFF)

    def close(self) -> None:
        """Ends the watch; once more does no harm."""
        self._watched.disable_monitor()
        self.socket.close(0)


class Refusal(NamedTuple):
    """Why there is no use in trying on. ``what`` follows the name of the other side, ``hint`` is what to do; where it
    is not ``certain``, the other side has only broken off too many handshakes."""

    what: str
    hint: str
    certain: bool


class Verdict:
    """What a peer that connects makes of its handshakes. Pure."""

    def __init__(self, key_name: str | None) -> None:
        """``key_name`` is that of its own key, None for a peer without one."""
        self._key_name = key_name
        self._broken_off = 0
        self.done = False
        """Whether the last one succeeded."""

    def refusal(self, ended: list[Handshake]) -> Refusal | None:
        """None as long as all may be well."""
        for handshake in ended:
            self.done = handshake is Handshake.DONE
            self._broken_off = self._broken_off + 1 if handshake is Handshake.BROKEN_OFF else 0
            if handshake is Handshake.KEY_REFUSED:
                return self._key_refused()
            if handshake is Handshake.OTHER_MECHANISM:
                if self._key_name is None:
                    return Refusal("demands a key", _HOW, True)
                return Refusal("has no keys, and this side was told to use one", "leave out --key-file", True)
            if self._broken_off == _PATIENCE:
                if self._key_name is None:
                    return Refusal(_BREAKS_OFF, _HOW, False)
                what = "does not have the key that --server-key names, or has none"
                return Refusal(what, "ask who runs it for its public key file: scalercli help access", False)
        return None

    def given_up(self, ended: list[Handshake]) -> Refusal:
        """ZeroMQ can't send (``zmq.Again``): it has given the connection up for good."""
        refusal = self.refusal(ended)
        if refusal is None:
            refusal = self._key_refused() if self._key_name else Refusal(_BREAKS_OFF, _HOW, True)
        return refusal

    def _key_refused(self) -> Refusal:
        hint = "who runs it has to allow it: scalercli keys allow NAME.pub"
        return Refusal(f"refuses the key {self._key_name}", hint, True)

    def silence(self) -> str:
        """What can be said of a scheduler that accepts the key and does not answer."""
        return f"it accepts the key {self._key_name}: has it the role for this?" if self._key_name and self.done else ""
