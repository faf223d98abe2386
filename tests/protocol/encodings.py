"""Other legal encodings of the same message: our frame taken apart as a tree, and laid out anew.

A frame of one segment becomes nodes; ``lay_out`` writes them with every object in a segment of its own, reached by
far or double-far pointers; ``grown`` and ``trimmed`` change the structs into those of a newer or an older sender.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Union

COMPOSITE = 7
POINTERS = 6
_ELEMENT_BITS = (0, 1, 8, 16, 32, 64)


@dataclass
class Struct:
    data: bytes
    pointers: list[Node] = field(default_factory=list)


@dataclass
class Numbers:
    """A list of anything but pointers and structs."""

    code: int
    count: int
    data: bytes


@dataclass
class Pointers:
    elements: list[Node]


@dataclass
class Structs:
    """A list of structs, all of one size."""

    elements: list[Struct]
    data_words: int
    pointers: int


Node = Union[Struct, Numbers, Pointers, Structs, None]


def parse(frame: bytes) -> Struct:
    """The tree of a frame of one segment."""
    root = _node(frame, 8)
    assert isinstance(root, Struct)
    return root


def _node(frame: bytes, at: int) -> Node:
    (word,) = struct.unpack_from("<Q", frame, at)
    if not word:
        return None
    (signed,) = struct.unpack_from("<i", frame, at)
    start = at + 8 + 8 * (signed >> 2)
    if word & 3 == 0:
        return _struct(frame, start, word >> 32 & 0xFFFF, word >> 48)
    assert word & 3 == 1
    code, count = word >> 32 & 7, word >> 35
    if code == COMPOSITE:
        (tag,) = struct.unpack_from("<Q", frame, start)
        number, data_words, pointers = tag >> 2 & 0x3FFFFFFF, tag >> 32 & 0xFFFF, tag >> 48
        step = 8 * (data_words + pointers)
        elements = [_struct(frame, start + 8 + step * i, data_words, pointers) for i in range(number)]
        return Structs(elements, data_words, pointers)
    if code == POINTERS:
        return Pointers([_node(frame, start + 8 * i) for i in range(count)])
    return Numbers(code, count, frame[start : start + (_ELEMENT_BITS[code] * count + 7) // 8])


def _struct(frame: bytes, start: int, data_words: int, pointers: int) -> Struct:
    end = start + 8 * data_words
    return Struct(frame[start:end], [_node(frame, end + 8 * i) for i in range(pointers)])


class _Segments:
    """Every object in a segment of its own; ``double`` puts the landing pads into yet others."""

    def __init__(self, double: bool) -> None:
        self.double = double
        self.segments: list[bytearray] = []

    def new(self, data: bytes = b"") -> int:
        self.segments.append(bytearray(data))
        return len(self.segments) - 1

    def write(self, segment: int, at: int, node: Node) -> None:
        """Writes ``node`` somewhere and makes the pointer at byte ``at`` of ``segment`` lead there."""
        if node is None:
            return
        content, low, high, places = _flat(node)
        tag = struct.pack("<II", low, high)
        if self.double:
            target = self.new(content)
            pad = self.new(struct.pack("<II", 2, target) + tag)
            pointer = struct.pack("<II", 2 | 4, pad)
            shift = 0
        else:
            target = self.new(tag + content)  # the landing pad: a pointer with offset 0
            pointer = struct.pack("<II", 2, target)
            shift = 8
        self.segments[segment][at : at + 8] = pointer
        for place, child in places:
            self.write(target, place + shift, child)

    def frame(self) -> bytes:
        table = struct.pack(f"<I{len(self.segments)}I", len(self.segments) - 1, *(len(s) // 8 for s in self.segments))
        return table + bytes(-len(table) % 8) + b"".join(self.segments)


def _flat(node: Node) -> tuple[bytes, int, int, list[tuple[int, Node]]]:
    """(bytes of the object, low and high half of its pointer, places of pointers in it)."""
    if isinstance(node, Struct):
        places = [(len(node.data) + 8 * i, child) for i, child in enumerate(node.pointers)]
        content = node.data + bytes(8 * len(node.pointers))
        return content, 0, len(node.data) // 8 | len(node.pointers) << 16, places
    if isinstance(node, Numbers):
        return node.data + bytes(-len(node.data) % 8), 1, node.code | node.count << 3, []
    if isinstance(node, Pointers):
        places = [(8 * i, child) for i, child in enumerate(node.elements)]
        return bytes(8 * len(node.elements)), 1, POINTERS | len(node.elements) << 3, places
    assert isinstance(node, Structs)
    content = struct.pack("<IHH", len(node.elements) << 2, node.data_words, node.pointers)
    places = []
    for element in node.elements:
        places += [(len(content) + len(element.data) + 8 * i, child) for i, child in enumerate(element.pointers)]
        content += element.data + bytes(8 * len(element.pointers))
    return content, 1, COMPOSITE | (len(content) // 8 - 1) << 3, places


def lay_out(root: Struct, *, double: bool = False) -> bytes:
    """A frame of many segments."""
    out = _Segments(double)
    first = out.new(bytes(8))
    out.write(first, 0, root)
    return out.frame()


def grown(node: Node, data_words: int = 2, pointers: int = 2) -> Node:
    """The same from a newer sender: every struct has more words and more pointers, with something in them."""
    extra: list[Node] = [Numbers(2, 5, b"newer") for _ in range(pointers)]
    if isinstance(node, Struct):
        children = [grown(child, data_words, pointers) for child in node.pointers]
        return Struct(node.data + b"\xff" * 8 * data_words, children + extra)
    if isinstance(node, Pointers):
        return Pointers([grown(child, data_words, pointers) for child in node.elements])
    if isinstance(node, Structs):
        elements = [grown(element, data_words, pointers) for element in node.elements]
        return Structs(
            [e for e in elements if isinstance(e, Struct)], node.data_words + data_words, node.pointers + pointers
        )
    return node


def trimmed(node: Node) -> Node:
    """The same from a sender that leaves out what is zero at the end of a struct (as canonical encoding does)."""
    if isinstance(node, Struct):
        data = node.data
        while data and not any(data[-8:]):
            data = data[:-8]
        children = [trimmed(child) for child in node.pointers]
        while children and children[-1] is None:
            children.pop()
        return Struct(data, children)
    if isinstance(node, Pointers):
        return replace(node, elements=[trimmed(child) for child in node.elements])
    if isinstance(node, Structs):
        elements = [e for e in (trimmed(element) for element in node.elements) if isinstance(e, Struct)]
        words = max((len(e.data) // 8 for e in elements), default=0)
        count = max((len(e.pointers) for e in elements), default=0)
        padded: list[Struct] = [
            Struct(e.data.ljust(8 * words, b"\0"), [*e.pointers, *[None] * (count - len(e.pointers))]) for e in elements
        ]
        return Structs(padded, words, count)
    return node
