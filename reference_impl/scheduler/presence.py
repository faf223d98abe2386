"""Clients, workers and worker managers come and go (SPEC section 8): heartbeats, goodbyes, time-outs, shutdown.

What is lost with a peer follows from the lifecycle table: each task that a worker held has lost a worker, each task of
a client has lost its client.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection
from typing import NamedTuple

from protocol.envelope import Envelope
from protocol.identifiers import Identity, ObjectId, Role, role_of
from protocol.lifecycle import Event, State
from protocol.messages import (
    ClientDisconnect,
    ClientHeartbeat,
    ClientHeartbeatEcho,
    ClientShutdownResponse,
    DisconnectType,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
    WorkerManagerHeartbeat,
    WorkerManagerHeartbeatEcho,
    WorkerState,
)
from reference_impl.scheduler.instructions import DeleteObjects, Stop
from reference_impl.scheduler.lifecycle import Lifecycle
from reference_impl.scheduler.limits import KEPT_HEARTBEAT_BYTES
from reference_impl.scheduler.managers import Managers
from reference_impl.scheduler.monitor import state_worker
from reference_impl.scheduler.ownership import Ownership
from reference_impl.scheduler.peers import Peers
from reference_impl.scheduler.records import ClientRecord, TaskRecord, WorkerRecord
from reference_impl.scheduler.settings import Settings
from reference_impl.scheduler.turn import Turn, shown

_PIECE = 500
"""How many tasks and objects of a lost client go at a time."""


class _Leaving(NamedTuple):
    """What is left of a lost client."""

    client_id: Identity
    tasks: list[TaskRecord]
    objects: list[ObjectId]
    spared: ObjectId | None
    """Stays in the storage: it may come back."""


class Presence:
    """Each method that takes a ``sender`` carries out one message of it."""

    def __init__(
        self, turn: Turn, settings: Settings, peers: Peers, ownership: Ownership, lifecycle: Lifecycle
    ) -> None:
        self.managers = Managers()
        self._turn = turn
        self._settings = settings
        self._peers = peers
        self._ownership = ownership
        self._lifecycle = lifecycle
        self._leaving: deque[_Leaving] = deque()
        self._client_echo = Envelope.of(ClientHeartbeatEcho(settings.storage_address))
        self._worker_echo = Envelope.of(WorkerHeartbeatEcho(settings.storage_address))

    # ---- heartbeats ----

    def client_heartbeat(self, sender: Identity, envelope: Envelope) -> None:
        if role_of(sender) is not Role.CLIENT:
            self._turn.note(sender, "a ClientHeartbeat from an identity that is not a client's")
            return
        message = envelope.check()
        assert isinstance(message, ClientHeartbeat)
        self._turn.send(sender, self._client_echo)
        if not self._admits(sender, self._peers.clients, "client"):
            return
        client = self._peers.client(sender, self._turn.now)
        self._ownership.there(sender)
        if self._is_kept(sender, envelope):
            client.heartbeat = message

    def worker_heartbeat(self, sender: Identity, envelope: Envelope) -> None:
        """The first one registers it."""
        if role_of(sender) is not Role.WORKER:
            self._turn.note(sender, "a WorkerHeartbeat from an identity that is not a worker's")
            return
        message = envelope.check()
        assert isinstance(message, WorkerHeartbeat)
        self._turn.send(sender, self._worker_echo)
        if not self._admits(sender, self._peers.workers, "worker"):
            return
        if not self._is_kept(sender, envelope):
            message = WorkerHeartbeat(queue_size=message.queue_size)
        worker = self._peers.workers.get(sender)
        if worker is None:
            worker = self._peers.add_worker(sender, message, self._turn.now)
            self._publish(worker, WorkerState.CONNECTED)
        elif not message.queue_size and worker.queue_size:  # it is leaving (LIV-21)
            self._peers.close_worker(worker)
        self._ownership.there(sender)
        worker.heartbeat = message
        worker.last_seen = self._turn.now

    def manager_heartbeat(self, sender: Identity, envelope: Envelope) -> None:
        turn = self._turn
        if role_of(sender) is not Role.OTHER:
            turn.note(sender, "a WorkerManagerHeartbeat from an identity that is a client's or a worker's")
            return
        message = envelope.check()
        assert isinstance(message, WorkerManagerHeartbeat)
        turn.send(sender, Envelope.of(WorkerManagerHeartbeatEcho()))
        name = message.worker_manager_id
        if not name or not self._is_kept(sender, envelope):
            return  # no worker can name it as its manager
        if not self._admits(name, self.managers.ids(), "worker manager"):
            return
        before = self.managers.seen(sender, message, turn.now)
        if before is not None:
            turn.note(
                sender,
                f"it is the worker manager {shown(name)} from now on, which was {shown(before)}",
                logging.WARNING,
            )
        waiting = self._lifecycle.queue.waiting()
        command = self.managers.command(name, self._peers.workers.values(), waiting, turn.now)
        turn.send(sender, Envelope.of(command))

    def _admits(self, peer: Identity, there: Collection[Identity], what: str) -> bool:
        """Whether a peer is registered, or can be."""
        limit = self._settings.limits.peers
        if len(there) < limit or peer in there:
            return True
        self._turn.note(peer, f"this {what} is not registered: there are {limit} (--max-peers)", logging.WARNING)
        return False

    def _is_kept(self, sender: Identity, envelope: Envelope) -> bool:
        """Whether what a heartbeat says is kept until the next one."""
        if len(envelope.frame) <= KEPT_HEARTBEAT_BYTES:
            return True
        text = f"a heartbeat of {len(envelope.frame)} bytes: it shows that its sender is alive, nothing else"
        self._turn.note(sender, text, logging.WARNING)
        return False

    def tick(self) -> None:
        """Peers that are silent for too long are lost."""
        now, turn = self._turn.now, self._turn
        worker_timeout, client_timeout = self._settings.worker_timeout, self._settings.client_timeout
        for worker in [w for w in self._peers.workers.values() if now - w.last_seen > worker_timeout]:
            turn.note(worker.worker_id, f"no heartbeat for {worker_timeout} s: lost")
            self._worker_lost(worker)
        for client in [c for c in self._peers.clients.values() if now - c.last_seen > client_timeout]:
            turn.note(client.client_id, f"silent for {client_timeout} s: lost")
            self._client_lost(client)
        for manager in self.managers.forget_silent(now, worker_timeout):
            turn.note(manager, f"no heartbeat for {worker_timeout} s: this worker manager is lost")
        self._ownership.tick()

    # ---- goodbyes ----

    def worker_disconnect(self, sender: Identity, envelope: Envelope) -> None:
        worker = self._peers.workers.get(sender)
        if worker is None:
            self._turn.note(sender, "WorkerDisconnectNotification of a worker that is not registered")
        else:
            self._worker_lost(worker)

    def client_disconnect(self, sender: Identity, envelope: Envelope) -> None:
        """A client leaves, or asks for the end of all."""
        message = envelope.message
        assert isinstance(message, ClientDisconnect)
        if role_of(sender) is not Role.CLIENT:
            self._turn.note(sender, "a ClientDisconnect from an identity that is not a client's")
        elif message.disconnect_type is DisconnectType.SHUTDOWN:
            accepted = not self._settings.protected
            self._turn.send(sender, Envelope.of(ClientShutdownResponse(accepted)))
            if accepted:
                self._shut_down()
        else:
            client = self._peers.clients.get(sender)
            if client is not None:
                self._client_lost(client, goodbye=True)

    def revoked(self, peer: Identity) -> None:
        """Its key is not allowed any more."""
        if self._drop(peer):
            self._turn.note(peer, "its key was revoked: lost", logging.WARNING)

    def _shut_down(self) -> None:
        """Everything ends: nobody waits for ever for a task, and nothing is left in the object storage (LIV-17)."""
        turn = self._turn
        while self._leaving:
            self.proceed()
        for task in self._lifecycle.tasks.values():
            if task.state is not State.ABANDONED:
                turn.answer(task.client_id, TaskCancelConfirm(task.task_id, TaskCancelConfirmType.CANCELED))
        objects = [object_id for client in self._peers.clients.values() for object_id in client.objects]
        objects += self._ownership.unsure()
        if objects:
            turn.out.append(DeleteObjects(tuple(objects)))
        shutdown = Envelope.of(ClientDisconnect(DisconnectType.SHUTDOWN))
        for peer in (*self._peers.workers, *self.managers.identities()):
            turn.send(peer, shutdown)
        turn.out.append(Stop())

    def overflowed(self, peer: Identity) -> None:
        """It does not read what is sent to it. What has no room is lost to it, so the peer is lost, too."""
        self._turn.note(peer, "it does not read what is sent to it: lost", logging.WARNING)
        self._drop(peer)

    # ---- what is lost with a peer ----

    def _drop(self, peer: Identity) -> bool:
        """Whatever it was, it is lost; False if it was nothing."""
        worker, client = self._peers.workers.get(peer), self._peers.clients.get(peer)
        if worker is not None:
            self._worker_lost(worker)
        elif client is not None:
            self._client_lost(client)
        else:
            return self.managers.forget(peer)
        return True

    def _worker_lost(self, worker: WorkerRecord) -> None:
        """Each task that it held is lost with it; they go back to the front of the queue in their old order."""
        self._peers.remove_worker(worker)
        self._publish(worker, WorkerState.DISCONNECTED)
        for task in reversed(worker.held.values()):
            task.lost_workers += 1
            too_often = task.lost_workers >= self._settings.lost_workers_limit
            event = Event.WORKER_LOST_LIMIT if too_often else Event.WORKER_LOST
            self._lifecycle.happen(task, event, worker.worker_id)
        held, worker.held, worker.refused = worker.held, {}, set()
        self._ownership.worker_lost(worker, held.values(), self._turn.now + self._settings.worker_timeout)

    def _client_lost(self, client: ClientRecord, *, goodbye: bool = False) -> None:
        self._peers.remove_client(client)
        self._lifecycle.graphs.client_lost(client.client_id)
        spared: ObjectId | None = None
        if goodbye:
            self._ownership.client_left(client)
        else:
            sure_at = self._turn.now + self._settings.client_timeout
            spared = self._ownership.client_silent(client.client_id, sure_at)
        tasks = list(client.tasks.values())[::-1]
        self._leaving.append(_Leaving(client.client_id, tasks, list(client.objects), spared))
        if len(self._leaving) == 1:
            self.proceed()

    @property
    def unfinished(self) -> bool:
        """Whether something of a client that is lost is still there: ``proceed`` goes on with it."""
        return bool(self._leaving)

    def proceed(self) -> None:
        """What a lost client leaves behind goes in pieces: it may be a million tasks, and others do not wait for it.
        The first piece, which nearly always is all, goes at once."""
        left = _PIECE
        while self._leaving and left:
            client_id, tasks, objects, spared = self._leaving[0]
            while tasks and left:
                left -= 1
                task = tasks.pop()  # the oldest, before a worker gets it
                if self._lifecycle.tasks.get(task.task_id) is task:
                    self._lifecycle.happen(task, Event.CLIENT_LOST, client_id)
            if objects and left:
                piece, objects[-left:] = objects[-left:], []
                left -= len(piece)
                again = self._peers.clients.get(client_id)  # who has come back may have made some of them anew
                gone = [i for i in piece if i not in again.objects] if again is not None else piece
                self._ownership.delete(gone, spared)
            if not tasks and not objects:
                self._leaving.popleft()

    def _publish(self, worker: WorkerRecord, state: WorkerState) -> None:
        if self._turn.monitored:
            self._turn.publish(state_worker(worker, state))
