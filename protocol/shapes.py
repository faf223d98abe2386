"""Shortcuts for messages that look alike (SPEC section 2.2).

A client sends thousands of Tasks that differ in their ids only: same lengths, same pointers. Two messages whose
segment table, pointers and union tag are the same bits are laid out alike, so that what the general codec found out
about the first holds for the second. A ``Shape`` is made from one message that was decoded in full; it recognises
others by comparing those bits, and then reads each field from where it must be. What depends on the values (unknown
enum members, text that is not UTF-8) is still looked at, message by message. Writing is the same in reverse: a
template is made for a class and the lengths of its fields.

Only plain messages get a shape: one segment, near pointers, structs at least as large as in the schema, at most 1 KiB.
Everything else goes through ``protocol.wire``, which remains the authority: ``None`` from here means "ask there".
"""

from __future__ import annotations

import contextlib
import struct as _struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from protocol.layout import Layout
from protocol.wire import FORMATS, LIST_SIZES, default_of, snake

MAX_BYTES = 1024
MAX_SHAPES = 256
_LEARN_AFTER = 8
"""So many messages of one length and variant are decoded in full before a shape is made, and twice as many before each
next one; so many of one measure are encoded in full before a template is made. Making one costs as much as a hundred
messages."""

_MAX_SEEN = 4096

_NEAR_STRUCT = _struct.Struct("<iHH").unpack_from
_NEAR_LIST = _struct.Struct("<iI").unpack_from
_TAG = _struct.Struct("<IHH").unpack_from
_HEAD = _struct.Struct("<II").unpack_from
_READERS = {form: _struct.Struct("<" + form).unpack_from for form in "bhiqBHIQfd"}


class _NotPlain(Exception):
    """This message gets no shape."""


def _none(value: Any) -> int:
    """The measure of a list that can be measured only when it is empty."""
    if value:
        raise _NotPlain
    return 0


def _unmeasurable(message: Any) -> Any:
    raise _NotPlain


class Shape:
    """Messages that are laid out as one that was decoded."""

    __slots__ = ("const", "discriminant", "head", "mask", "read", "where")

    def __init__(
        self,
        discriminant: int,
        mask: int,
        const: int,
        read: Callable[[bytes], Any],
        where: dict[str, tuple[int, int]],
    ) -> None:
        self.discriminant = discriminant
        self.mask = mask
        self.const = const
        self.read = read
        """The member that a frame of this shape holds; IndexError, UnicodeDecodeError if a value is not one."""
        self.where = where
        """By the member's field, ``field.field`` inside another struct: (first byte, end) of a Data, (byte, bit) of a
        Bool, (byte, end) of a number. Null fields are missing."""
        self.head: Any = None
        """For ``protocol.envelope``: what it derives from ``where``."""


class Shapes:
    """The shapes and templates of the members of one union struct (``Message``)."""

    def __init__(
        self,
        layout: Layout,
        members: dict[Any, type],
        classes: dict[str, type],
        enums: dict[str, type[IntEnum]],
    ) -> None:
        """``members``: discriminant to class; ``classes`` and ``enums``: those of every struct and enum, by name."""
        self.structs = layout["structs"]
        self.classes = classes
        self.enums: dict[str, tuple[IntEnum, ...]] = {name: tuple(enum) for name, enum in enums.items()}
        self._names = {cls: name for name, cls in classes.items()}
        self._members = {int(discriminant): self._names[cls] for discriminant, cls in members.items()}
        self._discriminants = {cls: int(discriminant) for discriminant, cls in members.items()}
        self._by_length: dict[int, list[Shape]] = {}
        self._met: dict[tuple[int, int], int] = {}
        self._count = 0
        self._keys: dict[type, Callable[[Any], Any]] = {}
        self._seen: dict[Any, int] = {}
        self._templates: dict[Any, Callable[[Any], bytes]] = {}

    def __len__(self) -> int:
        """How many shapes and templates there are."""
        return self._count + len(self._templates)

    # ---- reading ----

    def find(self, frame: bytes) -> Shape | None:
        """The shape of a frame, if it has one."""
        shapes = self._by_length.get(len(frame))
        if shapes is not None:
            bits = int.from_bytes(frame, "little")
            for shape in shapes:
                if bits & shape.mask == shape.const:
                    return shape
        return None

    def met(self, frame: bytes, discriminant: int) -> None:
        """A message without a shape was decoded in full, and is good: perhaps it gets one."""
        if len(frame) > MAX_BYTES:
            return
        key = (len(frame), discriminant)
        met = self._met[key] = self._met.get(key, 0) + 1
        if met < _LEARN_AFTER or met & (met - 1) or self._count >= MAX_SHAPES:
            return
        try:
            shape = _Reader(self, frame).shape(discriminant, self._members[discriminant])
        except (_NotPlain, _struct.error):
            return
        self._count += 1
        self._by_length.setdefault(len(frame), []).append(shape)

    # ---- writing ----

    def template(self, message: Any) -> Callable[[Any], bytes] | None:
        """What encodes messages of this class with fields of these lengths; None where there is no such thing."""
        cls = type(message)
        measure = self._keys.get(cls)
        if measure is None:
            measure = self._keys[cls] = self._compile_key(cls)
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
        if seen != _LEARN_AFTER or len(self._templates) >= MAX_SHAPES:
            return None
        with contextlib.suppress(_NotPlain):
            made = _Writer(self, message).template(self._discriminants[key[0]], self._names[key[0]])
            self._templates[key] = made
            return made
        return None

    def _compile_key(self, cls: type) -> Callable[[Any], Any]:
        """What measures a message: two with the same measures have the same layout. None: not to be measured."""
        try:
            source = self._key_source(self._names[cls], "m")
        except _NotPlain:
            return _unmeasurable
        measure: Callable[[Any], Any] = eval(f"lambda m: ({source})", {"none": _none})
        return measure

    def _key_source(self, struct: str, value: str) -> str:
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
                parts.append(f"({self._key_source(kind, attribute)})")
            elif kind == "List(Data)":
                parts.append(f"tuple(map(len, {attribute}))")
            elif kind[5:-1] in self.structs:
                try:
                    inner = self._key_source(kind[5:-1], "e")
                    parts.append(f"tuple([({inner}) for e in {attribute}])")
                except _NotPlain:
                    parts.append(f"none({attribute})")
            else:
                parts.append(f"len({attribute})")
        return "".join(f"{part}, " for part in parts) if parts else "()"


class _Reader:
    """Makes a shape of one good frame."""

    def __init__(self, shapes: Shapes, frame: bytes) -> None:
        self._shapes = shapes
        self._frame = frame
        self._mask = bytearray(len(frame))
        self._names: dict[str, Any] = {}
        self._where: dict[str, tuple[int, int]] = {}

    def shape(self, discriminant: int, struct: str) -> Shape:
        frame = self._frame
        segments, words = _HEAD(frame, 0)
        if segments or 8 * words + 8 != len(frame):
            raise _NotPlain
        self._fix(0, 8)
        found = self._struct(8)
        if found is None or not found[1] or not found[2]:
            raise _NotPlain
        start, data_words, _ = found
        self._fix(start, 2)
        source = self._struct_source(struct, start + 8 * data_words, "")
        read: Callable[[bytes], Any] = eval(f"lambda f: {source}", self._names)
        mask = int.from_bytes(self._mask, "little")
        return Shape(discriminant, mask, int.from_bytes(frame, "little") & mask, read, self._where)

    def _fix(self, at: int, size: int) -> None:
        """These bytes must be the same in every frame of the shape."""
        self._mask[at : at + size] = b"\xff" * size

    def _name(self, prefix: str, value: Any) -> str:
        for name, known in self._names.items():
            if known is value:
                return name
        name = f"{prefix}{len(self._names)}"
        self._names[name] = value
        return name

    def _struct(self, at: int) -> tuple[int, int, int] | None:
        self._fix(at, 8)
        offset, data_words, pointers = _NEAR_STRUCT(self._frame, at)
        if offset & 3:
            raise _NotPlain
        if not (offset or data_words or pointers):
            return None
        return at + 8 + 2 * offset, data_words, pointers

    def _struct_source(self, struct: str, at: int, path: str) -> str:
        found = self._struct(at)
        if found is None:
            raise _NotPlain
        return self._fields(struct, *found, path)

    def _fields(self, struct: str, start: int, data_words: int, pointers: int, path: str | None) -> str:
        """The source that makes a struct's object. ``path`` names its fields in ``where``; None: not to be named."""
        spec = self._shapes.structs[struct]
        if data_words < spec["dataWords"] or pointers < spec["pointers"]:
            raise _NotPlain
        base = start + 8 * data_words
        parts = []
        for row in spec["fields"]:
            kind, offset = row["type"], row["offset"]
            name = None if path is None else path + row["name"]
            if "discriminant" in row:
                raise _NotPlain
            if kind == "Bool":
                byte, bit = start + offset // 8, offset % 8
                self._note(name, byte, bit)
                parts.append(f"f[{byte}] & {1 << bit} != 0")
            elif kind in FORMATS or kind in self._shapes.enums:
                parts.append(self._number(kind, start, offset, name))
            else:
                parts.append(self._pointed(kind, base + 8 * offset, name))
        return f"{self._name('C', self._shapes.classes[struct])}({', '.join(parts)})"

    def _number(self, kind: str, start: int, offset: int, name: str | None) -> str:
        form = FORMATS.get(kind, "H")
        size = _struct.calcsize(form)
        at = start + offset * size
        self._note(name, at, at + size)
        source = f"{self._name('u', _READERS[form])}(f, {at})[0]"
        return f"{self._name('E', self._shapes.enums[kind])}[{source}]" if kind in self._shapes.enums else source

    def _note(self, name: str | None, at: int, end: int) -> None:
        if name is not None:
            self._where[name] = at, end

    def _list(self, at: int) -> tuple[int, int, int]:
        """(first byte, size code, count) of the list that a pointer refers to; count 0 for null."""
        self._fix(at, 8)
        offset, rest = _NEAR_LIST(self._frame, at)
        if not offset and not rest:
            return at, 0, 0
        if offset & 3 != 1:
            raise _NotPlain
        return at + 8 + 2 * (offset & ~3), rest & 7, rest >> 3

    def _pointed(self, kind: str, at: int, name: str | None) -> str:
        if kind in self._shapes.structs:
            return self._struct_source_or_default(kind, at, name)
        start, _, count = self._list(at)
        if kind in ("Data", "Text"):
            return self._bytes(kind, start, count, name)
        if not count:
            return repr(default_of(kind))
        element = kind[5:-1]
        if element in self._shapes.structs:
            return self._struct_list(element, start)
        if element in ("Data", "Text"):
            items = [self._bytes(element, *self._list(start + 8 * i)[::2], None) for i in range(count)]
        else:
            size = _struct.calcsize(FORMATS.get(element, "H"))
            items = [self._number(element, start + size * i, 0, None) for i in range(count)]
        return f"({', '.join(items)},)"

    def _struct_source_or_default(self, kind: str, at: int, name: str | None) -> str:
        found = self._struct(at)
        if found is None:
            raise _NotPlain
        return self._fields(kind, *found, None if name is None else name + ".")

    def _bytes(self, kind: str, start: int, count: int, name: str | None) -> str:
        if kind == "Data":
            if count:
                self._note(name, start, start + count)
            return f"f[{start}:{start + count}]" if count else "b''"
        if not count:
            return "''"
        self._fix(start + count - 1, 1)
        return f"str(f[{start}:{start + count - 1}], 'utf-8')"

    def _struct_list(self, element: str, start: int) -> str:
        self._fix(start, 8)
        tag, data_words, pointers = _TAG(self._frame, start)
        step = 8 * (data_words + pointers)
        items = [self._fields(element, start + 8 + step * i, data_words, pointers, None) for i in range(tag >> 2)]
        return f"({', '.join(items)},)" if items else "()"


class _Writer:
    """Makes a template of one message, laid out as ``protocol.wire`` would."""

    def __init__(self, shapes: Shapes, message: Any) -> None:
        self._shapes = shapes
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
        spec = self._shapes.structs[struct]
        start = self._allocate(8 * (spec["dataWords"] + spec["pointers"]))
        self._point(pos, start, 0, spec["dataWords"] | spec["pointers"] << 16)
        self._fields(struct, start, value, source)

    def _fields(self, struct: str, start: int, value: Any, source: str) -> None:
        spec = self._shapes.structs[struct]
        base = start + 8 * spec["dataWords"]
        bits: dict[int, list[str]] = {}
        for row in spec["fields"]:
            kind, offset = row["type"], row["offset"]
            attribute = snake(row["name"])
            inner, path = getattr(value, attribute), f"{source}.{attribute}"
            if kind == "Bool":
                bits.setdefault(start + offset // 8, []).append(f"bool({path}) << {offset % 8}")
            elif kind in FORMATS or kind in self._shapes.enums:
                form = FORMATS.get(kind, "H")
                self._variable.append((start + offset * _struct.calcsize(form), form, path))
            else:
                self._pointed(kind, base + 8 * offset, inner, path)
        self._variable += [(byte, "B", " | ".join(parts)) for byte, parts in bits.items()]

    def _pointed(self, kind: str, pos: int, value: Any, source: str) -> None:
        if kind in self._shapes.structs:
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
        elif element in self._shapes.structs:
            spec = self._shapes.structs[element]
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
