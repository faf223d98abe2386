"""TLS for the connections of the object storage (SPEC section 11): mutual, 1.3, with pinned self-signed certificates.

``TlsSocket`` is a non-blocking socket to those who know nothing of TLS: a ``Stream``, as a plain socket is, too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path

from protocol.storage import Buffer
from reference_impl.access.keys import PrivateKey
from reference_impl.access.settings import PeerAccess

_CHUNK_BYTES = 1 << 16  # copied and encrypted at once


class TlsRefused(ConnectionError):
    """There is no connection by TLS; the text says why."""


class TlsSocket:
    """A TLS connection after its handshake."""

    def __init__(self, sock: ssl.SSLSocket, early: bytes = b"") -> None:
        """``early`` is what was received already."""
        self._socket = sock
        self._early = early
        self._unsent = b""  # given to OpenSSL and not taken: it must be the same the next time

    def fileno(self) -> int:
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:
        self._socket.setblocking(flag)

    def pending(self) -> bool:
        """Whether something can be received though the descriptor may not say so."""
        return bool(self._early) or self._socket.pending() > 0

    def recv_into(self, buffer: memoryview) -> int:
        """As much as there is and fits: less than ``len(buffer)`` means that there is no more now. 0: it is closed."""
        filled = min(len(self._early), len(buffer))
        buffer[:filled] = self._early[:filled]
        self._early = self._early[filled:]
        while filled < len(buffer):
            try:
                received = self._socket.recv_into(buffer[filled:])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if not filled:
                    raise BlockingIOError from None
                return filled
            if not received:  # told again by the next call
                return filled
            filled += received
        return filled

    def sendmsg(self, buffers: Iterable[Buffer]) -> int:
        """How many bytes were taken. After BlockingIOError the next call must begin with the same bytes."""
        return self._send(self._unsent or _joined(buffers))

    def sendfile(self, descriptor: int, offset: int, count: int) -> int:
        """The same, of a file; 0 at its end."""
        return self._send(self._unsent or os.pread(descriptor, min(count, _CHUNK_BYTES), offset))

    def _send(self, chunk: bytes) -> int:
        self._unsent = chunk
        try:
            sent = self._socket.send(chunk) if chunk else 0
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        self._unsent = b""
        return sent

    def close(self) -> None:
        self._socket.close()


def _joined(buffers: Iterable[Buffer]) -> bytes:
    """The beginning of what is to be sent."""
    parts: list[Buffer] = []
    left = _CHUNK_BYTES
    for buffer in buffers:
        parts.append(buffer if len(buffer) <= left else memoryview(buffer)[:left])
        left -= len(parts[-1])
        if not left:
            break
    return b"".join(parts)


def server_context(key: PrivateKey, certificates: Iterable[str]) -> ssl.SSLContext:
    """Of who listens, for peers that have one of these certificates (PEM)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # a session that is resumed would outlive the list of allowed keys
    return _pinned(context, key.path, certificates)


def client_context(access: PeerAccess) -> ssl.SSLContext:
    """Of who connects to the one server that has this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it is the certificate itself that is checked
    return _pinned(context, access.key.path, [access.server.certificate])


def _pinned(context: ssl.SSLContext, own: Path, certificates: Iterable[str]) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(own)
    context.load_verify_locations(cadata="".join(certificates))
    return context


def connect(sock: socket.socket, access: PeerAccess, where: str) -> TlsSocket:
    """Does the handshake on a blocking socket, within its timeout, and waits for the first bytes of the other side:
    only they tell that it has accepted our key, too. Raises TlsRefused, and closes the socket then."""
    made: ssl.SSLSocket | None = None
    try:
        made = client_context(access).wrap_socket(sock)
        if made.getpeercert(binary_form=True) != access.server.der:
            raise TlsRefused(f"the object storage at {where} has another key than {access.server.name}")
        early = made.recv(_CHUNK_BYTES)
        if not early:
            raise TlsRefused(f"the object storage at {where} refuses the key {access.key.public.name}")
        return TlsSocket(made, early)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            (made or sock).close()
        if isinstance(error, TlsRefused):
            raise
        raise TlsRefused(_why(error, access, where)) from None


def _why(error: Exception, access: PeerAccess, where: str) -> str:
    if isinstance(error, TimeoutError):
        return f"the object storage at {where} does not answer by TLS in time: has it keys?"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the object storage at {where} has another key than {access.server.name} (--server-key)"
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        return f"the object storage at {where} refuses the key {access.key.public.name}: is it allowed there?"
    if isinstance(error, ssl.SSLError):
        return f"the object storage at {where} does not speak TLS: has it keys? ({error.reason})"
    return f"the object storage at {where} broke off the TLS handshake: {error}"
