"""What a core holds: to see that it keeps nothing of what is over."""

from __future__ import annotations

import types
from collections import Counter, deque
from enum import Enum
from typing import Any

_LEAVES = (str, bytes, int, float, bool, type(None), Enum, type, types.ModuleType, types.FunctionType)


def holdings(root: Any) -> Counter[str]:
    """How many elements the containers have that ``root`` refers to, over any number of objects: by class and attribute
    (of the outermost container)."""
    seen: set[int] = set()
    found: Counter[str] = Counter()
    rest: list[tuple[str, Any]] = [("", root)]
    while rest:
        where, value = rest.pop()
        if isinstance(value, _LEAVES) or id(value) in seen:
            continue
        seen.add(id(value))
        inner: list[Any] = []
        if isinstance(value, dict):
            inner = [*value, *value.values()]
            found[where] += len(value)
        elif isinstance(value, (list, tuple, set, frozenset, deque)):
            inner = list(value)
            found[where] += len(value)
        elif isinstance(value, types.MethodType):
            inner = [value.__self__]
        else:
            name = type(value).__name__
            rest += [(f"{name}.{key}", one) for key, one in getattr(value, "__dict__", {}).items()]
            slots = [slot for cls in type(value).__mro__ for slot in getattr(cls, "__slots__", ())]
            rest += [(f"{name}.{slot}", getattr(value, slot, None)) for slot in slots]
        rest += [(where, one) for one in inner]
    return found


def kept(root: Any, empty: Counter[str], *bounded: str) -> Counter[str]:
    """What ``root`` holds more than an empty one; but for those that are bounded."""
    more = holdings(root) - empty
    for where in bounded:
        del more[where]
    return more
