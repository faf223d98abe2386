"""What comes from the object storage for the tasks of all slots, and what goes there of them (SPEC section 7)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial

from protocol.identifiers import ObjectId, TaskId, new_worker_id, result_object_id
from protocol.storage import Buffer
from reference_impl.worker.instructions import Fetch, Forget, ForgetAll, Release, Store, UseStorage
from reference_impl.worker.objects import Holder, ObjectCache
from reference_impl.worker.reactor import Reactor
from reference_impl.worker.serve import Serve
from reference_impl.worker.slots import CarryOut, Slot
from reference_impl.worker.storage_link import StorageLink

_SMALL_BYTES = 1 << 16
"""A task with more of its own is not handed to a processor while that has another one."""


class Deliveries:
    """Owns the cache and the connection. Most of its methods are instructions of the slots' cores."""

    def __init__(self, slots: Sequence[Slot], serve: Serve, reactor: Reactor, carry_out: CarryOut) -> None:
        self._slots = slots
        self._reactor = reactor
        self._carry_out = carry_out
        self.objects = ObjectCache(serve.cache_bytes)
        """Has what the held tasks need."""
        self._link = StorageLink(new_worker_id(serve.name), self._fetched, serve.storage_magic, serve.access)
        self._descriptor = self._connection = -1  # which connection of the link the reactor knows
        self._results: dict[Slot, list[tuple[TaskId, ObjectId, Buffer]]] = {}  # to be announced and stored

    @property
    def address(self) -> str:
        """Where the storage is; empty while nobody has said so."""
        return self._link.address

    # ---- the connection ----

    def keep_up(self, now: float) -> float:
        """Before each wait. Returns when the next one is to end for it."""
        link, due = self._link, math.inf
        if link.fileno() < 0 and link.retry_at:
            link.maintain(now)
            if link.retry_at:
                due = link.retry_at
        link.flush(now)
        self._watch()
        return due

    def _watch(self) -> None:
        """Keeps the reactor's view of the connection."""
        descriptor, connection = self._link.fileno(), self._link.connections
        if descriptor != self._descriptor or connection != self._connection:
            self._reactor.unregister(self._descriptor)
            if descriptor >= 0:
                self._reactor.register(descriptor, self._ready)
            self._descriptor, self._connection = descriptor, connection
        if descriptor >= 0:
            self._reactor.watch_writing(descriptor, self._link.wants_write)

    def _ready(self) -> None:
        now = time.monotonic()
        self._link.receive(now)
        self._link.flush(now)

    def use(self, instruction: UseStorage) -> None:
        address = instruction.address
        self._link.use(address.host, address.port, time.monotonic(), address.scheme)

    def close(self) -> None:
        self._link.close()

    # ---- what tasks need ----

    def fetch(self, slot: Slot, instruction: Fetch) -> None:
        holder = (slot.index, instruction.task_id)
        self._link.fetch(self.objects.want(holder, instruction.names))
        if self.objects.complete(holder):
            self._arrived(holder)

    def _fetched(self, name: ObjectId, payload: Buffer) -> None:
        for holder in self.objects.arrived(name, payload):
            self._arrived(holder)

    def _arrived(self, holder: Holder) -> None:
        index, task_id = holder
        slot = self._slots[index]
        small = self.objects.own_bytes(holder) <= _SMALL_BYTES
        self._carry_out(slot, slot.core.objects_arrived(task_id, time.monotonic(), small))

    def release(self, slot: Slot, instruction: Release) -> None:
        gone = self.objects.release((slot.index, instruction.task_id))
        if gone:
            self._link.abandon(gone, time.monotonic())

    def forget(self, instruction: Forget) -> None:
        self._link.abandon(self.objects.forget(instruction.names), time.monotonic())

    def forget_all(self, instruction: ForgetAll) -> None:
        self._link.abandon(self.objects.forget_all(), time.monotonic())

    # ---- what they return ----

    def store(self, slot: Slot, instruction: Store) -> None:
        task_id, owner, payload = instruction
        name = result_object_id(owner, slot.connection.identity, task_id)
        self._results.setdefault(slot, []).append((task_id, name, payload))
        self._reactor.soon(self._store)

    def _store(self) -> None:
        """Announces all results that came together, then stores them (WRK-03)."""
        came, self._results = self._results, {}
        for slot, results in came.items():
            about = [(task_id, name, len(payload)) for task_id, name, payload in results]
            self._carry_out(slot, slot.core.results.storing(about))
            for task_id, name, payload in results:
                done, refused = partial(self._stored, slot, task_id, name), partial(self._refused, slot, task_id)
                self._link.store(name, payload, done, refused)

    def _stored(self, slot: Slot, task_id: TaskId, name: ObjectId) -> None:
        self._carry_out(slot, slot.core.results.stored(task_id, name))

    def _refused(self, slot: Slot, task_id: TaskId) -> None:
        self._carry_out(slot, slot.core.results.not_stored(task_id))
