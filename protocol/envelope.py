"""A message together with its frame, each made from the other only when somebody asks for it.

The scheduler passes tasks and results on as the bytes that came in. What it needs to know of them, ``peek``
reads without decoding the rest: the kind, the ids, and one small field.
"""

from __future__ import annotations

import struct as _struct
from typing import Any

from protocol import codec
from protocol.errors import MalformedMessage
from protocol.identifiers import TASK_ID_BYTES, ClientId, ObjectId, TaskId
from protocol.messages import (
    KIND_OF,
    GraphTask,
    Kind,
    Message,
    Task,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskCapability,
    TaskResult,
    TaskResultType,
)
from protocol.shapes import Shape
from protocol.wire import LONG_DATA_BYTES

_KINDS = {int(kind): kind for kind in Kind}
_WITH_TASK_ID = frozenset(
    (
        Kind.TASK,
        Kind.TASK_CANCEL,
        Kind.TASK_CANCEL_CONFIRM,
        Kind.TASK_RESULT,
        Kind.TASK_LOG,
        Kind.GRAPH_TASK,
    )
)
_DETAILS = {
    Kind.TASK_RESULT: ("resultType", len(TaskResultType) - 1),
    Kind.TASK_CANCEL_CONFIRM: ("cancelConfirmType", len(TaskCancelConfirmType) - 1),
    Kind.TASK_CANCEL: ("flags.force", 1),
}
"""Which field ``detail`` is, and its highest value."""
_FRAME_HEAD = _struct.Struct("<IIiHH").unpack_from  # segments - 1, words, root pointer: offset, data words, pointers
_STRUCT_POINTER = _struct.Struct("<iHH").unpack_from
_LIST_POINTER = _struct.Struct("<iI").unpack_from
_U16 = _struct.Struct("<H").unpack_from

NO_TASK = TaskId(b"")


class Envelope:
    """One message: ``frame`` is its bytes, ``message`` its value; ``kind`` and ``task_id`` cost neither.

    ``task_id`` is ``b""`` for kinds that have none; ``source`` is the client named in a Task or GraphTask.
    ``detail`` is the ordinal of the result type or confirm type, or 1 for a forced TaskCancel.
    """

    __slots__ = ("_frame", "_message", "_shape", "detail", "kind", "source", "task_id")

    def __init__(
        self,
        kind: Kind,
        task_id: TaskId,
        source: ClientId,
        detail: int,
        frame: bytes | memoryview | None,
        message: Message | None,
        shape: Shape | None = None,
    ) -> None:
        self.kind = kind
        self.task_id = task_id
        self.source = source
        self.detail = detail
        self._frame = frame
        self._message = message
        self._shape = shape

    @classmethod
    def of(cls, message: Message) -> Envelope:
        """The envelope of a message that was made here."""
        kind = KIND_OF[type(message)]
        detail, source = 0, ClientId(b"")
        if isinstance(message, TaskResult):
            detail = int(message.result_type)
        elif isinstance(message, TaskCancelConfirm):
            detail = int(message.cancel_confirm_type)
        elif isinstance(message, TaskCancel):
            detail = int(message.flags.force)
        elif isinstance(message, (Task, GraphTask)):
            source = message.source
        task_id: TaskId = getattr(message, "task_id", NO_TASK) if kind in _WITH_TASK_ID else NO_TASK
        return cls(kind, task_id, source, detail, None, message)

    @classmethod
    def parse(cls, frame: bytes | memoryview) -> Envelope:
        """The envelope of a frame that came in; raises MalformedMessage where ``peek`` finds out. A frame of more than
        4 KiB may be a read-only view: it is passed on, and checked, without a copy."""
        shape = codec.SHAPES.find(frame)
        if shape is None:
            return cls(*peek(frame), frame, None)
        kind, task_id, source, detail_at, most = shape.head or _head(shape)
        detail = 0
        if most == 1:
            detail = frame[detail_at] & 1
        elif most:
            detail = _U16(frame, detail_at)[0]
            if detail > most:
                raise MalformedMessage(f"unknown value {detail} in a {kind.name}")
        the_id: TaskId = frame[task_id]  # type: ignore[assignment] # to call a NewType takes time
        client: ClientId = frame[source]  # type: ignore[assignment]
        return cls(kind, the_id, client, detail, frame, None, shape)

    @property
    def frame(self) -> bytes | memoryview:
        """The encoded message: what came in, if it came in."""
        if self._frame is None:
            assert self._message is not None
            self._frame = codec.encode(self._message)
        return self._frame

    @property
    def message(self) -> Message:
        """The decoded message; raises MalformedMessage."""
        if self._message is None:
            assert self._frame is not None
            self._message = codec.decode_as(self._shape, bytes(self._frame))
        return self._message

    def check(self) -> Message:
        """The decoded message, not kept: for one that waits here to be passed on. Of a frame that is a view, Data of
        more than 4 KiB are views. Raises MalformedMessage."""
        if self._message is not None:
            return self._message
        assert self._frame is not None
        return codec.decode_as(self._shape, self._frame)

    def check_task(self) -> tuple[bytes, tuple[TaskCapability, ...]]:
        """Of a Task: (metadata, capabilities), after the same checks."""
        seen = self._glance()
        if seen is not None:
            return seen[0], seen[1]
        message = self.check()
        assert isinstance(message, Task)
        return message.metadata, message.capabilities

    def check_result(self) -> tuple[ObjectId, ...]:
        """Of a TaskResult: its results, after the same checks."""
        seen = self._glance()
        if seen is not None:
            results: tuple[ObjectId, ...] = seen[0]
            return results
        message = self.check()
        assert isinstance(message, TaskResult)
        return message.results

    def _glance(self) -> tuple[Any, ...] | None:
        """What the shape shows without a message being made; None where it is not that easy."""
        if self._shape is None or self._frame is None:
            return None
        try:
            return self._shape.glance(self._frame)
        except (IndexError, UnicodeDecodeError):
            return None

    def __repr__(self) -> str:
        return f"Envelope({self._message!r})" if self._message else f"Envelope({self.kind.name}, {self.task_id.hex()})"


def peek(frame: bytes | memoryview) -> tuple[Kind, TaskId, ClientId, int]:
    """(kind, task id, source, detail) of a frame; see Envelope. Raises MalformedMessage.

    What it does not look at may still be malformed: ``decode`` tells.
    """
    try:
        segments, words, root, data_words, pointers = _FRAME_HEAD(frame, 0)
        if segments or 8 * words + 8 != len(frame) or root & 3 or not data_words or not pointers:
            return _peek_slowly(frame)
        body_pointer = 16 + 2 * root + 8 * data_words
        discriminant: int = _U16(frame, _inside(16 + 2 * root))[0]
        kind = _KINDS.get(discriminant)
        if kind is None:
            raise MalformedMessage(f"unknown message variant {discriminant}")
        if kind not in _WITH_TASK_ID:
            return kind, NO_TASK, ClientId(b""), 0
        offset, data_words, pointers = _STRUCT_POINTER(frame, body_pointer)
        if offset & 3 or not pointers:
            return _peek_slowly(frame)
        body = _inside(body_pointer + 8 + 2 * offset)
        refs = body + 8 * data_words
        task_id = _data(frame, refs)
        if len(task_id) != TASK_ID_BYTES:
            raise MalformedMessage(f"a task id has {TASK_ID_BYTES} bytes, not {len(task_id)}")
        source, detail = b"", 0
        if kind is Kind.TASK_RESULT or kind is Kind.TASK_CANCEL_CONFIRM:
            detail = _U16(frame, body)[0] if data_words else 0
            if detail > 2:
                raise MalformedMessage(f"unknown value {detail} in a {kind.name}")
        elif kind is Kind.TASK_CANCEL:
            if pointers > 1:
                offset, data_words, _ = _STRUCT_POINTER(frame, refs + 8)
                if offset & 3:
                    return _peek_slowly(frame)
                detail = frame[_inside(refs + 16 + 2 * offset)] & 1 if data_words else 0
        elif kind is Kind.TASK or kind is Kind.GRAPH_TASK:
            source = _data(frame, refs + 8) if pointers > 1 else b""
        return kind, TaskId(task_id), ClientId(source), detail
    except _struct.error as error:
        raise MalformedMessage("the message is cut off") from error
    except IndexError as error:
        raise MalformedMessage("a pointer out of the message") from error
    except _Far:
        return _peek_slowly(frame)


_NOWHERE = slice(0, 0)


def _head(shape: Shape) -> tuple[Kind, slice, slice, int, int]:
    """Of the frames of a shape: the kind; where task id and source are; the byte of the detail, its highest value."""
    kind, where = _KINDS[shape.discriminant], shape.where
    task_id, source, detail_at, most = _NOWHERE, _NOWHERE, 0, 0
    if kind in _WITH_TASK_ID:
        task_id = slice(*where["taskId"])
        source = slice(*where.get("source", (0, 0)))
        field, highest = _DETAILS.get(kind, ("", 0))
        if field in where:
            detail_at, most = where[field][0], highest
    shape.head = kind, task_id, source, detail_at, most
    return kind, task_id, source, detail_at, most


class _Far(Exception):
    """A pointer that the fast path does not follow."""


def _inside(position: int) -> int:
    if position < 8:
        raise MalformedMessage("a pointer out of the message")
    return position


def _data(frame: bytes | memoryview, at: int) -> bytes:
    low, high = _LIST_POINTER(frame, at)
    if low & 3 != 1 or high & 7 != 2:
        if low == 0 and high == 0:
            return b""
        raise _Far
    start = _inside(at + 8 + 2 * (low & ~3))
    value = frame[start : start + (high >> 3)]
    if len(value) != high >> 3:
        raise MalformedMessage("a pointer out of the message")
    return bytes(value) if len(value) <= LONG_DATA_BYTES else value  # type: ignore[return-value] # longer than any id


def _peek_slowly(frame: bytes | memoryview) -> tuple[Kind, TaskId, ClientId, int]:
    """The same for any legal encoding: several segments, far pointers."""
    whole = Envelope.of(codec.decode(frame))
    return whole.kind, whole.task_id, whole.source, whole.detail
