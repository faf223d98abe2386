"""The object storage's sockets: one thread, one selector, none blocking (SPEC section 7.3).

Here is whose turn it is, and what is done for the rules, which are in ``core``. ``listening`` is where connections come
from, ``connection`` one of them, ``outgoing`` what is to be sent to it.
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
from collections.abc import Iterable
from itertools import count
from typing import Protocol

from protocol import storage
from protocol.errors import ProtocolError
from protocol.identifiers import Identity
from reference_impl.access.stream import Stream
from reference_impl.addresses import Address
from reference_impl.object_storage.arrivals import Arrivals
from reference_impl.object_storage.connection import Connection
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
from reference_impl.object_storage.listening import Listener
from reference_impl.object_storage.outgoing import FileLost, Outgoing, SendFrom, sendfile_to
from reference_impl.object_storage.pending import GONE_SECONDS
from reference_impl.object_storage.room import UNLIMITED, Compare, Limits, Remove, Write
from reference_impl.options import PeerLog

MAX_CONNECTIONS = 10_000
GREETING_SECONDS = 30.0
"""A connection that has not said who it is after this time is closed."""

_SWEEP_SECONDS = 10.0
_ARRIVALS_SHARE = 2  # payloads that are being received may take the memory limit divided by this
_TURN = 4  # requests of one connection that are carried out before it is looked who else is there
_LONGEST_TURN = 64  # when there was nobody
_ACCEPTS = 64  # new connections, before it is looked who else is there
_READ_BYTES = 1 << 22  # at once: TLS would go on as long as there is more

logger = logging.getLogger(__name__)


class HasFileno(Protocol):
    def fileno(self) -> int: ...


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
        self._listener = Listener(address)
        self.address = self._listener.address
        """Where it listens, with the real port."""
        self._files = SpillFiles() if files is None else files
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._files, selectors.EVENT_READ)
        self._listener.resume(self._selector)

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
        due = [t for t in (self._core.deadline(), self._listener.again_at, sweep_at) if t is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _tick(self) -> None:
        now = time.monotonic()
        self._perform(self._core.tick(now))
        if self._listener.again_at is not None and now >= self._listener.again_at:
            self._listener.resume(self._selector)
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
        for _ in range(_ACCEPTS):
            accepted = self._listener.accept(self._selector)
            if accepted is None:
                return
            sock, peer = accepted
            if len(self._connections) >= self._most_connections:
                sock.close()
                text = f"a connection is refused: there are {self._most_connections} (--max-connections)"
                self._peer_log.note(logging.WARNING, peer[0].encode(), text)
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._enter(sock, peer)

    def _enter(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        """Somebody has connected."""
        self._connected(sock, peer, sendfile_to(sock))

    def _connected(self, sock: Stream, peer: tuple[str, int], send_from: SendFrom) -> Connection | None:
        """None: there is no memory for it, and it is closed."""
        try:
            side = storage.ServerSide(self._magic)
        except OSError as error:
            sock.close()
            self._peer_log.note(logging.ERROR, peer[0].encode(), f"a connection is refused: {error.strerror}")
            return None
        outgoing = Outgoing(sock, self._files, send_from)
        connection = Connection(next(self._numbers), sock, peer, side, outgoing)
        self._connections[connection.number] = connection
        connection.register(self._selector, True)
        outgoing.put([self._greeting])
        self._dirty[connection] = None
        logger.debug("connection %d from %s:%d", connection.number, connection.host, connection.port)
        self._perform(self._core.connected(connection.number, time.monotonic()))
        return connection

    def _read(self, connection: Connection) -> None:
        """One read, so that no connection keeps the others waiting; what is left makes it ready again."""
        if connection.number in self._arrivals.waiting:
            return  # since this pass
        try:
            received = connection.socket.recv_into(connection.side.buffer()[:_READ_BYTES])
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
            if connection.outgoing.size:
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
        connection.close(self._selector)
        text = f"connection from {connection.host}:{connection.port} closed: {reason}"
        if level > logging.DEBUG:
            self._peer_log.note(level, connection.log_key, text)
        else:
            logger.debug("%s", text)

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
                connection = self._connections[instruction.connection]
                connection.outgoing.put(storage.response(*instruction.response))
                self._dirty[connection] = None
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

    def _queue_file(self, connection: Connection, what: RespondFrom) -> None:
        connection.outgoing.put([storage.get_ok_head(what.response_id, what.object_id, what.payload.length)])
        connection.outgoing.put_file(what.payload)
        self._dirty[connection] = None

    def _flush(self, connection: Connection) -> None:
        """Sends what can be sent, and waits for what can be done next."""
        try:
            connection.outgoing.send()
        except OSError as error:
            self._lost(connection, logging.DEBUG, error.strerror or str(error))
        except FileLost as error:
            self._lost(connection, logging.ERROR, str(error))
        else:
            connection.register(self._selector, connection.number not in self._arrivals.waiting)
