"""Raw frames of a ``sendRaw``: hexadecimal digits, or a message that is mutated after it was encoded."""

from __future__ import annotations

import secrets
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
    if "rootPointer" in mutation:
        whole = _with_far_root(whole, double=mutation["rootPointer"] == "doubleFar")
    if "pieces" in mutation:
        return [whole[at : at + mutation["pieces"]] for at in range(0, len(whole), mutation["pieces"])]
    if "everyTruncation" in mutation:
        step = 8 if mutation["everyTruncation"] == "words" else 1
        return [whole[:length] for length in range(0, len(whole), step)]
    if "everyPointer" in mutation:
        word = bytes.fromhex(mutation["everyPointer"])
        return [whole[:at] + word + whole[at + 8 :] for at in range(8, len(whole), 8)]
    return [whole]


def _with_far_root(frame: bytes, *, double: bool) -> bytes:
    """The same message with its one segment behind a far pointer: another legal encoding of the same values."""
    words, segment = len(frame) // 8 - 1, frame[8:]
    if not double:
        return _table(1, words) + _far(0, 1, False) + segment
    offset = int.from_bytes(segment[:4], "little") >> 2
    tag = bytes(4) + segment[4:8]
    return _table(1, 2, words) + _far(0, 1, True) + _far(1 + offset, 2, False) + tag + segment


def _table(*words: int) -> bytes:
    sizes = b"".join(n.to_bytes(4, "little") for n in (len(words) - 1, *words))
    return sizes + bytes(-len(sizes) % 8)


def _far(offset: int, segment: int, double: bool) -> bytes:
    return (offset << 3 | (4 if double else 0) | 2).to_bytes(4, "little") + segment.to_bytes(4, "little")
