"""What this client has in the object storage, and what it says about it (SPEC sections 7.1 and 7.2): the serializer,
ObjectInstructions for what is created and deleted, and who waits until something is stored."""

from __future__ import annotations

from typing import Protocol

from protocol.identifiers import ClientId, ObjectId, serializer_object_id
from protocol.messages import ObjectInstruction, ObjectInstructionType, ObjectMetadata
from reference_impl.client.instructions import Abandon, Instruction, Send, Store
from reference_impl.client.objects import Blob, ObjectTable, Stored

DELETE_DELAY_SECONDS = 0.02
DELETE_BATCH = 100
_ANNOUNCED = 500
_AHEAD_BYTES = 1 << 18
"""While no more than this is on its way to the storage, tasks need not wait for it: workers do (WRK-13)."""

New = list[tuple[Stored, Blob]]
"""Objects that have to be stored first."""


class Waiter(Protocol):
    """Who can't go before ``missing`` things are there."""

    missing: int


class Uploads:
    """The objects of one client. Deletions wait a moment for others, to go together."""

    def __init__(self, identity: ClientId, serializer: Blob, objects: ObjectTable) -> None:
        self.objects = objects
        self.flush_at: float | None = None
        """When deletions are due, None if there are none."""
        self._identity = identity
        self._serializer_blob = serializer
        self._serializer: Stored | None = None
        self._serializer_refused = False
        self._now = 0.0
        self._deleted: list[ObjectId] = []  # the scheduler may not have been told, or not have told the storage
        self._told = 0  # so many of them before the heartbeat that has no echo
        self._heard = 0  # and so many before the one that was echoed last

    def tick(self, now: float, out: list[Instruction]) -> None:
        """Time has passed."""
        self._now = now
        if self.flush_at is not None and now >= self.flush_at:
            self.flush(out)

    def forget(self) -> None:
        """Nothing is stored any more, as far as we know."""
        self.objects.forget()
        self._serializer = None
        self.flush_at = None

    # ---- what is stored ----

    def store_serializer(self, out: list[Instruction]) -> Stored:
        """It goes before everything else."""
        self._serializer, _ = self.objects.take(self._serializer_blob)
        self.create([(self._serializer, self._serializer_blob)], out)
        return self._serializer

    def serializer_again(self, new: New) -> None:
        """If it was refused: there may be room by now."""
        if self._serializer_refused:
            self._serializer_refused = False
            self._serializer, _ = self.objects.take(self._serializer_blob)
            new.append((self._serializer, self._serializer_blob))

    def create(self, new: New, out: list[Instruction]) -> None:
        """Announces these objects, then stores them."""
        metadata = ObjectMetadata(
            tuple([obj.id for obj, _ in new]),
            tuple([content.type for _, content in new]),
            tuple([content.name for _, content in new]),
            tuple([obj.size for obj, _ in new]),
        )
        out.append(Send(ObjectInstruction(ObjectInstructionType.CREATE, self._identity, metadata)))
        out += [Store(obj.id, content.payload) for obj, content in new]

    def announce_again(self, out: list[Instruction]) -> None:
        """What was announced may be lost, and what was deleted."""
        self._instruct(ObjectInstructionType.CREATE, self.objects.ids(), out)
        self._instruct(ObjectInstructionType.DELETE, self._deleted, out)
        self._told = self._heard = 0

    def abandon(self, out: list[Instruction]) -> None:
        """The scheduler does not know these objects, or has deleted them: nothing that is stored, or on its way there,
        is of use any more. The serializer's id will be used again."""
        ids = dict.fromkeys((*self.objects.ids(), *self.objects.doomed, *self._deleted))
        ids.pop(serializer_object_id(self._identity), None)
        out.append(Abandon(tuple(ids)))
        self._deleted.clear()
        self._told = self._heard = 0
        self.forget()

    def _instruct(self, what: ObjectInstructionType, ids: list[ObjectId], out: list[Instruction]) -> None:
        for i in range(0, len(ids), _ANNOUNCED):
            metadata = ObjectMetadata(tuple(ids[i : i + _ANNOUNCED]))
            out.append(Send(ObjectInstruction(what, self._identity, metadata)))

    def need_not_wait(self, waiter: Waiter, objects: list[Stored]) -> bool:
        """Whether what it needs is stored, or will be before anybody can miss it. It hears of one that is refused. It
        overtakes nobody who waits."""
        serializer, table = self._serializer, self.objects
        if serializer is None or not serializer.stored or table.awaited or table.bytes_on_their_way > _AHEAD_BYTES:
            return False
        for obj in objects:
            if not obj.stored:
                obj.waiters.append(waiter)
        return True

    def wait_for(self, waiter: Waiter, objects: list[Stored]) -> None:
        """It can't go before these objects and the serializer are stored."""
        for obj in objects:
            if not obj.stored:
                waiter.missing += 1
                self.objects.wait_for(obj, waiter)
        serializer = self._serializer
        if serializer is None or not serializer.stored:
            waiter.missing += 1
            if serializer is not None:
                self.objects.wait_for(serializer, waiter)

    def refused(self, object_id: ObjectId) -> list[object]:
        """The storage has refused an object: returns who waited for it."""
        if self._serializer is not None and self._serializer.id == object_id:
            self._serializer, self._serializer_refused = None, True
        return self.objects.refused(object_id)

    # ---- what is deleted ----

    def discard(self, results: tuple[ObjectId, ...], out: list[Instruction]) -> None:
        """Results that nobody here needs."""
        self.objects.discard(results)
        self.doom(out)

    def doom(self, out: list[Instruction]) -> None:
        """Sees to it that what is doomed is deleted soon."""
        if len(self.objects.doomed) >= DELETE_BATCH:
            self.flush(out)
        elif self.flush_at is None and self.objects.doomed:
            self.flush_at = self._now + DELETE_DELAY_SECONDS

    def flush(self, out: list[Instruction]) -> None:
        """Deletes now what is doomed."""
        self.flush_at = None
        doomed, self.objects.doomed = self.objects.doomed, []
        if doomed:
            self._deleted += doomed
            self._instruct(ObjectInstructionType.DELETE, doomed, out)

    def beat(self) -> None:
        """A heartbeat goes now, the first one since the last echo."""
        self._told = len(self._deleted)

    def echoed(self) -> None:
        """That heartbeat was echoed."""
        del self._deleted[: self._heard]
        self._heard, self._told = max(0, self._told - self._heard), 0
