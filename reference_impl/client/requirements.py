"""What a task requires, as programs say it: ``{"gpu": 1}`` (SPEC TSK-12)."""

from __future__ import annotations

import operator
from collections.abc import Mapping

from protocol.messages import TaskCapability

_LIMIT = 1 << 63


def requirements(capabilities: Mapping[str, int] | None) -> tuple[TaskCapability, ...]:
    """As a Task has it. Raises TypeError for what is no mapping of names to whole numbers, ValueError for an empty
    name, for one that UTF-8 does not have, and for a number of more than 64 bits."""
    if capabilities is None:
        return ()
    if not isinstance(capabilities, Mapping):
        raise TypeError(f"capabilities are a mapping of names to whole numbers, not {capabilities!r}")
    return tuple([_requirement(name, value) for name, value in capabilities.items()])


def _requirement(name: object, value: object) -> TaskCapability:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if not isinstance(name, str) or number is None:
        raise TypeError(f"a capability is a name and a whole number, not {name!r}: {value!r}")
    if not name or not -_LIMIT <= number < _LIMIT:
        raise ValueError(f"a capability has a name, and a number of at most 64 bits, not {name!r}: {value!r}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the name of a capability is of characters, and not {name!r}") from None
    return TaskCapability(name, number)
