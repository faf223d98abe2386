"""Cap'n Proto's flat, unpacked encoding in plain Python, driven by ``layout.json`` (SPEC section 2.2).

Why not pycapnp here: it is made for trusted bytes. Some of its calls end the whole process on a hostile message
(a pointer loop under ``total_size`` or ``as_builder`` is an abort, not an exception), and importing it costs
every process 50 ms. It stays the authority on the schema (``protocol.layout``) and the tests' independent judge:
each side's bytes are read by the other.

Reading never trusts a length, an offset or a pointer: whatever is out of bounds, too deep, or visits more words
than the message can honestly hold raises ``MalformedMessage``. Every legal encoding is accepted (several
segments, far pointers, structs of an older or newer schema).
"""

from __future__ import annotations

import re
import struct as _struct
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from typing import Any

from protocol.errors import MalformedMessage
from protocol.layout import Layout

MAX_DEPTH = 32
_MAX_SEGMENTS = 512
_U64 = _struct.Struct("<Q")
_SEGMENT_TABLE = _struct.Struct("<II").unpack_from
_NEAR_STRUCT = _struct.Struct("<iHH").unpack_from  # offset with the kind in its low bits, data words, pointers
_NEAR_LIST = _struct.Struct("<iI").unpack_from  # offset with the kind, count with the size code in its low bits
_HEAD = _struct.Struct("<IIQ")  # a one-segment message: segment count - 1, segment words, root pointer
_BYTE_LIST = 2
_POINTER_LIST = 6
_COMPOSITE_LIST = 7
FORMATS = {
    "Int8": "b", "Int16": "h", "Int32": "i", "Int64": "q",
    "UInt8": "B", "UInt16": "H", "UInt32": "I", "UInt64": "Q", "Float32": "f", "Float64": "d",
}  # fmt: skip
LIST_SIZES = {1: 2, 2: 3, 4: 4, 8: 5}  # bytes of an element to the list pointer's size code
LONG_DATA_BYTES = 1 << 12
"""Of a message that is read where it lies, longer Data are not copied."""

Lengths = dict[tuple[str, str], int]
"""(struct, field) to the only legal length in bytes of a Data field, or of each element of a List(Data)."""


def snake(name: str) -> str:
    """The Python spelling of a schema name: ``workerManagerID`` is ``worker_manager_id``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.replace("IDs", "Ids")).lower()


class _Input:
    """One message being read: its bytes, where its segments lie, and how many words may still be visited."""

    __slots__ = ("bounds", "budget", "buf", "first", "segments", "whole")
    segments: list[tuple[int, int]]
    bounds: tuple[int, int]
    """Of the segment that holds what the last ``pointer`` refers to."""

    def __init__(self, buf: bytes | memoryview) -> None:
        size = len(buf)
        if size < 16 or size % 8:
            raise MalformedMessage(f"{size} bytes can't be a message: a multiple of 8, at least 16")
        self.buf: bytes = buf  # type: ignore[assignment] # slices of a view are views: see _View
        # An honest message visits each word once, which is counted at most three times: as part of an object, as a
        # pointer, and as an element of a list. What shares parts of itself runs out of it.
        self.budget = 3 * (size >> 3) + 64
        more, words = _SEGMENT_TABLE(buf, 0)
        self.whole = not more and 8 * words + 8 == size
        if self.whole:  # one segment that fills the rest: nearly every message
            self.first = 8
            self.bounds = 8, size
            self.segments = [self.bounds]
            return
        count = more + 1
        if count > _MAX_SEGMENTS:
            raise MalformedMessage(f"{count} segments")
        self.first = start = (4 * (count + 1) + 7) // 8 * 8
        self.segments = []
        if start > len(buf):
            raise MalformedMessage("the segment table is cut off")
        for i in range(count):
            end = start + 8 * int.from_bytes(buf[4 + 4 * i : 8 + 4 * i], "little")
            if end > len(buf):
                raise MalformedMessage("a segment is cut off")
            self.segments.append((start, end))
            start = end
        if start != len(buf):
            raise MalformedMessage("bytes after the last segment")
        if self.segments[0][0] == self.segments[0][1]:
            raise MalformedMessage("a message without a root")

    def pointer(self, pos: int) -> tuple[int, int]:
        """The pointer at byte ``pos``: (its 64 bits, the byte that its offset counts from). Follows far pointers."""
        (word,) = _U64.unpack_from(self.buf, pos)
        if word & 3 != 2:
            if not self.whole:
                self.bounds = next(segment for segment in self.segments if segment[0] <= pos < segment[1])
            return word, pos + 8
        pad = self._landing_pad(word, 16 if word & 4 else 8)
        (target,) = _U64.unpack_from(self.buf, pad)
        if not word & 4:
            if target & 3 == 2:
                raise MalformedMessage("a far pointer to a far pointer")
            return target, pad + 8
        (tag,) = _U64.unpack_from(self.buf, pad + 8)
        if target & 7 != 2 or tag & 3 > 1 or tag & 0xFFFFFFFC:
            raise MalformedMessage("a bad double-far landing pad")
        return tag, self._landing_pad(target, 0)

    def _landing_pad(self, word: int, size: int) -> int:
        segment = word >> 32
        if segment >= len(self.segments):
            raise MalformedMessage(f"a far pointer to segment {segment} of {len(self.segments)}")
        self.bounds = start, end = self.segments[segment]
        pad = start + 8 * (word >> 3 & 0x1FFFFFFF)
        if pad + size > end:
            raise MalformedMessage("a far pointer out of its segment")
        return pad

    def claim(self, base: int, word: int, size: int) -> int:
        """The byte that a pointer's offset leads to, after checking that ``size`` bytes lie there."""
        offset = (word & 0xFFFFFFFC) << 1  # in bytes; 33 bits, signed
        if offset >= 1 << 32:
            offset -= 1 << 33
        start = base + offset
        if start < self.bounds[0] or start + size > self.bounds[1]:
            raise MalformedMessage("a pointer out of its segment")
        self.budget -= (size >> 3) + 1
        if self.budget < 0:
            raise MalformedMessage("the message refers to more than it holds")
        return start

    def struct(self, pos: int) -> tuple[int, int, int] | None:
        """The struct that the pointer at ``pos`` refers to: (first byte, data words, pointers), None for null."""
        offset, data_words, pointers = _NEAR_STRUCT(self.buf, pos)
        if not offset & 3 and self.whole:  # as nearly every pointer: the general case below would find the same
            if not (offset or data_words or pointers):
                return None
            start = pos + 8 + 2 * offset
            words = data_words + pointers
            self.budget -= words + 1
            if start >= self.first and start + 8 * words <= len(self.buf) and self.budget >= 0:
                return start, data_words, pointers
        word, base = self.pointer(pos)
        if word & 3:
            raise MalformedMessage("a pointer to a struct was expected")
        if not word:
            return None
        data_words, pointers = word >> 32 & 0xFFFF, word >> 48
        return self.claim(base, word, 8 * (data_words + pointers)), data_words, pointers

    def _is_null(self, pos: int) -> bool:
        return not any(self.buf[pos : pos + 8])

    def list(self, pos: int) -> tuple[int, int, int, int] | None:
        """The list that the pointer at ``pos`` refers to: (pointer's base, pointer, size code, count); or None."""
        word, base = self.pointer(pos)
        if not word and self._is_null(pos):
            return None
        if word & 3 != 1:
            raise MalformedMessage("a pointer to a list was expected")
        return base, word, word >> 32 & 7, word >> 35

    def data(self, pos: int) -> bytes:
        """The bytes of the Data that the pointer at ``pos`` refers to; empty for null."""
        offset, rest = _NEAR_LIST(self.buf, pos)
        if offset & 3 == 1 and rest & 7 == _BYTE_LIST and self.whole:  # as nearly every pointer
            start = pos + 6 + 2 * offset
            end = start + (rest >> 3)
            self.budget -= (rest >> 6) + 1
            if start >= self.first and end <= len(self.buf) and self.budget >= 0:
                return self.buf[start:end]
        found = self.list(pos)
        if found is None:
            return b""
        base, word, size, count = found
        if size != _BYTE_LIST:
            raise MalformedMessage("a pointer to bytes was expected")
        start = self.claim(base, word, count)
        return self.buf[start : start + count]

    def text(self, pos: int) -> str:
        """The Text that the pointer at ``pos`` refers to; empty for null."""
        raw = self.data(pos)
        if not raw and self._is_null(pos):
            return ""
        if raw[-1:] != b"\0":
            raise MalformedMessage("a text that does not end with a zero byte")
        try:
            return str(raw[:-1], "utf-8")
        except UnicodeDecodeError as error:
            raise MalformedMessage("a text that is not UTF-8") from error


class _View(_Input):
    """A message that is not copied to be read: of its Data, long ones are views of it."""

    __slots__ = ()

    def data(self, pos: int) -> bytes:
        value = super().data(pos)
        return bytes(value) if len(value) <= LONG_DATA_BYTES else value


Read = Callable[[_Input, int, int], Any]
"""(message, byte of the pointer, depth) to the value."""


class _Output:
    """One message being written, as one segment."""

    __slots__ = ("buf",)

    def __init__(self) -> None:
        self.buf = bytearray(16)

    def allocate(self, size: int) -> int:
        start = len(self.buf)
        self.buf += bytes((size + 7) & ~7)
        return start

    def point(self, pos: int, start: int, low: int, high: int) -> None:
        offset = (start - pos - 8) >> 3
        _U64.pack_into(self.buf, pos, (offset << 2 & 0xFFFFFFFC) | low | high << 32)

    def data(self, pos: int, value: bytes) -> None:
        size = len(value)
        if size:
            self.point(pos, len(self.buf), 1, _BYTE_LIST | size << 3)
            self.buf += value
            if size & 7:
                self.buf += bytes(-size & 7)

    def text(self, pos: int, value: str) -> None:
        if value:
            self.data(pos, value.encode() + b"\0")

    def finish(self) -> bytes:
        _struct.pack_into("<II", self.buf, 0, 0, (len(self.buf) >> 3) - 1)
        return bytes(self.buf)


Write = Callable[[_Output, int, Any], None]
"""(message, byte of the pointer, value): writes the value and points to it."""


class _StructCodec:
    """Reads and writes one struct of the layout as one Python class."""

    def __init__(self, name: str, spec: dict[str, Any], cls: type) -> None:
        self.name = name
        self.cls = cls
        self.data_words: int = spec["dataWords"]
        self.pointers: int = spec["pointers"]
        self.readers: list[Callable[[_Input, tuple[Any, ...], int, int, int], Any]] = []
        self.data_writers: list[tuple[str, int, int]] = []  # (attribute, slot, bit or -1)
        self.pointer_writers: list[tuple[str, int, Write]] = []
        self.unpacker = _struct.Struct(f"<{8 * self.data_words}x")
        self.slots: list[tuple[int, str]] = []
        self.union: _UnionCodec | None = None

    def read_at(self, message: _Input, found: tuple[int, int, int], depth: int) -> Any:
        start, data_words, pointers = found
        if depth > MAX_DEPTH:
            raise MalformedMessage("nested too deep")
        if data_words >= self.data_words:
            data = self.unpacker.unpack_from(message.buf, start)
        else:
            section = bytes(message.buf[start : start + 8 * data_words])
            data = self.unpacker.unpack(section.ljust(8 * self.data_words, b"\0"))
        base = start + 8 * data_words
        return self.cls(*[read(message, data, base, pointers, depth) for read in self.readers])

    def read(self, message: _Input, pos: int, depth: int) -> Any:
        return self.read_at(message, message.struct(pos) or (message.first, 0, 0), depth + 1)

    def write_at(self, out: _Output, start: int, value: Any) -> None:
        if self.slots:
            data = [0] * len(self.slots)
            for attribute, slot, bit in self.data_writers:
                number = getattr(value, attribute)
                data[slot] = data[slot] | (bool(number) << bit) if bit >= 0 else number
            if self.union is not None:
                data[self.union.slot] = self.union.discriminants[value.variant]
            self.unpacker.pack_into(out.buf, start, *data)
        base = start + 8 * self.data_words
        for attribute, index, write in self.pointer_writers:
            write(out, base + 8 * index, getattr(value, attribute))
        if self.union is not None:
            self.union.write(out, base, value)

    def write(self, out: _Output, pos: int, value: Any) -> None:
        start = out.allocate(8 * (self.data_words + self.pointers))
        out.point(pos, start, 0, self.data_words | self.pointers << 16)
        self.write_at(out, start, value)


class _UnionCodec:
    """The unnamed union of a struct, held in Python as ``variant`` (its member's name) and ``value``."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.discriminants: dict[str, int] = {}
        self.members: dict[int, tuple[str, int, Read | None, Write | None]] = {}

    def add(self, name: str, discriminant: int, index: int, read: Read | None, write: Write | None) -> None:
        self.discriminants[name] = discriminant
        self.members[discriminant] = (name, index, read, write)

    def read_variant(self, message: _Input, data: tuple[Any, ...], base: int, pointers: int, depth: int) -> str:
        try:
            return self.members[data[self.slot]][0]
        except KeyError:
            raise MalformedMessage(f"unknown variant {data[self.slot]}") from None

    def read_value(self, message: _Input, data: tuple[Any, ...], base: int, pointers: int, depth: int) -> Any:
        _, index, read, _ = self.members[data[self.slot]]
        if read is None:
            return None
        if index >= pointers:
            raise MalformedMessage("a union without its value")
        return read(message, base + 8 * index, depth)

    def write(self, out: _Output, base: int, value: Any) -> None:
        _, index, _, write = self.members[self.discriminants[value.variant]]
        if write is not None:
            write(out, base + 8 * index, value.value)


class Codec:
    """Reads and writes the structs of a layout as instances of ``classes`` (struct name to class).

    A class has the struct's fields as attributes and positional arguments, in the order of the schema, in
    ``snake`` spelling; one with a union has ``variant`` and ``value`` last.
    """

    def __init__(
        self,
        layout: Layout,
        classes: dict[str, type],
        enums: dict[str, type[IntEnum]],
        lengths: Lengths | None = None,
    ) -> None:
        self._enums = {name: tuple(enum) for name, enum in enums.items()}
        self._lengths = lengths or {}
        self._structs = {name: _StructCodec(name, layout["structs"][name], cls) for name, cls in classes.items()}
        self._by_class = {codec.cls: codec for codec in self._structs.values()}
        for name, codec in self._structs.items():
            self._compile(codec, layout["structs"][name])

    def encode(self, value: Any) -> bytes:
        """The message whose root struct is ``value``."""
        out = _Output()
        self._by_class[type(value)].write(out, 8, value)
        return out.finish()

    def decode(self, cls: type, frame: bytes) -> Any:
        """The root struct of ``frame``, as ``cls``; raises MalformedMessage."""
        message = _Input(frame)
        try:
            return self._by_class[cls].read(message, message.first, 0)
        except _struct.error as error:
            raise MalformedMessage("the message is cut off") from error

    def encode_member(self, discriminant: int, value: Any) -> bytes:
        """The message whose root is a union struct of one word and one pointer (``Message``)."""
        out = _Output()
        start = out.allocate(16)
        out.point(8, start, 0, 1 | 1 << 16)
        out.buf[start : start + 2] = discriminant.to_bytes(2, "little")
        self._by_class[type(value)].write(out, start + 8, value)
        return out.finish()

    def decode_member(self, classes: dict[Any, type], frame: bytes | memoryview) -> Any:
        """The member of the root union struct of ``frame``, by its discriminant; raises MalformedMessage. Of a frame
        that is a view, Data of more than 4 KiB are views, too."""
        message = _View(frame) if isinstance(frame, memoryview) else _Input(frame)
        try:
            discriminant, pos = _root_union(message)
            try:
                codec = self._by_class[classes[discriminant]]
            except KeyError:
                raise MalformedMessage(f"unknown message variant {discriminant}") from None
            return codec.read(message, pos, 0) if pos else codec.read(_EMPTY, _EMPTY.first, 0)
        except _struct.error as error:
            raise MalformedMessage("the message is cut off") from error

    # ---- compiling the layout into readers and writers ----

    def _compile(self, codec: _StructCodec, spec: dict[str, Any]) -> None:
        pointer_fields: dict[str, tuple[int, Read, Write]] = {}
        data_fields: dict[str, tuple[int, str, int]] = {}  # name to (byte, format, bit)
        members = [f for f in spec["fields"] if "discriminant" in f]
        for row in spec["fields"]:
            kind, offset = row["type"], row["offset"]
            if kind == "Bool":
                data_fields[row["name"]] = (offset // 8, "B", offset % 8)
            elif kind in FORMATS or kind in self._enums:
                form = FORMATS.get(kind, "H")
                data_fields[row["name"]] = (offset * _struct.calcsize(form), form, -1)
            elif kind != "Void":
                pointer_fields[row["name"]] = (offset, *self._pointer_codec(kind, codec.name, row["name"]))
        slots = {(byte, form) for byte, form, _ in data_fields.values()}
        if members:
            slots.add((2 * spec["discriminantOffset"], "H"))
        codec.slots = sorted(slots)
        form, at = "<", 0
        for byte, letter in codec.slots:
            form += "x" * (byte - at) + letter
            at = byte + _struct.calcsize(letter)
        codec.unpacker = _struct.Struct(form + "x" * (8 * codec.data_words - at))
        for row in spec["fields"]:
            name, attribute = row["name"], snake(row["name"])
            if "discriminant" in row:
                continue
            if name in pointer_fields:
                index, read, write = pointer_fields[name]
                codec.readers.append(_pointer_reader(index, read, default_of(row["type"])))
                codec.pointer_writers.append((attribute, index, write))
            else:
                byte, form, bit = data_fields[name]
                slot = codec.slots.index((byte, form))
                codec.readers.append(_data_reader(slot, bit, self._enums.get(row["type"]), row["type"]))
                codec.data_writers.append((attribute, slot, bit))
        if members:
            codec.union = _UnionCodec(codec.slots.index((2 * spec["discriminantOffset"], "H")))
            for row in members:
                if row["type"] != "Void" and row["name"] not in pointer_fields:
                    raise TypeError(f"{codec.name}.{row['name']}: a number in a union is not supported")
                index, *pair = pointer_fields.get(row["name"], (0, None, None))
                codec.union.add(row["name"], row["discriminant"], index, *pair)
            codec.readers += [codec.union.read_variant, codec.union.read_value]
        names = list(codec.cls.__match_args__)  # type: ignore[attr-defined]  # of a dataclass or a NamedTuple
        wanted = [snake(f["name"]) for f in spec["fields"] if "discriminant" not in f]
        wanted += ["variant", "value"] if members else []
        if names != wanted:
            raise TypeError(f"{codec.cls.__name__} has the fields {names}, the struct {codec.name} has {wanted}")

    def _pointer_codec(self, kind: str, struct: str, field: str) -> tuple[Read, Write]:
        length = self._lengths.get((struct, field))
        if kind == "Data":
            return (_bytes_reader(length, f"{struct}.{field}"), _Output.data)
        if kind == "Text":
            return (lambda message, pos, depth: message.text(pos)), _Output.text
        if kind in self._structs:
            inner = self._structs[kind]
            return inner.read, inner.write
        if kind.startswith("List("):
            element = kind[5:-1]
            if element in self._structs:
                return _struct_list(self._structs[element])
            if element in ("Data", "Text"):
                pair = _pointer_list(*self._pointer_codec(element, struct, field))
                return pair if length is None or length % 8 else _equal_list(length, *pair)
            if element in FORMATS or element in self._enums:
                return _number_list(FORMATS.get(element, "H"), self._enums.get(element), element)
        raise TypeError(f"{struct}.{field}: {kind} is not supported")


def _root_union(message: _Input) -> tuple[int, int]:
    """Of a message whose root is a union struct of one word and one pointer: (discriminant, byte of the pointer).

    Either may be cut off by a sender that leaves out zeros: then they are 0.
    """
    found = message.struct(message.first)
    if found is None:
        raise MalformedMessage("a message without a root")
    start, data_words, pointers = found
    discriminant = int.from_bytes(message.buf[start : start + 2], "little") if data_words else 0
    return discriminant, start + 8 * data_words if pointers else 0


def default_of(kind: str) -> Any:
    if kind == "Data":
        return b""
    if kind == "Text":
        return ""
    return () if kind.startswith("List(") else None


def _pointer_reader(index: int, read: Read, default: Any) -> Callable[..., Any]:
    def reader(message: _Input, data: tuple[Any, ...], base: int, pointers: int, depth: int) -> Any:
        if index < pointers:
            return read(message, base + 8 * index, depth)
        if default is None:  # a struct that an older sender does not have: all its defaults
            return read(_EMPTY, 8, depth)
        return default

    def required(message: _Input, data: tuple[Any, ...], base: int, pointers: int, depth: int) -> Any:
        return read(message, base + 8 * index, depth) if index < pointers else read(_EMPTY, 8, depth)

    return required if default is None or default == b"" else reader


def _data_reader(slot: int, bit: int, members: tuple[IntEnum, ...] | None, kind: str) -> Callable[..., Any]:
    def number(message: _Input, data: tuple[Any, ...], base: int, pointers: int, depth: int) -> Any:
        return data[slot]

    def boolean(message: _Input, data: tuple[Any, ...], base: int, pointers: int, depth: int) -> Any:
        return bool(data[slot] >> bit & 1)

    def enum(message: _Input, data: tuple[Any, ...], base: int, pointers: int, depth: int) -> Any:
        return _member(members or (), data[slot], kind)

    if bit >= 0:
        return boolean
    return enum if members is not None else number


def _member(members: tuple[IntEnum, ...], ordinal: int, kind: str) -> IntEnum:
    if ordinal >= len(members):
        raise MalformedMessage(f"unknown value {ordinal} of {kind}")
    return members[ordinal]


def _bytes_reader(length: int | None, name: str) -> Read:
    def read_any(message: _Input, pos: int, depth: int) -> bytes:
        return message.data(pos)

    def read_exact(message: _Input, pos: int, depth: int) -> bytes:
        value = message.data(pos)
        if len(value) != length:
            raise MalformedMessage(f"{name} has {len(value)} bytes instead of {length}")
        return value

    return read_any if length is None else read_exact


def _struct_list(codec: _StructCodec) -> tuple[Read, Write]:
    def read(message: _Input, pos: int, depth: int) -> Any:
        found = message.list(pos)
        if found is None:
            return ()
        base, word, size, words = found
        if size != _COMPOSITE_LIST:
            raise MalformedMessage(f"a list of {codec.name} was expected")
        start = message.claim(base, word, 8 + 8 * words)
        (tag,) = _U64.unpack_from(message.buf, start)
        count, data_words, pointers = tag >> 2 & 0x3FFFFFFF, tag >> 32 & 0xFFFF, tag >> 48
        step = data_words + pointers
        if tag & 3 or count * step > words:
            raise MalformedMessage("a list of structs that is longer than its bytes")
        message.budget -= count  # elements may be empty: they must not be free
        if message.budget < 0:
            raise MalformedMessage("the message refers to more than it holds")
        at = start + 8
        return tuple(codec.read_at(message, (at + 8 * step * i, data_words, pointers), depth + 1) for i in range(count))

    def write(out: _Output, pos: int, value: Any) -> None:
        if not value:
            return
        step = codec.data_words + codec.pointers
        start = out.allocate(8 + 8 * step * len(value))
        out.point(pos, start, 1, _COMPOSITE_LIST | (step * len(value)) << 3)
        tag = len(value) << 2 | codec.data_words << 32 | codec.pointers << 48
        _U64.pack_into(out.buf, start, tag)
        for i, element in enumerate(value):
            codec.write_at(out, start + 8 + 8 * step * i, element)

    return read, write


def _pointer_list(read_element: Read, write_element: Write) -> tuple[Read, Write]:
    def read(message: _Input, pos: int, depth: int) -> Any:
        found = message.list(pos)
        if found is None:
            return ()
        base, word, size, count = found
        if size != _POINTER_LIST:
            raise MalformedMessage("a list of pointers was expected")
        start = message.claim(base, word, 8 * count)
        return tuple(read_element(message, start + 8 * i, depth) for i in range(count))

    def write(out: _Output, pos: int, value: Any) -> None:
        if not value:
            return
        start = out.allocate(8 * len(value))
        out.point(pos, start, 1, _POINTER_LIST | len(value) << 3)
        for i, element in enumerate(value):
            write_element(out, start + 8 * i, element)

    return read, write


def _equal_list(length: int, read_any: Read, write_any: Write) -> tuple[Read, Write]:
    """A List(Data) whose elements all have this length, a multiple of 8: ids, of which there may be hundreds. Laid out
    one after the other, as nearly everybody does, they are not looked at one by one."""

    def read(message: _Input, pos: int, depth: int) -> Any:
        found = message.list(pos)
        if found is None or found[2] != _POINTER_LIST:
            return read_any(message, pos, depth)
        base, word, _, count = found
        budget = message.budget
        start = message.claim(base, word, 8 * count)
        begin, buf = start + 8 * count, message.buf
        end = begin + length * count
        if end > message.bounds[1] or buf[start:begin] != _pointers(count, length) or isinstance(message, _View):
            message.budget = budget
            return read_any(message, pos, depth)
        message.budget -= count * (length // 8 + 1)
        if message.budget < 0:
            raise MalformedMessage("the message refers to more than it holds")
        return tuple([buf[at : at + length] for at in range(begin, end, length)])

    def write(out: _Output, pos: int, value: Any) -> None:
        if set(map(len, value)) != {length}:
            write_any(out, pos, value)
            return
        out.point(pos, len(out.buf), 1, _POINTER_LIST | len(value) << 3)
        out.buf += _pointers(len(value), length)
        out.buf += b"".join(value)

    return read, write


@lru_cache(maxsize=64)
def _pointers(count: int, length: int) -> bytes:
    """Pointers to so many Data of this length that follow them."""
    step, high = length // 8 - 1, (_BYTE_LIST | length << 3) << 32
    return _struct.pack(f"<{count}Q", *[high | (count - 1 + i * step) << 2 | 1 for i in range(count)])


def _number_list(form: str, members: tuple[IntEnum, ...] | None, kind: str) -> tuple[Read, Write]:
    width = _struct.calcsize(form)
    code = LIST_SIZES[width]

    def read(message: _Input, pos: int, depth: int) -> Any:
        found = message.list(pos)
        if found is None:
            return ()
        base, word, size, count = found
        if size != code:
            raise MalformedMessage(f"a list of {kind} was expected")
        start = message.claim(base, word, count * width)
        numbers = _struct.unpack_from(f"<{count}{form}", message.buf, start)
        return numbers if members is None else tuple(_member(members, n, kind) for n in numbers)

    def write(out: _Output, pos: int, value: Any) -> None:
        if not value:
            return
        start = out.allocate(len(value) * width)
        out.point(pos, start, 1, code | len(value) << 3)
        _struct.pack_into(f"<{len(value)}{form}", out.buf, start, *value)

    return read, write


_EMPTY = _Input(bytes(16)[:4] + (1).to_bytes(4, "little") + bytes(8))
