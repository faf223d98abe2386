"""The object storage's sockets: one thread, one selector, none blocking (SPEC section 7.3). Rules are in ``core``."""

from __future__ import annotations

import errno
import logging
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterable
from itertools import count, islice
from typing import Protocol, Union

from protocol import storage
from protocol.errors import ProtocolError
from protocol.identifiers import Identity
from protocol.storage import Buffer
from reference_impl.access.stream import Stream
from reference_impl.addresses import Address
from reference_impl.object_storage.arrivals import Arrivals
from reference_impl.object_storage.contents import OnDisk
from reference_impl.object_storage.core import ObjectStorage
from reference_impl.object_storage.files import SpillFiles, Written
from reference_impl.object_storage.instructions import (
    Close,
    Instruction,
    Pause,
    Refused,
    Respond,
    RespondFrom,
    Resume,
)
from reference_impl.object_storage.pending import GONE_SECONDS
from reference_impl.object_storage.room import UNLIMITED, Compare, Limits, Remove, Write
from reference_impl.options import PeerLog

WRITE_LIMIT_BYTES = 1 << 23
"""A connection with more bytes than this to be sent is not read from until it has taken some. What was received
from it before (at most 256 KiB of requests) is still answered, so this is the bound of what one that never reads
makes the server queue, apart from the responses to what it left pending (``core.PENDING_REQUESTS``). Payloads are
queued by reference: the same object, queued often, is in memory once."""

MAX_CONNECTIONS = 10_000
GREETING_SECONDS = 30.0
"""A connection that has not said who it is after this time is closed."""

_SWEEP_SECONDS = 10.0
_ARRIVALS_SHARE = 2  # payloads that are being received may take the memory limit divided by this
_TURN = 4  # requests of one connection that are carried out before it is looked who else is there
_LONGEST_TURN = 64  # when there was nobody
_JOIN_AVERAGE_BYTES = 1 << 14  # buffers smaller than this are joined: cheaper than one iovec for each
_JOIN_COUNT = 1 << 13
_IOVECS = 512
_SENDS = 8  # in a row on one connection, while something of them lies in files
_SENDFILE_BYTES = 1 << 20  # at once: what is not in the page cache is read from the disk meanwhile
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


class _FilePart:
    """Bytes of a file that are still to be sent. The file is opened only when it is its turn."""

    __slots__ = ("end", "fd", "file", "offset")

    def __init__(self, part: OnDisk) -> None:
        self.file = part.file
        self.fd = -1
        self.offset = 0
        self.end = part.length

    def __len__(self) -> int:
        return self.end - self.offset


_Outgoing = Union[Buffer, _FilePart]


class Connection:
    """One peer: what came of it, and what is to be sent to it."""

    __slots__ = (
        "connected_at",
        "events",
        "file_parts",
        "host",
        "identified",
        "number",
        "out",
        "out_bytes",
        "paused",
        "port",
        "side",
        "socket",
    )

    def __init__(self, number: int, sock: Stream, peer: tuple[str, int], magic: bytes) -> None:
        self.number = number
        self.socket = sock
        self.host, self.port = peer
        self.side = storage.ServerSide(magic)
        self.identified = False
        self.connected_at = time.monotonic()
        self.out: deque[_Outgoing] = deque()
        self.out_bytes = 0
        self.file_parts = 0  # in ``out``
        self.paused = False  # not read from until a set of it has ended
        self.events = selectors.EVENT_READ  # registered for; 0: not registered

    @property
    def log_key(self) -> bytes:
        """What log lines are limited by: the identity, or the host of one that has none yet."""
        return self.side.peer or self.host.encode()


class Server:
    """Listens from the moment it is made; ``run`` serves. ``close`` it in the end."""

    def __init__(
        self,
        address: Address,
        *,
        identity: Identity = storage.SERVER_IDENTITY,
        magic: bytes = storage.MAGIC,
        limits: Limits = UNLIMITED,
        gone_seconds: float = GONE_SECONDS,
        files: SpillFiles | None = None,
        connections: int = MAX_CONNECTIONS,
    ) -> None:
        """``files`` is where objects are spilled to, and closed with the server; more ``connections`` than these are
        closed at once. Raises BindError."""
        self._magic = magic
        self._greeting = storage.greeting(identity, magic)
        self._core = ObjectStorage(limits, gone_seconds)
        self._arrivals = Arrivals(None if limits.memory is None else limits.memory // _ARRIVALS_SHARE)
        self._most_connections = connections
        self._sweep_at = 0.0
        self._turn = _TURN
        self._connections: dict[int, Connection] = {}
        self._numbers = count(1)
        self._dirty: dict[Connection, None] = {}  # has something to send since this pass
        self._behind: dict[Connection, None] = {}  # has sent requests that are not carried out yet
        self._peer_log = PeerLog(logger)
        self._accept_again: float | None = None  # when accepting resumes after running out of file descriptors
        self._listener = listen(address)
        self._files = SpillFiles() if files is None else files
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._files, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        host, port = self._listener.getsockname()[:2]
        self.address = Address(host, port)
        """Where it listens, with the real port."""

    def run(self, stop: HasFileno) -> None:
        """Serves until ``stop`` is readable."""
        self._selector.register(stop, selectors.EVENT_READ)
        while True:
            timeout, behind = self._timeout(), tuple(self._behind)
            self._turn = min(2 * self._turn, _LONGEST_TURN)
            ready = self._selector.select(timeout)
            for key, events in ready:
                connection: Connection | None = key.data
                if connection is None:
                    if key.fileobj is stop:
                        self._selector.unregister(stop)
                        return
                    if key.fileobj is self._files:
                        self._files_finished()
                    else:
                        self._accept()
                elif connection.number in self._connections:  # else closed by another one of this pass
                    if events & selectors.EVENT_WRITE:
                        self._dirty[connection] = None
                    if events & selectors.EVENT_READ and connection not in self._behind:
                        if behind:
                            self._turn = _TURN
                        self._read(connection)
            for connection in behind:
                if connection in self._behind:  # else closed by another one of this pass
                    del self._behind[connection]
                    self._requests(connection, 0)
            if timeout is not None:
                self._tick()
            while self._dirty:
                connection = self._dirty.popitem()[0]
                if connection not in self._behind:  # else it is sent with what follows
                    self._flush(connection)

    def close(self) -> None:
        """Closes every socket, and removes the files."""
        for connection in self._connections.values():
            connection.socket.close()
        self._connections.clear()
        self._listener.close()
        self._selector.close()
        self._files.close()

    def _timeout(self) -> float | None:
        """Seconds until a timer is due; None: no timer runs."""
        if self._behind:
            return 0.0
        sweep_at = self._sweep_at if self._connections else None
        due = [t for t in (self._core.deadline(), self._accept_again, sweep_at) if t is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _tick(self) -> None:
        now = time.monotonic()
        self._perform(self._core.tick(now))
        if self._accept_again is not None and now >= self._accept_again:
            self._accept_again = None
            self._selector.register(self._listener, selectors.EVENT_READ)
        if now >= self._sweep_at:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        """Closes connections that have not said who they are, and those that stop in the middle of a payload."""
        self._sweep_at = now + _SWEEP_SECONDS
        stalled = set(self._arrivals.stalled(now))
        for connection in tuple(self._connections.values()):
            if not connection.identified and now - connection.connected_at > GREETING_SECONDS:
                self._lost(connection, logging.WARNING, f"it has not said who it is for {GREETING_SECONDS:g} s")
            elif connection.number in stalled:
                self._lost(connection, logging.WARNING, "it stopped in the middle of a payload")

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
            if len(self._connections) >= self._most_connections:
                sock.close()
                text = f"a connection is refused: there are {self._most_connections} (--max-connections)"
                self._peer_log.note(logging.WARNING, peer[0].encode(), text)
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._enter(sock, peer[:2])

    def _enter(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        """Somebody has connected."""
        self._connected(sock, peer)

    def _connected(self, sock: Stream, peer: tuple[str, int]) -> Connection:
        connection = Connection(next(self._numbers), sock, peer, self._magic)
        self._connections[connection.number] = connection
        self._selector.register(sock, selectors.EVENT_READ, connection)
        self._queue(connection, [self._greeting])
        logger.debug("connection %d from %s:%d", connection.number, connection.host, connection.port)
        self._perform(self._core.connected(connection.number, time.monotonic()))
        return connection

    def _read(self, connection: Connection) -> None:
        """One read, so that no connection keeps the others waiting; what is left makes it ready again."""
        if connection.number in self._arrivals.waiting:
            return  # since this pass
        try:
            received = connection.socket.recv_into(connection.side.buffer())
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(connection, logging.DEBUG, error.strerror or str(error))
            return
        if not received:
            self._lost(connection, logging.DEBUG, "closed by the other side")
            return
        self._requests(connection, received)

    def _requests(self, connection: Connection, received: int) -> None:
        """Carries out what has come, so much of it that others need not wait for long."""
        side, number, now = connection.side, connection.number, time.monotonic()
        left = self._turn
        try:
            for request in side.received(received):
                if not connection.identified:
                    self._identified(connection, now)
                self._perform(self._core.request(number, request, now))
                if number not in self._connections:
                    return
                left -= 1
                if not left:
                    self._behind[connection] = None
                    break
            if connection.out:
                self._dirty[connection] = None
            if side.incoming or self._arrivals.total:
                self._reconsider(self._arrivals.came(number, side.incoming, now))
                self._dirty[connection] = None
            if not connection.identified and side.peer is not None:
                self._identified(connection, now)
        except ProtocolError as error:
            self._flush(connection)  # what it asked for properly is answered
            if number in self._connections:
                self._lost(connection, logging.WARNING, str(error))

    def _reconsider(self, numbers: Iterable[int]) -> None:
        """Whether these connections are read from may have changed."""
        for number in numbers:
            if number in self._connections:
                self._dirty[self._connections[number]] = None

    def _identified(self, connection: Connection, now: float) -> None:
        connection.identified = True
        assert connection.side.peer is not None
        self._perform(self._core.identified(connection.number, connection.side.peer, now))

    def _lost(self, connection: Connection, level: int, reason: str) -> None:
        self._drop(connection, level, reason)
        self._perform(self._core.disconnected(connection.number, time.monotonic()))

    def _drop(self, connection: Connection, level: int, reason: str) -> None:
        del self._connections[connection.number]
        self._dirty.pop(connection, None)
        self._behind.pop(connection, None)
        if self._arrivals.total:
            self._reconsider(self._arrivals.gone(connection.number, time.monotonic()))
        if connection.events:
            self._selector.unregister(connection.socket)
        connection.socket.close()
        for part in connection.out if connection.file_parts else ():
            if isinstance(part, _FilePart):
                self._close_part(part)
        connection.out.clear()
        text = f"connection from {connection.host}:{connection.port} closed: {reason}"
        if level > logging.DEBUG:
            self._peer_log.note(level, connection.log_key, text)
        else:
            logger.debug("%s", text)

    def _close_part(self, part: _FilePart) -> None:
        if part.fd >= 0:
            os.close(part.fd)
        self._files.release(part.file)

    def _files_finished(self) -> None:
        now = time.monotonic()
        for finished in self._files.finished():
            if not isinstance(finished, Written):
                self._perform(self._core.compared(finished.ticket, finished.equal, now))
            elif finished.reason:
                self._peer_log.note(logging.ERROR, b"disk", f"an object can't be spilled: {finished.reason}")
                self._perform(self._core.not_written(finished.file, finished.reason, now))
            else:
                self._perform(self._core.written(finished.file, now))

    def _perform(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Respond):
                self._queue(self._connections[instruction.connection], storage.response(*instruction.response))
            elif isinstance(instruction, RespondFrom):
                self._queue_file(self._connections[instruction.connection], instruction)
            elif isinstance(instruction, Close):
                self._drop(self._connections[instruction.connection], logging.WARNING, instruction.reason)
            else:
                self._perform_rarer(instruction)

    def _perform_rarer(self, instruction: Instruction) -> None:
        if isinstance(instruction, Write):
            self._files.write(*instruction)
        elif isinstance(instruction, Compare):
            self._files.compare(*instruction)
        elif isinstance(instruction, Remove):
            self._files.remove(instruction.file)
        elif isinstance(instruction, (Pause, Resume)):
            connection = self._connections[instruction.connection]
            connection.paused = isinstance(instruction, Pause)
            self._dirty[connection] = None
        elif isinstance(instruction, Refused):
            connection = self._connections[instruction.connection]
            text = f"an object of {instruction.size} bytes is refused: {instruction.reason}"
            self._peer_log.note(logging.ERROR, connection.log_key, text)

    def _queue(self, connection: Connection, buffers: list[Buffer]) -> None:
        for buffer in buffers:
            connection.out.append(buffer)
            connection.out_bytes += len(buffer)
        self._dirty[connection] = None

    def _queue_file(self, connection: Connection, what: RespondFrom) -> None:
        length = what.payload.length
        self._queue(connection, [storage.get_ok_head(what.response_id, what.object_id, length)])
        self._files.hold(what.payload.file)
        connection.out.append(_FilePart(what.payload))
        connection.out_bytes += length
        connection.file_parts += 1

    def _flush(self, connection: Connection) -> None:
        """Sends what the socket takes: usually all of a pass in one system call."""
        out = connection.out
        try:
            if not connection.file_parts:
                if 1 < len(out) <= _JOIN_COUNT and connection.out_bytes < len(out) * _JOIN_AVERAGE_BYTES:
                    joined = b"".join(out)  # type: ignore[arg-type]  # there are only buffers
                    out.clear()
                    out.append(joined)
                self._send_buffers(connection, islice(out, _IOVECS))  # type: ignore[arg-type]
            else:
                for _ in range(_SENDS):
                    if not out or not self._send(connection):
                        break
        except OSError as error:
            self._lost(connection, logging.DEBUG, error.strerror or str(error))
            return
        except _FileLost as error:
            self._lost(connection, logging.ERROR, str(error))
            return
        self._register(connection)

    def _send(self, connection: Connection) -> bool:
        """Sends what comes first, from memory or from a file: whether there may be room for more."""
        first = connection.out[0]
        if isinstance(first, _FilePart):
            return self._send_file(connection, first)
        buffers: list[Buffer] = []
        for buffer in islice(connection.out, _IOVECS):
            if isinstance(buffer, _FilePart):
                break
            buffers.append(buffer)
        left = len(connection.out) - len(buffers)
        self._send_buffers(connection, buffers)
        return len(connection.out) == left

    def _send_buffers(self, connection: Connection, buffers: Iterable[Buffer]) -> None:
        """One system call for the first of what is queued."""
        out = connection.out
        try:
            sent = connection.socket.sendmsg(buffers)
        except BlockingIOError:
            return
        connection.out_bytes -= sent
        while sent:
            first = out[0]
            assert not isinstance(first, _FilePart)
            if sent < len(first):
                out[0] = memoryview(first)[sent:]
                break
            sent -= len(first)
            out.popleft()

    def _send_file(self, connection: Connection, part: _FilePart) -> bool:
        if part.fd < 0:
            try:
                part.fd = self._files.open(part.file)
            except OSError as error:
                raise _FileLost(f"a spilled object can't be read: {error}") from error
        try:
            sent = self._send_from(connection, part.fd, part.offset, min(len(part), _SENDFILE_BYTES))
        except BlockingIOError:
            return False
        if not sent:
            raise _FileLost("a spilled object can't be read: its file is too short")
        part.offset += sent
        connection.out_bytes -= sent
        if not len(part):
            connection.out.popleft()
            connection.file_parts -= 1
            self._close_part(part)
        return True

    def _send_from(self, connection: Connection, descriptor: int, offset: int, count: int) -> int:
        return os.sendfile(connection.socket.fileno(), descriptor, offset, count)

    def _register(self, connection: Connection) -> None:
        """Waits for what the connection can do next."""
        reading = (
            connection.out_bytes <= WRITE_LIMIT_BYTES
            and not connection.paused
            and connection.number not in self._arrivals.waiting
        )
        events = selectors.EVENT_READ if reading else 0
        if connection.out:
            events |= selectors.EVENT_WRITE
        if events == connection.events:
            return
        if not connection.events:
            self._selector.register(connection.socket, events, connection)
        elif events:
            self._selector.modify(connection.socket, events, connection)
        else:
            self._selector.unregister(connection.socket)
        connection.events = events


class _FileLost(Exception):
    """A file that was written can't be read."""


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
