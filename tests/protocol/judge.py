"""pycapnp as the independent judge of our codec: values to pycapnp builders, and pycapnp readers to values."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from protocol import layout, messages, schema
from protocol.messages import KIND_OF, MESSAGE_CLASSES, Kind, Message
from protocol.wire import snake
from tests.protocol.samples import name_of

_STRUCTS = layout.load()["structs"]
_VARIANTS = {f["discriminant"]: f["name"] for f in _STRUCTS["Message"]["fields"]}
_ENUM_NAMES = {cls: layout.load()["enums"][name]["values"] for name, cls in messages.ENUM_CLASSES.items()}


def build(message: Message, first_segment_words: int | None = None) -> bytes:
    """The frame that pycapnp makes of ``message``; a small first segment makes it use several."""
    words = {} if first_segment_words is None else {"num_first_segment_words": first_segment_words}
    builder = schema.struct("Message").new_message(**words, **{_VARIANTS[KIND_OF[type(message)]]: plain(message)})
    return bytes(builder.to_bytes())


def read(frame: bytes) -> Message:
    """The message that pycapnp reads from ``frame``. For honest frames only: on hostile ones pycapnp may abort."""
    with schema.struct("Message").from_bytes(frame) as reader:
        name = str(reader.which())
        discriminant = next(d for d, n in _VARIANTS.items() if n == name)
        cls = MESSAGE_CLASSES[Kind(discriminant)]
        message: Message = _value(cls.__name__, getattr(reader, name))
        return message


def build_struct(value: Any) -> bytes:
    """The frame whose root is ``value`` (of information.capnp)."""
    return bytes(schema.struct(name_of(value)).new_message(**plain(value)).to_bytes())


def read_struct(name: str, frame: bytes) -> Any:
    """The root struct of ``frame``, as the class of ``name``."""
    with schema.struct(name).from_bytes(frame) as reader:
        return _value(name, reader)


def plain(value: Any) -> Any:
    """``value`` as the dictionaries, lists and numbers that pycapnp builds from."""
    if isinstance(value, IntEnum):
        return _ENUM_NAMES[type(value)][value]
    if isinstance(value, tuple):
        return [plain(element) for element in value]
    if isinstance(value, (bytes, str, int)) or value is None:
        return value
    fields = _STRUCTS[name_of(value)]["fields"]
    result = {f["name"]: plain(getattr(value, snake(f["name"]))) for f in fields if "discriminant" not in f}
    if hasattr(value, "variant"):
        result[value.variant] = plain(value.value)
    return result


def _value(kind: str, raw: Any) -> Any:
    if kind.startswith("List("):
        return tuple(_value(kind[5:-1], element) for element in raw)
    if kind in messages.ENUM_CLASSES:
        return messages.ENUM_CLASSES[kind](_ENUM_NAMES[messages.ENUM_CLASSES[kind]].index(str(raw)))
    if kind in ("Data", "Text", "Bool") or "Int" in kind:
        return bytes(raw) if kind == "Data" else raw
    if kind == "Void":
        return None
    spec, found = _STRUCTS[kind], {}
    for field in spec["fields"]:
        if "discriminant" not in field:
            found[snake(field["name"])] = _value(field["type"], getattr(raw, field["name"]))
    if "discriminantOffset" in spec:
        found["variant"] = str(raw.which())
        field = next(f for f in spec["fields"] if f["name"] == found["variant"])
        found["value"] = _value(field["type"], getattr(raw, field["name"]))
    return messages.STRUCT_CLASSES[kind](**found)
