"""Whether a message is what a scenario expects: partial, with symbols and wildcards.

``match`` says nothing (None) when it is, else in one line what differs. What ``$name`` meets first is bound to it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

from conformance_tests.engine.names import Names
from protocol.identifiers import OBJECT_ID_BYTES, owner_digest, serializer_object_id

SYMBOL = re.compile(r"^\$([A-Za-z_]\w*)$")
WILDCARD = re.compile(r"^\$\{(\w+)(?::(.*))?\}$", re.DOTALL)
SUM = re.compile(r"^\$\{int:\$(\w+)([+-]\d+)\}$")
SPECIAL = frozenset({"hex", "text", "contains", "unordered", "length", "not", "random", "repeat"})
"""Keys of a value that is not a struct: see the format reference."""

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq,
}  # fmt: skip


class Mismatch(Exception):
    """The text says what differs."""


def match_message(kind: str, fields: dict[str, Any], came_kind: str, came: dict[str, Any], names: Names) -> str | None:
    """None if the message is of this kind and has these fields; else what differs."""
    if kind != came_kind:
        return f"a {came_kind} came instead"
    try:
        with names.trial():
            _match(fields, came, names, "")
    except Mismatch as error:
        return str(error)
    return None


def _match(expected: Any, came: Any, names: Names, path: str) -> None:
    if isinstance(expected, str) and expected.startswith("$"):
        _match_symbol(expected, came, names, path)
    elif isinstance(expected, dict):
        if len(expected) == 1 and (key := next(iter(expected))) in SPECIAL:
            _match_special(key, expected[key], came, names, path)
            return
        if not isinstance(came, dict):
            raise Mismatch(f"{path} is {names.show(came)}, {names.show(expected)} was expected")
        for key, value in expected.items():
            if key not in came:
                raise Mismatch(f"{_join(path, key)} is not there")
            _match(value, came[key], names, _join(path, key))
    elif isinstance(expected, (list, tuple)):
        if not isinstance(came, list):
            raise Mismatch(f"{path} is {names.show(came)}, a list was expected")
        if len(expected) != len(came):
            raise Mismatch(f"{path} has {len(came)} elements, {len(expected)} were expected: {names.show(came)}")
        for i, (one, other) in enumerate(zip(expected, came, strict=True)):
            _match(one, other, names, f"{path}[{i}]")
    else:
        if isinstance(came, (bytes, bytearray)) and isinstance(expected, str):
            expected = expected.encode()
        if expected != came or isinstance(expected, bool) is not isinstance(came, bool):
            raise Mismatch(f"{path} is {names.show(came)}, {names.show(expected)} was expected")


def _match_symbol(expected: str, came: Any, names: Names, path: str) -> None:
    if symbol := SYMBOL.match(expected):
        name = symbol[1]
        if not names.known(name):
            names.bind(name, came)
        elif names.get(name) != came:
            raise Mismatch(f"{path} is {names.show(came)}, ${name} was expected")
        return
    wildcard = WILDCARD.match(expected)
    if wildcard is None:
        raise Mismatch(f"{path}: {expected!r} is no symbol and no wildcard")
    word, argument = wildcard[1], wildcard[2] or ""
    if word in ("owned", "serializer"):
        fits = _is_object_of(names.get(argument), came, serializer=word == "serializer")
    elif sum_ := SUM.match(expected):
        fits = came == names.get(sum_[1]) + int(sum_[2])
    else:
        fits = _wildcard(word, argument, came)
    if not fits:
        raise Mismatch(f"{path} is {names.show(came)}, {expected} was expected")


def _is_object_of(owner: bytes, came: Any, *, serializer: bool) -> bool:
    """Whether this is the id of an object of that client (IDN-07), or of its serializer (IDN-08)."""
    if not isinstance(came, bytes) or len(came) != OBJECT_ID_BYTES:
        return False
    return came == serializer_object_id(owner) if serializer else came.startswith(owner_digest(owner))


def _wildcard(word: str, argument: str, came: Any) -> bool:
    if word == "any":
        return True
    if word == "bytes":
        lengths = [int(length) for length in argument.split("|")] if argument else []
        return isinstance(came, (bytes, bytearray)) and (not lengths or len(came) in lengths)
    if word == "empty":
        return not came
    if word == "nonEmpty":
        return bool(came)
    if word == "oneOf":
        return _text(came) in argument.split("|")
    if word == "regex":
        return re.search(argument, _text(came)) is not None
    if word == "int":
        found = re.fullmatch(r"(>=|<=|>|<|==)?\s*(-?\d+)", argument)
        if found is None or not isinstance(came, int):
            return not argument and isinstance(came, int)
        return _COMPARE[found[1] or "=="](came, int(found[2]))
    return False


def _text(came: Any) -> str:
    return came.decode("utf-8", "replace") if isinstance(came, (bytes, bytearray)) else str(came)


def _match_special(key: str, value: Any, came: Any, names: Names, path: str) -> None:
    if key == "hex":
        _match_bytes(bytes.fromhex(value), came, names, path)
    elif key == "text":
        _match_bytes(value.encode(), came, names, path)
    elif key == "repeat":
        _match_bytes(value["text"].encode() * value["times"], came, names, path)
    elif key == "length":
        if len(came) != value:
            raise Mismatch(f"{path} has {len(came)} elements, {value} were expected")
    elif key == "contains":
        if isinstance(came, (bytes, bytearray)):
            if value.encode() not in came:
                raise Mismatch(f"{path} does not contain {value!r}: {names.show(came)}")
        elif isinstance(came, str):
            if value not in came:
                raise Mismatch(f"{path} does not contain {value!r}: {came!r}")
        elif not any(_matches(value, element, names, path) for element in came):
            raise Mismatch(f"{path} does not contain {names.show(value)}: {names.show(came)}")
    elif key == "unordered":
        rest = list(came)
        for one in value:
            found = next((i for i, other in enumerate(rest) if _matches(one, other, names, path)), None)
            if found is None:
                raise Mismatch(f"{path} does not contain {names.show(one)}: {names.show(came)}")
            del rest[found]
        if rest:
            raise Mismatch(f"{path} has elements that were not expected: {names.show(rest)}")
    elif key == "not":
        if _matches(value, came, names, path):
            raise Mismatch(f"{path} is {names.show(came)}, which it must not be")
    else:
        raise Mismatch(f"{path}: {key!r} can't be expected, only sent")


def _match_bytes(expected: bytes, came: Any, names: Names, path: str) -> None:
    if bytes(came) != expected:
        raise Mismatch(f"{path} is {names.show(came)}, {names.show(expected)} was expected")


def _matches(expected: Any, came: Any, names: Names, path: str) -> bool:
    try:
        with names.trial():
            _match(expected, came, names, path)
    except Mismatch:
        return False
    return True


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
