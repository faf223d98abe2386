"""An object storage of the engine's own, for the implementations that need one: it stores, waits, and remembers.

One thread, one selector. Whoever plays a scheduler's storage reads the recorded requests; worker and client runs put
objects in and take them out.
"""

from __future__ import annotations

import queue
import selectors
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from conformance_tests.engine import payloads
from conformance_tests.engine.channels import Channel, Incoming, SetupFailed
from protocol import storage
from protocol.errors import ProtocolError
from protocol.fields import BadFields, Fields
from protocol.identifiers import ObjectId
from protocol.storage import Request, RequestType, ResponseType

_NAMES = {
    RequestType.SET_OBJECT: "setObject",
    RequestType.GET_OBJECT: "getObject",
    RequestType.DELETE_OBJECT: "deleteObject",
    RequestType.DUPLICATE_OBJECT_ID: "duplicateObjectID",
    RequestType.INFO_GET_TOTAL: "infoGetTotal",
}


class _Connection:
    def __init__(self, sock: socket.socket, magic: bytes) -> None:
        self.socket = sock
        self.side = storage.ServerSide(magic)


class StorageStub:
    """Listens at ``address``. ``records`` grows by (request name, object id) for every request but infoGetTotal, and by
    ("connected", identity) when a connection has said who it is."""

    def __init__(self, magic: bytes = storage.MAGIC) -> None:
        self._magic = magic
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.changed = threading.Condition()
        self.records: list[tuple[str, bytes]] = []
        self.objects: dict[bytes, bytes] = {}
        self._waiting: dict[bytes, list[tuple[_Connection, Request]]] = defaultdict(list)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._wake, self._wakened = socket.socketpair()
        self._wakened.setblocking(False)
        self._selector.register(self._wakened, selectors.EVENT_READ, None)
        self._closing = False
        self._connections: set[_Connection] = set()
        self._held: list[tuple[_Connection, list[storage.Buffer]]] | None = None  # answers, while they are held back
        self._refused_above: int | None = None  # bytes of a setObject that is refused
        self._commands: queue.Queue[tuple[Callable[[], None], threading.Event]] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="storage-stub", daemon=True)
        self._thread.start()

    def put(self, object_id: bytes, content: bytes) -> None:
        """Stores an object, and answers whoever waits for it."""
        with self.changed:
            self._store(object_id, content)

    def drop(self, object_id: bytes) -> None:
        """Deletes an object."""
        with self.changed:
            self.objects.pop(object_id, None)

    def delete(self, object_id: bytes) -> None:
        """The same, as if a peer had asked for it."""
        with self.changed:
            self.objects.pop(object_id, None)
            self.records.append(("deleteObject", object_id))
            self.changed.notify_all()

    def hold(self) -> None:
        """From now on nobody is answered."""
        with self.changed:
            self._held = self._held or []

    def resume(self) -> None:
        """Sends the answers that were held back, and goes on answering."""
        with self.changed:
            held, self._held = self._held or [], None
            for connection, parts in held:
                _write(connection, parts)

    def hang_up(self) -> None:
        """Closes every connection; what waited is forgotten, new connections are welcome."""
        self._command(self._hang_up)

    def stop_listening(self) -> None:
        """Refuses new connections."""
        self._command(self._stop_listening)

    def listen_again(self) -> None:
        """Welcomes new connections, at the same port."""
        self._command(self._listen_again)

    def refuse(self, above: int) -> None:
        """From now on a setObject of more than ``above`` bytes is refused, as if there were no room (STO-22)."""
        with self.changed:
            self._refused_above = above

    def accept(self) -> None:
        """There is room again."""
        with self.changed:
            self._refused_above = None

    def restore(self) -> None:
        """As it was in the beginning, objects apart."""
        self.accept()
        self.resume()
        self.listen_again()

    def _command(self, command: Callable[[], None]) -> None:
        done = threading.Event()
        self._commands.put((command, done))
        self._wake.send(b".")
        done.wait()

    def _hang_up(self) -> None:
        with self.changed:
            self._waiting.clear()
            for connection in self._connections:
                self._selector.unregister(connection.socket)
                connection.socket.close()
            self._connections.clear()
            self._held = None if self._held is None else []

    def _stop_listening(self) -> None:
        if self._listener.fileno() >= 0:
            self._selector.unregister(self._listener)
            self._listener.close()

    def _listen_again(self) -> None:
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listener.setblocking(False)
            self._selector.register(self._listener, selectors.EVENT_READ, None)

    def close(self) -> None:
        """Ends the thread and closes every connection."""
        self._closing = True
        self._wake.send(b".")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            self._selector.unregister(key.fileobj)
            if isinstance(key.data, _Connection):
                key.data.socket.close()
        self._selector.close()
        for one in (self._listener, self._wake, self._wakened):
            one.close()

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._wakened:
                    self._obey()
                elif isinstance(key.data, _Connection) and key.data in self._connections:
                    self._read(key.data)

    def _obey(self) -> None:
        self._wakened.recv(4096)
        with suppress(queue.Empty):
            while True:
                command, done = self._commands.get_nowait()
                command()
                done.set()

    def _accept(self) -> None:
        with suppress(OSError):
            sock, _ = self._listener.accept()
            sock.setblocking(True)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(storage.greeting(storage.SERVER_IDENTITY, self._magic))
            connection = _Connection(sock, self._magic)
            self._connections.add(connection)
            self._selector.register(sock, selectors.EVENT_READ, connection)

    def _read(self, connection: _Connection) -> None:
        try:
            count = connection.socket.recv_into(connection.side.buffer())
            if not count:
                raise ConnectionError
            met = connection.side.peer is not None
            for request in connection.side.received(count):
                with self.changed:
                    if not met:
                        met = self._meet(connection)
                    self._handle(connection, request)
                    self.changed.notify_all()
            if not met and connection.side.peer is not None:
                with self.changed:
                    self._meet(connection)
                    self.changed.notify_all()
        except (OSError, ProtocolError):
            self._connections.discard(connection)
            self._selector.unregister(connection.socket)
            connection.socket.close()

    def _meet(self, connection: _Connection) -> bool:
        self.records.append(("connected", connection.side.peer or b""))
        for other in list(self._connections):
            if other is not connection and other.side.peer == connection.side.peer:  # STO-04
                self._connections.discard(other)
                self._selector.unregister(other.socket)
                other.socket.close()
        return True

    def _handle(self, connection: _Connection, request: Request) -> None:
        name = _NAMES.get(RequestType(request.type)) if request.type in _NAMES else None
        if name is None:
            return
        object_id = bytes(request.object_id)
        if request.type != RequestType.INFO_GET_TOTAL:
            self.records.append((name, object_id))
        limit = self._refused_above
        if request.type == RequestType.SET_OBJECT and limit is not None and len(request.payload) > limit:
            self._answer(connection, request, ResponseType.DEL_NOT_EXISTS)
        elif request.type == RequestType.SET_OBJECT:
            self._store(object_id, bytes(request.payload))
            self._answer(connection, request, ResponseType.SET_OK)
        elif request.type == RequestType.DELETE_OBJECT:
            there = self.objects.pop(object_id, None) is not None
            self._answer(connection, request, ResponseType.DEL_OK if there else ResponseType.DEL_NOT_EXISTS)
        elif request.type == RequestType.INFO_GET_TOTAL:
            total = storage.Total(len(self.objects), len(self.objects), sum(map(len, self.objects.values())), 0, 0, 0)
            self._answer(connection, request, ResponseType.INFO_GET_TOTAL_OK, total.to_bytes())
        else:
            source = bytes(request.payload) if request.type == RequestType.DUPLICATE_OBJECT_ID else object_id
            if source in self.objects:
                self._serve(connection, request)
            else:
                self._waiting[source].append((connection, request))

    def _serve(self, connection: _Connection, request: Request) -> None:
        if request.type == RequestType.GET_OBJECT:
            content = self.objects[bytes(request.object_id)]
            self._answer(connection, request, ResponseType.GET_OK, content[: request.length])
        else:
            self._store(bytes(request.object_id), self.objects[bytes(request.payload)])
            self._answer(connection, request, ResponseType.DUPLICATE_OK)

    def _store(self, object_id: bytes, content: bytes) -> None:
        self.objects[object_id] = content
        for connection, request in self._waiting.pop(object_id, ()):
            self._serve(connection, request)

    def _answer(self, connection: _Connection, request: Request, kind: ResponseType, payload: bytes = b"") -> None:
        parts = storage.response(request.request_id, kind, ObjectId(bytes(request.object_id)), payload)
        if self._held is not None:
            self._held.append((connection, parts))
        else:
            _write(connection, parts)


def _write(connection: _Connection, parts: list[storage.Buffer]) -> None:
    with suppress(OSError):  # the requester is gone
        for part in parts:
            connection.socket.sendall(part)


_CONTROLS: dict[str, Callable[[StorageStub], None]] = {
    "hold": StorageStub.hold,
    "resume": StorageStub.resume,
    "hangUp": StorageStub.hang_up,
    "stop": StorageStub.stop_listening,
    "start": StorageStub.listen_again,
    "accept": StorageStub.accept,
}


class StorageChannel(Channel):
    """An actor that watches what is asked of the engine's storage, from now on."""

    lenient = True

    def __init__(self, stub: StorageStub, gate_port: int = 0) -> None:
        self._stub = stub
        self._gate_port = gate_port
        self._next = len(stub.records)
        self._reads: deque[tuple[bytes, bytes]] = deque()  # object id, prefix

    def send_message(self, kind: str, fields: Fields) -> None:
        """``put`` stores an object, ``drop`` deletes one, ``read`` makes a ``content`` come as soon as the object is
        there: a peer may name it in a message that overtakes it."""
        object_id = fields.get("objectId", b"")
        prefix = fields.get("prefix", b"")
        prefix = prefix.encode() if isinstance(prefix, str) else prefix
        if kind == "put":
            self._stub.put(object_id, prefix + payloads.content(fields, self._gate_port))
        elif kind == "drop":
            self._stub.drop(object_id)
        elif kind == "refuse":
            self._stub.refuse(fields.get("above", 0))
        elif kind in _CONTROLS:
            _CONTROLS[kind](self._stub)
        elif kind == "read":
            self._reads.append((object_id, prefix))
        else:
            raise BadFields(f"the storage can't send {kind}; it can put, drop, read, refuse, {', '.join(_CONTROLS)}")

    def send(self, frames: Sequence[bytes]) -> None:
        raise SetupFailed("this storage only answers")

    def receive(self, seconds: float) -> Incoming | None:
        deadline = time.monotonic() + seconds
        with self._stub.changed:
            while True:
                if self._reads and self._reads[0][0] in self._stub.objects:
                    return self._content()
                if self._next < len(self._stub.records):
                    break
                left = deadline - time.monotonic()
                if left <= 0 or not self._stub.changed.wait(left):
                    return self._content() if self._reads else None
            name, object_id = self._stub.records[self._next]
            self._next += 1
            return Incoming(name, {"identity" if name == "connected" else "objectId": object_id})

    def _content(self) -> Incoming:
        object_id, prefix = self._reads.popleft()
        content = self._stub.objects.get(object_id)
        if content is None:
            found: Fields = {"missing": True}
        elif not content.startswith(prefix):
            found = {"unreadable": f"it does not begin with {prefix!r}", "size": len(content)}
        else:
            found = payloads.read(content[len(prefix) :])
        return Incoming("content", {"objectId": object_id, **found})

    def close(self) -> None:
        pass
