"""A non-blocking connection to an object storage, for the poll loops of client, worker and scheduler (SPEC 7.3)."""

from __future__ import annotations

import socket
from collections import deque

from protocol import storage
from protocol.errors import ProtocolError
from protocol.identifiers import Identity
from protocol.storage import Buffer, Response
from reference_impl.access.settings import PeerAccess
from reference_impl.access.stream import Stream
from reference_impl.addresses import Address

_MAX_IOV = 64


class StorageLost(ConnectionError):
    """The object storage closed the connection, or broke the protocol."""


def _by_tls(connected: socket.socket, access: PeerAccess, address: Address) -> Stream:
    from reference_impl.access import tls  # OpenSSL takes time to load, and most have no keys

    try:
        return tls.connect(connected, access, str(address))
    except tls.TlsRefused as error:
        raise StorageLost(str(error)) from None


class StorageConnection:
    """Requests queue up in ``send`` and leave in ``flush``; responses come from ``receive``.

    Poll ``fileno()`` for reading always, for writing while ``wants_write`` is true.
    """

    def __init__(
        self,
        address: Address,
        identity: Identity,
        *,
        magic: bytes = storage.MAGIC,
        timeout_seconds: float = 10.0,
        access: PeerAccess | None = None,
    ) -> None:
        """Connects, by TLS if there is ``access``, blocking at most ``timeout_seconds``; raises StorageLost."""
        try:
            connected = socket.create_connection(address, timeout_seconds)
        except OSError as error:
            raise StorageLost(f"no object storage at {address}: {error}") from error
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket: Stream = connected if access is None else _by_tls(connected, access, address)
        self._socket.setblocking(False)
        self._side = storage.ClientSide(magic)
        self._out: deque[Buffer] = deque([storage.greeting(identity, magic)])
        self._next_id = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        return bool(self._out)

    def next_id(self) -> int:
        """A request id that this connection has not used."""
        self._next_id += 1
        return self._next_id

    def send(self, buffers: list[Buffer]) -> None:
        """Queues a request (see ``protocol.storage``)."""
        self._out.extend(b for b in buffers if len(b))

    def flush(self) -> None:
        """Sends what the socket takes now; raises StorageLost."""
        out = self._out
        while out:
            batch = [out[i] for i in range(min(len(out), _MAX_IOV))]
            try:
                sent = self._socket.sendmsg(batch)
            except BlockingIOError:
                return
            except OSError as error:
                raise StorageLost(f"the object storage is gone: {error}") from error
            for buffer in batch:
                if sent < len(buffer):
                    if sent:
                        out[0] = memoryview(buffer)[sent:]
                    break
                sent -= len(buffer)
                out.popleft()

    def receive(self) -> list[Response]:
        """The responses that have arrived; raises StorageLost."""
        responses: list[Response] = []
        while True:
            buffer = self._side.buffer()
            try:
                count = self._socket.recv_into(buffer)
            except BlockingIOError:
                return responses
            except OSError as error:
                raise StorageLost(f"the object storage is gone: {error}") from error
            if not count:
                raise StorageLost("the object storage closed the connection")
            try:
                responses.extend(self._side.received(count))
            except ProtocolError as error:
                raise StorageLost(f"the object storage broke the protocol: {error}") from error
            if count < len(buffer):
                return responses

    def close(self) -> None:
        self._socket.close()
