"""protocol/storage.py: bytes to requests and responses, and back."""

from __future__ import annotations

import contextlib
import random
import struct

import pytest

from protocol import storage
from protocol.errors import MalformedMessage, ProtocolError, VersionMismatch
from protocol.identifiers import ObjectId
from protocol.schema import struct as schema
from protocol.storage import ClientSide, Request, RequestType, Response, ResponseType, ServerSide, Total

A = ObjectId(bytes(range(32)))
B = ObjectId(bytes(range(32, 64)))
REQUESTS: list[tuple[list[storage.Buffer], Request]] = [
    (storage.set_request(1, A, b"content"), Request(1, RequestType.SET_OBJECT, A, 7, b"content")),
    (storage.set_request(2, B, b""), Request(2, RequestType.SET_OBJECT, B, 0, b"")),
    (storage.get_request(3, A), Request(3, RequestType.GET_OBJECT, A, 2**64 - 1, b"")),
    (storage.get_request(4, A, 5), Request(4, RequestType.GET_OBJECT, A, 5, b"")),
    (storage.duplicate_request(5, B, A), Request(5, RequestType.DUPLICATE_OBJECT_ID, B, 48, A)),
    (storage.delete_request(2**64 - 1, A), Request(2**64 - 1, RequestType.DELETE_OBJECT, A, 0, b"")),
    (storage.total_request(7), Request(7, RequestType.INFO_GET_TOTAL, storage.NO_OBJECT, 0, b"")),
]
RESPONSES = [
    Response(1, ResponseType.SET_OK, A, b""),
    Response(2, ResponseType.GET_OK, A, b"content"),
    Response(3, ResponseType.GET_OK, A, b""),
    Response(4, ResponseType.INFO_GET_TOTAL_OK, storage.NO_OBJECT, Total(1, 2, 3, 4, 5, 6).to_bytes()),
    Response(5, ResponseType.DEL_NOT_EXISTS, B, b""),
]


def request_session() -> bytes:
    return storage.greeting(b"Client|x") + b"".join(b"".join(raw) for raw, _ in REQUESTS)


def response_session() -> bytes:
    return storage.greeting(b"Server") + b"".join(b"".join(storage.response(*r)) for r in RESPONSES)


def requests_of(data: bytes, side: ServerSide | None = None) -> list[Request]:
    side = side or ServerSide()
    side.feed(data)
    return list(side.received(0))


def test_a_session_split_at_every_byte() -> None:
    data, expected = request_session(), [request for _, request in REQUESTS]
    for cut in range(len(data) + 1):
        side = ServerSide()
        got = requests_of(data[:cut], side) + requests_of(data[cut:], side)
        assert got == expected, cut
        assert side.peer == b"Client|x"


def test_a_session_of_responses_split_at_every_byte() -> None:
    data = response_session()
    for cut in range(len(data) + 1):
        side = ClientSide()
        got = []
        for part in (data[:cut], data[cut:]):
            side.feed(part)
            got += side.received(0)
        assert got == RESPONSES, cut
        assert side.peer == b"Server"


def test_a_session_byte_by_byte() -> None:
    side = ServerSide()
    got = [request for byte in request_session() for request in requests_of(bytes([byte]), side)]
    assert got == [request for _, request in REQUESTS]


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 262_144, 4_194_303, 4_194_304, 5_000_001])
def test_payloads_of_every_size_class_in_pieces_of_any_size(size: int) -> None:
    content = random.Random(size).randbytes(size)
    data = storage.greeting(b"x") + b"".join(
        b"".join(r) for r in (storage.set_request(1, A, content), storage.set_request(2, B, b"after"))
    )
    for piece in (1000, 65_536, 300_000):
        side = ServerSide()
        got: list[Request] = []
        view = memoryview(data)
        while view:
            room = side.buffer()
            count = min(piece, len(room), len(view))
            room[:count] = view[:count]
            got += side.received(count)
            view = view[count:]
        assert [(r.request_id, bytes(r.payload)) for r in got] == [(1, content), (2, b"after")]


def test_feed_takes_what_spans_a_large_payload_and_what_follows() -> None:
    content = bytes(100_000)
    data = storage.greeting(b"x") + b"".join(storage.set_request(1, A, content)) + b"".join(storage.get_request(2, A))
    side = ServerSide()
    got = [r for i in range(0, len(data), 65_536) for r in requests_of(data[i : i + 65_536], side)]
    assert [(r.request_id, len(r.payload)) for r in got] == [(1, 100_000), (2, 0)]


def test_requests_before_a_malformed_one_are_delivered() -> None:
    side = ServerSide()
    side.feed(storage.greeting(b"x") + storage.get_request(1, A)[0] + bytes(8))
    got = []
    with pytest.raises(MalformedMessage):
        for request in side.received(0):
            got.append(request.request_id)
    assert got == [1]


def header(kind: str, **fields: object) -> bytes:
    """A header as pycapnp builds it, from our schema."""
    message = schema(kind).new_message(**{k: v for k, v in fields.items() if k != "objectID"})
    for i, number in enumerate(struct.unpack(">4Q", fields["objectID"])):  # type: ignore[arg-type]
        setattr(message.objectID, f"field{i}", number)
    raw: bytes = message.to_bytes()
    return struct.pack("<Q", len(raw)) + raw


def object_id_message(object_id: ObjectId) -> bytes:
    values = struct.unpack(">4Q", object_id)
    raw: bytes = schema("ObjectID").new_message(**{f"field{i}": v for i, v in enumerate(values)}).to_bytes()
    return struct.pack("<Q", len(raw)) + raw


def test_requests_are_what_pycapnp_builds() -> None:
    kinds = {
        RequestType.SET_OBJECT: "setObject",
        RequestType.GET_OBJECT: "getObject",
        RequestType.DELETE_OBJECT: "deleteObject",
        RequestType.DUPLICATE_OBJECT_ID: "duplicateObjectID",
        RequestType.INFO_GET_TOTAL: "infoGetTotal",
    }
    for raw, request in REQUESTS:
        expected = header(
            "ObjectRequestHeader",
            objectID=request.object_id,
            payloadLength=request.length,
            requestID=request.request_id,
            requestType=kinds[RequestType(request.type)],
        )
        if request.type == RequestType.SET_OBJECT:
            expected += struct.pack("<Q", len(request.payload)) + bytes(request.payload)
        elif request.type == RequestType.DUPLICATE_OBJECT_ID:
            expected += object_id_message(A)
        assert b"".join(raw) == expected, request


def test_responses_are_what_pycapnp_builds() -> None:
    kinds = ("setOK", "getOK", "delOK", "delNotExists", "duplicateOK", "infoGetTotalOK")
    for kind, name in zip(ResponseType, kinds, strict=True):
        for payload in (b"", b"content"):
            expected = header(
                "ObjectResponseHeader", objectID=A, payloadLength=len(payload), responseID=9, responseType=name
            )
            if payload:
                expected += struct.pack("<Q", len(payload)) + payload
            assert b"".join(storage.response(9, kind, A, payload)) == expected


def test_total_round_trip_and_wrong_size() -> None:
    total = Total(1, 2, 3, 4, 5, 6)
    assert total.to_bytes() == struct.pack("<6Q", 1, 2, 3, 4, 5, 6)
    assert Total.from_bytes(total.to_bytes()) == total
    with pytest.raises(MalformedMessage, match="48 bytes, not 47"):
        Total.from_bytes(total.to_bytes()[1:])


def test_an_unknown_request_type_is_a_plain_number_and_has_no_payload() -> None:
    raw = bytearray(storage.delete_request(1, A)[0])
    raw[8 + 32] = 77
    got = requests_of(storage.greeting(b"x") + bytes(raw) + storage.get_request(2, A)[0])
    assert [(r.request_id, r.type) for r in got] == [(1, 77), (2, RequestType.GET_OBJECT)]


@pytest.mark.parametrize("opening", [b"GET / HTTP/1.1", b"YMQ\x01", b"Y\0", b"X"])
def test_another_magic_is_noticed_at_its_first_wrong_byte(opening: bytes) -> None:
    with pytest.raises(VersionMismatch, match="another version"):
        requests_of(opening)


def test_no_magic_and_other_magic() -> None:
    for magic in (b"", b"YMQ\x01", b"longer than four"):
        side = ServerSide(magic)
        assert requests_of(storage.greeting(b"x", magic) + storage.get_request(1, A)[0], side)[0].request_id == 1


def malformed_sessions() -> dict[str, bytes]:
    hello = storage.greeting(b"x")
    get = storage.get_request(1, A)[0]
    set_header = storage.set_request(1, A, b"12345")[0]

    def changed(at: int, value: int) -> bytes:
        raw = bytearray(get)
        raw[8 + at] = value
        return hello + bytes(raw)

    duplicate = bytearray(b"".join(storage.duplicate_request(1, A, B)))
    duplicate[88 + 8 + 4] = 99
    return {
        "identity too long": storage.MAGIC + struct.pack("<Q", 1025),
        "identity absurdly long": storage.MAGIC + struct.pack("<Q", 2**63),
        "header too short": hello + struct.pack("<Q", 72) + bytes(72),
        "header too long, noticed by its length": hello + struct.pack("<Q", 2**40),
        "header empty": hello + struct.pack("<Q", 0),
        "header of zeros": hello + struct.pack("<Q", 80) + bytes(80),
        "header of two segments": changed(0, 1),
        "header with a wrong segment size": changed(4, 8),
        "header with another root": changed(8, 4),
        "header without the object id": changed(44, 0),
        "payload longer than announced": hello + set_header[:88] + struct.pack("<Q", 6) + b"123456",
        "payload shorter than announced": hello + set_header[:88] + struct.pack("<Q", 4) + b"1234",
        "payload absurdly long": hello + storage._header_and_length(1, 0, A, 2**62),
        "duplicate with a short source": hello + storage._header_and_length(1, 3, A, 8) + bytes(8),
        "duplicate with another struct": hello + bytes(duplicate),
    }


@pytest.mark.parametrize("name", malformed_sessions())
def test_malformed_bytes_are_refused(name: str) -> None:
    with pytest.raises(MalformedMessage):
        requests_of(malformed_sessions()[name])


def test_more_than_there_is_memory_for() -> None:
    side = ServerSide(max_message_bytes=2**63)
    with pytest.raises(MalformedMessage, match="more than there is memory for"):
        requests_of(storage.greeting(b"x") + storage._header_and_length(1, 0, A, 2**62), side)


def test_a_client_refuses_an_unknown_response_type() -> None:
    raw = bytearray(storage.response(1, ResponseType.SET_OK, A)[0])
    raw[8 + 32] = 6
    side = ClientSide()
    side.feed(storage.greeting(b"x") + bytes(raw))
    with pytest.raises(MalformedMessage, match="unknown response type 6"):
        list(side.received(0))


def test_random_changes_raise_protocol_errors_only() -> None:
    chance = random.Random(1)
    for make, data in ((ServerSide, request_session()), (ClientSide, response_session())):
        for _ in range(2000):
            changed = bytearray(data)
            for _ in range(chance.randint(1, 4)):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            side = make()
            side.feed(bytes(changed))
            with contextlib.suppress(ProtocolError):
                list(side.received(0))
