"""Where each field of each struct lies: the compiled schema as data.

``layout.json`` is made from the ``*.capnp`` files by ``python -m protocol.layout`` (a test fails when they
differ) and read by ``protocol.wire``, so that a process that speaks the protocol needs no schema compiler. It is
also meant for implementers in other languages.

Shape: ``{"structs": {name: {"file", "dataWords", "pointers", ["discriminantOffset"], "fields": [{"name",
"ordinal", "type", "offset", ["discriminant"]}]}}, "enums": {name: {"file", "values"}}}``. ``offset`` counts in
units of the field's own size for data (bits for Bool), in pointers for pointers.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("layout.json")

Layout = dict[str, dict[str, Any]]

_PRIMITIVES = {
    "void": "Void",
    "bool": "Bool",
    "int8": "Int8",
    "int16": "Int16",
    "int32": "Int32",
    "int64": "Int64",
    "uint8": "UInt8",
    "uint16": "UInt16",
    "uint32": "UInt32",
    "uint64": "UInt64",
    "float32": "Float32",
    "float64": "Float64",
    "text": "Text",
    "data": "Data",
}
_NO_DISCRIMINANT = 0xFFFF


@cache
def load() -> Layout:
    """The layout as it stands in ``layout.json``."""
    layout: Layout = json.loads(PATH.read_text())
    return layout


def compile_layout() -> Layout:
    """The layout of the ``*.capnp`` files, by the schema compiler."""
    from protocol import schema

    names: dict[int, str] = {}
    for table in (schema.STRUCTS, schema.ENUMS):
        for name, (_, module) in table.items():
            node = module.schema.node if hasattr(module.schema, "node") else module.schema
            names[node.id] = name

    def type_name(proto: dict[str, Any]) -> str:
        ((kind, value),) = proto.items()
        if kind == "list":
            return f"List({type_name(value['elementType'])})"
        if kind in ("struct", "enum"):
            return names[value["typeId"]]
        return _PRIMITIVES[kind]

    structs: dict[str, Any] = {}
    for name, (file, module) in schema.STRUCTS.items():
        node = module.schema.node.struct
        struct: dict[str, Any] = {
            "file": file,
            "dataWords": node.dataWordCount,
            "pointers": node.pointerCount,
        }
        if node.discriminantCount:
            struct["discriminantOffset"] = node.discriminantOffset
        struct["fields"] = []
        for field in (f.to_dict() for f in node.fields):
            row = {
                "name": field["name"],
                "ordinal": field["ordinal"]["explicit"],
                "type": type_name(field["slot"]["type"]),
                "offset": field["slot"]["offset"],
            }
            if field["discriminantValue"] != _NO_DISCRIMINANT:
                row["discriminant"] = field["discriminantValue"]
            struct["fields"].append(row)
        structs[name] = struct
    enums = {
        name: {"file": file, "values": [e.name for e in module.schema.node.enum.enumerants]}
        for name, (file, module) in schema.ENUMS.items()
    }
    return {"structs": structs, "enums": enums}


def render(layout: Layout) -> str:
    """The text of ``layout.json``: one line per field, so that a change is one line of a diff."""
    lines = ["{", ' "structs": {']
    for i, (name, struct) in enumerate(layout["structs"].items()):
        head = {k: v for k, v in struct.items() if k != "fields"}
        lines.append(f'  "{name}": {json.dumps(head)[:-1]}, "fields": [')
        rows = [f"    {json.dumps(field)}" for field in struct["fields"]]
        lines.append(
            ",\n".join(rows) + ("\n" if rows else "") + "  ]}" + ("," if i + 1 < len(layout["structs"]) else "")
        )
    lines += [" },", ' "enums": {']
    lines.append(",\n".join(f'  "{name}": {json.dumps(enum)}' for name, enum in layout["enums"].items()))
    lines += [" }", "}", ""]
    return "\n".join(lines)


def main() -> None:
    """Write ``layout.json``."""
    PATH.write_text(render(compile_layout()))
    print(f"wrote {PATH}")


if __name__ == "__main__":
    main()
