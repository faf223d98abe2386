"""The agent's cache of objects: each is fetched once for all slots, and kept while it is used or fits (SPEC 7).

Pure: it says what is to be fetched, and is told what arrived.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from protocol.identifiers import ObjectId, TaskId
from protocol.storage import Buffer

Holder = tuple[int, TaskId]
"""Who needs objects: a task, in the slot with this number."""


class ObjectCache:
    """Payloads by object id. What no holder uses is dropped, least recently used first, above ``max_bytes``."""

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._idle: OrderedDict[ObjectId, None] = OrderedDict()  # present and unused, oldest use first
        self._payloads: dict[ObjectId, Buffer] = {}
        self._users: dict[ObjectId, set[Holder]] = {}
        self._needs: dict[Holder, tuple[ObjectId, ...]] = {}
        self._missing: dict[Holder, int] = {}
        self._fetching: dict[ObjectId, None] = {}
        self._stale: set[ObjectId] = set()  # to be dropped as soon as nobody uses them
        self.bytes = 0
        """Held now, in bytes."""

    def want(self, holder: Holder, needs: Sequence[ObjectId]) -> list[ObjectId]:
        """``holder`` needs these from now on; returns what must be fetched for it and is not on its way yet."""
        unique = tuple(dict.fromkeys(needs))
        missing, fetch = 0, []
        for name in unique:
            users = self._users.get(name)
            if users is None:
                users = self._users[name] = set()
            users.add(holder)
            if name in self._payloads:
                self._idle.pop(name, None)
            else:
                missing += 1
                if name not in self._fetching:
                    self._fetching[name] = None
                    fetch.append(name)
        self._needs[holder] = unique
        if missing:
            self._missing[holder] = missing
        return fetch

    def complete(self, holder: Holder) -> bool:
        """Whether everything that ``holder`` needs is here."""
        return holder not in self._missing

    def arrived(self, name: ObjectId, payload: Buffer) -> list[Holder]:
        """An object came; returns the holders that now have all they need."""
        if name not in self._fetching:
            return []
        del self._fetching[name]
        done: list[Holder] = []
        users = self._users.get(name)
        if users is None:
            self._stale.discard(name)
            return done  # nobody waits for it any more
        self._payloads[name] = payload
        self.bytes += len(payload)
        for holder in users:
            left = self._missing[holder] - 1
            if left:
                self._missing[holder] = left
            else:
                del self._missing[holder]
                done.append(holder)
        self._shrink()
        return done

    def payload(self, name: ObjectId) -> Buffer:
        """The content of an object that is held; KeyError otherwise."""
        return self._payloads[name]

    def own_bytes(self, holder: Holder) -> int:
        """The size of what only this holder has."""
        users, payloads = self._users, self._payloads
        return sum([len(payloads[name]) for name in self._needs[holder] if len(users[name]) == 1])

    def shared(self, name: ObjectId) -> bool:
        """Whether several tasks have it."""
        return len(self._users.get(name, ())) > 1

    def release(self, holder: Holder) -> list[ObjectId]:
        """``holder`` needs nothing any more. No error if it never did. Returns what is on its way, and that nobody
        waits for any more: it may never come."""
        gone: list[ObjectId] = []
        self._missing.pop(holder, None)
        for name in self._needs.pop(holder, ()):
            users = self._users[name]
            users.discard(holder)
            if users:
                continue
            del self._users[name]
            if name in self._payloads:
                if name in self._stale:
                    self._drop(name)
                else:
                    self._idle[name] = None
            else:
                self._stale.discard(name)
                del self._fetching[name]
                gone.append(name)
        if self.bytes > self._max:
            self._shrink()
        return gone

    def forget(self, names: Iterable[ObjectId]) -> list[ObjectId]:
        """These were deleted: drop them, those in use after their last use. Returns those that are on their way, and
        that nobody waits for any more: they may never come."""
        gone: list[ObjectId] = []
        for name in names:
            if name in self._idle:
                self._drop(name)
            elif name in self._users:
                self._stale.add(name)
            elif name in self._fetching:
                del self._fetching[name]
                gone.append(name)
        return gone

    def forget_all(self) -> list[ObjectId]:
        """Any of them may have been deleted. Returns as ``forget`` does."""
        return self.forget({*self._payloads, *self._fetching})

    def _shrink(self) -> None:
        while self.bytes > self._max and self._idle:
            self._drop(next(iter(self._idle)))

    def _drop(self, name: ObjectId) -> None:
        self._idle.pop(name, None)
        self._stale.discard(name)
        self.bytes -= len(self._payloads.pop(name))
