"""The object storage's side of a proxy: TCP connections passed on byte by byte, and read on their way.

Peers learn where the object storage is from the scheduler's echoes; ``redirect`` puts an address of this proxy there,
which is the only change that a proxy ever makes to a message. Of payloads only the beginning is kept.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from protocol import codec, storage
from protocol.envelope import peek
from protocol.errors import MalformedMessage, VersionMismatch
from protocol.messages import ClientHeartbeatEcho, Kind, ObjectStorageAddress, WorkerHeartbeatEcho
from protocol.storage import ClientSide, Request, Response, ServerSide

KEPT_BYTES = 4096
"""How much of a payload is recorded."""
_ECHOES = frozenset({Kind.CLIENT_HEARTBEAT_ECHO, Kind.WORKER_HEARTBEAT_ECHO})
_ANY_HOST = ("", "0.0.0.0", "::", "*")
_RECEIVE_BYTES = 1 << 16

Tap = Callable[[bytes, bool, tuple[bytes, ...]], None]
"""Identity of the connection, whether the message is the peer's, and its frames: header, beginning of the payload."""


class StorageProxy:
    """A listener per object storage that an echo names. ``host``: where to listen; ``scheduler_host``: what an echo
    without a host means."""

    def __init__(self, host: str, scheduler_host: str, tap: Tap) -> None:
        self._host = host
        self._scheduler_host = scheduler_host
        self._tap = tap
        self._echoes: dict[bytes, bytes] = {}
        self._ports: dict[tuple[str, int], int] = {}
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False

    def redirect(self, frames: list[bytes]) -> list[bytes]:
        """The frames as the peer shall get them: an echo names this proxy, all else stays."""
        if len(frames) != 1:
            return frames
        known = self._echoes.get(frames[0])
        if known is not None:
            return [known]
        try:
            if peek(frames[0])[0] not in _ECHOES:
                return frames
            echo = codec.decode(frames[0])
        except MalformedMessage:
            return frames
        assert isinstance(echo, (ClientHeartbeatEcho, WorkerHeartbeatEcho))
        there = echo.object_storage_address
        host = self._scheduler_host if there.host in _ANY_HOST else there.host
        here = ObjectStorageAddress(self._host, self._listen(host, there.port), there.scheme)
        made = codec.encode(replace(echo, object_storage_address=here))
        self._echoes[frames[0]] = made
        return [made]

    def close(self) -> None:
        with self._lock:
            self._closed = True
            left = list(self._sockets)
        for one in left:
            _end(one)

    def _listen(self, host: str, port: int) -> int:
        if (host, port) not in self._ports:
            listener = socket.create_server((self._host, 0), family=socket.AF_INET6 if ":" in self._host else 2)
            self._ports[host, port] = listener.getsockname()[1]
            if self._keep(listener):
                threading.Thread(target=self._accept, args=(listener, host, port), daemon=True).start()
        return self._ports[host, port]

    def _keep(self, one: socket.socket) -> bool:
        with self._lock:
            if not self._closed:
                self._sockets.add(one)
                return True
        _end(one)
        return False

    def _accept(self, listener: socket.socket, host: str, port: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                try:
                    there = socket.create_connection((host, port))
                except OSError:
                    _end(peer)  # as it would be without this proxy: no connection
                    continue
                if self._keep(peer) and self._keep(there):
                    connection = _Connection(peer, there, self._tap)
                    for work in (connection.requests, connection.responses):
                        threading.Thread(target=self._pass_on, args=(work, peer, there), daemon=True).start()
        _end(listener)

    def _pass_on(self, work: Callable[[], None], *ends: socket.socket) -> None:
        with contextlib.suppress(OSError):
            work()
        for one in ends:
            _end(one)
            with self._lock:
                self._sockets.discard(one)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


class _Connection:
    """One peer's connection and the one to the storage that belongs to it."""

    def __init__(self, peer: socket.socket, there: socket.socket, tap: Tap) -> None:
        self._peer, self._there, self._tap = peer, there, tap
        self._identity = b""

    def requests(self) -> None:
        self._copy(self._peer, self._there, ServerSide, True)

    def responses(self) -> None:
        self._copy(self._there, self._peer, ClientSide, False)

    def _copy(
        self,
        source: socket.socket,
        target: socket.socket,
        side: partial[ServerSide] | type[ServerSide] | type[ClientSide],
        from_peer: bool,
    ) -> None:
        reader: ServerSide | ClientSide | None = None
        magic = b""
        readable = True
        while data := source.recv(_RECEIVE_BYTES):
            target.sendall(data)
            if not readable:
                continue
            if reader is None:  # whatever magic it opens with, as long as it is one that is known
                magic += data
                if len(magic) < len(storage.MAGIC):
                    continue
                data, known = magic, magic[: len(storage.MAGIC)]
                reader = side(known if known in storage.MAGIC_VERSIONS else storage.MAGIC)
            try:
                for start in range(0, len(data), _RECEIVE_BYTES):
                    reader.feed(data[start : start + _RECEIVE_BYTES])
                    for message in reader.received(0):
                        if from_peer:
                            self._identity = reader.peer or b""
                        self._tap(self._identity, from_peer, _frames(message))
            except (MalformedMessage, VersionMismatch):
                readable = False
                self._tap(self._identity, from_peer, (bytes(data[:KEPT_BYTES]),))


def _frames(message: Request | Response) -> tuple[bytes, ...]:
    kept = bytes(memoryview(message.payload)[:KEPT_BYTES])
    if isinstance(message, Request):
        header = storage.header(message.length, message.request_id, message.type, message.object_id)
    else:
        header = storage.header(len(message.payload), message.response_id, message.type, message.object_id)
    return (header, kept) if kept else (header,)
