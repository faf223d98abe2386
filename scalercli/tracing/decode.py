"""Recorded frames read: kinds, fields and names for people. Nothing here fails: what is no message is shown as such."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from protocol import codec, fields, storage
from protocol.errors import MalformedMessage
from protocol.identifiers import OBJECT_ID_BYTES, TASK_ID_BYTES, Identity, Role, role_of
from protocol.messages import Message, Task, TaskResult
from protocol.payloads import ResultMetadata, TaskMetadata
from scalercli.tracing.record import Recorded

SCHEDULER, STORAGE = "scheduler", "storage"
MALFORMED = "malformed"
ROUTINE = frozenset(
    {
        "clientHeartbeat",
        "clientHeartbeatEcho",
        "workerHeartbeat",
        "workerHeartbeatEcho",
        "workerManagerHeartbeat",
        "workerManagerHeartbeatEcho",
    }
)
_REQUESTS = ("setObject", "getObject", "deleteObject", "duplicateObjectID", "infoGetTotal")
_RESPONSES = ("setOK", "getOK", "delOK", "delNotExists", "duplicateOK", "infoGetTotalOK")
_TEXTS = frozenset({"objectNames", "functionName", "workerManagerID"})
_IDENTITIES = frozenset({"source", "objectUser", "worker", "workerId", "client", "clientId", "creator"})
_SERIALIZER_TAG = hashlib.md5(b"serializer", usedforsecurity=False).digest()
_SHORT = 8
_SHOWN_BYTES = 256
"""Of a frame that is no message."""


@dataclass(slots=True)
class Seen:
    """A recorded message, read. ``sender`` and ``receiver`` are names such as ``client1``."""

    number: int
    recorded: Recorded
    sender: str
    receiver: str
    kind: str
    """The schema's name, or ``malformed``."""
    message: Message | None
    fields: dict[str, Any]
    task_id: bytes = b""
    shown: str = ""
    """The fields for people, without the task id."""
    hop: str = ""
    latency: float | None = None
    """Seconds since the message that this one follows from passed; ``hop`` says what that is."""
    findings: list[Any] = field(default_factory=list)

    @property
    def routine(self) -> bool:
        return self.kind in ROUTINE

    @property
    def peer(self) -> str:
        return self.sender if self.recorded.from_peer else self.receiver

    @property
    def bytes(self) -> int:
        return sum(map(len, self.recorded.frames))


class Reader:
    """Reads what was recorded, one after the other, and gives names to who speaks: in the order of appearance."""

    def __init__(self) -> None:
        self.names: dict[Identity, str] = {}
        self._count: dict[str, int] = {}
        self._number = 0

    def read(self, recorded: Recorded) -> Seen:
        self._number += 1
        kind, message, found = _storage(recorded) if recorded.storage else _message(recorded)
        peer = self.name(recorded.peer, kind)
        other = STORAGE if recorded.storage else SCHEDULER
        sender, receiver = (peer, other) if recorded.from_peer else (other, peer)
        task_id: bytes = getattr(message, "task_id", b"")
        seen = Seen(self._number, recorded, sender, receiver, kind, message, found, task_id)
        seen.shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in self._brief(seen))
        return seen

    def _brief(self, seen: Seen) -> str:
        """What is of interest in a message, for people; ``fields`` has the rest."""
        brief = _BRIEF.get(seen.kind)
        if brief is not None:
            return brief(self, seen.fields)
        return self.show({key: value for key, value in seen.fields.items() if key != "taskId"})[1:-1]

    def name(self, identity: Identity, kind: str = "") -> str:
        """``client1`` for the first client, and so on."""
        known = self.names.get(identity)
        if known is None:
            role = role_of(identity)
            word = "peer" if role is Role.OTHER else role.value
            if kind.startswith("workerManager"):
                word = "manager"
            elif role is Role.OTHER and identity.startswith(b"Scheduler"):
                word = "deleter"  # the scheduler's own connection to the object storage
            self._count[word] = self._count.get(word, 0) + 1
            known = self.names[identity] = f"{word}{self._count[word]}"
        return known

    def show(self, value: Any, key: str = "") -> str:
        """A value for people: names of peers, the beginnings of ids, nothing that is empty."""
        if isinstance(value, bytes):
            return self._show_bytes(value, key)
        if isinstance(value, dict):
            inner = (f"{k}: {self.show(v, k)}" for k, v in value.items() if v not in (b"", "", [], {}, None))
            return "{" + ", ".join(inner) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(self.show(v, key) for v in value) + "]"
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, float):
            return f"{value:.6g}"
        return repr(value) if key in ("content", "name", "hostname") else str(value)

    def _show_bytes(self, value: bytes, key: str) -> str:
        if value in self.names:
            return self.names[value]
        if len(value) == OBJECT_ID_BYTES:
            tag = value[16:]
            return "serializer" if tag == _SERIALIZER_TAG else tag.hex()[:_SHORT]
        if len(value) == TASK_ID_BYTES and key not in _TEXTS:
            return value.hex()[:_SHORT]
        if value.isascii() and value.decode().isprintable() and len(value) < 200:
            return value.decode()
        return value.hex() if len(value) <= 16 else f"{value[:8].hex()}… ({len(value)} bytes)"

    def as_json(self, value: Any, key: str = "") -> Any:
        """A value for JSON: identities and names as text, other bytes in hexadecimal."""
        if isinstance(value, bytes):
            if key in _TEXTS or key in _IDENTITIES:
                try:
                    return value.decode()
                except UnicodeDecodeError:
                    return value.hex()
            return value.hex()
        if isinstance(value, dict):
            return {k: self.as_json(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [self.as_json(v, key) for v in value]
        return value


def _brief_task(reader: Reader, task: dict[str, Any]) -> str:
    metadata = task["metadata"] if isinstance(task["metadata"], dict) else {}
    arguments = ", ".join(
        reader.show(a["data"]) if a["type"] == "objectID" else f"task {reader.show(a['data'])}"
        for a in task["functionArgs"]
    )
    words = [f"{reader.show(task['funcObjectId'])}({arguments})"]
    if metadata.get("priority"):
        words.append(f"priority {metadata['priority']}")
    if task["capabilities"]:
        words.append("needs " + ", ".join(c["name"] for c in task["capabilities"]))
    return ", ".join(words)


def _brief_result(reader: Reader, result: dict[str, Any]) -> str:
    words = [str(result["resultType"]), *map(reader.show, result["results"])]
    metadata = result["metadata"]
    if isinstance(metadata, dict) and metadata:
        words.append(f"ran {metadata['seconds']:.3g} s")
    return ", ".join(words)


def _brief_cancel(reader: Reader, cancel: dict[str, Any]) -> str:
    return "forced" if cancel["flags"]["force"] else "not forced"


def _brief_confirm(reader: Reader, confirm: dict[str, Any]) -> str:
    return str(confirm["cancelConfirmType"])


def _brief_instruction(reader: Reader, instruction: dict[str, Any]) -> str:
    objects = instruction["objectMetadata"]
    names = objects["objectNames"]
    shown = [
        reader.show(one) + (f" {names[i].decode(errors='replace')!r}" if i < len(names) and names[i] else "")
        for i, one in enumerate(objects["objectIds"])
    ]
    return f"{instruction['instructionType']} {', '.join(shown)}".rstrip()


_BRIEF: dict[str, Callable[[Reader, dict[str, Any]], str]] = {
    "task": _brief_task,
    "taskResult": _brief_result,
    "taskCancel": _brief_cancel,
    "taskCancelConfirm": _brief_confirm,
    "objectInstruction": _brief_instruction,
    "clientDisconnect": lambda reader, bye: str(bye["disconnectType"]),
}


def _message(recorded: Recorded) -> tuple[str, Message | None, dict[str, Any]]:
    if len(recorded.frames) != 1:
        return MALFORMED, None, _malformed(f"{len(recorded.frames)} frames instead of one", recorded)
    try:
        message = codec.decode(recorded.frames[0])
    except MalformedMessage as error:
        return MALFORMED, None, _malformed(str(error), recorded)
    found = fields.to_fields(message)
    if isinstance(message, Task):
        found["metadata"] = _metadata(TaskMetadata, message.metadata)
    elif isinstance(message, TaskResult):
        found["metadata"] = _metadata(ResultMetadata, message.metadata)
    return fields.kind_of(message), message, found


def _metadata(kind: type[TaskMetadata] | type[ResultMetadata], raw: bytes) -> Any:
    try:
        read = kind.from_bytes(raw) if raw else None
    except MalformedMessage:
        return raw
    if read is None:
        return {}
    if isinstance(read, TaskMetadata):
        return {"profiling": read.profiling, "priority": read.priority, "streamOutput": read.stream_output}
    return {"seconds": read.seconds, "peakBytes": read.peak_bytes, "cpuSeconds": read.cpu_seconds}


def _malformed(reason: str, recorded: Recorded) -> dict[str, Any]:
    return {
        "reason": reason,
        "frames": [
            frame[:_SHOWN_BYTES].hex() + (f"… ({len(frame)} bytes)" if len(frame) > _SHOWN_BYTES else "")
            for frame in recorded.frames
        ],
    }


def _storage(recorded: Recorded) -> tuple[str, None, dict[str, Any]]:
    try:
        length, number, kind, object_id = storage.read_header(recorded.frames[0] if recorded.frames else b"")
        names = _REQUESTS if recorded.from_peer else _RESPONSES
        name = names[kind]
    except (MalformedMessage, IndexError) as error:
        return MALFORMED, None, _malformed(str(error), recorded)
    found: dict[str, Any] = {"requestId" if recorded.from_peer else "responseId": number}
    if name not in ("infoGetTotal", "infoGetTotalOK"):
        found["objectId"] = object_id
    payload = recorded.frames[1] if len(recorded.frames) > 1 else b""
    if name in ("setObject", "getOK"):
        found["payloadBytes"] = length
    elif name == "getObject" and length != storage.WHOLE:
        found["length"] = length
    elif name == "duplicateObjectID":
        found["sourceId"] = payload
    elif name == "infoGetTotalOK":
        try:
            found |= storage.Total.from_bytes(payload)._asdict()
        except MalformedMessage:
            found["payload"] = payload
    return name, None, found
