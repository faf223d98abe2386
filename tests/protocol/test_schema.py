"""The schema against the released peer, and everything that is made from the schema against the schema."""

from __future__ import annotations

import dataclasses
import json
import re
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from protocol import codec, layout, messages
from protocol.storage import RequestType, ResponseType
from protocol.wire import snake

PEER: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("opengris-2.9.0.json").read_text())
OWN_FILES = {"information.capnp", "control.capnp"}


@pytest.fixture(scope="module")
def compiled() -> layout.Layout:
    return layout.compile_layout()


def _flat(table: dict[str, Any]) -> dict[str, Any]:
    """One entry per thing that matters on the wire, named so that a difference can be read."""
    flat: dict[str, Any] = {}
    for name, struct in table["structs"].items():
        for key in ("file", "dataWords", "pointers", "discriminantOffset"):
            flat[f"struct {name}: {key}"] = struct.get(key)
        for i, f in enumerate(struct["fields"]):
            for key in ("ordinal", "type", "offset", "discriminant"):
                flat[f"struct {name}.{f['name']}: {key}"] = f.get(key)
            flat[f"struct {name}.{f['name']}: place"] = i
    for name, enum in table["enums"].items():
        flat[f"enum {name}: file"] = enum["file"]
        flat[f"enum {name}: values"] = enum["values"]
    return flat


def differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    a, b = _flat(theirs), _flat(ours)
    return [f"{k}: 2.9.0 has {a.get(k)!r}, ours {b.get(k)!r}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)]


def test_every_struct_and_enum_lies_as_in_the_peer(compiled: layout.Layout) -> None:
    ours = {
        part: {name: spec for name, spec in compiled[part].items() if spec["file"] not in OWN_FILES}
        for part in ("structs", "enums")
    }
    found = differences(PEER, ours)
    assert not found, "our schema differs from opengris-scaler 2.9.0:\n" + "\n".join(found)


def test_a_difference_is_reported_by_name(compiled: layout.Layout) -> None:
    bent = json.loads(json.dumps(compiled))
    bent["structs"]["TaskResult"]["fields"][1]["offset"] = 3
    bent["enums"]["TaskState"]["values"].reverse()
    found = differences(compiled, bent)
    assert found[1:] == ["struct TaskResult.resultType: offset: 2.9.0 has 0, ours 3"]
    assert found[0].startswith("enum TaskState: values: 2.9.0 has ['inactive'")


def test_layout_json_is_made_from_the_schema(compiled: layout.Layout) -> None:
    assert layout.PATH.read_text() == layout.render(compiled), "run: python -m protocol.layout"
    assert layout.load() == compiled


def test_classes_have_the_fields_of_their_structs_in_order(compiled: layout.Layout) -> None:
    wire_only = {"Message", "ObjectID", "ObjectRequestHeader", "ObjectResponseHeader"}
    assert (
        set(messages.STRUCT_CLASSES)
        == {name for name, s in compiled["structs"].items() if s["file"] != "control.capnp"} - wire_only
    )
    for name, cls in messages.STRUCT_CLASSES.items():
        fields = compiled["structs"][name]["fields"]
        wanted = [snake(f["name"]) for f in fields if "discriminant" not in f]
        wanted += ["variant", "value"] if "discriminantOffset" in compiled["structs"][name] else []
        assert [f.name for f in dataclasses.fields(cls)] == wanted, name


def test_enums_have_the_schemas_members_by_name_and_ordinal(compiled: layout.Layout) -> None:
    storage = {
        "ObjectRequestHeader.ObjectRequestType": RequestType,
        "ObjectResponseHeader.ObjectResponseType": ResponseType,
    }
    classes: dict[str, type[IntEnum]] = {**messages.ENUM_CLASSES, **storage}
    assert set(classes) == {name for name, e in compiled["enums"].items() if e["file"] != "control.capnp"}
    for name, cls in classes.items():
        assert [m.value for m in cls] == list(range(len(cls))), name
        wanted = [re.sub(r"(?<=[a-z])(?=[A-Z])", "_", v).upper() for v in compiled["enums"][name]["values"]]
        assert [m.name for m in cls] == wanted, name


def test_kinds_are_the_variants_of_message(compiled: layout.Layout) -> None:
    variants = {f["discriminant"]: f for f in compiled["structs"]["Message"]["fields"]}
    assert {int(k): k.name for k in messages.Kind} == {d: snake(f["name"]).upper() for d, f in variants.items()}
    assert {int(k): c.__name__ for k, c in messages.MESSAGE_CLASSES.items()} == {
        d: f["type"] for d, f in variants.items()
    }


def test_only_fields_of_the_schema_have_a_fixed_length(compiled: layout.Layout) -> None:
    for struct, field in codec.LENGTHS:
        (kind,) = [f["type"] for f in compiled["structs"][struct]["fields"] if f["name"] == field]
        assert kind in ("Data", "List(Data)"), (struct, field)


def test_defaults_of_the_classes_are_those_of_the_wire() -> None:
    """A field that a sender leaves out is zero or empty; where our default says otherwise, that is on purpose."""
    on_purpose = {("TaskCapability", "value"), ("ObjectStorageAddress", "scheme"), ("ObjectDetail", "object_type")}
    for cls in messages.STRUCT_CLASSES.values():
        for f in dataclasses.fields(cls):
            if f.default in (dataclasses.MISSING, None) or (cls.__name__, f.name) in on_purpose:
                continue
            if dataclasses.is_dataclass(f.default):
                continue
            assert not f.default, (cls.__name__, f.name)
