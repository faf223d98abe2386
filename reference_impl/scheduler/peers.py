"""The clients and workers that are there: a record of each, and which workers have room."""

from __future__ import annotations

from protocol.identifiers import Identity, ObjectId, WorkerId, owner_digest
from protocol.messages import WorkerHeartbeat
from reference_impl.scheduler.placement import Placement
from reference_impl.scheduler.records import ClientRecord, WorkerRecord


class Peers:
    """Nothing but who is there; what follows from it when they come and go is the business of ``presence``."""

    def __init__(self, ended_stories: int, room: int) -> None:
        self.clients: dict[Identity, ClientRecord] = {}
        self.workers: dict[Identity, WorkerRecord] = {}
        self.placement = Placement()
        self._owners: dict[bytes, ClientRecord] = {}  # the clients, by what the ids of their objects begin with
        self._ended_stories = ended_stories
        self._room = room

    def client(self, identity: Identity, now: float) -> ClientRecord:
        """The record of a client, which is new if this is the first that is heard of it."""
        client = self.clients.get(identity)
        if client is None:
            client = self.clients[identity] = self._owners[owner_digest(identity)] = ClientRecord(
                identity, now, self._ended_stories, self._room
            )
        return client

    def owner(self, object_id: ObjectId) -> ClientRecord | None:
        """Whose object it is; None for a client that is not there."""
        return self._owners.get(object_id[:16])

    def remove_client(self, client: ClientRecord) -> None:
        del self.clients[client.client_id], self._owners[owner_digest(client.client_id)]

    def add_worker(self, identity: Identity, heartbeat: WorkerHeartbeat, now: float) -> WorkerRecord:
        """A worker that has just registered."""
        worker = self.workers[identity] = WorkerRecord(WorkerId(identity), heartbeat, now)
        self.placement.update(worker, None)
        return worker

    def close_worker(self, worker: WorkerRecord) -> None:
        """It gets nothing any more, and goes on with what it holds."""
        self.placement.close(worker)
        worker.queue_size = 0

    def remove_worker(self, worker: WorkerRecord) -> None:
        """It gets nothing any more; what it holds is still in its record."""
        del self.workers[worker.worker_id]
        self.placement.remove(worker)
