"""Who may create and delete which objects (SPEC section 7.1): a client its own, a worker those of the clients whose
tasks it holds. Whatever is made for a client is gone when the client is gone."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import replace

from protocol.envelope import Envelope
from protocol.identifiers import (
    Identity,
    ObjectId,
    Role,
    everything_of,
    result_object_id,
    role_of,
    serializer_object_id,
)
from protocol.messages import ObjectInstruction, ObjectInstructionType, ObjectMetadata, TaskResult
from reference_impl.scheduler.instructions import DeleteObjects
from reference_impl.scheduler.limits import Limits
from reference_impl.scheduler.objects import ObjectRegistry
from reference_impl.scheduler.peers import Peers
from reference_impl.scheduler.records import ClientRecord, TaskRecord, WorkerRecord
from reference_impl.scheduler.turn import Turn, shown

_DELETED_AT_ONCE = 10_000
"""How many ids a message to the workers has at most."""


class Ownership:
    """The objects of all clients."""

    def __init__(self, turn: Turn, peers: Peers, limits: Limits) -> None:
        self.objects = ObjectRegistry()
        self._limits = limits
        self._unsure: list[tuple[float, Identity, list[ObjectId]]] = []
        """Of peers that were lost: when it will be sure, who, and what each may have stored."""
        self._turn = turn
        self._peers = peers

    # ---- what peers say ----

    def instruction(self, sender: Identity, envelope: Envelope) -> None:
        """An ObjectInstruction, of anybody."""
        message = envelope.message
        assert isinstance(message, ObjectInstruction)
        role, owner = role_of(sender), message.object_user or sender
        if role is Role.WORKER:
            self._create_result(sender, owner, message)
        elif role is not Role.CLIENT or owner != sender:
            self._turn.note(sender, f"an ObjectInstruction for the objects of {shown(owner)}")
        elif message.instruction_type is ObjectInstructionType.CREATE:
            self._create(sender, message.object_metadata)
        else:
            self._delete_own(sender, message)

    def _create(self, sender: Identity, metadata: ObjectMetadata) -> None:
        client, limits = self._peers.clients.get(sender), self._limits
        if client is None:
            if len(self._peers.clients) >= limits.peers:
                self._turn.note(sender, f"objects of a client that is not registered: there are {limits.peers}")
                return
            client = self._peers.client(sender, self._turn.now)
        room = min(limits.objects_per_client - len(client.objects), limits.objects - len(self.objects))
        if len(metadata.object_ids) > room:
            client.room = 0
            self._turn.note(sender, "it has too many objects: further ones are not tracked", logging.WARNING)
            metadata = replace(metadata, object_ids=metadata.object_ids[: max(0, room)])
        created, refused = self.objects.create(sender, metadata)
        client.objects.update(created)
        if refused:
            self._turn.note(sender, f"an ObjectInstruction(create) with {refused} ids that are not its own")

    def _delete_own(self, sender: Identity, message: ObjectInstruction) -> None:
        client = self._peers.clients.get(sender)
        ids = message.object_metadata.object_ids
        if message.instruction_type is ObjectInstructionType.CLEAR:
            ids = tuple(client.objects) if client is not None else ()
        mine = self.objects.owned_by(sender, ids)
        if len(mine) < len(ids):
            others = len(ids) - len(mine)
            self._turn.note(sender, f"an ObjectInstruction(delete) with {others} ids that are not its own")
        self.drop(sender, mine)

    def _create_result(self, sender: Identity, owner: Identity, message: ObjectInstruction) -> None:
        """A worker may create objects for the client of a task that it holds, nothing else (SEC-03)."""
        worker = self._peers.workers.get(sender)
        holds = worker is not None and any(task.client_id == owner for task in worker.held.values())
        if not holds or message.instruction_type is not ObjectInstructionType.CREATE:
            self._turn.note(sender, f"an ObjectInstruction({message.instruction_type.name}) for {shown(owner)}")
            return
        assert worker is not None
        results = self.objects.owned_by(owner, message.object_metadata.object_ids)
        if not self._fit(worker.announced, len(results)):
            self._turn.note(sender, "it announces results without end: they are not tracked", logging.WARNING)
            return
        worker.announced.update(results)
        if owner in self._peers.clients:
            self.track(owner, message.object_metadata)
        else:  # it left meanwhile: nobody will fetch this
            self.delete(results)

    def stray_result(self, sender: Identity, envelope: Envelope) -> None:
        """The results of a worker that was lost meanwhile, or answers twice: they go with their client (OBJ-17)."""
        message = envelope.check()
        if sender not in self._peers.workers or not isinstance(message, TaskResult):
            return
        nobodys: list[ObjectId] = []
        for result in message.results:
            owner = self._peers.owner(result)
            if owner is not None and self._fit(owner.objects, 1):
                owner.objects.add(result)
            else:
                nobodys.append(result)
        self._delete_untracked(nobodys)

    def worker_lost(self, worker: WorkerRecord, held: Iterable[TaskRecord], sure_at: float) -> None:
        """What it has stored for clients that left before, and told nobody, may lie there since the last deletion. So
        may results of what it ``held``: if it was killed, they are nobody's. If it lives it comes back, before it is
        ``sure_at`` then that it does not, and says itself what it has stored (OBJ-19)."""
        self._delete_untracked([result for result in worker.announced if self._peers.owner(result) is None])
        results: list[ObjectId] = []
        for task in held:
            results.append(result_object_id(task.client_id, worker.worker_id, task.task_id))
            client = self._peers.clients.get(task.client_id)
            if client is not None:
                client.doubtful = True
        if results:
            self._unsure.append((sure_at, worker.worker_id, results))

    def there(self, peer: Identity) -> None:
        """A heartbeat of a peer: if it was lost, it lives. (A worker may get the same task again, and store its result
        in the same place.)"""
        if any(who == peer for _, who, _ in self._unsure):
            self._unsure = [lost for lost in self._unsure if lost[1] != peer]
            client = self._peers.clients.get(peer)
            if client is not None:
                client.doubtful = True  # what it stored before is still there

    def tick(self) -> None:
        """Time has passed: who is not back by now was killed."""
        now = self._turn.now
        due = [ids for at, _, ids in self._unsure if at <= now]
        if due:
            self._unsure = [lost for lost in self._unsure if lost[0] > now]
            self._delete_untracked([object_id for ids in due for object_id in ids])

    def named(self, results: Collection[ObjectId]) -> None:
        """An answer that counts names these. (A worker that was lost has come back with another identity, got the task
        again, and says once more what it has stored under its old one.)"""
        if self._unsure:
            left = [(at, who, [i for i in ids if i not in results]) for at, who, ids in self._unsure]
            self._unsure = [lost for lost in left if lost[2]]

    def unsure(self) -> list[ObjectId]:
        """What would be deleted later."""
        return [object_id for _, _, ids in self._unsure for object_id in ids]

    def client_left(self, client: ClientRecord) -> None:
        """It said goodbye, and stores nothing any more: where there is doubt, everything of it is deleted now."""
        if client.doubtful:
            self._delete_untracked([everything_of(client.client_id)])
        self._forestall(client.client_id)

    def client_silent(self, client: Identity, sure_at: float) -> ObjectId:
        """It may be gone, having stored what it told nobody; or it comes back and stores more, its serializer in the
        same place, where no deletion that is late may hit it. So that, and what is not known of, is deleted only when
        it is ``sure_at`` then that it is not back (OBJ-20). Returns the serializer's id."""
        self._unsure = [lost for lost in self._unsure if lost[1] != client]
        self._forestall(client)
        serializer = serializer_object_id(client)
        self._unsure.append((sure_at, client, [everything_of(client), serializer]))
        return serializer

    def _forestall(self, client: Identity) -> None:
        """What would be deleted later, of lost workers, is deleted now."""
        mine = [(at, who, self.objects.owned_by(client, ids)) for at, who, ids in self._unsure]
        if any(ids for _, _, ids in mine):
            self._delete_untracked([object_id for _, _, ids in mine for object_id in ids])
            left = [
                (at, who, [i for i in ids if i not in gone])
                for (at, who, ids), (_, _, gone) in zip(self._unsure, mine, strict=True)
            ]
            self._unsure = [lost for lost in left if lost[2]]

    def _fit(self, tracked: Collection[ObjectId], more: int) -> bool:
        """Whether as many results can be tracked. There are more of them than the tasks that were taken only where a
        worker makes them up, so that what a client has a right to is twice what it may announce."""
        return len(tracked) + more <= 2 * self._limits.objects_per_client

    # ---- what the scheduler does ----

    def owned_by(self, owner: Identity, object_ids: Iterable[ObjectId]) -> list[ObjectId]:
        """Those of the ids that only ``owner`` can have made."""
        return self.objects.owned_by(owner, object_ids)

    def track(self, owner: Identity, metadata: ObjectMetadata) -> None:
        """Objects that are made for a client, but not by it."""
        client = self._peers.clients.get(owner)
        if client is not None and self._fit(client.objects, len(metadata.object_ids)):
            client.objects.update(self.objects.create(owner, metadata)[0])

    def drop(self, owner: Identity, ids: list[ObjectId]) -> None:
        """Deletes objects of a client that nobody needs any more."""
        client = self._peers.clients.get(owner)
        if client is not None:
            client.objects.difference_update(ids)
        self.delete(ids)

    def delete(self, ids: list[ObjectId], spared: ObjectId | None = None) -> None:
        """Objects, of whomever, go: from the records, the object storage, and what workers keep of them. The storage
        keeps what is ``spared``."""
        if not ids:
            return
        self.objects.forget(ids)
        self._delete_untracked([object_id for object_id in ids if object_id != spared])
        for start in range(0, len(ids), _DELETED_AT_ONCE):
            metadata = ObjectMetadata(object_ids=tuple(ids[start : start + _DELETED_AT_ONCE]))
            delete = Envelope.of(ObjectInstruction(ObjectInstructionType.DELETE, b"", metadata))
            for worker in self._peers.workers:
                self._turn.send(worker, delete)

    def _delete_untracked(self, ids: list[ObjectId]) -> None:
        """Objects that no worker has in use: they can only lie in the object storage."""
        if ids:
            self._turn.out.append(DeleteObjects(tuple(ids)))
