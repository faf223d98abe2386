"""The shortcuts for messages that look alike say what the full codec says, whatever the bytes are."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import codec, layout, messages
from protocol.envelope import NO_TASK, Envelope, peek
from protocol.errors import MalformedMessage
from protocol.identifiers import ClientId
from protocol.messages import (
    KIND_OF,
    Argument,
    ArgumentType,
    Kind,
    Message,
    ObjectContentType,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectMetadata,
    Task,
    TaskCancel,
    TaskCancelFlags,
    TaskResult,
    TaskResultType,
)
from protocol.shapes import MAX_SHAPES, Shapes
from protocol.templates import MAX_TEMPLATES, Templates
from tests.protocol import judge
from tests.protocol.samples import CLIENT, MAXIMAL, MESSAGES

examples = settings(max_examples=150, deadline=None)
MANY = 8  # enough of a kind for a shape


def random_task() -> Task:
    arguments = (Argument(ArgumentType.OBJECT_ID, os.urandom(32)), Argument(ArgumentType.TASK, os.urandom(16)))
    return Task(os.urandom(16), CLIENT, os.urandom(9), os.urandom(32), arguments, ())


def random_result() -> TaskResult:
    kind = TaskResultType(os.urandom(1)[0] % 3)
    return TaskResult(os.urandom(16), kind, os.urandom(20), (os.urandom(32),))


def random_cancel() -> TaskCancel:
    return TaskCancel(os.urandom(16), TaskCancelFlags(os.urandom(1)[0] > 127))


def random_instruction() -> ObjectInstruction:
    about = ObjectMetadata((os.urandom(32),), (ObjectContentType(os.urandom(1)[0] % 2),), (os.urandom(6),), (7,))
    return ObjectInstruction(ObjectInstructionType.CREATE, CLIENT, about)


HOT = [random_task, random_result, random_cancel, random_instruction]
each_hot_kind = pytest.mark.parametrize("make", HOT, ids=lambda make: make.__name__)


def outcome(frame: bytes, decode: object) -> object:
    try:
        return repr(decode(frame))  # type: ignore[operator]  # repr: NaN is not equal to itself
    except MalformedMessage as error:
        return str(error)


def in_short(message: Message) -> object:
    """What ``check_task`` and ``check_result`` tell of it."""
    if isinstance(message, Task):
        return message.metadata, message.capabilities
    return message.results if isinstance(message, TaskResult) else None


def looked_at(envelope: Envelope) -> object:
    if envelope.kind is Kind.TASK:
        return envelope.check_task()
    return envelope.check_result() if envelope.kind is Kind.TASK_RESULT else in_short(envelope.check())


def known(frame: bytes) -> Shapes:
    """A new table that has seen this frame often enough."""
    shapes = Shapes(layout.load(), dict(messages.MESSAGE_CLASSES), messages.STRUCT_CLASSES, messages.ENUM_CLASSES)
    kind = KIND_OF[type(codec.decode_in_full(frame))]
    for _ in range(MANY):
        shapes.met(frame, kind)
    return shapes


@each_hot_kind
@pytest.mark.parametrize("build", [codec.encode_in_full, judge.build], ids=["ours", "pycapnp"])
def test_messages_of_one_kind_share_a_shape(make: object, build: object) -> None:
    shapes = known(build(make()))  # type: ignore[operator]
    for _ in range(20):
        message = make()  # type: ignore[operator]
        frame = build(message)  # type: ignore[operator]
        shape = shapes.find(frame)
        assert shape is not None
        assert shape.read(frame) == message


@each_hot_kind
def test_a_known_shape_gives_the_same_envelope(make: object) -> None:
    for _ in range(3 * MANY):
        message = make()  # type: ignore[operator]
        frame = codec.encode(message)
        assert frame == codec.encode_in_full(message)
        envelope = Envelope.parse(frame)
        assert (envelope.kind, envelope.task_id, envelope.source, envelope.detail) == peek(frame)
        assert looked_at(envelope) == in_short(message) == looked_at(Envelope.of(message))
        assert envelope.message == message == Envelope.parse(frame).check() == codec.decode(frame)
    assert codec.SHAPES.find(frame) is not None


@pytest.mark.parametrize("message", MAXIMAL, ids=lambda m: type(m).__name__)
def test_every_kind_is_the_same_with_and_without(message: Message) -> None:
    frame = codec.encode_in_full(message)
    for _ in range(2 * MANY):
        assert codec.encode(message) == frame
        assert codec.decode(frame) == message


@examples
@given(MESSAGES)
def test_any_message_is_written_and_read_the_same(message: Message) -> None:
    frame = codec.encode_in_full(message)
    for _ in range(MANY + 1):
        assert codec.encode(message) == frame
    shape = known(frame).find(frame)
    if shape is not None:
        assert repr(shape.read(frame)) == repr(message)


@examples
@given(
    st.sampled_from([codec.encode_in_full(m) for m in [*MAXIMAL, *(make() for make in HOT)]]),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=5),
)
def test_what_was_changed_is_read_as_without(frame: bytes, changes: list[tuple[int, int]]) -> None:
    shapes = known(frame)
    changed = bytearray(frame)
    for at, value in changes:
        changed[at % len(changed)] = value
    hostile = bytes(changed)
    shape = shapes.find(hostile)
    assert outcome(hostile, lambda f: codec.decode_as(shape, f)) == outcome(hostile, codec.decode_in_full)
    if shape is not None:
        envelope = Envelope(Kind(shape.discriminant), NO_TASK, ClientId(b""), 0, hostile, None, shape)
        full = outcome(hostile, lambda f: in_short(codec.decode_in_full(f)))
        assert outcome(hostile, lambda f: looked_at(envelope)) == full


@pytest.mark.parametrize("value", [3, 256, 65535])
def test_an_unknown_result_type_is_found_in_a_known_shape(value: int) -> None:
    for _ in range(MANY):
        frame = codec.encode_in_full(random_result())
        codec.decode(frame)
    shape = codec.SHAPES.find(frame)
    assert shape is not None
    at, end = shape.where["resultType"]
    bad = frame[:at] + value.to_bytes(2, "little") + frame[end:]
    with pytest.raises(MalformedMessage, match=str(value)):
        Envelope.parse(bad)
    with pytest.raises(MalformedMessage, match=str(value)):
        codec.decode(bad)
    with pytest.raises(MalformedMessage, match=str(value)):
        Envelope(Kind.TASK_RESULT, NO_TASK, ClientId(b""), 0, bad, None, shape).check_result()


def test_an_unknown_argument_type_is_found_in_a_task_that_is_only_looked_at() -> None:
    task = random_task()
    good = codec.encode_in_full(task)
    other = codec.encode_in_full(replace(task, function_args=tuple(reversed(task.function_args))))
    shape = known(good).find(good)
    assert shape is not None
    at = next(i for i, (a, b) in enumerate(zip(good, other, strict=True)) if a != b)
    bad = good[:at] + b"\x77" + good[at + 1 :]
    with pytest.raises(MalformedMessage, match=str(0x77)):
        Envelope(Kind.TASK, NO_TASK, task.source, 0, bad, None, shape).check_task()


def test_a_number_that_does_not_fit_is_refused_as_without() -> None:
    good = random_instruction()
    for _ in range(MANY):
        codec.encode(good)
    with pytest.raises(Exception, match=r".") as fast:
        codec.encode(replace(good, object_metadata=replace(good.object_metadata, object_sizes=(-1,))))
    with pytest.raises(Exception, match=r".") as full:
        codec.encode_in_full(replace(good, object_metadata=replace(good.object_metadata, object_sizes=(-1,))))
    assert (fast.type, str(fast.value)) == (full.type, str(full.value))


def test_whoever_varies_lengths_fills_no_memory() -> None:
    parts = layout.load(), dict(messages.MESSAGE_CLASSES), messages.STRUCT_CLASSES, messages.ENUM_CLASSES
    shapes, templates = Shapes(*parts), Templates(*parts)
    for size in range(2 * MAX_SHAPES):
        message = replace(random_task(), metadata=bytes(size))
        for _ in range(MANY):
            templates.find(message)
        frame = codec.encode_in_full(message)
        for _ in range(MANY):
            shapes.met(frame, KIND_OF[Task])
    assert len(shapes) <= MAX_SHAPES
    assert len(templates) <= MAX_TEMPLATES
