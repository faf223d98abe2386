"""Targets: what reads bytes from peers (SPEC section 10). A value or the one documented error comes out."""

from __future__ import annotations

import contextlib
import itertools
import socket
from typing import Any

from protocol import codec, control, storage
from protocol.envelope import Envelope
from protocol.errors import MalformedMessage, ProtocolError
from protocol.identifiers import ObjectId, role_of
from protocol.payloads import ResultMetadata, TaskMetadata
from protocol.storage import ClientSide, ResponseType, ServerSide
from reference_impl.worker.channel import FAILED, READY, RECORD, SUCCESS, Channel
from tests.cli.test_control import REPLIES, REQUESTS
from tests.fuzz.choices import Choices
from tests.protocol import judge
from tests.protocol.samples import ANSWERS, MAXIMAL, QUERIES
from tests.protocol.test_malformed import survive

FRAMES = [codec.encode(m) for m in MAXIMAL] + [judge.build(m, first_segment_words=1) for m in MAXIMAL]
_PAYLOADS = [codec.encode_query(q) for q in QUERIES] + [codec.encode_answer(a) for a in ANSWERS]
_OBJECT = ObjectId(bytes(range(32)))


def message(data: bytes) -> None:
    """One frame: decode and peek agree, and what was learnt from earlier frames changes nothing but the speed."""
    choices = Choices(data)
    frame = choices.pick(FRAMES)
    frame = choices.damage(frame) if choices.flag() else choices.rest() if choices.flag() else frame
    found = survive(frame)
    try:
        in_full = codec.decode_in_full(frame)
    except MalformedMessage:
        assert found is None, "a shortcut accepts what the codec refuses"
        return
    assert repr(found) == repr(in_full)  # by repr: NaN is not equal to itself
    again = codec.decode(codec.encode(in_full))
    assert repr(again) == repr(in_full)
    with contextlib.suppress(MalformedMessage):
        Envelope.parse(frame).check()


def information(data: bytes) -> None:
    """The payloads of InformationRequest and InformationResponse."""
    choices = Choices(data)
    payload = choices.damage(choices.pick(_PAYLOADS)) if choices.flag() else choices.rest()
    with contextlib.suppress(MalformedMessage):
        assert codec.decode_query(codec.encode_query(codec.decode_query(payload))) == codec.decode_query(payload)
    with contextlib.suppress(MalformedMessage):
        codec.decode_answer(payload)
    assert 0 <= codec.query_id(payload) < 2**64


def _requests() -> list[bytes]:
    made = [
        storage.set_request(1, _OBJECT, b"payload"),
        storage.set_request(2, _OBJECT, b""),
        storage.get_request(3, _OBJECT),
        storage.delete_request(4, _OBJECT),
        storage.duplicate_request(5, _OBJECT, ObjectId(bytes(32))),
        storage.total_request(6),
    ]
    return [b"".join(map(bytes, parts)) for parts in made]


STORAGE_REQUESTS = _requests()
STORAGE_RESPONSES = [
    b"".join(map(bytes, storage.response(n, kind, _OBJECT, payload)))
    for n, (kind, payload) in enumerate(itertools.product(ResponseType, (b"", b"something", b"x" * 48)))
]


def _stream(choices: Choices, greeting: bytes, messages: list[bytes]) -> bytes:
    stream = greeting + b"".join(choices.pick(messages) for _ in range(choices.below(6)))
    return choices.damage(stream) if choices.flag() else stream


def _split(choices: Choices, stream: bytes) -> list[bytes]:
    pieces = []
    while stream:
        size = 1 + (choices.below(97) if choices.more else len(stream))
        pieces.append(stream[:size])
        stream = stream[size:]
    return pieces


def _read(side: Any, pieces: list[bytes]) -> tuple[list[str], bool, bytes | None]:
    """What came out, whether it ended with an error, and who the other side said it is."""
    found: list[str] = []
    for piece in pieces:
        try:
            for start in range(0, len(piece), 1 << 15):
                side.feed(piece[start : start + (1 << 15)])
                for one in side.received(0):  # one by one: some may come before an error
                    found.append(repr(tuple(map(_plain, one))))
        except ProtocolError as error:
            assert str(error)
            return found, True, side.peer
    return found, False, side.peer


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def storage_server_side(data: bytes) -> None:
    """What an object storage reads: the same whatever pieces it comes in."""
    choices = Choices(data)
    stream = _stream(choices, storage.greeting(b"Client|somebody"), STORAGE_REQUESTS)
    limit = choices.pick((1 << 10, 1 << 20))
    whole = _read(ServerSide(max_message_bytes=limit), [stream] if stream else [])
    assert _read(ServerSide(max_message_bytes=limit), _split(choices, stream)) == whole


def storage_client_side(data: bytes) -> None:
    """What a client of an object storage reads."""
    choices = Choices(data)
    stream = _stream(choices, storage.greeting(storage.SERVER_IDENTITY), STORAGE_RESPONSES)
    limit = choices.pick((1 << 10, 1 << 20))
    whole = _read(ClientSide(max_message_bytes=limit), [stream] if stream else [])
    assert _read(ClientSide(max_message_bytes=limit), _split(choices, stream)) == whole


_CONTROL = {
    control.ControlRequest: [control.frame(m) for m in REQUESTS],
    control.ControlReply: [control.frame(m) for m in REPLIES],
}


def control_frames(data: bytes) -> None:
    """What command line and session agent read of each other: the same whatever pieces it comes in."""
    choices = Choices(data)
    cls: Any = choices.pick((control.ControlRequest, control.ControlReply))
    frames = _CONTROL[cls]
    stream = b"".join(choices.pick(frames) for _ in range(1 + choices.below(4)))
    stream = choices.damage(stream) if choices.flag() else stream

    def read(pieces: list[bytes]) -> tuple[list[str], bool]:
        reader, found = control.Frames(cls), []
        for piece in pieces:
            try:
                found += [repr(m) for m in reader.feed(piece)]
            except MalformedMessage:
                return found, True
        return found, False

    by_byte = read(_split(choices, stream))
    whole = read([stream])
    assert by_byte[1] == whole[1]
    assert by_byte[0] == whole[0] or whole[1]  # what stands before an error in one piece is not given out


_RECORDS = [
    RECORD.pack(READY, bytes(16), 0.0, 0, 0.0, 0),
    RECORD.pack(SUCCESS, b"t" * 16, 1.5, 4096, 0.5, 7) + b"payload",
    RECORD.pack(FAILED, b"t" * 16, 1.5, 4096, 0.5, 0),
]


def processor_channel(data: bytes) -> None:
    """What a worker reads of a processor, which runs other people's code."""
    choices = Choices(data)
    stream = b"".join(choices.pick(_RECORDS) for _ in range(1 + choices.below(5)))
    stream = choices.damage(stream) if choices.flag() else stream
    near, far = socket.socketpair()
    with near, far:
        channel = Channel(near)
        found = 0
        try:
            for piece in _split(choices, stream):
                far.sendall(piece)
                found += len(channel.receive())
            far.close()
            while not channel.lost:
                found += len(channel.receive())
        finally:
            channel.close()
        assert found * RECORD.size <= len(stream)


def metadata(data: bytes) -> None:
    """The metadata of a Task and of a TaskResult, and identities."""
    for raw in (data, data[:6], data[:16]):
        with contextlib.suppress(MalformedMessage):
            assert TaskMetadata.from_bytes(TaskMetadata.from_bytes(raw).to_bytes()) == TaskMetadata.from_bytes(raw)
        with contextlib.suppress(MalformedMessage):
            found = ResultMetadata.from_bytes(raw)
            assert found is None or repr(ResultMetadata.from_bytes(found.to_bytes())) == repr(found)
    role_of(data)
    with contextlib.suppress(ProtocolError):
        storage.Total.from_bytes(data)
