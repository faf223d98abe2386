"""Rows of a ledger and what they stand for. A ledger is a file: what scalercli did not write into it so is refused."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from protocol.control import NO_OPTIONS, Capability, Event, OutputChunk, ShownState, TaskKind, TaskOptions, TaskRow

_STATES = {state.label: state for state in ShownState}
_NONE = type(None)
_TYPES = frozenset(
    (int, bytes, int, str, str, str, float, float, float, exit_code, int, str, key, int, retry_of)
    for exit_code in (int, _NONE)
    for key in (str, _NONE)
    for retry_of in (bytes, _NONE)
)
_MOST_SECONDS = 1e11
_INT32 = range(-(2**31), 2**31)
_INT64 = range(-(2**63), 2**63)
_UINT32 = range(2**32)


class LedgerError(Exception):
    """The ledger can't be read or written; the text says why."""


class Work(NamedTuple):
    """What is sent for a task."""

    function: bytes
    name: str
    arguments: tuple[bytes, ...]


class Entry:
    """A row with its number in the ledger."""

    __slots__ = ("number", "payload", "row")

    def __init__(self, number: int, row: TaskRow) -> None:
        self.number = number
        self.row = row
        self.payload: bytes | None = None  # of a task that has just ended, if it is small: it need not be read


def entry_of(found: tuple[Any, ...]) -> Entry:
    """Of all columns of a task; raises LedgerError."""
    number, task_id, kind, text, state, reason, submitted, started, ended, exit_code, peak_bytes, *rest = found
    options, key, attempt, retry_of = rest
    if (
        tuple(map(type, found)) not in _TYPES
        or len(task_id) != 16
        or not -_MOST_SECONDS < min(submitted, started, ended) <= max(submitted, started, ended) < _MOST_SECONDS
        or (exit_code or 0) not in _INT32
        or not 0 <= peak_bytes < 2**63
        or attempt not in _UINT32
    ):
        raise _foreign(number, "one of its values")
    try:
        row = TaskRow(
            task_id,
            kind=TaskKind(kind),
            text=text,
            state=_STATES[state],
            reason=reason,
            submitted_at=submitted,
            started_at=started,
            ended_at=ended,
            has_exit_code=exit_code is not None,
            exit_code=exit_code or 0,
            peak_bytes=peak_bytes,
            options=_options(options) if options else NO_OPTIONS,
            key=key or "",
            attempt=attempt,
            retry_of=retry_of or b"",
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _foreign(number, str(error) or "its options") from None
    return Entry(number, row)


def work_of(number: int, found: tuple[Any, ...]) -> Work:
    """Of function, name and packed arguments; raises LedgerError."""
    function, name, packed = found
    if not isinstance(function, bytes) or not isinstance(name, str) or not isinstance(packed, bytes):
        raise _foreign(number, "what was sent for it")
    arguments = []
    start = 0
    while start < len(packed):
        end = start + 8 + int.from_bytes(packed[start : start + 8], "little")
        if end > len(packed) or start + 8 > len(packed):
            raise _foreign(number, "what was sent for it")
        arguments.append(packed[start + 8 : end])
        start = end
    return Work(function, name, tuple(arguments))


def event_of(number: int, found: tuple[Any, ...]) -> Event:
    """Of time and text; raises LedgerError."""
    at, text = found
    if not isinstance(at, float) or not -_MOST_SECONDS < at < _MOST_SECONDS or not isinstance(text, str):
        raise _foreign(number, "what happened to it")
    return Event(at, text)


def payload_of(number: int, found: tuple[Any, ...]) -> bytes:
    """Of the payload; raises LedgerError."""
    (payload,) = found
    if not isinstance(payload, bytes):
        raise _foreign(number, "its result")
    return payload


def output_of(number: int, found: tuple[Any, ...]) -> OutputChunk:
    """Of place, stderr and text; raises LedgerError."""
    _, stderr, text = found
    if not isinstance(text, str):
        raise _foreign(number, "its output")
    return OutputChunk(bool(stderr), text)


def _foreign(number: object, what: str) -> LedgerError:
    return LedgerError(f"the ledger is damaged: of task {number}, {what} can't be read")


def options_text(options: TaskOptions) -> str:
    """JSON of what differs from the defaults."""
    defaults = NO_OPTIONS._asdict()
    return json.dumps({name: value for name, value in options._asdict().items() if value != defaults[name]})


def _options(text: str) -> TaskOptions:
    fields = json.loads(text)
    lists: dict[str, Any] = {
        name: tuple(make(item) for item in fields[name])
        for name, make in (
            ("retry_on", ShownState),
            ("capabilities", lambda pair: Capability(*pair)),
            ("after", str),
            ("after_any", str),
        )
        if name in fields
    }
    made = TaskOptions(**fields | lists)
    numbers = [(made.priority, _INT32), *((capability.value, _INT64) for capability in made.capabilities)]
    names = (made.name, *(capability.name for capability in made.capabilities))
    if (
        not all(isinstance(name, str) for name in names)
        or not all(isinstance(number, int) and number in possible for number, possible in numbers)
        or not (isinstance(made.retries, int) and made.retries in _UINT32)
        or not (isinstance(made.timeout_seconds, (int, float)) and 0 <= made.timeout_seconds < _MOST_SECONDS)
    ):
        raise ValueError("its options")
    return made
