"""The small payloads that are not Cap'n Proto (SPEC section 5.5), and the one that a scheduler stores (14)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from protocol.errors import MalformedMessage

_TASK = struct.Struct("!?i?")
_RESULT = struct.Struct("!fQf")
MAX_PRIORITY = 2**31 - 1


@dataclass(frozen=True, slots=True)
class TaskMetadata:
    """``Task.metadata``: one byte, a big-endian signed 32-bit integer, one byte. Empty bytes mean the defaults.

    A task of a higher ``priority`` suspends a running one of a lower priority (SPEC section 5.8).
    """

    profiling: bool = True
    priority: int = 0
    stream_output: bool = False

    def to_bytes(self) -> bytes:
        return _TASK.pack(self.profiling, self.priority, self.stream_output)

    @classmethod
    def from_bytes(cls, raw: bytes) -> TaskMetadata:
        """Raises MalformedMessage."""
        if not raw:
            return cls()
        if len(raw) != _TASK.size:
            raise MalformedMessage(f"task metadata has {_TASK.size} bytes or none, not {len(raw)}")
        return cls(*_TASK.unpack(raw))


@dataclass(frozen=True, slots=True)
class ResultMetadata:
    """``TaskResult.metadata``: how long the task ran, its peak memory, its CPU time."""

    seconds: float
    peak_bytes: int
    cpu_seconds: float

    def to_bytes(self) -> bytes:
        return _RESULT.pack(self.seconds, self.peak_bytes, self.cpu_seconds)

    @classmethod
    def from_bytes(cls, raw: bytes) -> ResultMetadata | None:
        """None for an empty payload; raises MalformedMessage."""
        if not raw:
            return None
        if len(raw) != _RESULT.size:
            raise MalformedMessage(f"result metadata has {_RESULT.size} bytes or none, not {len(raw)}")
        return cls(*_RESULT.unpack(raw))


def exception(text: str) -> bytes:
    """A Python pickle (protocol 0) of ``RuntimeError(text)``, written without pickle: SPEC section 14 has its form."""
    escaped = text.replace("\\", "\\u005c").replace("\n", "\\u000a").encode("raw-unicode-escape")
    return b"cbuiltins\nRuntimeError\n(V%b\ntR." % escaped
