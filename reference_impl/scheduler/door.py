"""Who comes in to the scheduler (SPEC section 11): CURVE and its ZAP handler on the sockets, where there are keys, and
in any case a line in the log about a peer whose handshake fails because one side has keys and the other has none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Union

import zmq

from protocol.identifiers import Identity
from reference_impl.access.admission import Admission
from reference_impl.access.handshakes import Handshake, HandshakeWatch
from reference_impl.access.keys import PublicKey, Role
from reference_impl.access.settings import ServerAccess
from reference_impl.access.zap import MONITOR, SCHEDULER, ZapHandler, secure_server
from reference_impl.options import PeerLog
from reference_impl.polling import Poller
from reference_impl.scheduler.router import Router

_LOG = logging.getLogger("scheduler")
_REFUSED_AT_ONCE = 1000  # messages, before the other sockets are looked at again

Receive = Callable[[], Union[tuple[bytes, Union[bytes, memoryview, None]], None]]


def _watchers(allowed: Mapping[bytes, PublicKey]) -> set[bytes]:
    return {curve for curve, key in allowed.items() if Role.MONITOR in key.roles}


class Door:
    """Made before the sockets bind. ``receive`` is what the scheduler reads its ROUTER with."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        router: Router,
        monitor: zmq.Socket[bytes],
        access: ServerAccess | None,
        known: Callable[[Identity], bool],
    ) -> None:
        self._access = access
        self._router = router
        self._log = PeerLog(_LOG)
        self._watch = HandshakeWatch(router.socket)
        self._zap: ZapHandler | None = None
        self.receive: Receive = router.receive
        self.watchers_revoked = False
        """Whether somebody may still be connected to the monitor who may not watch any more."""
        self.guard_monitor(monitor)
        if access is not None:
            self._zap = ZapHandler(context, access.allowed)
            secure_server(router.socket, access.key, SCHEDULER)
            allowed = access.allowed
            self._seen = allowed.by_curve
            self._admission = Admission(lambda: allowed.by_curve, known)
            self.receive = self._receive_admitted

    def register(self, poller: Poller) -> None:
        """What is not for the hot path is not in its poller: handshakes are looked at by ``tick``."""
        if self._zap is not None:
            poller.register(self._zap.socket)

    def handle(self, ready: dict[Any, int]) -> None:
        """To be called where there are keys."""
        if self._zap is not None and self._zap.socket in ready:
            self._zap.handle()

    def tick(self) -> list[Identity]:
        """Call it each second. The identities whose keys have been revoked since the last call: they are lost."""
        self._note_handshakes()
        if self._access is None:
            return []
        self._access.allowed.look()
        before, self._seen = self._seen, self._access.allowed.by_curve
        if self._seen is before:
            return []
        self.watchers_revoked |= bool(_watchers(before) - _watchers(self._seen))
        return self._admission.changed()

    def guard_monitor(self, monitor: zmq.Socket[bytes]) -> None:
        """Before it binds."""
        self.watchers_revoked = False
        if self._access is not None:
            secure_server(monitor, self._access.key, MONITOR)

    def close(self) -> None:
        self._watch.close()

    def _receive_admitted(self) -> tuple[bytes, bytes | memoryview | None] | None:
        """The next message that its sender's key allows."""
        refusal = self._admission.refusal
        for _ in range(_REFUSED_AT_ONCE):
            message = self._router.receive_authenticated()
            if message is None:
                return None
            sender, frame, user = message
            reason = refusal(sender, user)
            if reason is None:
                return sender, frame
            self._log.note(logging.WARNING, sender, f"ignored: {reason}")
        return None

    def _note_handshakes(self) -> None:
        for handshake in self._watch.ended():
            if handshake is Handshake.OTHER_MECHANISM and self._access is not None:
                self._log.note(logging.WARNING, b"a peer", "refused: it has no key", b"key")
            elif handshake is Handshake.BROKEN_OFF and self._access is not None:
                self._log.note(logging.WARNING, b"a peer", "it left before it was let in: it may have no key")
            elif handshake is Handshake.OTHER_MECHANISM:
                self._log.note(logging.WARNING, b"a peer with a key", "refused: this scheduler has none (--key-file)")
            elif handshake is Handshake.WRONG_SERVER_KEY:
                self._log.note(logging.WARNING, b"a peer whose --server-key is another's", "refused")
