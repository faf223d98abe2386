"""Where a new payload goes while memory and disk are bounded (SPEC section 7.3). Pure.

Theory of operation. A payload that fits into memory is stored at once. Otherwise the least recently used large
contents are to be written to files; the set is held until that is done, so that the bound holds, and so that a set is
only confirmed once its place is certain. If the large contents in memory would not make enough room, the payload goes
to a file itself. If there is no room on disk either, the set is refused, and what was stored before stays. Only the
set that is held longest makes plans; the others wait behind it, unless they fit as it is.

A payload that may be equal to a content in a file is held, too, until the two have been compared.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Union

from protocol.storage import Buffer, Request
from reference_impl.object_storage.contents import LARGE_BYTES, Content, Contents, OnDisk, key_of

RETRY_SECONDS = 5.0
"""After a file could not be written, how long no other one is tried."""


class Write(NamedTuple):
    """Write ``payload`` to the new file ``file``; then ``written`` or ``not_written`` is expected."""

    file: int
    payload: Buffer


class Compare(NamedTuple):
    """Compare ``file`` with ``payload``; then ``compared`` is expected, with the ticket."""

    ticket: int
    file: int
    payload: Buffer


class Remove(NamedTuple):
    """Remove ``file``, after what is queued from it has been sent."""

    file: int


Chore = Union[Write, Compare, Remove]


@dataclass(frozen=True, slots=True)
class Limits:
    """In bytes; None: no limit. What is being received, and what is queued to be sent, comes on top."""

    memory: int | None = None
    disk: int | None = None


UNLIMITED = Limits()


class Outcome(Enum):
    STORED = "stored"
    REFUSED = "there is no room"
    HELD = "held until there is room"


class Put:
    """One setObject. ``content`` is there when it is stored."""

    __slots__ = ("compared", "connection", "content", "differs", "file", "on_disk", "request")

    def __init__(self, connection: int, request: Request) -> None:
        self.connection = connection
        self.request = request
        self.content: Content | None = None
        self.compared: Content | None = None  # with which it is being compared
        self.differs = False  # from the content in a file that could have been equal
        self.file: int | None = None  # where it is being written to itself
        self.on_disk = False  # it has been written there


class Room:
    """Places payloads in ``contents``."""

    def __init__(self, contents: Contents, limits: Limits) -> None:
        self._contents = contents
        self.memory = limits.memory if limits.memory is not None else float("inf")
        """The limit, in bytes."""
        self._disk = limits.disk if limits.disk is not None else float("inf")
        self.held: deque[Put] = deque()
        """The sets that wait for room, longest first."""
        self._writing: dict[int, Content | Put] = {}
        self._next_file = 0
        self._ticket = 0  # of the newest Compare
        self._retry_at = 0.0
        self.refused = ""
        """Why the last put was refused."""

    def put(self, put: Put, now: float, chores: list[Chore]) -> Outcome:
        """A new payload: stored, refused, or held; then it is tried again by ``retry``."""
        if self.held:
            like = self._contents.like(key_of(put.request.payload))
            if not self._fits(put) or (like is not None and isinstance(like.payload, OnDisk)):
                self.held.append(put)
                return Outcome.HELD
        outcome = self._place(put, now, chores)
        if outcome is Outcome.HELD:
            self.held.append(put)
        return outcome

    def retry(self, now: float, chores: list[Chore]) -> tuple[Put, Outcome] | None:
        """Something has changed: the set that was held longest, if that has come to an end. Call it until None."""
        if not self.held:
            return None
        outcome = self._place(self.held[0], now, chores)
        return None if outcome is Outcome.HELD else (self.held.popleft(), outcome)

    def drop(self, connection: int) -> None:
        """The connection is gone: what it wanted to set, and is held, is forgotten."""
        self.held = deque(put for put in self.held if put.connection != connection)

    def written(self, file: int, chores: list[Chore]) -> None:
        """The file holds its payload."""
        what = self._writing.pop(file)
        if isinstance(what, Put):
            if what in self.held:
                what.on_disk = True
            else:
                chores.append(Remove(file))
        elif what.names:
            self._contents.moved(what, file)
        else:  # deleted meanwhile
            chores.append(Remove(file))

    def not_written(self, file: int, reason: str, now: float) -> None:
        """The file could not be written, and is not there."""
        what = self._writing.pop(file)
        self._retry_at = now + RETRY_SECONDS
        self.refused = f"a file can't be written: {reason}"
        if isinstance(what, Put):
            what.file = None
        elif what.names:
            self._contents.put_large(what, used=False)

    def compared(self, ticket: int, equal: bool) -> None:
        """The answer to a Compare."""
        put = self.held[0] if self.held else None
        if put is None or put.compared is None or ticket != self._ticket:
            return  # its connection has gone
        content, put.compared = put.compared, None
        if equal and content.names:
            put.content = content
        else:
            put.differs = True

    def _fits(self, put: Put) -> bool:
        request = put.request
        need = self._contents.memory_bytes + len(request.payload)
        return need <= self.memory or need - self._contents.frees(request.object_id) <= self.memory

    def _place(self, put: Put, now: float, chores: list[Chore]) -> Outcome:
        contents, request = self._contents, put.request
        object_id, payload = request.object_id, request.payload
        if put.compared is not None or (put.file is not None and not put.on_disk):
            return Outcome.HELD
        if self._writing and not put.on_disk and not self._fits(put):
            return Outcome.HELD  # what will come of that decides
        key = key_of(payload)
        if put.on_disk:
            assert put.file is not None
            put.content = contents.add(OnDisk(put.file, len(payload)), key)
        elif put.content is None or not put.content.names:
            put.content = contents.equal(key, payload)
        if put.content is not None:
            contents.name(object_id, put.content)
            return Outcome.STORED
        like = contents.like(key)
        if like is not None and isinstance(like.payload, OnDisk) and not put.differs:
            put.compared = like
            self._ticket += 1
            chores.append(Compare(self._ticket, like.payload.file, payload))
            return Outcome.HELD
        if self._fits(put):
            put.content = contents.add(payload, key)
            contents.name(object_id, put.content)
            return Outcome.STORED
        return self._make_room(put, now, chores)

    def _make_room(self, put: Put, now: float, chores: list[Chore]) -> Outcome:
        contents, size = self._contents, len(put.request.payload)
        need = contents.memory_bytes + size - contents.frees(put.request.object_id) - self.memory
        if now < self._retry_at:
            return Outcome.REFUSED
        itself = need > contents.large_bytes
        if itself and size < LARGE_BYTES:
            self.refused = "the memory is full of small objects"
            return Outcome.REFUSED
        disk = self._disk - contents.disk_bytes
        if (size if itself else need) > disk:
            self.refused = "memory and disk are full"
            return Outcome.REFUSED
        if itself:
            put.file = self._write(put, put.request.payload, chores)
            return Outcome.HELD
        while need > 0 and next(iter(contents.large)).size <= disk:
            content = contents.take_large()
            need -= content.size
            disk -= content.size
            assert not isinstance(content.payload, OnDisk)
            self._write(content, content.payload, chores)
        if self._writing:
            return Outcome.HELD
        self.refused = "memory and disk are full"
        return Outcome.REFUSED

    def _write(self, what: Content | Put, payload: Buffer, chores: list[Chore]) -> int:
        self._next_file += 1
        self._writing[self._next_file] = what
        chores.append(Write(self._next_file, payload))
        return self._next_file
