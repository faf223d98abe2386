"""A recording as a conformance scenario of a scheduler (conformance_tests/README.md, format 1).

What peers sent becomes ``send``, what the scheduler sent ``expect``; ids become symbols, first heartbeats ``connect``,
all other heartbeats and echoes nothing: the engine has its own. Steps stand in the order in which the scheduler handled
the messages, as far as that shows. What may differ between runs of one scheduler is not expected: on workers, which
deletes of objects are put together; in answers to questions, their content.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protocol import fields as message_fields
from protocol.identifiers import (
    CLIENT_PREFIX,
    OBJECT_ID_BYTES,
    TASK_ID_BYTES,
    WORKER_PREFIX,
    owner_digest,
    serializer_object_id,
)
from protocol.messages import InformationRequest, TaskCancel, TaskCancelConfirmType, WorkerHeartbeat
from scalercli.errors import CliError
from scalercli.tracing.decode import MALFORMED, ROUTINE, Seen
from scalercli.tracing.order import handled
from scalercli.tracing.record import Header

_BEATS = frozenset({"clientHeartbeat", "workerHeartbeat", "workerManagerHeartbeat"})
_OF_TASKS = frozenset({"taskId", "targets", "taskIds"})
_RULES = {
    "task": "TSK-05",
    "taskResult": "TSK-01",
    "taskCancel": "CAN-05",
    "taskLog": "TSK-11",
    "clientDisconnect": "LIV-11",
    "clientShutdownResponse": "LIV-10",
    "informationResponse": "INF-01",
}
"""What a scheduler breaks that does not send such a message."""
_NEEDS = {"graphTask": "graphs", "informationRequest": "information", "workerManagerHeartbeat": "managers"}


def make(seen: Sequence[Seen], header: Header) -> dict[str, Any]:
    """The content of the scenario file; raises CliError for a recording that can't become one."""
    maker = _Maker([one for one in seen if not one.recorded.storage])
    return maker.scenario(header)


def write(path: Path, data: dict[str, Any]) -> None:
    """Writes the file, once the engine's own reader has accepted it."""
    import yaml

    from conformance_tests.engine.scenario import BadScenario, from_data

    try:
        from_data(data, path.stem, path)
    except BadScenario as error:
        raise CliError(f"the recording does not make a scenario: {error}") from None
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    try:
        path.write_text(f"# Made by scalercli trace --to-scenario.\n{text}")
    except OSError as error:
        raise CliError(f"can't write {path}: {error.strerror}") from None


class _Maker:
    def __init__(self, seen: Sequence[Seen]) -> None:
        if not seen:
            raise CliError("nothing was recorded that could become a scenario")
        self._seen = handled(seen)
        self._names = {one.recorded.peer: one.peer for one in seen}
        self._digests = {owner_digest(identity): identity for identity in self._names}
        self._symbols: dict[bytes, str] = {}
        self._objects: dict[str, str] = {}
        self._actors: dict[str, dict[str, Any]] = {}
        self._steps: list[dict[str, Any]] = []
        self._connected: set[str] = set()
        self._gone: set[str] = set()
        self._rules: dict[str, None] = {}
        self._needs: dict[str, None] = {}
        self._answered: set[bytes] = set()
        self._given: set[bytes] = set()
        self._wanted: set[bytes] = set()
        """The tasks that some peer wanted canceled so far."""
        self._last = {one.peer: one.number for one in seen if one.recorded.from_peer and not one.routine}
        """By peer: the last thing that it says, beside heartbeats."""

    def scenario(self, header: Header) -> dict[str, Any]:
        for one in self._seen:
            if one.kind == MALFORMED and not one.recorded.from_peer:
                raise CliError(f"message {one.number} of the scheduler is no message: it can't be expected")
            self._sent(one) if one.recorded.from_peer else self._came(one)
        if not any("expect" in step for step in self._steps):
            raise CliError("the scheduler has sent nothing in this recording that could be expected")
        counts = [sum(name.startswith(role) for name in self._actors) for role in ("client", "worker")]
        tasks = sum(step.get("send", {}).get("task") is not None for step in self._steps)
        numbers = zip(("task", "client", "worker"), (tasks, *counts), strict=True)
        words = ", ".join(f"{number} {word}{'' if number == 1 else 's'}" for word, number in numbers)
        data: dict[str, Any] = {
            "format": 1,
            "title": f"Recorded: {words}"[:140],
            "role": "scheduler",
            "requirements": list(self._rules),
            "actors": self._actors,
            "steps": self._steps,
        }
        if self._needs:
            data["needs"] = sorted(self._needs)
        if self._objects:
            data["objects"] = self._objects
        origin = ", ".join(filter(None, (header.command, header.started)))
        if origin:
            data["note"] = f"Made from a recording: {origin}"
        return data

    # ---- peers ----

    def _sent(self, one: Seen) -> None:
        name = one.peer
        if one.kind in _NEEDS:
            self._needs[_NEEDS[one.kind]] = None
        if name in self._gone:
            if one.kind not in _BEATS:
                raise CliError(f"message {one.number}: {name} speaks after it has left, which a scenario can't show")
            self._gone.discard(name)
            self._steps.append({"reconnect": name})
            return
        if name not in self._connected:
            self._connect(one)
            if one.kind in _BEATS:
                return
        if one.kind in _BEATS:
            return
        if one.kind == MALFORMED:
            self._steps.append({"sendRaw": {"actor": name, "frames": [f.hex() for f in one.recorded.frames]}})
            return
        if one.kind == "taskCancel":
            self._wanted.add(one.task_id)
        leaves = one.kind == "workerDisconnectNotification" or (
            one.kind == "clientDisconnect" and one.fields["disconnectType"] == "disconnect"
        )
        if leaves and self._last[name] == one.number:
            self._steps.append({"disconnect": name})
            self._gone.add(name)
            return
        self._steps.append({"send": {"actor": name, one.kind: self._fields(one, sent=True)}})

    def _connect(self, one: Seen) -> None:
        name, identity = one.peer, one.recorded.peer
        if identity.startswith(CLIENT_PREFIX):
            spec: dict[str, Any] = {"role": "client"}
        elif identity.startswith(WORKER_PREFIX):
            spec = {"role": "worker"}
        else:
            spec = {"role": "manager" if name.startswith("manager") else "peer"}
        if isinstance(one.message, WorkerHeartbeat):
            spec["queueSize"] = one.message.queue_size
            if one.message.capabilities:
                spec["capabilities"] = [capability.name for capability in one.message.capabilities]
        self._actors[name] = spec
        self._connected.add(name)
        register = one.kind in _BEATS
        self._steps.append({"connect": name if register else {"actor": name, "register": False}})
        if spec["role"] == "worker":  # how they are put together is the scheduler's business
            self._steps.append({"allow": {"actor": name, "objectInstruction": {"instructionType": "delete"}}})

    # ---- the scheduler ----

    def _came(self, one: Seen) -> None:
        if one.kind in ROUTINE or one.peer in self._gone or one.peer not in self._connected:
            return
        if one.kind == "objectInstruction":
            return
        if isinstance(one.message, TaskCancel) and one.task_id not in self._wanted and not one.message.flags.force:
            raise CliError(
                f"message {one.number}: the scheduler took a task back to balance, which depends on time",
                "record it from a scheduler with --load-balance-seconds -1",
            )
        rule = _RULES.get(one.kind, "")
        if one.kind == "taskCancelConfirm":
            rule = self._confirm_rule(one)
        step: dict[str, Any] = {"actor": one.peer, one.kind: self._fields(one, sent=False)}
        if rule:
            step["requirement"] = rule
            self._rules[rule] = None
        self._steps.append({"expect": step})
        if one.peer.startswith("worker"):
            self._given.add(one.task_id)
        elif one.kind == "taskResult":
            self._answered.add(one.task_id)

    def _confirm_rule(self, one: Seen) -> str:
        kind = TaskCancelConfirmType(getattr(one.message, "cancel_confirm_type", 0))
        if kind is TaskCancelConfirmType.CANCEL_FAILED:
            return "CAN-06"
        if kind is TaskCancelConfirmType.CANCELED:
            return "CAN-02" if one.task_id in self._given else "CAN-04"
        return "CAN-10" if one.task_id in self._answered or one.task_id not in self._given else "CAN-03"

    # ---- fields ----

    def _fields(self, one: Seen, *, sent: bool) -> dict[str, Any]:
        if one.kind == "informationResponse":
            return {}
        if isinstance(one.message, InformationRequest):
            return {"request": {"hex": one.message.request.hex()}}
        assert one.message is not None
        plain = message_fields.to_fields(one.message)
        found = {key: self._value(value, key, sent) for key, value in plain.items() if not _empty(value)}
        if sent and found.get("source") == f"${one.peer}":
            del found["source"]
        return found

    def _value(self, value: Any, key: str, sent: bool) -> Any:
        if isinstance(value, bytes):
            return self._bytes(value, key)
        if isinstance(value, dict):
            inner = "taskId" if value.get("type") == "task" else ""
            return {k: self._value(v, inner if k == "data" else k, sent) for k, v in value.items() if not _empty(v)}
        if isinstance(value, list):
            return [self._value(v, key, sent) for v in value]
        if isinstance(value, str) and value.startswith("$"):
            return {"repeat": {"text": value, "times": 1}} if sent else {"contains": value}
        return value

    def _bytes(self, value: bytes, key: str) -> Any:
        if value in self._names:
            return f"${self._names[value]}"
        if len(value) == OBJECT_ID_BYTES and value[:16] in self._digests:
            owner = self._digests[value[:16]]
            if value == serializer_object_id(owner):
                return f"${{serializer:{self._names[owner]}}}"
            if value not in self._symbols:
                self._symbols[value] = f"o{len(self._objects) + 1}"
                self._objects[self._symbols[value]] = self._names[owner]
            return f"${self._symbols[value]}"
        if key in _OF_TASKS and len(value) == TASK_ID_BYTES:
            if value not in self._symbols:
                tasks = sum(symbol.startswith("t") for symbol in self._symbols.values())
                self._symbols[value] = f"t{tasks + 1}"
            return f"${self._symbols[value]}"
        if value.isascii() and value.decode().isprintable() and not value.startswith(b"$"):
            return value.decode()
        return {"hex": value.hex()}


def _empty(value: Any) -> bool:
    return value in (b"", "", [], {}, None)
