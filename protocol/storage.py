"""The object storage protocol's framing, without sockets (SPEC section 7.3).

Both sides open with ``MAGIC`` and their identity, unprompted; then everything is a length-prefixed message: a
64-bit little-endian length and that many bytes. A request is an 80-byte header message, followed by a payload
message for ``setObject`` and ``duplicateObjectID``; a response is an 80-byte header message, followed by a payload
message if its ``payloadLength`` is above 0.

``ClientSide`` and ``ServerSide`` are one connection's state each. Bytes go in through ``buffer`` and ``received``
(made for ``socket.recv_into``: a large payload is received into its own memory, without a copy); what comes out are
``Response`` and ``Request`` values. The functions that build bytes return lists of buffers for ``socket.sendmsg``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple, Union

from protocol.errors import MalformedMessage, VersionMismatch
from protocol.identifiers import OBJECT_ID_BYTES, Identity, ObjectId

MAGIC = b"YMQ\x02"
SERVER_IDENTITY = b"ObjectStorageServer"
WHOLE = 2**64 - 1
"""As the wanted length of ``getObject``: all of the object."""

MAX_MESSAGE_BYTES = 1 << 36
MAX_IDENTITY_BYTES = 1024

Buffer = Union[bytes, bytearray, memoryview]

_HEADER = struct.Struct("<16sQQH6s8s4Q")
_HEADER_BYTES = 80
# Segment table (1 segment, 9 words); root: a struct of 3 words and 1 pointer.
_HEADER_START = struct.pack("<IIIHH", 0, 9, 0, 3, 1)
_HEADER_ID_POINTER = struct.pack("<IHH", 0, 4, 0)
_DUPLICATE = struct.Struct("<16s4Q")
_DUPLICATE_START = struct.pack("<IIIHH", 0, 5, 0, 4, 0)
_ID = struct.Struct(">4Q")
_LENGTH = struct.Struct("<Q")
_HEADER_LENGTH = _LENGTH.pack(_HEADER_BYTES)
_TOTAL = struct.Struct("<6Q")
_RECEIVE_BYTES = 1 << 18


class RequestType(IntEnum):
    SET_OBJECT = 0
    GET_OBJECT = 1
    DELETE_OBJECT = 2
    DUPLICATE_OBJECT_ID = 3
    INFO_GET_TOTAL = 4


class ResponseType(IntEnum):
    SET_OK = 0
    GET_OK = 1
    DEL_OK = 2
    DEL_NOT_EXISTS = 3
    DUPLICATE_OK = 4
    INFO_GET_TOTAL_OK = 5


_REQUEST_TYPES = tuple(RequestType)
_RESPONSE_TYPES = tuple(ResponseType)
NO_OBJECT = ObjectId(bytes(OBJECT_ID_BYTES))


class Request(NamedTuple):
    """One request. ``type`` is a plain int where it is unknown (to be ignored). ``payload`` is the content of a
    setObject, the source's 32-byte id of a duplicateObjectID, else empty; ``length`` is payloadLength."""

    request_id: int
    type: int
    object_id: ObjectId
    length: int
    payload: Buffer


class Response(NamedTuple):
    """One response; ``payload`` is empty where there is none."""

    response_id: int
    type: ResponseType
    object_id: ObjectId
    payload: Buffer


class Total(NamedTuple):
    """The payload of infoGetTotalOK."""

    object_count: int
    unique_count: int
    total_bytes: int
    pending_requests: int
    pending_objects: int
    oldest_pending_seconds: int

    def to_bytes(self) -> bytes:
        return _TOTAL.pack(*self)

    @classmethod
    def from_bytes(cls, raw: Buffer) -> Total:
        """Raises MalformedMessage."""
        if len(raw) != _TOTAL.size:
            raise MalformedMessage(f"infoGetTotalOK has {_TOTAL.size} bytes, not {len(raw)}")
        return cls(*_TOTAL.unpack(raw))


def greeting(identity: Identity, magic: bytes = MAGIC) -> bytes:
    """What a side sends first, at once."""
    return magic + _LENGTH.pack(len(identity)) + identity


def _header(number: int, kind: int, object_id: ObjectId, length: int) -> bytes:
    return _HEADER_LENGTH + _HEADER.pack(
        _HEADER_START, length, number, kind, b"", _HEADER_ID_POINTER, *_ID.unpack(object_id)
    )


def set_request(request_id: int, object_id: ObjectId, payload: Buffer) -> list[Buffer]:
    """The bytes of a setObject."""
    header = _header(request_id, RequestType.SET_OBJECT, object_id, len(payload))
    return [header + _LENGTH.pack(len(payload)), payload]


def get_request(request_id: int, object_id: ObjectId, length: int = WHOLE) -> list[Buffer]:
    """The bytes of a getObject of at most ``length`` bytes."""
    return [_header(request_id, RequestType.GET_OBJECT, object_id, length)]


def delete_request(request_id: int, object_id: ObjectId) -> list[Buffer]:
    """The bytes of a deleteObject."""
    return [_header(request_id, RequestType.DELETE_OBJECT, object_id, 0)]


def duplicate_request(request_id: int, object_id: ObjectId, source: ObjectId) -> list[Buffer]:
    """The bytes of a duplicateObjectID: ``object_id`` becomes another name for what ``source`` is."""
    payload = _DUPLICATE.pack(_DUPLICATE_START, *_ID.unpack(source))
    header = _header(request_id, RequestType.DUPLICATE_OBJECT_ID, object_id, len(payload))
    return [header + _LENGTH.pack(len(payload)) + payload]


def total_request(request_id: int) -> list[Buffer]:
    """The bytes of an infoGetTotal."""
    return [_header(request_id, RequestType.INFO_GET_TOTAL, NO_OBJECT, 0)]


def response(response_id: int, kind: ResponseType, object_id: ObjectId, payload: Buffer = b"") -> list[Buffer]:
    """The bytes of a response."""
    header = _header(response_id, kind, object_id, len(payload))
    return [header + _LENGTH.pack(len(payload)), payload] if payload else [header]


class _Side:
    """Receiving half of one connection: bytes to length-prefixed messages."""

    def __init__(self, magic: bytes, max_message_bytes: int) -> None:
        self._magic = magic
        self._max = max_message_bytes
        self._small = bytearray(_RECEIVE_BYTES)
        self._start = 0  # of what is not yet consumed in _small
        self._end = 0
        self._large: bytearray | None = None  # a message too long for _small, being received into its own memory
        self._large_end = 0
        self._greeted = False
        self.peer: Identity | None = None
        """The identity that the other side gave, once it has."""

    def buffer(self) -> memoryview:
        """Where the next received bytes go: ``n = socket.recv_into(side.buffer())``, then ``received(n)``."""
        if self._large is not None:
            return memoryview(self._large)[self._large_end :]
        if self._start:
            self._small[: self._end - self._start] = self._small[self._start : self._end]
            self._end -= self._start
            self._start = 0
        return memoryview(self._small)[self._end :]

    def feed(self, data: bytes) -> None:
        """Puts bytes in by copying them, for callers that hold them already. Collect with ``received(0)`` after
        each piece of at most 64 KiB."""
        view = self.buffer()
        view[: len(data)] = data
        self._advance(len(data))

    def _advance(self, count: int) -> None:
        if self._large is not None:
            self._large_end += count
        else:
            self._end += count

    def _messages(self, count: int) -> Iterator[Buffer]:
        self._advance(count)
        if self._large is not None:
            if self._large_end < len(self._large):
                return
            whole, self._large = self._large, None
            yield whole
        if not self._greeted:
            if self._end - self._start < len(self._magic):
                return
            magic = bytes(self._small[self._start : self._start + len(self._magic)])
            if magic != self._magic:
                raise VersionMismatch(
                    f"the other side opens with {magic!r}, this one speaks {self._magic!r}: "
                    "another version of the object storage protocol, or not that protocol at all"
                )
            self._start += len(magic)
            self._greeted = True
        while self._end - self._start >= 8:
            (length,) = _LENGTH.unpack_from(self._small, self._start)
            limit = MAX_IDENTITY_BYTES if self.peer is None else self._max
            if length > limit:
                raise MalformedMessage(f"a message of {length} bytes, the limit is {limit}")
            begin = self._start + 8
            if length > _RECEIVE_BYTES - 8:
                self._large = bytearray(length)
                self._large_end = self._end - begin
                self._large[: self._large_end] = self._small[begin : self._end]
                self._start = self._end = 0
                return
            if self._end - begin < length:
                return
            self._start = begin + length
            message = bytes(self._small[begin : self._start])
            if self.peer is None:
                self.peer = message
            else:
                yield message

    @staticmethod
    def _parse(message: Buffer) -> tuple[int, int, int, ObjectId]:
        """A header message: (length, request or response id, type, object id)."""
        if len(message) != _HEADER_BYTES:
            raise MalformedMessage(f"a header has {_HEADER_BYTES} bytes, not {len(message)}")
        start, length, number, kind, _, pointer, *fields = _HEADER.unpack(message)
        if start != _HEADER_START or pointer != _HEADER_ID_POINTER:
            raise MalformedMessage("a header that is not laid out as one segment of nine words")
        return length, number, kind, ObjectId(_ID.pack(*fields))


class ClientSide(_Side):
    """The requester's half: collects responses."""

    def __init__(self, magic: bytes = MAGIC, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        super().__init__(magic, max_message_bytes)
        self._header: tuple[int, int, int, ObjectId] | None = None

    def received(self, count: int) -> Iterator[Response]:
        """The responses that ``count`` more bytes in ``buffer()`` complete; raises MalformedMessage,
        VersionMismatch: the connection is unusable then."""
        for message in self._messages(count):
            if self._header is None:
                header = self._parse(message)
                if header[2] >= len(_RESPONSE_TYPES):
                    raise MalformedMessage(f"unknown response type {header[2]}")
                if header[0]:
                    self._header = header
                    continue
                payload: Buffer = b""
            else:
                header, self._header, payload = self._header, None, message
            _, number, kind, object_id = header
            yield Response(number, _RESPONSE_TYPES[kind], object_id, payload)


class ServerSide(_Side):
    """The storage's half: collects requests."""

    def __init__(self, magic: bytes = MAGIC, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        super().__init__(magic, max_message_bytes)
        self._header: tuple[int, int, int, ObjectId] | None = None

    def received(self, count: int) -> Iterator[Request]:
        """The requests that ``count`` more bytes in ``buffer()`` complete; raises MalformedMessage,
        VersionMismatch: close the connection then."""
        for message in self._messages(count):
            if self._header is None:
                header = self._parse(message)
                if header[2] in (RequestType.SET_OBJECT, RequestType.DUPLICATE_OBJECT_ID):
                    self._header = header
                    continue
                payload: Buffer = b""
            else:
                header, self._header, payload = self._header, None, message
                if len(payload) != header[0]:
                    raise MalformedMessage(f"a payload of {len(payload)} bytes, announced were {header[0]}")
                if header[2] == RequestType.DUPLICATE_OBJECT_ID:
                    payload = self._source(payload)
            length, number, kind, object_id = header
            yield Request(
                number, _REQUEST_TYPES[kind] if kind < len(_REQUEST_TYPES) else kind, object_id, length, payload
            )

    @staticmethod
    def _source(payload: Buffer) -> ObjectId:
        if len(payload) != _DUPLICATE.size:
            raise MalformedMessage(f"the source of a duplicate has {_DUPLICATE.size} bytes, not {len(payload)}")
        start, *fields = _DUPLICATE.unpack(payload)
        if start != _DUPLICATE_START:
            raise MalformedMessage("the source of a duplicate is not an ObjectID")
        return ObjectId(_ID.pack(*fields))
