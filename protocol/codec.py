"""Messages to frames and back (SPEC section 2.2): one ZeroMQ frame holds one encoded ``Message``."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from protocol import layout, messages
from protocol.errors import MalformedMessage
from protocol.identifiers import OBJECT_ID_BYTES, TASK_ID_BYTES
from protocol.messages import InformationAnswer, InformationQuery, Kind, Message
from protocol.shapes import Shape, Shapes
from protocol.templates import Templates
from protocol.wire import Codec, Lengths

LENGTHS: Lengths = {
    **{
        (struct, "taskId"): TASK_ID_BYTES
        for struct in ("Task", "TaskCancel", "TaskCancelConfirm", "TaskResult", "TaskLog", "GraphTask", "StateTask")
    },
    ("Task", "funcObjectId"): OBJECT_ID_BYTES,
    ("TaskResult", "results"): OBJECT_ID_BYTES,
    ("GraphTask", "targets"): TASK_ID_BYTES,
    ("ObjectMetadata", "objectIds"): OBJECT_ID_BYTES,
    ("InformationQuery.TaskFilter", "taskIds"): TASK_ID_BYTES,
    ("InformationQuery", "story"): TASK_ID_BYTES,
}

_CODEC = Codec(layout.load(), messages.STRUCT_CLASSES, messages.ENUM_CLASSES, LENGTHS)
_PARTS = (layout.load(), dict(messages.MESSAGE_CLASSES), messages.STRUCT_CLASSES, messages.ENUM_CLASSES)
SHAPES = Shapes(*_PARTS)
"""What messages have in common that were read before: only faster, never different."""
TEMPLATES = Templates(*_PARTS)
"""The same for those that were written."""


def encode(message: Message) -> bytes:
    """The frame of a message."""
    template = TEMPLATES.find(message)
    if template is not None:
        try:
            return template(message)
        except struct.error:  # a number that does not fit: the codec says which
            pass
    return encode_in_full(message)


def decode(frame: bytes | memoryview) -> Message:
    """The message in a frame; raises MalformedMessage, whatever the bytes are. A frame of more than 4 KiB may be
    a read-only view, and is not copied then: Data of more than 4 KiB are views of it."""
    return decode_as(SHAPES.find(frame), frame)


def decode_as(shape: Shape | None, frame: bytes | memoryview) -> Message:
    """The message in a frame whose shape is known; raises MalformedMessage."""
    if shape is not None:
        try:
            message: Message = shape.read(frame)
            return message
        except (IndexError, UnicodeDecodeError):  # an unknown value: the codec says which
            pass
    message = decode_in_full(frame)
    if shape is None:
        SHAPES.met(frame, messages.KIND_OF[type(message)])
    return message


def encode_in_full(message: Message) -> bytes:
    """``encode`` without shortcuts."""
    return _CODEC.encode_member(messages.KIND_OF[type(message)], message)


def decode_in_full(frame: bytes | memoryview) -> Message:
    """``decode`` without shortcuts."""
    message: Message = _CODEC.decode_member(_BY_DISCRIMINANT, frame)
    return message


def encode_query(query: InformationQuery) -> bytes:
    """The payload of an InformationRequest (SPEC section 13)."""
    return _CODEC.encode(query)


def decode_query(payload: bytes) -> InformationQuery:
    """The query in an InformationRequest; raises MalformedMessage."""
    query: InformationQuery = _CODEC.decode(InformationQuery, payload)
    return query


def query_id(payload: bytes) -> int:
    """The id of a query that is not understood otherwise; 0 if not even that can be read."""
    try:
        head: _QueryHead = _HEAD_CODEC.decode(_QueryHead, payload)
    except MalformedMessage:
        return 0
    return head.query_id


def encode_answer(answer: InformationAnswer) -> bytes:
    """The payload of an InformationResponse."""
    return _CODEC.encode(answer)


def decode_answer(payload: bytes) -> InformationAnswer:
    """The answer in an InformationResponse; raises MalformedMessage."""
    answer: InformationAnswer = _CODEC.decode(InformationAnswer, payload)
    return answer


@dataclass(frozen=True, slots=True)
class _QueryHead:
    query_id: int


def _head_layout() -> layout.Layout:
    struct = layout.load()["structs"]["InformationQuery"]
    return {"structs": {"InformationQuery": {**struct, "fields": struct["fields"][:1]}}, "enums": {}}


_HEAD_CODEC = Codec(_head_layout(), {"InformationQuery": _QueryHead}, {})
_BY_DISCRIMINANT: dict[Kind, type] = messages.MESSAGE_CLASSES
