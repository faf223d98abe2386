"""What a slot is told when it is made, and with each heartbeat."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from protocol.messages import Resource, TaskCapability


class Usage(NamedTuple):
    """Of the whole agent and its machine."""

    agent: Resource = Resource()
    processors: Mapping[int, Resource] = MappingProxyType({})
    """By pid."""
    rss_free: int = 0
    mem_limit: int = 0
    net_sent_bytes: int = 0
    net_received_bytes: int = 0
    families: Mapping[int, int] = MappingProxyType({})
    """Bytes that a task and all that it started use, by the pid of its processor; only if there is a limit."""


class Settings(NamedTuple):
    """The same for every slot of an agent."""

    queue_size: int = 32
    heartbeat_seconds: float = 1.0
    death_seconds: float = 300.0
    cancel_grace_seconds: float = 0.0
    capabilities: tuple[TaskCapability, ...] = ()
    hostname: str = ""
    manager_id: bytes = b""
    """Of the worker manager that started it, if one did."""
    memory_limit: int = 0
    """Of a task and what it starts, in bytes; 0: not limited."""


def parse_capabilities(text: str) -> tuple[TaskCapability, ...]:
    """``gpu=1,linux``: a value of -1 where none is given. Raises ValueError."""
    found: list[TaskCapability] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, value = part.partition("=")
        if not name:
            raise ValueError(f"{part!r} has no name")
        try:
            found.append(TaskCapability(name, int(value) if equals else -1))
        except ValueError:
            raise ValueError(f"the value of {name!r} is a whole number, not {value!r}") from None
    return tuple(found)
