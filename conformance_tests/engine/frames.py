"""Raw frames of a ``sendRaw``: hexadecimal digits, or a message that is mutated after it was encoded."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable
from typing import Any

Encode = Callable[[str, dict[str, Any]], bytes]


def expand(messages: tuple[tuple[Any, ...], ...], encode: Encode) -> list[list[bytes]]:
    """The messages of a ``sendRaw``, each a list of frames; one that says every… becomes many."""
    expanded: list[list[bytes]] = []
    for message in messages:
        variants = [_frame(frame, encode) for frame in message]
        if len(variants) == 1:
            expanded += [[frame] for frame in variants[0]]
        else:
            expanded.append([frame for several in variants for frame in several])
    return expanded


def _frame(spec: Any, encode: Encode) -> list[bytes]:
    if isinstance(spec, str):
        return [bytes.fromhex(spec)]
    if "zeros" in spec:
        return [bytes(spec["zeros"])]
    if "random" in spec:
        return [secrets.token_bytes(spec["random"])]
    ((kind, fields),) = spec["message"].items()
    return mutate(encode(kind, fields or {}), spec.get("mutate", {}))


def mutate(frame: bytes, mutation: dict[str, Any]) -> list[bytes]:
    """The frame after the mutation, which may make several of it."""
    if "encoding" in mutation:
        frame = _ENCODINGS[mutation["encoding"]](frame)
    if "unusedWords" in mutation:
        frame = frame[:4] + _words(len(frame) // 8 - 1 + mutation["unusedWords"]) + frame[8:]
        frame += bytes(8 * mutation["unusedWords"])
    changed = bytearray(frame)
    if "variant" in mutation:
        root = 16 + 8 * (int.from_bytes(frame[8:12], "little") >> 2)
        changed[root : root + 2] = mutation["variant"].to_bytes(2, "little")
    for patch in mutation.get("set", ()):
        raw = bytes.fromhex(patch["hex"])
        changed[patch["at"] : patch["at"] + len(raw)] = raw
    if "keepBytes" in mutation:
        del changed[mutation["keepBytes"] :]
    if "truncateWords" in mutation:
        del changed[len(changed) - 8 * mutation["truncateWords"] :]
    if "truncateBytes" in mutation:
        del changed[len(changed) - mutation["truncateBytes"] :]
    changed += bytes.fromhex(mutation.get("append", ""))
    whole = bytes(changed)
    if "pieces" in mutation:
        return [whole[at : at + mutation["pieces"]] for at in range(0, len(whole), mutation["pieces"])]
    if "everyTruncation" in mutation:
        step = 8 if mutation["everyTruncation"] == "words" else 1
        return [whole[:length] for length in range(0, len(whole), step)]
    if "everyPointer" in mutation:
        word = bytes.fromhex(mutation["everyPointer"])
        return [whole[:at] + word + whole[at + 8 :] for at in range(8, len(whole), 8)]
    return [whole]


def _words(count: int) -> bytes:
    return count.to_bytes(4, "little")


def _far(frame: bytes) -> bytes:
    """The same message with its content in a second segment, which begins with the root's landing pad."""
    content = frame[8:]
    table = _words(1) + _words(1) + _words(len(content) // 8) + bytes(4)
    return table + struct.pack("<II", 2, 1) + content


def _double_far(frame: bytes) -> bytes:
    """The same message in three segments: a double-far root, its landing pad with the tag, and the content."""
    content = frame[8:]
    offset, sizes = struct.unpack_from("<iI", content)
    table = _words(2) + _words(1) + _words(2) + _words(len(content) // 8)
    root = struct.pack("<II", 2 | 4, 1)
    pad = struct.pack("<IIII", 2 | (1 + (offset >> 2)) << 3, 2, 0, sizes)
    return table + root + pad + content


_ENCODINGS = {"far": _far, "doubleFar": _double_far}
