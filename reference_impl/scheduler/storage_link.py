"""The scheduler's connection to the object storage: it deletes what clients leave behind, copies failures, and stores
why a task was refused (SPEC section 7.3)."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterable

from protocol import storage
from protocol.errors import MalformedMessage
from protocol.identifiers import ObjectId
from protocol.messages import ObjectStorageStatus
from reference_impl.access.settings import PeerAccess
from reference_impl.addresses import Address
from reference_impl.polling import READ, WRITE, Poller, new_poller
from reference_impl.scheduler.instructions import Instruction, Send, StoreThenSend
from reference_impl.storage_connection import StorageConnection, StorageLost

_LOG = logging.getLogger("scheduler")

_RETRY_SECONDS = 2.0
_CONNECT_SECONDS = 0.5
_STORE_SECONDS = 5.0  # then an answer goes without its reason
_MAX_PENDING_REQUESTS = 1_000_000
_MAX_STORING = 1_000  # reasons of refusals on their way to the storage; others come without one meanwhile
_IDENTITY = b"Scheduler|"

_Request = tuple[ObjectId, "ObjectId | None"]
"""An object to delete; or to make, as a copy of the second one."""


class StorageLink:
    """Deletes and copies objects in the object storage, also when it is away for a while, and asks it for its
    totals."""

    def __init__(self, address: Address, name: bytes, magic: bytes, access: PeerAccess | None = None) -> None:
        self._address = address
        self._magic = magic
        self._access = access
        self._identity = _IDENTITY + name
        self._connection: StorageConnection | None = None
        self._registered = 0  # what the poller waits for, on this connection
        self._retry_at = 0.0
        self._waiting: deque[_Request] = deque(maxlen=_MAX_PENDING_REQUESTS)
        self._unanswered: dict[int, _Request] = {}  # sent on this connection, by request id
        self._asked = False
        self._storing: dict[int, tuple[StoreThenSend, float]] = {}  # by request id, with when it is given up
        self._answers: list[Instruction] = []
        self.status = ObjectStorageStatus()
        """What the last infoGetTotal said."""

    def delete(self, object_ids: tuple[ObjectId, ...]) -> None:
        self._ask([(object_id, None) for object_id in object_ids])

    def duplicate(self, source: ObjectId, copies: tuple[ObjectId, ...]) -> None:
        """The requests are on their way when this returns, unless the storage is away."""
        self._ask([(object_id, source) for object_id in copies])
        if self._connection is not None:
            with contextlib.suppress(StorageLost):  # the next ``update`` meets the same error, and handles it
                self._connection.flush()

    def store(self, what: StoreThenSend) -> None:
        """What is to be said afterwards comes from ``take_answers``."""
        connection = self._connection
        if connection is None or len(self._storing) >= _MAX_STORING:
            self._answers.append(Send(what.to, what.bare))
        else:
            request_id = connection.next_id()
            self._storing[request_id] = what, time.monotonic() + _STORE_SECONDS
            connection.send(storage.set_request(request_id, what.object_id, what.payload))

    def take_answers(self) -> list[Instruction]:
        """What can be said now that objects are stored, or can't be."""
        answers, self._answers = self._answers, []
        return answers

    def _ask(self, requests: Iterable[_Request]) -> None:
        connection = self._connection
        if connection is None:
            self._waiting.extend(requests)
            return
        for request in requests:
            object_id, source = request
            request_id = connection.next_id()
            self._unanswered[request_id] = request
            if source is None:
                connection.send(storage.delete_request(request_id, object_id))
            else:
                connection.send(storage.duplicate_request(request_id, object_id, source))

    def ask_total(self) -> None:
        if self._connection is not None and not self._asked:
            self._asked = True
            self._connection.send(storage.total_request(self._connection.next_id()))

    def maintain(self, now: float) -> None:
        """Connects, if there is no connection and it is time to try. Gives up what takes too long to be stored."""
        while self._storing and next(iter(self._storing.values()))[1] < now:
            what, _ = self._storing.pop(next(iter(self._storing)))
            self._answers.append(Send(what.to, what.bare))
        if self._connection is not None or now < self._retry_at:
            return
        try:
            self._connection = StorageConnection(
                self._address,
                self._identity,
                magic=self._magic,
                timeout_seconds=_CONNECT_SECONDS,
                access=self._access,
            )
        except StorageLost as error:
            _LOG.warning("%s; next try in %g s", error, _RETRY_SECONDS)
            self._retry_at = now + _RETRY_SECONDS
            return
        waiting, self._waiting = tuple(self._waiting), deque(maxlen=_MAX_PENDING_REQUESTS)
        self._ask(waiting)

    def update(self, poller: Poller) -> None:
        """Sends what can be sent, and lets the poller wait for what the connection waits for."""
        if self._connection is None:
            return
        try:
            if self._connection.wants_write:
                self._connection.flush()
        except StorageLost as error:
            self._lost(error, poller)
            return
        wanted = READ | WRITE if self._connection.wants_write else READ
        if wanted != self._registered:
            poller.register(self._connection.fileno(), wanted)
            self._registered = wanted

    def handle(self, ready: dict[object, int], poller: Poller) -> None:
        if self._connection is None or self._connection.fileno() not in ready:
            return
        try:
            for response in self._connection.receive():
                if response.type is storage.ResponseType.INFO_GET_TOTAL_OK:
                    self._asked = False
                    self.status = ObjectStorageStatus(*storage.Total.from_bytes(response.payload))
                elif response.response_id in self._storing:
                    what, _ = self._storing.pop(response.response_id)
                    stored = response.type is storage.ResponseType.SET_OK
                    self._answers.append(Send(what.to, what.named if stored else what.bare))
                else:
                    self._unanswered.pop(response.response_id, None)
        except (StorageLost, MalformedMessage) as error:
            self._lost(error, poller)

    def finish(self, deadline: float) -> None:
        """Waits until everything is deleted, for a bounded time. It serves nothing else from then on."""
        poller, self._registered = new_poller(), 0
        self.maintain(time.monotonic())
        while self._unanswered and self._connection is not None and time.monotonic() < deadline:
            self.update(poller)
            self.handle(dict(poller.poll(int(1000 * (deadline - time.monotonic())) + 1)), poller)
        poller.close()

    def _lost(self, error: Exception, poller: Poller) -> None:
        _LOG.warning("%s; deletions and copies wait until it is back", error)
        if self._connection is not None:
            if self._registered:
                poller.unregister(self._connection.fileno())
            self._connection.close()
        self._connection, self._registered, self._asked = None, 0, False
        self._waiting.extend(self._unanswered.values())  # nobody knows whether these were carried out: once more
        self._unanswered.clear()
        self._answers += [Send(what.to, what.bare) for what, _ in self._storing.values()]
        self._storing.clear()

    def close(self) -> None:
        """Sends what is waiting, as far as the socket takes it, and closes."""
        if self._connection is not None:
            try:
                self._connection.flush()
            except StorageLost as error:
                _LOG.warning("%s", error)
            self._connection.close()
            self._connection = None
