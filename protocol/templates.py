"""Shortcuts for writing messages that look alike (SPEC section 2.2); ``protocol.shapes`` has the idea.

Two messages of one class whose variable fields have the same lengths are laid out alike. A template is one ``pack``
with everything constant (segment table, pointers, union tag) in place; it gives the bytes that ``protocol.wire`` would.
"""

from __future__ import annotations

import contextlib
import struct as _struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from protocol.layout import Layout
from protocol.wire import FORMATS, LIST_SIZES, snake

MAX_BYTES = 1024
MAX_TEMPLATES = 256
_MAX_SEEN = 4096
_LEARN_AFTER = 8
"""So many messages of one measure are encoded in full before a template is made."""


class _NotPlain(Exception):
    """This message gets no template."""


def _none(value: Any) -> int:
    """The measure of a list that can be measured only when it is empty."""
    if value:
        raise _NotPlain
    return 0


def _unmeasurable(message: Any) -> Any:
    raise _NotPlain


class Templates:
    """The templates of the members of one union struct (``Message``)."""

    def __init__(
        self,
        layout: Layout,
        members: dict[Any, type],
        classes: dict[str, type],
        enums: dict[str, type[IntEnum]],
    ) -> None:
        """``members``: discriminant to class; ``classes`` and ``enums``: those of every struct and enum, by name."""
        self.structs = layout["structs"]
        self.enums = frozenset(enums)
        self._names = {cls: name for name, cls in classes.items()}
        self._discriminants = {cls: int(discriminant) for discriminant, cls in members.items()}
        self._measures: dict[type, Callable[[Any], Any]] = {}
        self._seen: dict[Any, int] = {}
        self._templates: dict[Any, Callable[[Any], bytes]] = {}

    def __len__(self) -> int:
        return len(self._templates)

    def find(self, message: Any) -> Callable[[Any], bytes] | None:
        """What encodes messages of this class with fields of these lengths; None where there is no such thing."""
        cls = type(message)
        measure = self._measures.get(cls)
        if measure is None:
            measure = self._measures[cls] = self._compile_measure(cls)
        try:
            key = (cls, measure(message))
            return self._templates[key]
        except _NotPlain:
            return None
        except KeyError:
            pass
        return self._made(key, message)

    def _made(self, key: Any, message: Any) -> Callable[[Any], bytes] | None:
        """The template that a message deserves when its like was seen often enough."""
        seen = self._seen.get(key, 0) + 1
        if len(self._seen) >= _MAX_SEEN:
            self._seen.clear()
        self._seen[key] = seen
        if seen != _LEARN_AFTER or len(self._templates) >= MAX_TEMPLATES:
            return None
        with contextlib.suppress(_NotPlain):
            made = _Writer(self, message).template(self._discriminants[key[0]], self._names[key[0]])
            self._templates[key] = made
            return made
        return None

    def _compile_measure(self, cls: type) -> Callable[[Any], Any]:
        """What measures a message: two with the same measures have the same layout."""
        try:
            source = self._measure_source(self._names[cls], "m")
        except _NotPlain:
            return _unmeasurable
        measure: Callable[[Any], Any] = eval(f"lambda m: ({source})", {"none": _none})
        return measure

    def _measure_source(self, struct: str, value: str) -> str:
        parts = []
        for row in self.structs[struct]["fields"]:
            kind, attribute = row["type"], f"{value}.{snake(row['name'])}"
            if "discriminant" in row or "Text" in kind:
                raise _NotPlain
            if kind in FORMATS or kind in self.enums or kind in ("Bool", "Void"):
                continue
            if kind == "Data":
                parts.append(f"len({attribute})")
            elif kind in self.structs:
                parts.append(f"({self._measure_source(kind, attribute)})")
            elif kind == "List(Data)":
                parts.append(f"tuple(map(len, {attribute}))")
            elif kind[5:-1] in self.structs:
                try:
                    inner = self._measure_source(kind[5:-1], "e")
                    parts.append(f"tuple([({inner}) for e in {attribute}])")
                except _NotPlain:
                    parts.append(f"none({attribute})")
            else:
                parts.append(f"len({attribute})")
        return "".join(f"{part}, " for part in parts) if parts else "()"


class _Writer:
    """Makes a template of one message, laid out as ``protocol.wire`` would."""

    def __init__(self, templates: Templates, message: Any) -> None:
        self._templates = templates
        self._message = message
        self._constant = bytearray(16)
        self._variable: list[tuple[int, str, str]] = []  # (first byte, format, source)

    def template(self, discriminant: int, struct: str) -> Callable[[Any], bytes]:
        start = self._allocate(16)
        self._point(8, start, 0, 1 | 1 << 16)
        self._constant[start : start + 2] = discriminant.to_bytes(2, "little")
        self._struct(struct, start + 8, self._message, "m")
        size = len(self._constant)
        if size > MAX_BYTES:
            raise _NotPlain
        self._constant[4:8] = (size // 8 - 1).to_bytes(4, "little")
        form, sources, at = "<", [], 0
        names: dict[str, Any] = {}
        for begin, letters, source in [*sorted(self._variable), (size, "", "")]:
            if begin > at:
                names[f"c{at}"] = bytes(self._constant[at:begin])
                form += f"{begin - at}s"
                sources.append(f"c{at}")
            form += letters
            sources += [source] if source else []
            at = begin + _struct.calcsize("<" + letters)
        names["pack"] = _struct.Struct(form).pack
        made: Callable[[Any], bytes] = eval(f"lambda m: pack({', '.join(sources)})", names)
        return made

    def _allocate(self, size: int) -> int:
        start = len(self._constant)
        self._constant += bytes((size + 7) & ~7)
        return start

    def _point(self, pos: int, start: int, low: int, high: int) -> None:
        offset = (start - pos - 8) >> 3
        self._constant[pos : pos + 8] = ((offset << 2 & 0xFFFFFFFC) | low | high << 32).to_bytes(8, "little")

    def _struct(self, struct: str, pos: int, value: Any, source: str) -> None:
        spec = self._templates.structs[struct]
        start = self._allocate(8 * (spec["dataWords"] + spec["pointers"]))
        self._point(pos, start, 0, spec["dataWords"] | spec["pointers"] << 16)
        self._fields(struct, start, value, source)

    def _fields(self, struct: str, start: int, value: Any, source: str) -> None:
        spec = self._templates.structs[struct]
        base = start + 8 * spec["dataWords"]
        bits: dict[int, list[str]] = {}
        for row in spec["fields"]:
            kind, offset = row["type"], row["offset"]
            attribute = snake(row["name"])
            inner, path = getattr(value, attribute), f"{source}.{attribute}"
            if kind == "Bool":
                bits.setdefault(start + offset // 8, []).append(f"bool({path}) << {offset % 8}")
            elif kind in FORMATS or kind in self._templates.enums:
                form = FORMATS.get(kind, "H")
                self._variable.append((start + offset * _struct.calcsize(form), form, path))
            else:
                self._pointed(kind, base + 8 * offset, inner, path)
        self._variable += [(byte, "B", " | ".join(parts)) for byte, parts in bits.items()]

    def _pointed(self, kind: str, pos: int, value: Any, source: str) -> None:
        if kind in self._templates.structs:
            self._struct(kind, pos, value, source)
        elif kind == "Data":
            self._data(pos, value, source)
        elif value:
            self._list(kind[5:-1], pos, value, source)

    def _data(self, pos: int, value: bytes, source: str) -> None:
        if value:
            start = self._allocate(len(value))
            self._point(pos, start, 1, 2 | len(value) << 3)
            self._variable.append((start, f"{len(value)}s", source))

    def _list(self, element: str, pos: int, value: Any, source: str) -> None:
        count = len(value)
        if element == "Data":
            start = self._allocate(8 * count)
            self._point(pos, start, 1, 6 | count << 3)
            for i, item in enumerate(value):
                self._data(start + 8 * i, item, f"{source}[{i}]")
        elif element in self._templates.structs:
            spec = self._templates.structs[element]
            step = spec["dataWords"] + spec["pointers"]
            start = self._allocate(8 + 8 * step * count)
            self._point(pos, start, 1, 7 | (step * count) << 3)
            tag = count << 2 | spec["dataWords"] << 32 | spec["pointers"] << 48
            self._constant[start : start + 8] = tag.to_bytes(8, "little")
            for i, item in enumerate(value):
                self._fields(element, start + 8 + 8 * step * i, item, f"{source}[{i}]")
        else:
            form = FORMATS.get(element, "H")
            size = _struct.calcsize(form)
            start = self._allocate(size * count)
            self._point(pos, start, 1, LIST_SIZES[size] | count << 3)
            self._variable += [(start + size * i, form, f"{source}[{i}]") for i in range(count)]
