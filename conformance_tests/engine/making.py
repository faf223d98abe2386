"""Messages that a scenario sends: symbols become values, and fields that it leaves out get well-formed defaults."""

from __future__ import annotations

import re
import secrets
from typing import Any

from conformance_tests.engine.matching import SYMBOL
from conformance_tests.engine.names import Names
from protocol import fields as message_fields
from protocol.fields import BadFields, Fields
from protocol.identifiers import CLIENT_PREFIX, Identity, serializer_object_id

_SERIALIZER = re.compile(r"^\$\{serializer:(\w+)\}$")


def fill(kind: str, given: Fields, names: Names, sender: Identity, actor: dict[str, Any]) -> Fields:
    """The fields of a message of this kind from ``sender``, complete and without symbols.

    ``actor`` is what the scenario says of the sender (queueSize, capabilities). Raises BadFields, UnknownSymbol.
    """
    fields = dict(given)
    owner = _owner(kind, fields, names, sender)
    make = _DEFAULTS.get(kind)
    if make is not None:
        for key, value in make(fields, sender, actor).items():
            fields.setdefault(key, value)
    resolved: Fields = {
        key: resolve(value, key, names, owner, _type(kind, key), fields) for key, value in fields.items()
    }
    if kind in ("task", "graphTask") and isinstance(resolved.get("taskId"), bytes):
        names.client_of_task.setdefault(resolved["taskId"], resolved["source"])
        for node in resolved.get("graph", ()):
            names.client_of_task.setdefault(node["taskId"], resolved["source"])
    return resolved


def _owner(kind: str, fields: Fields, names: Names, sender: Identity) -> Identity:
    """Whose objects the ids in this message are, unless the scenario says otherwise."""
    if kind == "objectInstruction":
        user = fields.get("objectUser")
        if isinstance(user, str) and (symbol := SYMBOL.match(user)):
            value: bytes = names.get(symbol[1])
            return value
    if kind in ("task", "graphTask"):
        source = fields.get("source")
        if isinstance(source, str) and (symbol := SYMBOL.match(source)) and names.known(symbol[1]):
            known: bytes = names.get(symbol[1])
            return known
    if kind == "taskResult":
        task = fields.get("taskId")
        if isinstance(task, str) and (symbol := SYMBOL.match(task)) and names.known(symbol[1]):
            return names.client_of_task.get(names.get(symbol[1]), sender)
    return sender


def _type(kind: str, key: str) -> str:
    return (
        message_fields.field_types(message_fields.struct_of(kind)).get(key, "") if kind in message_fields.KINDS else ""
    )


def resolve(
    value: Any, field: str, names: Names, owner: Identity, kind: str = "Data", beside: Fields | None = None
) -> Any:
    """A value of a scenario as a value of a message. ``kind`` is the field's type in layout.json."""
    if isinstance(value, str):
        if symbol := SYMBOL.match(value):
            if field == "data" and beside is not None and beside.get("type", "objectID") == "objectID":
                field = "funcObjectId"
            return names.fresh(symbol[1], field, owner)
        if serializer := _SERIALIZER.match(value):
            return serializer_object_id(names.get(serializer[1]))
        if value.startswith("${"):
            raise BadFields(f"{field}: {value} can only be expected, not sent")
        return value.encode() if kind in ("Data", "List(Data)") else value
    if isinstance(value, dict):
        if len(value) == 1:
            ((key, inner),) = value.items()
            if key == "hex":
                return bytes.fromhex(inner)
            if key == "text":
                return inner.encode()
            if key == "random":
                return secrets.token_bytes(inner)
            if key == "repeat":
                text = inner["text"] * inner["times"]
                return text.encode() if kind in ("Data", "List(Data)") else text
        if field == "graph":
            value = {"source": owner, "funcObjectId": "$_", **value}
            if value["funcObjectId"] == "$_":
                value["funcObjectId"] = _anonymous_object(owner)
        struct = kind[5:-1] if kind.startswith("List(") else kind
        types = message_fields.field_types(struct) if struct in message_fields._STRUCTS else {}
        return {k: resolve(v, k, names, owner, types.get(k, ""), value) for k, v in value.items()}
    if isinstance(value, list):
        return [resolve(v, field, names, owner, kind, beside) for v in value]
    return value


def _anonymous_object(owner: Identity) -> bytes:
    from protocol.identifiers import new_object_id

    return new_object_id(owner)


def _task(fields: Fields, sender: Identity, actor: dict[str, Any]) -> Fields:
    task = fields.get("taskId")
    function = f"$function_of_{task[1:]}" if isinstance(task, str) and SYMBOL.match(task) else _anonymous_object(sender)
    return {"taskId": {"random": 16}, "source": sender, "funcObjectId": function}


def _graph(fields: Fields, sender: Identity, actor: dict[str, Any]) -> Fields:
    return {"taskId": {"random": 16}, "source": sender}


def _result(fields: Fields, sender: Identity, actor: dict[str, Any]) -> Fields:
    ended = fields.get("resultType", "success")
    return {"resultType": ended, "results": ["$result_of_" + fields["taskId"][1:]] if _named(fields, ended) else []}


def _named(fields: Fields, ended: Any) -> bool:
    return ended != "failedWorkerDied" and isinstance(fields.get("taskId"), str) and fields["taskId"].startswith("$")


def _instruction(fields: Fields, sender: Identity, actor: dict[str, Any]) -> Fields:
    metadata = dict(fields.get("objectMetadata") or {})
    count = len(metadata.get("objectIds") or ())
    kind = fields.get("instructionType", "create")
    if kind == "create" and count:
        metadata.setdefault("objectTypes", ["object"] * count)
        metadata.setdefault("objectNames", ["an object"] * count)
        metadata.setdefault("objectSizes", [1] * count)
    fields["objectMetadata"] = metadata
    return {"instructionType": kind, "objectUser": sender if sender.startswith(CLIENT_PREFIX) else b""}


def _worker_heartbeat(fields: Fields, sender: Identity, actor: dict[str, Any]) -> Fields:
    return {
        "queueSize": actor.get("queueSize", 1),
        "capabilities": [{"name": name, "value": -1} for name in actor.get("capabilities", ())],
        "hostname": "conformance",
    }


def _client_heartbeat(fields: Fields, sender: Identity, actor: dict[str, Any]) -> Fields:
    return {"hostname": "conformance"}


_DEFAULTS = {
    "task": _task,
    "graphTask": _graph,
    "taskResult": _result,
    "objectInstruction": _instruction,
    "workerHeartbeat": _worker_heartbeat,
    "clientHeartbeat": _client_heartbeat,
}
