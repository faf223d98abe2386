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

import mmap
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from typing import Generic, NamedTuple, TypeVar, Union

from protocol.errors import MalformedMessage, VersionMismatch
from protocol.identifiers import OBJECT_ID_BYTES, Identity, ObjectId

MAGIC = b"YMQ\x02"
MAGIC_VERSIONS = {b"YMQ\x02": "opengris-scaler 2.7.0 to 2.9.0", b"YMQ\x01": "opengris-scaler 2.0 to 2.6"}
"""Who opens with which magic."""
SERVER_IDENTITY = b"ObjectStorageServer"
WHOLE = 2**64 - 1
"""As the wanted length of ``getObject``: all of the object."""

MAX_MESSAGE_BYTES = 1 << 36
MAX_IDENTITY_BYTES = 1024
MAX_MAGIC_BYTES = 64

Buffer = Union[bytes, bytearray, memoryview]

_HEADER_BYTES = 80
_FRAMED_BYTES = 8 + _HEADER_BYTES
# A header message with its length prefix: prefix, segment table, root pointer, payloadLength, request or response id,
# type, padding, pointer to the object id, and its four numbers.
_FRAMED = struct.Struct("<QQQQQH6xQ4Q")
_FRAMED_AND_LENGTH = struct.Struct("<QQQQQH6xQ4QQ")  # and the length prefix of the payload message that follows
# One segment of 9 words; its root is a struct of 3 words and 1 pointer; the pointer leads to a struct of 4 words.
_TABLE, _ROOT = struct.unpack("<QQ", struct.pack("<IIIHH", 0, 9, 0, 3, 1))
(_ID_POINTER,) = struct.unpack("<Q", struct.pack("<IHH", 0, 4, 0))
_DUPLICATE = struct.Struct("<16s4Q")
_DUPLICATE_START = struct.pack("<IIIHH", 0, 5, 0, 4, 0)
# The same for reading, with what is always the same as bytes.
_WHOLE = struct.Struct("<24sQQH6x8s4QQ")
_WHOLE_START = struct.pack("<QQQ", _HEADER_BYTES, _TABLE, _ROOT)
_WHOLE_POINTER = struct.pack("<Q", _ID_POINTER)
_ID = struct.Struct(">4Q")
_LENGTH = struct.Struct("<Q")
_TOTAL = struct.Struct("<6Q")
_RECEIVE_BYTES = 1 << 18
_OWN_MEMORY_BYTES = 1 << 16  # an incomplete payload above this is received into its own memory
_OWN_PAGES_BYTES = 1 << 22  # and above this into its own pages, which unlike a bytearray's are not zeroed twice


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
_DUPLICATE_OBJECT_ID = RequestType.DUPLICATE_OBJECT_ID
_WITH_PAYLOAD = frozenset({RequestType.SET_OBJECT, RequestType.DUPLICATE_OBJECT_ID})
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


def describe_magic(magic: bytes) -> str:
    """What a side opens with, and which versions are known to do that."""
    version = MAGIC_VERSIONS.get(magic, "")
    if len(magic) == len(MAGIC) and not any(magic[2:]):  # the length of an identity
        version = "no magic: opengris-scaler before 2.0"
    return f"{magic!r} ({version})" if version else repr(magic)


def greeting(identity: Identity, magic: bytes = MAGIC) -> bytes:
    """What a side sends first, at once."""
    return magic + _LENGTH.pack(len(identity)) + identity


def _header(number: int, kind: int, object_id: ObjectId, length: int) -> bytes:
    return _FRAMED.pack(_HEADER_BYTES, _TABLE, _ROOT, length, number, kind, _ID_POINTER, *_ID.unpack(object_id))


def header(length: int, number: int, kind: int, object_id: ObjectId) -> bytes:
    """The 80 bytes of a header, without the length before them: for those who keep what passes."""
    return _header(number, kind, object_id, length)[8:]


def read_header(raw: bytes) -> tuple[int, int, int, ObjectId]:
    """payloadLength, request or response id, type and object id of such a header; raises MalformedMessage."""
    if len(raw) != _HEADER_BYTES:
        raise MalformedMessage(f"a header has {_HEADER_BYTES} bytes, not {len(raw)}")
    _, table, root, length, number, kind, pointer, *fields = _FRAMED.unpack(_LENGTH.pack(_HEADER_BYTES) + raw)
    if table != _TABLE or root != _ROOT or pointer != _ID_POINTER:
        raise MalformedMessage("a header that is not laid out as one segment of nine words")
    return length, number, kind, ObjectId(_ID.pack(*fields))


def _header_and_length(number: int, kind: int, object_id: ObjectId, length: int) -> bytes:
    return _FRAMED_AND_LENGTH.pack(
        _HEADER_BYTES, _TABLE, _ROOT, length, number, kind, _ID_POINTER, *_ID.unpack(object_id), length
    )


def set_request(request_id: int, object_id: ObjectId, payload: Buffer) -> list[Buffer]:
    """The bytes of a setObject."""
    return [_header_and_length(request_id, RequestType.SET_OBJECT, object_id, len(payload)), payload]


def get_request(request_id: int, object_id: ObjectId, length: int = WHOLE) -> list[Buffer]:
    """The bytes of a getObject of at most ``length`` bytes."""
    return [_header(request_id, RequestType.GET_OBJECT, object_id, length)]


def delete_request(request_id: int, object_id: ObjectId) -> list[Buffer]:
    """The bytes of a deleteObject."""
    return [_header(request_id, RequestType.DELETE_OBJECT, object_id, 0)]


def duplicate_request(request_id: int, object_id: ObjectId, source: ObjectId) -> list[Buffer]:
    """The bytes of a duplicateObjectID: ``object_id`` becomes another name for what ``source`` is."""
    payload = _DUPLICATE.pack(_DUPLICATE_START, *_ID.unpack(source))
    return [_header_and_length(request_id, RequestType.DUPLICATE_OBJECT_ID, object_id, len(payload)) + payload]


def total_request(request_id: int) -> list[Buffer]:
    """The bytes of an infoGetTotal."""
    return [_header(request_id, RequestType.INFO_GET_TOTAL, NO_OBJECT, 0)]


def response(response_id: int, kind: ResponseType, object_id: ObjectId, payload: Buffer = b"") -> list[Buffer]:
    """The bytes of a response."""
    if payload:
        return [_header_and_length(response_id, kind, object_id, len(payload)), payload]
    return [_header(response_id, kind, object_id, 0)]


def get_ok_head(response_id: int, object_id: ObjectId, length: int) -> bytes:
    """The bytes of a getOK up to its payload of ``length`` bytes (above 0), for a payload that is sent from a file."""
    return _header_and_length(response_id, ResponseType.GET_OK, object_id, length)


def _pages(length: int) -> memoryview:
    """Writable memory that counts only as far as it has been written to, where the system can do that."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return memoryview(bytearray(length))
    pages = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if length >= _OWN_PAGES_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages: only slower
            pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)


def own_memory(length: int) -> memoryview:
    """Writable memory for one payload, of which a large one takes only what is written to. Raises MalformedMessage when
    there is not that much."""
    try:
        return memoryview(bytearray(length)) if length < _OWN_PAGES_BYTES else _pages(length)
    except (MemoryError, OverflowError, OSError) as error:
        raise MalformedMessage(f"a message of {length} bytes, more than there is memory for") from error


Message = TypeVar("Message")


class _Side(ABC, Generic[Message]):
    """Receiving half of one connection: bytes to requests or responses."""

    def __init__(self, magic: bytes, max_message_bytes: int) -> None:
        self._magic = magic
        self._max = max_message_bytes
        self._small = _pages(_RECEIVE_BYTES)
        self._start = 0  # of what is not yet consumed in _small
        self._end = 0
        self._large: memoryview | None = None  # a payload that is being received into its own memory
        self._large_end = 0
        self._header: tuple[int, int, int, ObjectId] | None = None  # whose payload is awaited
        self._greeted = False
        self.peer: Identity | None = None
        """The identity that the other side gave, once it has."""

    @staticmethod
    @abstractmethod
    def _has_payload(kind: int, length: int) -> bool:
        """Whether a payload message follows a header of this type and payloadLength."""

    @staticmethod
    @abstractmethod
    def _message(length: int, number: int, kind: int, object_id: ObjectId, payload: Buffer) -> Message:
        """What a header and its payload mean; raises MalformedMessage."""

    def buffer(self) -> memoryview:
        """Where the next received bytes go: ``n = socket.recv_into(side.buffer())``, then ``received(n)``."""
        if self._large is not None:
            return self._large[self._large_end :]
        if self._start:
            left = self._end - self._start
            if left:
                self._small[:left] = self._small[self._start : self._end]
            self._start, self._end = 0, left
        return self._small[self._end :]

    @property
    def incoming(self) -> int:
        """Bytes that are there of a payload that has memory of its own, 0 if none is on its way."""
        return self._large_end if self._large is not None else 0

    def feed(self, data: Buffer) -> None:
        """Puts bytes in by copying them, for callers that hold them already. Collect with ``received(0)`` after
        each piece of at most 64 KiB."""
        if self._large is not None:
            first = min(len(data), len(self._large) - self._large_end)
            self.buffer()[:first] = data[:first]
            self._large_end += first
            data = data[first:]
            self._small[self._end : self._end + len(data)] = data  # empty, or the large one is complete
        else:
            self.buffer()[: len(data)] = data
        self._end += len(data)

    def received(self, count: int) -> Iterator[Message]:
        """The messages that ``count`` more bytes in ``buffer()`` complete; raises MalformedMessage,
        VersionMismatch: the connection is unusable then, and to be closed. Consume all of it before the next
        ``buffer()``."""
        if self._large is not None:
            self._large_end += count
            if self._large_end < len(self._large):
                return
            large, self._large = self._large, None
            yield self._finish(large)
        else:
            self._end += count
        if self.peer is None and not self._greet():
            return
        small, end = self._small, self._end
        whole, id_of, has_payload, message = _WHOLE.unpack_from, _ID.pack, self._has_payload, self._message
        while True:
            start = self._start
            if self._header is None:
                if end - start >= _WHOLE.size:  # nearly always what it should be, and here as a whole
                    begins, length, number, kind, leads, a, b, c, d, announced = whole(small, start)
                    if begins == _WHOLE_START and leads == _WHOLE_POINTER:
                        if not has_payload(kind, length):
                            self._start = start + _FRAMED_BYTES
                            yield message(length, number, kind, ObjectId(id_of(a, b, c, d)), b"")
                            continue
                        start += _WHOLE.size
                        if announced == length <= end - start and length <= self._max:
                            self._start = start + length
                            payload = small[start : start + length].tobytes()
                            yield message(length, number, kind, ObjectId(id_of(a, b, c, d)), payload)
                            continue
                        start = self._start
                if end - start < _FRAMED_BYTES:
                    if end - start >= 8:
                        self._check_header_length(*_LENGTH.unpack_from(small, start))
                    return
                prefix, table, root, length, number, kind, pointer, *fields = _FRAMED.unpack_from(small, start)
                self._check_header_length(prefix)
                if table != _TABLE or root != _ROOT or pointer != _ID_POINTER:
                    raise MalformedMessage("a header that is not laid out as one segment of nine words")
                self._start = start = start + _FRAMED_BYTES
                object_id = ObjectId(_ID.pack(*fields))
                if not self._has_payload(kind, length):
                    yield self._message(length, number, kind, object_id, b"")
                    continue
                self._header = (length, number, kind, object_id)
            length = self._header[0]
            available = end - start - 8
            if available < 0:
                return
            (announced,) = _LENGTH.unpack_from(small, start)
            if announced != length:
                raise MalformedMessage(f"a payload of {announced} bytes, announced were {length}")
            if length > self._max:
                raise MalformedMessage(f"a payload of {length} bytes, the limit is {self._max}")
            start += 8
            if available < length:
                if length > _OWN_MEMORY_BYTES:
                    self._large = own_memory(length)
                    self._large[:available] = small[start:end]
                    self._large_end = available
                    self._start = self._end = 0
                return
            self._start = start + length
            yield self._finish(small[start : start + length].tobytes())

    def _finish(self, payload: Buffer) -> Message:
        assert self._header is not None
        header, self._header = self._header, None
        return self._message(*header, payload)

    @staticmethod
    def _check_header_length(length: int) -> None:
        if length != _HEADER_BYTES:
            raise MalformedMessage(f"a header has {_HEADER_BYTES} bytes, not {length}")

    def _greet(self) -> bool:
        """Takes magic and identity; False while they are not there yet. Wrong magic is noticed at its first byte."""
        if not self._greeted:
            magic = self._small[self._start : self._end][: len(self._magic)].tobytes()
            if not self._magic.startswith(magic):
                theirs, ours = describe_magic(magic), describe_magic(self._magic)
                raise VersionMismatch(
                    f"the other side opens with {theirs}, this one speaks {ours}: "
                    "another version of the object storage protocol, or not that protocol at all"
                )
            if len(magic) < len(self._magic):
                return False
            self._start += len(magic)
            self._greeted = True
        if self._end - self._start < 8:
            return False
        (length,) = _LENGTH.unpack_from(self._small, self._start)
        if length > MAX_IDENTITY_BYTES:
            raise MalformedMessage(f"an identity of {length} bytes, the limit is {MAX_IDENTITY_BYTES}")
        begin = self._start + 8
        if self._end - begin < length:
            return False
        self._start = begin + length
        self.peer = self._small[begin : self._start].tobytes()
        return True


class ClientSide(_Side[Response]):
    """The requester's half: collects responses."""

    def __init__(self, magic: bytes = MAGIC, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        super().__init__(magic, max_message_bytes)

    @staticmethod
    def _has_payload(kind: int, length: int) -> bool:
        return length > 0

    @staticmethod
    def _message(length: int, number: int, kind: int, object_id: ObjectId, payload: Buffer) -> Response:
        if kind >= len(_RESPONSE_TYPES):
            raise MalformedMessage(f"unknown response type {kind}")
        return Response(number, _RESPONSE_TYPES[kind], object_id, payload)


class ServerSide(_Side[Request]):
    """The storage's half: collects requests."""

    def __init__(self, magic: bytes = MAGIC, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        super().__init__(magic, max_message_bytes)

    @staticmethod
    def _has_payload(kind: int, length: int) -> bool:
        return kind in _WITH_PAYLOAD

    @staticmethod
    def _message(length: int, number: int, kind: int, object_id: ObjectId, payload: Buffer) -> Request:
        if kind >= len(_REQUEST_TYPES):
            return Request(number, kind, object_id, length, payload)
        if kind == _DUPLICATE_OBJECT_ID:
            payload = _duplicate_source(payload)
        return Request(number, _REQUEST_TYPES[kind], object_id, length, payload)


def _duplicate_source(payload: Buffer) -> ObjectId:
    if len(payload) != _DUPLICATE.size:
        raise MalformedMessage(f"the source of a duplicate has {_DUPLICATE.size} bytes, not {len(payload)}")
    start, *fields = _DUPLICATE.unpack(payload)
    if start != _DUPLICATE_START:
        raise MalformedMessage("the source of a duplicate is not an ObjectID")
    return ObjectId(_ID.pack(*fields))
