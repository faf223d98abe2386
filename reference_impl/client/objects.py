"""Which objects of a client lie in the storage, who needs them, and when they can go (SPEC section 7.1). Pure.

A function or argument is uploaded once while it is there: the same content, the same object. Each upload gets a new
id, because the deletion of an old one travels by way of the scheduler and could overtake a new upload of the same id.
Objects that no living task names stay for reuse, the most recently used ones, up to a number and a total size.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import NamedTuple

from protocol.identifiers import Identity, ObjectId, object_id, owner_digest, serializer_object_id
from protocol.messages import ObjectContentType

KEEP_OBJECTS = 1000
KEEP_BYTES = 64 << 20
_LARGE_BYTES = 1 << 16


class Blob(NamedTuple):
    """Content to store: ``digest`` names it (see ``blob``), ``name`` is for people."""

    digest: bytes
    payload: bytes
    name: bytes = b""
    type: ObjectContentType = ObjectContentType.OBJECT


def blob(payload: bytes, name: bytes = b"") -> Blob:
    """The blob of a payload."""
    if len(payload) > _LARGE_BYTES:  # processors have instructions for this one
        return Blob(hashlib.sha256(payload).digest()[:16], payload, name)
    return Blob(hashlib.blake2b(payload, digest_size=16).digest(), payload, name)


class Stored:
    """An object that is in the storage, or on its way there. ``waiters`` are called back by the core when it is."""

    __slots__ = ("awaited", "digest", "id", "refs", "result", "size", "stored", "waiters")

    def __init__(self, digest: bytes, oid: ObjectId, size: int) -> None:
        self.digest = digest
        self.id = oid
        self.size = size
        self.refs = 0
        self.stored = False
        self.awaited = False  # somebody can't go before it is stored
        self.result = False  # of a task: not for reuse
        self.waiters: list[object] = []


class ObjectTable:
    """The objects of one client."""

    def __init__(
        self, owner: Identity, seed: bytes, keep_objects: int = KEEP_OBJECTS, keep_bytes: int = KEEP_BYTES
    ) -> None:
        """``seed`` makes the ids of this client's uploads unlike those of any other with the same identity."""
        self._owner = owner
        self._prefix = owner_digest(owner)
        self._seed = seed
        self._keep_objects = keep_objects
        self._keep_bytes = keep_bytes
        self._uploads = 0
        self._by_digest: dict[bytes, Stored] = {}
        self._by_id: dict[ObjectId, Stored] = {}
        self._idle: OrderedDict[bytes, Stored] = OrderedDict()  # stored, and no living task names it
        self._idle_bytes = 0
        self.bytes_on_their_way = 0
        """Of what is not stored yet."""
        self.awaited = 0
        """So much of it is awaited."""
        self.doomed: list[ObjectId] = []
        """To be deleted with the next instruction."""

    def __len__(self) -> int:
        return len(self._by_id)

    def take(self, content: Blob) -> tuple[Stored, bool]:
        """The object with this content, one reference more; True if it has to be uploaded first."""
        obj = self._by_digest.get(content.digest)
        if obj is not None:
            if obj.refs == 0 and obj.stored and self._idle.pop(obj.digest, None) is not None:
                self._idle_bytes -= obj.size
            obj.refs += 1
            return obj, False
        self._uploads += 1
        if content.type is ObjectContentType.SERIALIZER:
            oid = serializer_object_id(self._owner)
        else:
            tag = hashlib.blake2b(self._uploads.to_bytes(8, "big"), digest_size=16, key=self._seed).digest()
            oid = object_id(self._owner, tag)
        obj = Stored(content.digest, oid, len(content.payload))
        obj.refs = 1
        self.bytes_on_their_way += obj.size
        self._by_digest[content.digest] = self._by_id[oid] = obj
        return obj, True

    def stored(self, oid: ObjectId) -> list[object]:
        """The object is there: returns who waited for it. Empty for an object that is not known any more."""
        obj = self._by_id.get(oid)
        if obj is None or obj.stored:
            return []
        obj.stored = True
        self._arrived(obj)
        waiters, obj.waiters = obj.waiters, []
        if obj.refs == 0:
            self._rest(obj)
        return waiters

    def refused(self, oid: ObjectId) -> list[object]:
        """The object was not stored, and is not known any more: returns who waited for it."""
        obj = self._by_id.get(oid)
        if obj is None or obj.stored:
            return []
        del self._by_digest[obj.digest], self._by_id[oid]
        self._arrived(obj)
        self.doomed.append(oid)  # it was announced
        waiters, obj.waiters = obj.waiters, []
        return waiters

    def wait_for(self, obj: Stored, waiter: object) -> None:
        """It can't go before this is stored."""
        obj.waiters.append(waiter)
        self.awaited += not obj.awaited
        obj.awaited = True

    def _arrived(self, obj: Stored) -> None:
        self.bytes_on_their_way -= obj.size
        self.awaited -= obj.awaited

    def adopt(self, oid: ObjectId) -> Stored:
        """A result that other tasks need, one reference more: it is deleted when the last one is released."""
        obj = self._by_id.get(oid)
        if obj is None:
            obj = self._by_id[oid] = Stored(b"", oid, 0)
            obj.stored = obj.result = True
        obj.refs += 1
        return obj

    def release(self, obj: Stored) -> None:
        """One reference less. An object is deleted only after it was stored: a deletion that overtakes the upload
        would leave it behind for ever."""
        obj.refs -= 1
        if obj.refs == 0 and obj.stored and self._by_id.get(obj.id) is obj:
            self._rest(obj)

    def _rest(self, obj: Stored) -> None:
        if obj.result:
            del self._by_id[obj.id]
            if obj.id[:16] == self._prefix:  # never what is somebody else's
                self.doomed.append(obj.id)
            return
        if obj.size > self._keep_bytes:  # it would push everything else out
            del self._by_digest[obj.digest], self._by_id[obj.id]
            self.doomed.append(obj.id)
            return
        self._idle[obj.digest] = obj
        self._idle_bytes += obj.size
        while self._idle and (len(self._idle) > self._keep_objects or self._idle_bytes > self._keep_bytes):
            _, old = self._idle.popitem(last=False)
            self._idle_bytes -= old.size
            del self._by_digest[old.digest], self._by_id[old.id]
            self.doomed.append(old.id)

    def discard(self, results: tuple[ObjectId, ...]) -> None:
        """Result objects that are not needed any more. Never those of somebody else, nor what a task still names."""
        for oid in results:
            if oid[:16] == self._prefix and oid not in self._by_id:
                self.doomed.append(oid)

    def drop_idle(self) -> None:
        """What no living task names is deleted with the next instruction."""
        for obj in self._idle.values():
            del self._by_digest[obj.digest], self._by_id[obj.id]
            self.doomed.append(obj.id)
        self._idle.clear()
        self._idle_bytes = 0

    def idle(self) -> list[ObjectId]:
        """What no living task names."""
        return [obj.id for obj in self._idle.values()]

    def on_their_way(self) -> tuple[ObjectId, ...]:
        """What is not stored yet."""
        return tuple([obj.id for obj in self._by_id.values() if not obj.stored])

    def ids(self) -> list[ObjectId]:
        """All that are in the storage or on their way there."""
        return list(self._by_id)

    def forget(self) -> None:
        """Nothing is in the storage any more, as far as we know."""
        self._by_digest.clear()
        self._by_id.clear()
        self._idle.clear()
        self._idle_bytes = 0
        self.bytes_on_their_way = self.awaited = 0
        self.doomed.clear()
