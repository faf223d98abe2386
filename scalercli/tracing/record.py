"""What was recorded, one frame at a time, and its file format (docs/trace.md).

A recording is JSON lines: a header (``scalercli.trace/1``), then messages (``scalercli.trace.message/1``). Only ``at``,
``peer``, ``to`` and ``frames`` of a message are read back; the rest is made from them each time.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from scalercli.errors import CliError

HEADER = "scalercli.trace/1"
MESSAGE = "scalercli.trace.message/1"
SUMMARY = "scalercli.trace.summary/1"


@dataclass(frozen=True, slots=True)
class Recorded:
    """The frames of one message that passed: of ``peer`` to the scheduler, or of the scheduler to it.

    ``at``: seconds since the recording began, by the clock of the one who recorded. On the storage channel ``peer`` is
    the identity that the connection gave, and the other end is the object storage.
    """

    at: float
    peer: bytes
    from_peer: bool
    frames: tuple[bytes, ...]
    storage: bool = False


@dataclass(frozen=True, slots=True)
class Header:
    """Where a recording comes from."""

    started: str = ""
    """UTC, ISO 8601."""
    cluster: str = ""
    command: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    def as_data(self) -> dict[str, Any]:
        return {"schema": HEADER, "started": self.started, "cluster": self.cluster, "command": self.command}


def as_data(recorded: Recorded) -> dict[str, Any]:
    """The part of a message's object that is read back."""
    other = "storage" if recorded.storage else "scheduler"
    data: dict[str, Any] = {"schema": MESSAGE, "at": round(recorded.at, 6), **_named("peer", recorded.peer)}
    data["from"], data["to"] = ("peer", other) if recorded.from_peer else (other, "peer")
    data["frames"] = [base64.b64encode(frame).decode() for frame in recorded.frames]
    return data


def _named(key: str, identity: bytes) -> dict[str, str]:
    """An identity as text, or, where it is none, in hexadecimal under another name."""
    try:
        text = identity.decode()
    except UnicodeDecodeError:
        return {f"{key}Hex": identity.hex()}
    return {key: text}


def read(stream: TextIO | Iterable[str], name: str) -> Iterator[Header | Recorded]:
    """The header, if there is one, and the messages of a recording; raises CliError that names the line."""
    number = 0
    try:
        for number, line in enumerate(stream, 1):  # noqa: B007
            if line.strip():
                found = _parse(line)
                if found is not None:
                    yield found
    except _Broken as error:
        raise CliError(f"{name}:{number}: {error}", "a recording is what trace --format jsonl prints") from None
    except UnicodeDecodeError:
        raise CliError(f"{name}:{number + 1}: not UTF-8", "a recording is what trace --format jsonl prints") from None
    if not number:
        raise CliError(f"{name} is empty", "a recording is what trace --format jsonl prints")


_MOST_SECONDS = 1e12
"""More is no time, and too much to calculate with."""


class _Broken(ValueError):
    pass


def _parse(line: str) -> Header | Recorded | None:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _Broken(f"not JSON: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get("schema"), str):
        raise _Broken(f"not a line of a recording: an object with schema {MESSAGE} was expected")
    schema = data["schema"]
    if schema == HEADER:
        known = {key: data[key] for key in ("started", "cluster", "command") if isinstance(data.get(key), str)}
        return Header(**known)
    if schema != MESSAGE:
        if schema.startswith("scalercli.trace."):
            return None  # summaries, findings: made again
        raise _Broken(f"{schema} is no line of a recording: {MESSAGE} was expected")
    return _message(data)


def _message(data: dict[str, Any]) -> Recorded:
    at = data.get("at")
    if not isinstance(at, (int, float)) or isinstance(at, bool) or not -_MOST_SECONDS < at < _MOST_SECONDS:
        raise _Broken("at: a number of seconds was expected")
    ends = data.get("from"), data.get("to")
    if ends not in (("peer", "scheduler"), ("scheduler", "peer"), ("peer", "storage"), ("storage", "peer")):
        raise _Broken("from, to: one is peer, the other scheduler or storage")
    frames = data.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, str) for frame in frames):
        raise _Broken("frames: a list of base64 texts was expected")
    try:
        decoded = tuple(base64.b64decode(frame, validate=True) for frame in frames)
    except (binascii.Error, ValueError):
        raise _Broken("frames: not base64") from None
    if "peerHex" in data:
        try:
            peer = bytes.fromhex(data["peerHex"])
        except (TypeError, ValueError):
            raise _Broken("peerHex: not hexadecimal") from None
    elif isinstance(data.get("peer"), str):
        try:
            peer = data["peer"].encode(errors="surrogateescape")
        except UnicodeEncodeError:
            raise _Broken("peer: not a text that can be an identity") from None
    else:
        raise _Broken("peer: an identity was expected")
    return Recorded(float(at), peer, ends[0] == "peer", decoded, "storage" in ends)
