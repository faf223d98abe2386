"""Lets CURVE peers in or not: the ZAP handler (ZeroMQ RFC 27) of a context, in the poll loop of who owns it."""

from __future__ import annotations

import hashlib
import logging

import zmq
import zmq.utils.z85

from reference_impl.access.allowed import AllowedKeys
from reference_impl.access.keys import PrivateKey, Role
from reference_impl.options import PeerLog

_LOG = logging.getLogger("access")
_ENDPOINT = "inproc://zeromq.zap.01"
_VERSION = b"1.0"

SCHEDULER, MONITOR = b"scheduler", b"monitor"
"""The domains: what a socket is."""
_ROLES = {SCHEDULER: frozenset({Role.CLIENT, Role.WORKER, Role.MANAGER}), MONITOR: frozenset({Role.MONITOR})}


class ZapHandler:
    """Make it before the sockets that it is for; poll ``socket``."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], allowed: AllowedKeys) -> None:
        self._allowed = allowed
        self._log = PeerLog(_LOG)
        self.socket = context.socket(zmq.REP)
        self.socket.bind(_ENDPOINT)

    def handle(self) -> None:
        """Answers all questions that have come."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.socket.send_multipart(self._answer(frames))

    def _answer(self, frames: list[bytes]) -> list[bytes]:
        if len(frames) != 7 or frames[0] != _VERSION or frames[5] != b"CURVE":  # never of our sockets
            return [_VERSION, frames[1] if len(frames) > 1 else b"", b"400", b"no CURVE", b"", b""]
        _, number, domain, address, _, _, public = frames
        self._allowed.look()
        curve = zmq.utils.z85.encode(public)
        key = self._allowed.by_curve.get(curve)
        wanted = _ROLES.get(domain, frozenset())
        if key is not None and key.roles & wanted:
            # The User-Id of every frame of this connection is the key, which can't be claimed without its secret.
            return [_VERSION, number, b"200", b"", curve, b""]
        if key is None:
            why = f"its key {hashlib.sha256(curve).hexdigest()[:16]} is not allowed: scalercli keys allow NAME.pub"
        else:
            why = f"the key {key.name} has none of the roles {', '.join(sorted(role.value for role in wanted))}"
        text = f"a connection to the {domain.decode()} is refused: {why}"
        self._log.note(logging.WARNING, address, text, domain + curve)
        return [_VERSION, number, b"400", b"not allowed", b"", b""]


def secure_server(socket: zmq.Socket[bytes], key: PrivateKey, domain: bytes) -> None:
    """Before it binds: only allowed keys of this domain, and nobody if there is no ZapHandler."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, key.curve_secret)
    socket.setsockopt(zmq.ZAP_DOMAIN, domain)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
