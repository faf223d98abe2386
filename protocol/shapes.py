"""Shortcuts for reading messages that look alike (SPEC section 2.2).

A client sends thousands of Tasks that differ in their ids only: same lengths, same pointers. Two messages whose
segment table, pointers and union tag are the same bits are laid out alike, so that what the general codec found out
about the first holds for the second. A ``Shape`` is made from one message that was decoded in full; it recognises
others by comparing those bits, and then reads each field from where it must be. What depends on the values (unknown
enum members, text that is not UTF-8) is still looked at, message by message. ``protocol.templates`` is the same for
writing.

Only plain messages get a shape: one segment, near pointers, structs at least as large as in the schema, at most 1 KiB.
Everything else goes through ``protocol.wire``, which remains the authority: ``None`` from here means "ask there". The
source that is compiled for a shape is made of the schema's names and of numbers, never of a peer's bytes.
"""

from __future__ import annotations

import struct as _struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from protocol.layout import Layout
from protocol.wire import FORMATS, default_of

MAX_BYTES = 1024
MAX_SHAPES = 256
GLANCED = {"Task": ("metadata", "capabilities"), "TaskResult": ("results",)}
"""Of messages that are passed on by the thousand, what has to be known of each."""
_LEARN_AFTER = 8
"""So many messages of one length and variant are decoded in full before a shape is made, and twice as many before each
next one: making one costs as much as a hundred messages."""

_NEAR_STRUCT = _struct.Struct("<iHH").unpack_from
_NEAR_LIST = _struct.Struct("<iI").unpack_from
_TAG = _struct.Struct("<IHH").unpack_from
_HEAD = _struct.Struct("<II").unpack_from
_READERS = {form: _struct.Struct("<" + form).unpack_from for form in "bhiqBHIQfd"}


class _NotPlain(Exception):
    """This message gets no shape."""


class Shape:
    """Messages that are laid out as one that was decoded."""

    __slots__ = ("const", "discriminant", "glance", "head", "mask", "read", "where")

    def __init__(
        self,
        discriminant: int,
        mask: int,
        const: int,
        read: Callable[[bytes | memoryview], Any],
        glance: Callable[[bytes | memoryview], tuple[Any, ...]],
        where: dict[str, tuple[int, int]],
    ) -> None:
        self.discriminant = discriminant
        self.mask = mask
        self.const = const
        self.read = read
        """The member that a frame of this shape holds; IndexError, UnicodeDecodeError if a value is not one."""
        self.glance = glance
        """Those of its fields that ``GLANCED`` names, and more; it raises where ``read`` does."""
        self.where = where
        """By the member's field, ``field.field`` inside another struct: (first byte, end) of a Data, (byte, bit) of a
        Bool, (byte, end) of a number. Null fields are missing."""
        self.head: Any = None
        """For ``protocol.envelope``: what it derives from ``where``."""


class Shapes:
    """The shapes of the members of one union struct (``Message``)."""

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
        names = {cls: name for name, cls in classes.items()}
        self._members = {int(discriminant): names[cls] for discriminant, cls in members.items()}
        self._by_length: dict[int, list[Shape]] = {}
        self._met: dict[tuple[int, int], int] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many shapes there are."""
        return self._count

    def find(self, frame: bytes | memoryview) -> Shape | None:
        """The shape of a frame, if it has one."""
        shapes = self._by_length.get(len(frame))
        if shapes is not None:
            bits = int.from_bytes(frame, "little")
            for shape in shapes:
                if bits & shape.mask == shape.const:
                    return shape
        return None

    def met(self, frame: bytes | memoryview, discriminant: int) -> None:
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


class _Reader:
    """Makes a shape of one good frame."""

    def __init__(self, shapes: Shapes, frame: bytes | memoryview) -> None:
        self._shapes = shapes
        self._frame = frame
        self._mask = bytearray(len(frame))
        self._names: dict[str, Any] = {}
        self._where: dict[str, tuple[int, int]] = {}
        self._glanced: list[str] = []
        self._fallible: list[str] = []  # the sources that raise where a value is not one

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
        read: Callable[[bytes | memoryview], Any] = eval(f"lambda f: {source}", self._names)
        glanced = "".join(f"{part}, " for part in self._glanced + self._fallible)
        glance: Callable[[bytes | memoryview], tuple[Any, ...]] = eval(f"lambda f: ({glanced})", self._names)
        mask = int.from_bytes(self._mask, "little")
        return Shape(discriminant, mask, int.from_bytes(frame, "little") & mask, read, glance, self._where)

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
        if path == "":
            by_name = dict(zip([row["name"] for row in spec["fields"]], parts, strict=True))
            self._glanced = [by_name[field] for field in GLANCED.get(struct, ())]
        return f"{self._name('C', self._shapes.classes[struct])}({', '.join(parts)})"

    def _number(self, kind: str, start: int, offset: int, name: str | None) -> str:
        form = FORMATS.get(kind, "H")
        size = _struct.calcsize(form)
        at = start + offset * size
        self._note(name, at, at + size)
        source = f"{self._name('u', _READERS[form])}(f, {at})[0]"
        if kind in self._shapes.enums:
            source = f"{self._name('E', self._shapes.enums[kind])}[{source}]"
            self._fallible.append(source)
        return source

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
        source = f"str(f[{start}:{start + count - 1}], 'utf-8')"
        self._fallible.append(source)
        return source

    def _struct_list(self, element: str, start: int) -> str:
        self._fix(start, 8)
        tag, data_words, pointers = _TAG(self._frame, start)
        step = 8 * (data_words + pointers)
        items = [self._fields(element, start + 8 + step * i, data_words, pointers, None) for i in range(tag >> 2)]
        return f"({', '.join(items)},)" if items else "()"
