"""The object storage with keys: every connection is TLS with a certificate that is allowed (SPEC section 11).

New connections do their handshakes beside the others, on a selector of their own, and come in when they have shown an
allowed key. A key that is revoked loses its connections within a second.
"""

from __future__ import annotations

import logging
import selectors
import socket
import ssl
import time
from typing import Any, NamedTuple

from reference_impl.access.keys import PublicKey
from reference_impl.access.settings import ServerAccess
from reference_impl.access.tls import TlsSocket, server_context
from reference_impl.addresses import Address
from reference_impl.object_storage.connection import Connection
from reference_impl.object_storage.guard import GuardedObjectStorage
from reference_impl.object_storage.pending import GONE_SECONDS
from reference_impl.object_storage.room import Limits
from reference_impl.object_storage.server import Server
from reference_impl.options import PeerLog

_LOG = logging.getLogger("access")
_HANDSHAKE_SECONDS = 10.0
_HANDSHAKES = 256  # at a time
_LOOK_SECONDS = 1.0


class _Handshake(NamedTuple):
    socket: ssl.SSLSocket
    peer: tuple[str, int]
    until: float


class SecuredServer(Server):
    """A Server for those who have an allowed key."""

    def __init__(
        self,
        address: Address,
        access: ServerAccess,
        limits: Limits,
        *,
        gone_seconds: float = GONE_SECONDS,
        **options: Any,
    ) -> None:
        """``options`` are those of Server. Raises BindError."""
        super().__init__(address, limits=limits, **options)
        self._core = self._guard = GuardedObjectStorage(limits, gone_seconds)
        self._access = access
        self._allowed: object = None
        self._keys: dict[int, bytes] = {}  # the certificates of the connections
        self._log = PeerLog(_LOG)
        self._handshaking: dict[int, _Handshake] = {}  # by descriptor
        self._lobby = selectors.DefaultSelector()
        self._selector.register(self._lobby.fileno(), selectors.EVENT_READ)
        self._unread: dict[Connection, None] = {}  # decrypted already, so the descriptor does not tell
        self._look_at = 0.0
        self._look(time.monotonic())

    def close(self) -> None:
        for handshake in self._handshaking.values():
            handshake.socket.close()
        self._lobby.close()
        super().close()

    def _timeout(self) -> float | None:
        if any(map(self._may_read_on, self._unread)):
            return 0.0
        wait = max(0.0, self._look_at - time.monotonic())
        other = super()._timeout()
        return wait if other is None else min(wait, other)

    def _tick(self) -> None:
        super()._tick()
        now = time.monotonic()
        if now >= self._look_at:
            self._look(now)
        for connection in tuple(self._unread):
            if connection in self._unread and self._may_read_on(connection):  # else closed by another one
                self._read(connection)

    def _look(self, now: float) -> None:
        """Goes by the list of allowed keys as it is now, and ends handshakes that take too long."""
        self._look_at = now + _LOOK_SECONDS
        for handshake in [h for h in self._handshaking.values() if now >= h.until]:
            self._refuse(handshake, "no TLS handshake in time: it may have no key")
        allowed = self._access.allowed
        allowed.look()
        if allowed.by_certificate is self._allowed:
            return
        certificates = [key.certificate for key in allowed.by_certificate.values()]
        try:
            self._context = server_context(self._access.key, certificates)
        except OSError as error:
            if self._allowed is None:
                raise
            self._log.note(logging.ERROR, b"", f"keys that were allowed just now must wait: {error.strerror or error}")
        else:
            self._allowed = allowed.by_certificate
        for number, certificate in list(self._keys.items()):
            connection = self._connections.get(number)
            key = allowed.by_certificate.get(certificate)
            if connection is not None and self._guard.key_of(number) != key:
                reason = "its key was revoked" if key is None else f"the key {key.name} has other roles now"
                self._lost(connection, logging.WARNING, reason)

    # ---- handshakes ----

    def _accept(self) -> None:
        super()._accept()
        for selected, _ in self._lobby.select(0):
            self._shake(self._handshaking[selected.fd])

    def _enter(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        self._look(time.monotonic())  # a key may have been allowed for this very connection
        try:
            made = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError as error:  # it was reset
            sock.close()
            _LOG.debug("a connection from %s:%d is gone: %s", *peer, error)
            return
        handshake = _Handshake(made, peer, time.monotonic() + _HANDSHAKE_SECONDS)
        self._handshaking[made.fileno()] = handshake
        if len(self._handshaking) >= _HANDSHAKES:
            self._listener.pause(self._selector)
        self._lobby.register(made, selectors.EVENT_READ)
        self._shake(handshake)

    def _shake(self, handshake: _Handshake) -> None:
        sock = handshake.socket
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            self._lobby.modify(sock, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self._lobby.modify(sock, selectors.EVENT_WRITE)
        except OSError as error:
            self._refuse(handshake, _why(error))
        else:
            certificate = sock.getpeercert(binary_form=True) or b""
            key = self._access.allowed.by_certificate.get(certificate)
            if key is None:  # a certificate that an allowed one has signed
                self._refuse(handshake, "its certificate is not allowed itself")
                return
            self._leave_lobby(handshake)
            self._admit(TlsSocket(sock), handshake.peer, certificate, key)

    def _admit(self, sock: TlsSocket, peer: tuple[str, int], certificate: bytes, key: PublicKey) -> None:
        connection = self._connected(sock, peer, sock.sendfile)
        if connection is not None:
            self._keys[connection.number] = certificate
            self._guard.admitted(connection.number, key)

    def _refuse(self, handshake: _Handshake, reason: str) -> None:
        self._leave_lobby(handshake)
        handshake.socket.close()
        text = f"a connection to the object storage is refused: {reason}"
        self._log.note(logging.WARNING, handshake.peer[0].encode(), text, reason.encode())

    def _leave_lobby(self, handshake: _Handshake) -> None:
        del self._handshaking[handshake.socket.fileno()]
        self._lobby.unregister(handshake.socket)
        if self._listener.again_at is None:
            self._listener.resume(self._selector)

    # ---- connections ----

    def _may_read_on(self, connection: Connection) -> bool:
        """Whether it has been answered, and has taken enough of that."""
        if connection in self._behind or connection in self._dirty:
            return False
        return bool(connection.events & selectors.EVENT_READ)

    def _read(self, connection: Connection) -> None:
        super()._read(connection)
        stream = connection.socket
        assert isinstance(stream, TlsSocket)
        if connection.number in self._connections and stream.pending():
            self._unread[connection] = None
        else:
            self._unread.pop(connection, None)

    def _drop(self, connection: Connection, level: int, reason: str) -> None:
        self._unread.pop(connection, None)
        self._keys.pop(connection.number, None)
        self._guard.closed(connection.number)
        super()._drop(connection, level, reason)


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its key is not allowed: scalercli keys allow NAME.pub"
    reason = getattr(error, "reason", None) or error.strerror or str(error)
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE"):
        return "it does not speak TLS: it has no key"
    return f"the TLS handshake failed: {reason}"
