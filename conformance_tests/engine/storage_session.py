"""An object storage over TCP: each actor is a connection of its own (SPEC section 7.3)."""

from __future__ import annotations

import itertools
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from conformance_tests.engine.channels import (
    MALFORMED,
    Channel,
    ChannelClosed,
    Fence,
    Incoming,
    Session,
    SetupFailed,
)
from conformance_tests.engine.processes import Process, ProcessChannel
from conformance_tests.engine.scenario import Actor
from protocol import storage
from protocol.errors import MalformedMessage, ProtocolError
from protocol.fields import BadFields, Fields
from protocol.identifiers import Identity, ObjectId
from protocol.storage import Buffer, Response, ResponseType

_RESPONSES = {
    ResponseType.SET_OK: "setOK",
    ResponseType.GET_OK: "getOK",
    ResponseType.DEL_OK: "delOK",
    ResponseType.DEL_NOT_EXISTS: "delNotExists",
    ResponseType.DUPLICATE_OK: "duplicateOK",
    ResponseType.INFO_GET_TOTAL_OK: "infoGetTotalOK",
}
_CONNECT_SECONDS = 5.0
_PIECE = 1 << 15
_numbers = itertools.count(1)


def encode_request(kind: str, fields: Fields) -> bytes:
    """The bytes of a request; raises BadFields."""
    number = fields.get("requestId", 0)
    object_id = ObjectId(fields.get("objectId", bytes(32)))
    if len(object_id) != 32:
        raise BadFields(f"{kind}.objectId has 32 bytes, not {len(object_id)}")
    parts: list[Buffer]
    if kind == "setObject":
        payload = fields.get("payload", b"")
        parts = storage.set_request(number, object_id, payload.encode() if isinstance(payload, str) else payload)
    elif kind == "getObject":
        parts = storage.get_request(number, object_id, fields.get("length", storage.WHOLE))
    elif kind == "deleteObject":
        parts = storage.delete_request(number, object_id)
    elif kind == "duplicateObjectID":
        parts = storage.duplicate_request(number, object_id, ObjectId(fields.get("sourceId", bytes(32))))
    elif kind == "infoGetTotal":
        parts = storage.total_request(number)
    else:
        raise BadFields(f"there is no request {kind!r} to an object storage")
    return b"".join(bytes(part) for part in parts)


def response_fields(response: Response) -> Incoming:
    """A response as plain fields."""
    fields: Fields = {"responseId": response.response_id, "objectId": bytes(response.object_id)}
    if response.type is ResponseType.GET_OK:
        fields["payload"] = bytes(response.payload)
    if response.type is ResponseType.INFO_GET_TOTAL_OK:
        try:
            total = storage.Total.from_bytes(response.payload)
        except MalformedMessage as error:
            return Incoming(MALFORMED, {"reason": str(error), "frames": [bytes(response.payload)]})
        fields |= {
            "objectCount": total.object_count,
            "uniqueCount": total.unique_count,
            "totalBytes": total.total_bytes,
            "pendingRequests": total.pending_requests,
            "pendingObjects": total.pending_objects,
            "oldestPendingSeconds": total.oldest_pending_seconds,
        }
    return Incoming(_RESPONSES[response.type], fields)


class StorageSession(Session):
    """One run against an object storage that listens at ``address``."""

    via = "sockets"

    def __init__(self, address: str, magic: bytes, patience: float, process: Process | None = None) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._address = host, int(port)
        self._magic = magic
        self.patience = patience
        self._process = process
        self._channels: list[Channel] = []

    def open(self, actor: Actor, identity: Identity) -> Channel:
        if actor.role == "process":
            return ProcessChannel.of(self._process)
        magic = actor.options.get("magic")
        channel = _Connection(self._address, identity, self._magic if magic is None else bytes.fromhex(magic))
        self._channels.append(channel)
        return channel

    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.exit_code()

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


class _Connection(Channel):
    def __init__(self, address: tuple[str, int], identity: Identity, magic: bytes) -> None:
        self.identity = identity
        self._magic = magic
        try:
            self._socket = socket.create_connection(address, _CONNECT_SECONDS)
        except OSError as error:
            raise SetupFailed(f"nothing listens at {address[0]}:{address[1]}: {error}") from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._side = storage.ClientSide(magic)
        self._came: deque[Incoming] = deque()
        self._greets = True
        self._greeted = False
        self._broken = ""

    def register(self) -> None:
        """Says who it is."""
        self._greets = False
        self._write(storage.greeting(self.identity, self._magic))

    def encode(self, kind: str, fields: Fields) -> list[bytes]:
        if kind == "greeting":
            identity = fields.get("identity", self.identity)
            return [storage.greeting(identity.encode() if isinstance(identity, str) else identity, self._magic)]
        return [encode_request(kind, {"requestId": next(_numbers), **fields})]

    def send(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            self._write(frame)

    def _write(self, data: bytes) -> None:
        """All of it, reading meanwhile, so that neither side waits for the other."""
        view = memoryview(data)
        while len(view):
            readable, writable, _ = select.select([self._socket], [self._socket], [], _CONNECT_SECONDS)
            if not readable and not writable:
                raise ChannelClosed("it does not read")
            if readable:
                self._read()
            if self._broken:
                return  # whoever expects something will be told
            if writable:
                try:
                    view = view[self._socket.send(view[:_PIECE]) :]
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._broken = f"({error.strerror})"
                    return

    def receive(self, seconds: float) -> Incoming | None:
        deadline = time.monotonic() + seconds
        while not self._came:
            if self._broken:
                raise ChannelClosed(self._broken)
            left = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self._socket], [], [], left)
            if not readable:
                return None
            self._read()
        return self._came.popleft()

    def _read(self) -> None:
        try:
            count = self._socket.recv_into(self._side.buffer())
        except BlockingIOError:
            return
        except OSError as error:
            self._broken = f"({error.strerror})"
            return
        if not count:
            self._broken = "by the object storage"
            return
        try:
            responses = [response_fields(r) for r in self._side.received(count)]
        except ProtocolError as error:
            self._came.append(Incoming(MALFORMED, {"reason": str(error), "frames": []}))
            self._broken = "by the engine, which does not understand it"
            return
        if not self._greeted and self._side.peer is not None:
            self._greeted = True
            if self._greets:
                self._came.append(Incoming("greeting", {"magic": self._magic, "identity": self._side.peer}))
        self._came += responses

    def fence(self, registered: bool) -> Fence | None:
        number = next(_numbers)
        return Fence("infoGetTotal", {"requestId": number}, "infoGetTotalOK", {"responseId": number})

    def close(self) -> None:
        with suppress(OSError):
            self._socket.close()
