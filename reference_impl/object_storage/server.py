"""The object storage's sockets: one thread, one selector, none blocking (SPEC section 7.3). Rules are in ``core``."""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import time
from collections import deque
from itertools import count, islice
from typing import Protocol

from protocol import storage
from protocol.errors import ProtocolError
from protocol.identifiers import Identity
from protocol.storage import Buffer
from reference_impl.addresses import Address
from reference_impl.object_storage.core import Close, Instruction, ObjectStorage
from reference_impl.options import PeerLog

WRITE_LIMIT_BYTES = 1 << 23
"""A connection with more bytes than this to be sent is not read from until it has taken some. What was received
from it before (at most 256 KiB of requests) is still answered, so this is the bound of what one that never reads
makes the server queue, apart from the responses to what it left pending (``core.PENDING_REQUESTS``). Payloads are
queued by reference: the same object, queued often, is in memory once."""

_JOIN_AVERAGE_BYTES = 1 << 14  # buffers smaller than this are joined: cheaper than one iovec for each
_JOIN_COUNT = 1 << 13
_IOVECS = 512
_BACKLOG = 1024
_ACCEPT_PAUSE_SECONDS = 1.0
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_BIND_HINTS = {
    errno.EADDRINUSE: "choose another port; port 0 takes any free one",
    errno.EACCES: "choose a port above 1023; port 0 takes any free one",
}

logger = logging.getLogger(__name__)


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class BindError(OSError):
    """The address can't be listened on; the text says why, ``hint`` what to do."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


class _Connection:
    __slots__ = ("events", "host", "identified", "number", "out", "out_bytes", "port", "side", "socket")

    def __init__(self, number: int, sock: socket.socket, peer: tuple[str, int], magic: bytes) -> None:
        self.number = number
        self.socket = sock
        self.host, self.port = peer
        self.side = storage.ServerSide(magic)
        self.identified = False
        self.out: deque[Buffer] = deque()
        self.out_bytes = 0
        self.events = selectors.EVENT_READ  # registered for

    @property
    def log_key(self) -> bytes:
        """What log lines are limited by: the identity, or the host of one that has none yet."""
        return self.side.peer or self.host.encode()


class Server:
    """Listens from the moment it is made; ``run`` serves. ``close`` it in the end."""

    def __init__(
        self, address: Address, *, identity: Identity = storage.SERVER_IDENTITY, magic: bytes = storage.MAGIC
    ) -> None:
        """Raises BindError."""
        self._magic = magic
        self._greeting = storage.greeting(identity, magic)
        self._core = ObjectStorage()
        self._connections: dict[int, _Connection] = {}
        self._numbers = count(1)
        self._dirty: dict[_Connection, None] = {}  # has something to send since this pass
        self._peer_log = PeerLog(logger)
        self._accept_again: float | None = None  # when accepting resumes after running out of file descriptors
        self._listener = listen(address)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        host, port = self._listener.getsockname()[:2]
        self.address = Address(host, port)
        """Where it listens, with the real port."""

    def run(self, stop: HasFileno) -> None:
        """Serves until ``stop`` is readable."""
        self._selector.register(stop, selectors.EVENT_READ)
        while True:
            timeout = self._timeout()
            ready = self._selector.select(timeout)
            for key, events in ready:
                connection: _Connection | None = key.data
                if connection is None:
                    if key.fileobj is stop:
                        self._selector.unregister(stop)
                        return
                    self._accept()
                elif connection.number in self._connections:  # else closed by another one of this pass
                    if events & selectors.EVENT_WRITE:
                        self._dirty[connection] = None
                    if events & selectors.EVENT_READ:
                        self._read(connection)
            if timeout is not None:
                self._tick()
            while self._dirty:
                self._flush(self._dirty.popitem()[0])

    def close(self) -> None:
        """Closes every socket."""
        for connection in self._connections.values():
            connection.socket.close()
        self._connections.clear()
        self._listener.close()
        self._selector.close()

    def _timeout(self) -> float | None:
        """Seconds until a timer is due; None: no timer runs."""
        due = [t for t in (self._core.deadline(), self._accept_again) if t is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _tick(self) -> None:
        now = time.monotonic()
        self._perform(self._core.tick(now))
        if self._accept_again is not None and now >= self._accept_again:
            self._accept_again = None
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _accept(self) -> None:
        while True:
            try:
                sock, peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    logger.error("new connections must wait: %s", error.strerror)
                    self._selector.unregister(self._listener)
                    self._accept_again = time.monotonic() + _ACCEPT_PAUSE_SECONDS
                return  # else that one is gone already
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection = _Connection(next(self._numbers), sock, peer[:2], self._magic)
            self._connections[connection.number] = connection
            self._selector.register(sock, selectors.EVENT_READ, connection)
            self._queue(connection, [self._greeting])
            logger.debug("connection %d from %s:%d", connection.number, connection.host, connection.port)
            self._perform(self._core.connected(connection.number, time.monotonic()))

    def _read(self, connection: _Connection) -> None:
        """One read, so that no connection keeps the others waiting; what is left makes it ready again."""
        side, number = connection.side, connection.number
        try:
            received = connection.socket.recv_into(side.buffer())
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(connection, logging.DEBUG, error.strerror or str(error))
            return
        if not received:
            self._lost(connection, logging.DEBUG, "closed by the other side")
            return
        now = time.monotonic()
        try:
            for request in side.received(received):
                if not connection.identified:
                    self._identified(connection, now)
                self._perform(self._core.request(number, request, now))
                if number not in self._connections:
                    return
            if not connection.identified and side.peer is not None:
                self._identified(connection, now)
        except ProtocolError as error:
            self._flush(connection)  # what it asked for properly is answered
            if number in self._connections:
                self._lost(connection, logging.WARNING, str(error))

    def _identified(self, connection: _Connection, now: float) -> None:
        connection.identified = True
        assert connection.side.peer is not None
        self._perform(self._core.identified(connection.number, connection.side.peer, now))

    def _lost(self, connection: _Connection, level: int, reason: str) -> None:
        self._drop(connection, level, reason)
        self._perform(self._core.disconnected(connection.number, time.monotonic()))

    def _drop(self, connection: _Connection, level: int, reason: str) -> None:
        del self._connections[connection.number]
        self._dirty.pop(connection, None)
        self._selector.unregister(connection.socket)
        connection.socket.close()
        text = f"connection from {connection.host}:{connection.port} closed: {reason}"
        if level > logging.DEBUG:
            self._peer_log.note(level, connection.log_key, text)
        else:
            logger.debug("%s", text)

    def _perform(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            connection = self._connections[instruction.connection]
            if isinstance(instruction, Close):
                self._drop(connection, logging.WARNING, instruction.reason)
            else:
                self._queue(connection, storage.response(*instruction.response))

    def _queue(self, connection: _Connection, buffers: list[Buffer]) -> None:
        for buffer in buffers:
            connection.out.append(buffer)
            connection.out_bytes += len(buffer)
        self._dirty[connection] = None

    def _flush(self, connection: _Connection) -> None:
        """Sends what the socket takes: usually all of a pass in one system call."""
        out = connection.out
        if 1 < len(out) <= _JOIN_COUNT and connection.out_bytes < len(out) * _JOIN_AVERAGE_BYTES:
            joined = b"".join(out)
            out.clear()
            out.append(joined)
        try:
            sent = connection.socket.sendmsg(islice(out, _IOVECS))
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lost(connection, logging.DEBUG, error.strerror or str(error))
            return
        connection.out_bytes -= sent
        while sent:
            first = out[0]
            if sent < len(first):
                out[0] = memoryview(first)[sent:]
                break
            sent -= len(first)
            out.popleft()
        events = selectors.EVENT_READ if connection.out_bytes <= WRITE_LIMIT_BYTES else 0
        if out:
            events |= selectors.EVENT_WRITE
        if events != connection.events:
            connection.events = events
            self._selector.modify(connection.socket, events, connection)


def listen(address: Address) -> socket.socket:
    """A non-blocking listening socket; the host may be a name, or ``*`` for all IPv4 addresses. Raises BindError."""
    host = "0.0.0.0" if address.host == "*" else address.host
    try:
        family, kind, proto, _, where = socket.getaddrinfo(
            host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise BindError(f"{address}: no such host: {host!r}", "give an address of this machine") from error
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        hint = _BIND_HINTS.get(error.errno or 0, "give an address of this machine, such as tcp://127.0.0.1:0")
        raise BindError(f"can't listen on {address}: {error.strerror}", hint) from error
    return listener
