"""The JSON Schema of scenario files, made from the protocol's schema: ``python -m conformance_tests.engine.schema``.

The message kinds and their fields come from ``protocol/layout.json``, so that an editor completes them and a field
that does not exist is an error; a test fails when the published file is not what this module makes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from protocol import fields as message_fields
from protocol import layout

PATH = Path(__file__).parent.parent / "schema" / "scenario-1.json"
CAPABILITIES = (
    "balancing", "bounded", "dependencies", "graphs", "information", "limits", "managers", "monitor",
    "placement", "priorities",  # so far of SPEC.md
    "clear", "clock", "signals", "sockets", "storage", "unforced-cancel", "force-refusal", "task-log", "processes",
    "await", "timeouts",
)  # fmt: skip
STORAGE_REQUESTS = {
    "setObject": {"objectId", "payload", "requestId"},
    "getObject": {"objectId", "length", "requestId"},
    "deleteObject": {"objectId", "requestId"},
    "duplicateObjectID": {"objectId", "sourceId", "requestId"},
    "infoGetTotal": {"requestId"},
}
STORAGE_RESPONSES = {
    "setOK": {"objectId", "responseId"},
    "getOK": {"objectId", "responseId", "payload"},
    "delOK": {"objectId", "responseId"},
    "delNotExists": {"objectId", "responseId"},
    "duplicateOK": {"objectId", "responseId"},
    "infoGetTotalOK": {
        "responseId", "objectCount", "uniqueCount", "totalBytes", "pendingRequests", "pendingObjects",
        "oldestPendingSeconds",
    },
    "greeting": {"magic", "identity"},
}  # fmt: skip
STORAGE_STUB = {
    "put": {"objectId", "python", "value", "serializer", "raises", "content", "prefix"},
    "drop": {"objectId"},
    "read": {"objectId", "prefix"},
    "content": {"objectId", "value", "raises", "text", "unreadable", "missing", "size"},
    "connected": {"identity"},
    "hold": set(),
    "resume": set(),
    "hangUp": set(),
    "stop": set(),
    "start": set(),
    "refuse": {"above"},
    "accept": set(),
}
# The scheduler that the engine plays for a worker or a client tells who speaks to it.
SCHEDULER_STUB: dict[str, set[str]] = {"identify": set(), "identified": {"identity"}}
PROCESS: dict[str, set[str]] = {"terminate": set(), "kill": set(), "ended": {"exitCode"}}
DRIVER_COMMANDS: dict[str, set[str]] = {
    "submit": {"future", "function", "args", "kwargs"},
    "graph": {"futures", "entries"},
    "cancel": {"future", "force", "timeout", "how", "of"},
    "result": {"future", "timeout"},
    "state": {"future"},
    "clear": set(),
    "shutdown": set(),
}
DRIVER_EVENTS: dict[str, set[str]] = {
    "opened": {"identity"},
    "submitted": {"future", "taskId", "error"},
    "graphed": {"futures", "error"},
    "canceled": {"future", "returned", "error"},
    "resulted": {"future", "outcome", "value", "error"},
    "stated": {"future", "state"},
    "cleared": set(),
    "closed": set(),
    "failed": {"op", "error"},
}
GATE = {"gateOpened": {"name"}, "gateClosed": {"name"}, "release": {"name", "value"}}


def _object(properties: dict[str, Any], required: list[str] | None = None, **more: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False, **more}
    if required:
        schema["required"] = required
    return schema


def _message_kinds() -> dict[str, Any]:
    """Every kind of message to the schema of its fields."""
    kinds: dict[str, Any] = {}
    for kind in message_fields.KINDS:
        properties = {
            name: _value(of) for name, of in message_fields.field_types(message_fields.struct_of(kind)).items()
        }
        if kind in ("informationRequest", "informationResponse"):
            properties = {name: {} for name in properties}
        kinds[kind] = {"anyOf": [{"type": "null"}, _object(properties)]}
    played = (STORAGE_STUB, SCHEDULER_STUB, DRIVER_COMMANDS, DRIVER_EVENTS, GATE, PROCESS)
    for table in (STORAGE_REQUESTS, STORAGE_RESPONSES, *played):
        for kind, names in table.items():
            # A name can be in two tables: then it has the fields of both.
            known = kinds.get(kind, {"anyOf": [{}, {"properties": {}}]})["anyOf"][1]["properties"]
            kinds[kind] = {"anyOf": [{"type": "null"}, _object({**known, **dict.fromkeys(sorted(names), True)})]}
    return kinds


def _value(kind: str) -> dict[str, Any]:
    enums = layout.load()["enums"]
    if kind in enums:
        return {"anyOf": [{"enum": enums[kind]["values"]}, {"$ref": "#/$defs/special"}, {"type": "integer"}]}
    if kind == "Bool":
        return {"anyOf": [{"type": "boolean"}, {"$ref": "#/$defs/special"}]}
    if kind in layout.load()["structs"]:
        inner = {name: _value(of) for name, of in message_fields.field_types(kind).items()}
        return {"anyOf": [_object(inner), {"$ref": "#/$defs/special"}]}
    if kind.startswith("List("):
        return {"anyOf": [{"type": "array", "items": _value(kind[5:-1])}, {"$ref": "#/$defs/special"}]}
    if kind in ("Data", "Text"):
        return {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/special"}]}
    return {"anyOf": [{"type": "number"}, {"$ref": "#/$defs/special"}]}


def make() -> dict[str, Any]:
    """The schema."""
    kinds = _message_kinds()
    references = {kind: {"$ref": f"#/$defs/message/{kind}"} for kind in kinds}
    actor = {"$ref": "#/$defs/actor"}
    message = _object(
        {"actor": actor, "requirement": {"$ref": "#/$defs/requirement"}, **references}, ["actor"], minProperties=2
    )
    named_actor = {"anyOf": [actor, _object({"actor": actor, "register": {"type": "boolean"}}, ["actor"])]}
    steps = {
        "connect": named_actor,
        "reconnect": {
            "anyOf": [
                actor,
                _object(
                    {"actor": actor, "register": {"type": "boolean"}, "newIdentity": {"type": "boolean"}}, ["actor"]
                ),
            ]
        },
        "disconnect": {
            "anyOf": [actor, _object({"actor": actor, "how": {"enum": ["politely", "abruptly"]}}, ["actor"])]
        },
        "send": {"$ref": "#/$defs/actorsMessage"},
        "sendRaw": _object(
            {
                "actor": actor,
                "frames": {"type": "array", "items": {"$ref": "#/$defs/frame"}},
                "each": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "anyOf": [
                            {"$ref": "#/$defs/frame"},
                            {"type": "array", "items": {"$ref": "#/$defs/frame"}},
                        ]
                    },
                },
                "mayClose": {"const": True},
            },
            ["actor"],
            oneOf=[{"required": ["frames"]}, {"required": ["each"]}],
        ),
        "expect": {"$ref": "#/$defs/actorsMessage"},
        "expectOneOf": _object(
            {
                "actor": actor,
                "options": {
                    "type": "array",
                    "minItems": 2,
                    "items": _object(references, minProperties=1, maxProperties=1),
                },
                "as": {"$ref": "#/$defs/name"},
            },
            ["actor", "options"],
        ),
        "expectAnyOrder": {"type": "array", "minItems": 2, "items": {"$ref": "#/$defs/actorsMessage"}},
        "expectClosed": actor,
        "silent": {"type": "array", "minItems": 1, "items": actor},
        "heartbeat": {
            "anyOf": [
                actor,
                _object({"actor": actor, "fields": {"type": "object"}}, ["actor"]),
            ]
        },
        "mute": actor,
        "unmute": actor,
        "advance": {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?(ms|s|m)$"},
        "forbid": {"$ref": "#/$defs/actorsMessage"},
        "allow": {"$ref": "#/$defs/actorsMessage"},
        "concurrently": {
            "type": "array",
            "minItems": 2,
            "items": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/step"}},
        },
        "repeat": _object(
            {
                "times": {"type": "integer", "minimum": 1, "maximum": 10000},
                "as": {"$ref": "#/$defs/name"},
                "steps": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/step"}},
            },
            ["times", "steps"],
        ),
    }
    when = {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "scalercli-conformance-scenario-1",
        "title": "Conformance scenario of the Scaler protocol, format 1",
        "description": "conformance_tests/README.md explains every step and matcher.",
        **_object(
            {
                "format": {"const": 1},
                "title": {"type": "string", "minLength": 8, "maxLength": 140},
                "role": {"enum": ["scheduler", "worker", "client", "object-storage"]},
                "requirements": {
                    "type": "array",
                    "minItems": 1,
                    "uniqueItems": True,
                    "items": {"$ref": "#/$defs/requirement"},
                },
                "table": {
                    "type": "array",
                    "items": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "string"}},
                },
                "needs": {"type": "array", "uniqueItems": True, "items": {"enum": list(CAPABILITIES)}},
                "unless": {"type": "array", "uniqueItems": True, "items": {"enum": list(CAPABILITIES)}},
                "settings": {"type": "object"},
                "actors": {
                    "type": "object",
                    "propertyNames": {"pattern": "^[A-Za-z_]\\w*$"},
                    "additionalProperties": {"$ref": "#/$defs/actorSpec"},
                },
                "objects": {"type": "object", "additionalProperties": actor},
                "steps": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/step"}},
                "final": {"enum": ["silent", "open"]},
                "isolated": {"type": "boolean"},
                "note": {"type": "string"},
            },
            ["format", "title", "role", "requirements", "steps"],
        ),
        "$defs": {
            "requirement": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{2}$"},
            "name": {"type": "string", "pattern": "^[A-Za-z_]\\w*$"},
            "actor": {"type": "string"},
            "actorSpec": _object(
                {
                    "role": {
                        "enum": [
                            "client",
                            "worker",
                            "manager",
                            "peer",
                            "monitor",
                            "scheduler",
                            "storage",
                            "connection",
                            "driver",
                            "gates",
                            "process",
                        ]
                    },
                    "queueSize": {"type": "integer", "minimum": 0},
                    "capabilities": {"type": "array", "items": {"type": "string"}},
                    "identity": {"type": "string"},
                    "heartbeats": {"type": "boolean"},
                    "magic": {"type": "string"},
                    "echo": {"type": "boolean"},
                    "instructions": {"type": "boolean"},
                    "serializer": {"type": "boolean"},
                    "twin": {"type": "boolean"},
                },
                ["role"],
            ),
            "special": {
                "anyOf": [
                    {"type": "string", "pattern": "^\\$"},
                    _object({"hex": {"type": "string", "pattern": "^([0-9a-fA-F]{2})*$"}}, ["hex"]),
                    _object({"text": {"type": "string"}}, ["text"]),
                    _object({"random": {"type": "integer", "minimum": 0}}, ["random"]),
                    _object(
                        {
                            "repeat": _object(
                                {"text": {"type": "string"}, "times": {"type": "integer"}}, ["text", "times"]
                            )
                        },
                        ["repeat"],
                    ),
                    _object({"contains": True}, ["contains"]),
                    _object({"unordered": {"type": "array"}}, ["unordered"]),
                    _object({"length": {"type": "integer", "minimum": 0}}, ["length"]),
                    _object({"not": True}, ["not"]),
                ]
            },
            "message": kinds,
            "actorsMessage": message,
            "frame": {
                "anyOf": [
                    {"type": "string", "pattern": "^([0-9a-fA-F]{2})*$"},
                    _object(
                        {
                            "message": _object(references, minProperties=1, maxProperties=1),
                            "mutate": {"$ref": "#/$defs/mutation"},
                        },
                        ["message"],
                    ),
                    _object({"zeros": {"type": "integer", "minimum": 0}}, ["zeros"]),
                    _object({"random": {"type": "integer", "minimum": 0}}, ["random"]),
                ]
            },
            "mutation": _object(
                {
                    "truncateBytes": {"type": "integer", "minimum": 1},
                    "truncateWords": {"type": "integer", "minimum": 1},
                    "keepBytes": {"type": "integer", "minimum": 0},
                    "pieces": {"type": "integer", "minimum": 1},
                    "encoding": {"enum": ["far", "doubleFar"]},
                    "unusedWords": {"type": "integer", "minimum": 1},
                    "everyTruncation": {"enum": ["words", "bytes"]},
                    "everyPointer": {"type": "string", "pattern": "^[0-9a-fA-F]{16}$"},
                    "append": {"type": "string", "pattern": "^([0-9a-fA-F]{2})*$"},
                    "variant": {"type": "integer", "minimum": 0, "maximum": 65535},
                    "set": {
                        "type": "array",
                        "items": _object(
                            {
                                "at": {"type": "integer", "minimum": 0},
                                "hex": {"type": "string", "pattern": "^([0-9a-fA-F]{2})+$"},
                            },
                            ["at", "hex"],
                        ),
                    },
                },
                minProperties=1,
            ),
            "step": {
                "anyOf": [
                    _object({word: body, "when": when, "requirement": {"$ref": "#/$defs/requirement"}}, [word])
                    for word, body in steps.items()
                ]
            },
        },
    }


def main() -> None:
    """Write the published file."""
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(json.dumps(make(), indent=1) + "\n")
    print(f"wrote {PATH}")


if __name__ == "__main__":
    main()
