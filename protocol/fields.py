"""Messages as plain fields and back: what scenarios write and traces show.

A message is (kind, fields): the kind is the name of the schema's union member (``taskCancel``), the fields are a dict
with the schema's names. Enums are their names, Data is bytes, structs are dicts, lists are lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from functools import cache
from typing import Any

from protocol import codec, layout, messages
from protocol.messages import InformationAnswer, InformationQuery, InformationRequest, InformationResponse, Message
from protocol.wire import snake

Fields = dict[str, Any]

_STRUCTS: dict[str, Any] = layout.load()["structs"]
_ENUMS: dict[str, list[str]] = {name: spec["values"] for name, spec in layout.load()["enums"].items()}
_NAME_OF_CLASS = {cls: name for name, cls in messages.STRUCT_CLASSES.items()}

KINDS: dict[str, type] = {
    row["name"]: messages.MESSAGE_CLASSES[messages.Kind(row["discriminant"])] for row in _STRUCTS["Message"]["fields"]
}
"""Kind of message, as the schema calls it, to its class."""
KIND_NAMES: dict[type, str] = {cls: name for name, cls in KINDS.items()}


class BadFields(ValueError):
    """What a scenario says of a message does not fit the schema; the text says where."""


def kind_of(message: Message) -> str:
    """The schema's name of a message's kind."""
    return KIND_NAMES[type(message)]


def to_fields(message: Any) -> Fields:
    """A message, or a struct in it, as plain fields."""
    name = _NAME_OF_CLASS[type(message)]
    if isinstance(message, InformationRequest):
        return {"request": _payload(message.request, codec.decode_query)}
    if isinstance(message, InformationResponse):
        return {"response": _payload(message.response, codec.decode_answer)}
    fields: Fields = {}
    for row in _STRUCTS[name]["fields"]:
        if "discriminant" not in row:
            fields[row["name"]] = _plain(getattr(message, snake(row["name"])), row["type"])
    if isinstance(message, (InformationQuery, InformationAnswer)):
        fields[message.variant] = _plain(message.value, "")
    return fields


def _payload(raw: bytes, decode: Any) -> Any:
    try:
        return to_fields(decode(raw))
    except Exception:  # not readable as ours: shown, and compared, as bytes
        return raw


def _plain(value: Any, kind: str) -> Any:
    if isinstance(value, IntEnum):
        names = _ENUMS.get(kind)
        return names[value] if names and value < len(names) else int(value)
    if isinstance(value, tuple):
        inner = kind[5:-1] if kind.startswith("List(") else ""
        return [_plain(v, inner) for v in value]
    if type(value) in _NAME_OF_CLASS:
        return to_fields(value)
    return value


@cache
def field_types(struct: str) -> Mapping[str, str]:
    """The fields of a struct with their types, as in layout.json."""
    return {row["name"]: row["type"] for row in _STRUCTS[struct]["fields"]}


def struct_of(kind: str) -> str:
    """The struct that a kind of message is."""
    return _NAME_OF_CLASS[KINDS[kind]]


def build(kind: str, fields: Fields) -> Message:
    """The message of a kind with these fields (all other fields at their defaults); raises BadFields."""
    if kind not in KINDS:
        raise BadFields(f"there is no message {kind!r}")
    if kind == "informationRequest" and isinstance(fields.get("request"), dict):
        fields = {"request": _query(fields["request"])}
    message: Message = _struct(struct_of(kind), fields, kind)
    return message


def _query(fields: Fields) -> bytes:
    value = dict(fields)
    number = value.pop("queryId", 0)
    if len(value) != 1:
        raise BadFields(
            "informationRequest.request: queryId and one of version, tasks, workers, clients, story were expected"
        )
    ((variant, inner),) = value.items()
    kinds = field_types("InformationQuery")
    if variant not in kinds:
        raise BadFields(f"informationRequest.request: there is no query {variant!r}")
    kind = kinds[variant]
    filled = None if kind == "Void" else _value(kind, inner or ({} if kind in _STRUCTS else inner), variant)
    return codec.encode_query(InformationQuery(number, variant, filled))


def _struct(name: str, fields: Fields, where: str) -> Any:
    cls = messages.STRUCT_CLASSES[name]
    types = field_types(name)
    values: dict[str, Any] = {}
    for field, value in fields.items():
        if field not in types:
            raise BadFields(f"{where} has no field {field!r}; it has {', '.join(types) or 'none'}")
        values[snake(field)] = _value(types[field], value, f"{where}.{field}")
    for field, kind in types.items():
        if snake(field) not in values:
            values[snake(field)] = _default(kind)
    return cls(**values)


def _default(kind: str) -> Any:
    if kind == "Data":
        return b""
    if kind == "Text":
        return ""
    if kind == "Bool":
        return False
    if kind.startswith("List("):
        return ()
    if kind in _STRUCTS:
        return _struct(kind, {}, kind)
    if kind in _ENUMS:
        return _enum_class(kind)(0)
    return 0


def _enum_class(kind: str) -> type[IntEnum]:
    return messages.ENUM_CLASSES[kind]


def _value(kind: str, value: Any, where: str) -> Any:
    if kind.startswith("List("):
        if not isinstance(value, (list, tuple)):
            raise BadFields(f"{where} is a list, not {value!r}")
        return tuple(_value(kind[5:-1], v, f"{where}[{i}]") for i, v in enumerate(value))
    if kind in _STRUCTS:
        if not isinstance(value, dict):
            raise BadFields(f"{where} is a struct, not {value!r}")
        return _struct(kind, value, where)
    if kind in _ENUMS:
        if isinstance(value, int):  # also one that does not exist: for malformed messages
            return value
        if value not in _ENUMS[kind]:
            raise BadFields(f"{where} is one of {', '.join(_ENUMS[kind])}, not {value!r}")
        return _enum_class(kind)(_ENUMS[kind].index(value))
    expected = {"Data": bytes, "Text": str, "Bool": bool}.get(kind, int)
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise BadFields(f"{where} is {kind}, not {value!r}")
    return value


def encode(kind: str, fields: Fields) -> bytes:
    """The frame of a message, whether or not it is well-formed; raises BadFields."""
    return codec.encode(build(kind, fields))
