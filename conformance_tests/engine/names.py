"""The symbols of a run: ``$t1``, ``$alice``. Each run has fresh values for all of them.

A symbol that a ``send`` uses first gets a fresh value of the kind that its field has; one that an ``expect`` meets
first takes the value that came. From then on it stands for that value, and traces show it instead of the bytes.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from protocol.identifiers import OBJECT_ID_BYTES, TASK_ID_BYTES, Identity, object_id

TASK_FIELDS = frozenset({"taskId", "targets", "taskIds", "graphTaskId", "parentTaskIds", "currentTaskId"})
OBJECT_FIELDS = frozenset({"funcObjectId", "results", "objectIds", "objectId", "sourceId", "function"})
IDENTITY_FIELDS = frozenset({"source", "objectUser", "worker", "workerId", "client", "clientId", "creator"})


class UnknownSymbol(ValueError):
    """A scenario uses a symbol that nothing has bound, where no fresh value can be made."""


class Names:
    """Symbols to values and back. ``owners`` maps the names of objects to those of the clients that own them."""

    def __init__(self, owners: dict[str, str] | None = None) -> None:
        self._values: dict[str, Any] = {}
        self._names: dict[Any, str] = {}
        self._owners = owners or {}
        self.client_of_task: dict[bytes, Identity] = {}
        """Who submitted a task, as far as this run saw it."""

    def bind(self, name: str, value: Any) -> None:
        """From now on ``name`` stands for ``value``."""
        self._values[name] = value
        if isinstance(value, bytes) and value:
            self._names.setdefault(value, name)

    def get(self, name: str) -> Any:
        """The value of a symbol; raises UnknownSymbol."""
        try:
            return self._values[name]
        except KeyError:
            raise UnknownSymbol(f"${name} is not known yet") from None

    def known(self, name: str) -> bool:
        return name in self._values

    def fresh(self, name: str, field: str, owner: Identity) -> Any:
        """The value of ``$name`` in a message that is sent: the known one, or a new one as ``field`` needs it."""
        if name in self._values:
            return self._values[name]
        if field == "requestId":
            number: Any = secrets.randbits(48)
            self.bind(name, number)
            return number
        if field in IDENTITY_FIELDS:
            raise UnknownSymbol(f"${name} in {field} is neither an actor nor known yet")
        if field in OBJECT_FIELDS or name in self._owners:
            if name in self._owners:
                owner = self.get(self._owners[name])
            made: bytes = object_id(owner, secrets.token_bytes(OBJECT_ID_BYTES - 16))
        else:
            made = secrets.token_bytes(TASK_ID_BYTES)
        self.bind(name, made)
        return made

    @contextmanager
    def trial(self) -> Iterator[None]:
        """What is bound inside is forgotten when an exception leaves it."""
        before = dict(self._values), dict(self._names)
        try:
            yield
        except BaseException:
            self._values, self._names = before
            raise

    def show(self, value: Any) -> str:
        """A value for people: symbols where there are some, hexadecimal digits where bytes are not text."""
        if isinstance(value, (bytes, bytearray, memoryview)):
            value = bytes(value)
            if value in self._names:
                return f"${self._names[value]}"
            if not value:
                return '""'
            if len(value) < 200 and value.isascii() and value.decode().isprintable():
                return repr(value.decode())
            return value.hex() if len(value) <= 16 else f"{value[:8].hex()}…({len(value)} bytes)"
        if isinstance(value, dict):
            inner = ", ".join(f"{k}: {self.show(v)}" for k, v in value.items() if v not in (b"", "", [], {}))
            return "{" + inner + "}"
        if isinstance(value, list):
            return "[" + ", ".join(self.show(v) for v in value) + "]"
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value)
