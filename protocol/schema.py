"""The compiled schemas. Importing this module loads pycapnp and its schema compiler (about 50 ms).

``struct(name)`` gives the pycapnp schema of a struct by its dotted name; ``STRUCTS`` and ``ENUMS`` list all of
them, with the file they stand in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import capnp

DIRECTORY = Path(__file__).parent
WIRE_FILES = ("common.capnp", "message.capnp", "object_storage.capnp", "status.capnp")
OWN_FILES = ("information.capnp", "control.capnp")

capnp.remove_import_hook()
_PARSER = capnp.SchemaParser()  # owns what the modules below refer to: without it, they point into freed memory
KjException = capnp.KjException


def _load() -> tuple[dict[str, tuple[str, Any]], dict[str, tuple[str, Any]]]:
    structs: dict[str, tuple[str, Any]] = {}
    enums: dict[str, tuple[str, Any]] = {}

    def walk(module: Any, file: str, prefix: str) -> None:
        for name in sorted(n for n in vars(module) if not n.startswith("_")):
            member = getattr(module, name)
            kind = type(member).__name__
            if kind == "_StructModule":
                structs[prefix + name] = (file, member)
                walk(member, file, f"{prefix}{name}.")
            elif kind == "_EnumModule":
                enums[prefix + name] = (file, member)

    for file in (*WIRE_FILES, *OWN_FILES):
        path = DIRECTORY / file
        if path.exists():
            walk(_PARSER.load(str(path), imports=[]), file, "")
    return structs, enums


STRUCTS, ENUMS = _load()


def struct(name: str) -> Any:
    """The pycapnp module of a struct, by its dotted name in the schema."""
    return STRUCTS[name][1]
