"""Hostile and broken bytes: decode and peek give a value or raise MalformedMessage, nothing else (SPEC section 10)."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import codec
from protocol.envelope import Envelope, peek
from protocol.errors import MalformedMessage
from protocol.identifiers import ObjectId, TaskId
from protocol.messages import (
    InformationAnswer,
    Kind,
    LogType,
    Message,
    StateClient,
    StateObject,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskLog,
    TaskResult,
    TaskResultType,
)
from tests.protocol import encodings, judge
from tests.protocol.encodings import COMPOSITE, Numbers, Struct
from tests.protocol.samples import ANSWERS, MAXIMAL, TASK, TASK_ID

examples = settings(max_examples=300, deadline=None)
FRAMES = [codec.encode(m) for m in MAXIMAL] + [judge.build(m, first_segment_words=1) for m in MAXIMAL]


def size_of(value: Any) -> int:
    """How many values ``value`` is made of, bytes counted one by one."""
    if isinstance(value, (bytes, str)):
        return 1 + len(value)
    if isinstance(value, tuple):
        return 1 + sum(map(size_of, value))
    if dataclasses.is_dataclass(value):
        return 1 + sum(size_of(getattr(value, f.name)) for f in dataclasses.fields(value))
    return 1


def survive(frame: bytes) -> Message | None:
    """Decodes and peeks; checks that they agree, also where the frame is a view, and that what came out is not much
    larger than what went in."""
    message: Message | None
    try:
        message = codec.decode(frame)
    except MalformedMessage as error:
        assert str(error)
        message = None
    view = memoryview(frame)
    try:
        seen = codec.decode_in_full(view)
    except MalformedMessage:
        assert message is None, "a view is refused, the same bytes are not"
    else:
        assert message is not None, "a view is accepted, the same bytes are not"
        assert codec.encode_in_full(seen) == codec.encode_in_full(message)
    try:
        peeked = peek(frame)
    except MalformedMessage:
        assert message is None, "peek refuses what decode accepts"
        return None
    if message is not None:
        of = Envelope.of(message)
        assert peeked == peek(view) == (of.kind, of.task_id, of.source, of.detail)
        # A struct may be all defaults at the cost of one word: the largest class has about 60 values.
        assert size_of(message) < 60 * len(frame) + 1000
    return message


def refused(frame: bytes) -> None:
    assert survive(frame) is None
    with pytest.raises(MalformedMessage):
        codec.decode(frame)


def one_segment(*words: int | bytes) -> bytes:
    body = b"".join(w if isinstance(w, bytes) else struct.pack("<Q", w) for w in words)
    return struct.pack("<II", 0, len(body) // 8) + body


def pointer(kind: int, offset: int, high: int) -> int:
    return (offset << 2 & 0xFFFFFFFC) | kind | high << 32


def struct_pointer(offset: int, data_words: int, pointers: int) -> int:
    return pointer(0, offset, data_words | pointers << 16)


def list_pointer(offset: int, code: int, count: int) -> int:
    return pointer(1, offset, code | count << 3)


ROOT = struct_pointer(0, 1, 1)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 15, 17, 24, 31, 4096])
@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"A"])
def test_bytes_that_are_no_message(size: int, fill: bytes) -> None:
    refused(fill * size)


@pytest.mark.parametrize("frame", FRAMES[: len(MAXIMAL)], ids=[k.name for k in Kind])
def test_cut_off_at_every_word(frame: bytes) -> None:
    for end in range(0, len(frame), 8):
        refused(frame[:end])
        refused(frame[: end + 3])
        if end >= 16:  # and with a segment table that says so
            survive(struct.pack("<II", 0, end // 8 - 1) + frame[8:end])
    refused(frame + bytes(8))


@pytest.mark.parametrize("discriminant", [27, 28, 255, 65535])
def test_unknown_variants(discriminant: int) -> None:
    refused(one_segment(ROOT, discriminant, struct_pointer(0, 0, 0)))
    refused(encodings.lay_out(Struct(struct.pack("<Q", discriminant), [Struct(b"", [])])))


@pytest.mark.parametrize("length", [0, 1, 15, 17, 32])
def test_task_ids_of_another_length(length: int) -> None:
    for message in MAXIMAL:
        if hasattr(message, "task_id") and Envelope.of(message).task_id:
            wrong = dataclasses.replace(message, task_id=TaskId(b"x" * length))  # type: ignore[arg-type]
            refused(codec.encode(wrong))


@pytest.mark.parametrize("length", [0, 1, 31, 33])
def test_object_ids_of_another_length(length: int) -> None:
    wrong = ObjectId(b"y" * length)
    with pytest.raises(MalformedMessage, match=r"Task\.funcObjectId has"):
        codec.decode(codec.encode(dataclasses.replace(TASK, func_object_id=wrong)))
    result = next(m for m in MAXIMAL if isinstance(m, TaskResult))
    with pytest.raises(MalformedMessage, match=r"TaskResult\.results has"):
        codec.decode(codec.encode(dataclasses.replace(result, results=(wrong,))))


def test_unknown_enum_values() -> None:
    for message, at in ((MAXIMAL[Kind.TASK_RESULT], 3), (MAXIMAL[Kind.TASK_CANCEL_CONFIRM], 3), (MAXIMAL[16], 9)):
        tree = encodings.parse(codec.encode(message))
        body = tree.pointers[0]
        assert isinstance(body, Struct)
        for ordinal in (at, 1000, 65535):
            body.data = struct.pack("<H", ordinal) + body.data[2:]
            with pytest.raises(MalformedMessage, match=f"unknown value {ordinal}"):
                codec.decode(encodings.lay_out(tree))
            survive(encodings.lay_out(tree))
    confirm = codec.encode(TaskCancelConfirm(TASK_ID, TaskCancelConfirmType.CANCELED))
    refused(confirm[:32] + b"\x03" + confirm[33:])


def test_a_message_without_root_or_body() -> None:
    refused(one_segment(0))
    refused(one_segment(0, 0, 0))
    refused(one_segment(struct_pointer(0, 1, 0), int(Kind.TASK_CANCEL)))
    refused(one_segment(struct_pointer(0, 0, 1), 0))
    assert survive(one_segment(struct_pointer(0, 1, 0), int(Kind.STATE_CLIENT))) == StateClient()
    refused(one_segment(ROOT, int(Kind.TASK), 0))


def test_pointers_of_the_wrong_type() -> None:
    for wrong in (
        list_pointer(0, 2, 8),
        struct_pointer(0, 1, 0),
        pointer(3, 0, 0),  # a capability
        list_pointer(0, 5, 1),
        list_pointer(0, COMPOSITE, 1),
        list_pointer(0, 6, 1),
    ):
        refused(one_segment(ROOT, int(Kind.TASK_CANCEL), wrong, 0, 0, 0))
        refused(one_segment(ROOT, int(Kind.TASK_CANCEL), struct_pointer(0, 0, 2), wrong, 0, 0, 0))
        refused(one_segment(wrong, 0, 0, 0))


def test_pointers_from_one_segment_into_the_next() -> None:
    """Only far pointers may lead there."""
    words = [struct_pointer(0, 1, 1), int(Kind.TASK_CANCEL), struct_pointer(0, 0, 1), list_pointer(0, 2, 16)]
    body = struct.pack("<4Q", *words) + TASK_ID
    assert isinstance(survive(struct.pack("<II", 0, len(body) // 8) + body), TaskCancel)
    for first in range(len(body) // 8):
        refused(struct.pack("<4I", 1, first, len(body) // 8 - first, 0) + body)


def test_ids_that_lie_in_the_next_segment() -> None:
    """Also where a list of ids is read as a whole."""
    result = codec.encode(TaskResult(TASK_ID, TaskResultType.SUCCESS, b"", (ObjectId(b"o" * 32), ObjectId(b"p" * 32))))
    words = len(result) // 8 - 1
    for first in range(1, words):
        refused(struct.pack("<4I", 1, first, words - first, 0) + result[8:])


def test_what_is_empty_but_not_null() -> None:
    """A text has its zero byte; a far pointer to a null pointer is no list."""
    log = codec.encode(TaskLog(TASK_ID, LogType.STDOUT, "x"))
    at = log.index(struct.pack("<I", 2 | 2 << 3), 8) - 4  # the pointer to the two bytes of the text
    assert survive(log[:at] + bytes(8) + log[at + 8 :]) == TaskLog(TASK_ID, LogType.STDOUT, "")
    refused(log[:at] + struct.pack("<Q", list_pointer(0, 2, 0)) + log[at + 8 :])
    null = len(log) - 8
    far = log[:at] + struct.pack("<Q", pointer(2, (null - 8) // 8 << 1, 0)) + log[at + 8 : null] + bytes(8)
    refused(far)


def test_pointers_that_go_round() -> None:
    refused(one_segment(struct_pointer(-1, 1, 1)))
    refused(one_segment(ROOT, int(Kind.GRAPH_TASK), struct_pointer(-2, 1, 1)))
    # A graph whose node list is the body's own words.
    refused(one_segment(ROOT, int(Kind.GRAPH_TASK), struct_pointer(0, 0, 4), 0, 0, 0, list_pointer(-5, COMPOSITE, 4)))
    # Far pointers to each other and to themselves, single and double.
    for far in (2, 2 | 1 << 3, 2 | 4, 2 | 4 | 1 << 3, 2 | 1 << 32, 2 | 0x1FFFFFFF << 3, 6 | 0xFFFFFFFF << 32):
        refused(one_segment(far, far, far, far))
        refused(struct.pack("<IIII", 1, 1, 2, 0) + struct.pack("<QQQ", far | 1 << 32, far, far))


def test_lists_that_claim_more_than_they_have() -> None:
    """2^29 empty structs in two words; a list of all the message, many times over."""
    for count in (100, 2**20, 2**29 - 1, 2**30 - 1):
        tag = count << 2
        refused(
            one_segment(ROOT, int(Kind.STATE_OBJECT), struct_pointer(0, 1, 1), 0, list_pointer(0, COMPOSITE, 0), tag)
        )
    for code in range(8):
        for count in (2**29 - 1, 2**20):
            refused(
                one_segment(ROOT, int(Kind.STATE_OBJECT), struct_pointer(0, 1, 1), 0, list_pointer(0, code, count), 0)
            )
            refused(one_segment(ROOT, int(Kind.TASK_LOG), struct_pointer(0, 1, 2), 0, list_pointer(0, code, count), 0))


def test_a_shared_part_is_not_free() -> None:
    """One kilobyte that a thousand list elements point to would be a megabyte."""
    count = 1000
    elements = [list_pointer(count - i - 1, 2, 1024) for i in range(count)]
    head = (ROOT, int(Kind.STATE_BALANCE_ADVICE), struct_pointer(0, 0, 2), 0, list_pointer(0, 6, count))
    frame = one_segment(*head, *elements, b"\x07" * 1024)
    with pytest.raises(MalformedMessage, match="more than it holds"):
        codec.decode(frame)


def test_texts() -> None:
    log = MAXIMAL[Kind.TASK_LOG]
    assert isinstance(log, TaskLog)
    tree = encodings.parse(codec.encode(log))
    body = tree.pointers[0]
    assert isinstance(body, Struct)
    for raw, why in ((b"\xff\xfe\0", "UTF-8"), (b"\xed\xa0\x80\0", "UTF-8"), (b"abc", "zero byte")):
        body.pointers[1] = Numbers(2, len(raw), raw)
        with pytest.raises(MalformedMessage, match=why):
            codec.decode(encodings.lay_out(tree))


def test_segment_tables() -> None:
    frame = codec.encode(TASK)
    for count in (1, 2, 511, 512, 10**6, 2**32 - 1):
        refused(struct.pack("<I", count) + frame[4:])
    for words in (0, 1, len(frame) // 8, 2**32 - 1):
        refused(frame[:4] + struct.pack("<I", words) + frame[8:])
    refused(struct.pack("<4I", 1, 0, 0, 0))
    refused(struct.pack("<4I", 2, 0, 0, 0))


@examples
@given(st.sampled_from(FRAMES), st.lists(st.tuples(st.integers(0), st.integers(0, 7)), min_size=1, max_size=6))
def test_flipped_bits(frame: bytes, flips: list[tuple[int, int]]) -> None:
    mutated = bytearray(frame)
    for at, bit in flips:
        mutated[at % len(mutated)] ^= 1 << bit
    survive(bytes(mutated))


_POINTERS = st.builds(
    lambda kind, offset, low, high: (offset << 2 & 0xFFFFFFFC) | kind | (low | high << 3) << 32,
    st.integers(0, 3),
    st.integers(-12, 40),
    st.integers(0, 7),
    st.integers(0, 200) | st.integers(0, 2**29 - 1),
)
_WORDS = _POINTERS | st.integers(0, 2**64 - 1) | st.sampled_from([0, 2**64 - 1, 1, 2, 6, 0xFFFFFFFC])


@examples
@given(st.sampled_from(FRAMES), st.lists(st.tuples(st.integers(0), _WORDS), min_size=1, max_size=4))
def test_overwritten_words(frame: bytes, words: list[tuple[int, int]]) -> None:
    mutated = bytearray(frame)
    for at, word in words:
        struct.pack_into("<Q", mutated, 8 * (at % (len(mutated) // 8)), word)
    survive(bytes(mutated))


@examples
@given(st.lists(_WORDS, min_size=1, max_size=24), st.sampled_from(list(Kind)))
def test_made_up_messages(words: list[int], kind: Kind) -> None:
    survive(one_segment(*words))
    survive(one_segment(ROOT, int(kind), *words))


@examples
@given(st.binary(max_size=200))
def test_noise(noise: bytes) -> None:
    survive(noise)


@examples
@given(st.sampled_from([codec.encode_answer(a) for a in ANSWERS]), st.lists(st.tuples(st.integers(0), _WORDS)))
def test_answers_overwritten(frame: bytes, words: list[tuple[int, int]]) -> None:
    mutated = bytearray(frame)
    for at, word in words:
        struct.pack_into("<Q", mutated, 8 * (at % (len(mutated) // 8)), word)
    try:
        answer = codec.decode_answer(bytes(mutated))
    except MalformedMessage:
        return
    assert isinstance(answer, InformationAnswer)


def test_a_list_of_nothing_in_a_large_message_is_bounded() -> None:
    """Empty elements cost a message as much as full ones, however large the message is."""
    filler = bytes(80_000)
    tag = 25_000 << 2
    head = (ROOT, int(Kind.STATE_OBJECT), struct_pointer(0, 1, 1), 0, list_pointer(0, COMPOSITE, 0), tag)
    message = survive(one_segment(*head, filler))
    assert message is None or (isinstance(message, StateObject) and len(message.objects) <= 3 * len(filler) // 8 + 64)
