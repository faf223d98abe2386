"""The agent's requests to the object storage, kept until they are answered, over as many connections as it takes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from protocol import storage
from protocol.identifiers import ObjectId
from protocol.storage import Buffer, ResponseType
from reference_impl.access.settings import PeerAccess, storage_mismatch
from reference_impl.addresses import Address
from reference_impl.storage_connection import StorageConnection, StorageLost

_LOG = logging.getLogger("worker")
_CONNECT_SECONDS = 1.0
_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class _Set(NamedTuple):
    name: ObjectId
    payload: Buffer
    done: Callable[[], None]
    refused: Callable[[], None]


class StorageLink:
    """Connects when it is told where; reconnects, and asks again, when a connection is lost. Tasks wait meanwhile."""

    def __init__(
        self,
        name: bytes,
        fetched: Callable[[ObjectId, Buffer], None],
        magic: bytes = storage.MAGIC,
        access: PeerAccess | None = None,
    ) -> None:
        self._name = name
        self._fetched = fetched
        self._magic = magic
        self._access = access
        self._address: Address | None = None
        self.address = ""
        """Where the storage is, as ``tcp://HOST:PORT``; empty while nobody has said so."""
        self._connection: StorageConnection | None = None
        self.connections = 0
        """How many there were. (A new one may have the descriptor of the last one.)"""
        self._gets: dict[ObjectId, None] = {}
        self._sets: dict[int, _Set] = {}
        self._waiting: list[_Set] = []  # to be stored once there is a connection
        self._mismatch = ""
        self._failures = 0
        self._abandoned: set[ObjectId] = set()  # the storage waits with gets of these, which nobody wants any more
        self.retry_at = 0.0
        """When ``maintain`` is due, if there is no connection; 0: not at all."""

    def fileno(self) -> int:
        """-1 without a connection."""
        return self._connection.fileno() if self._connection else -1

    @property
    def wants_write(self) -> bool:
        return self._connection is not None and self._connection.wants_write

    def use(self, host: str, port: int, now: float, scheme: str = "tcp") -> None:
        """The scheduler says where the storage is."""
        if not host or not port or self._address == (host, port):
            return
        if mismatch := storage_mismatch(scheme, self._access):
            if mismatch != self._mismatch:
                _LOG.error("the object storage %s; tasks wait", mismatch)
            self._mismatch = mismatch
            return
        self._address = Address(host, port)
        self.address = str(self._address)
        self._failures = 0
        self._disconnect()
        self.maintain(now)

    def maintain(self, now: float) -> None:
        """Tries to connect, if it is time."""
        if self._connection is not None or self._address is None or now < self.retry_at:
            return
        identity = self._name + b"|" + os.urandom(4).hex().encode()  # else answers to old requests would come again
        try:
            self._connection = StorageConnection(
                self._address, identity, magic=self._magic, timeout_seconds=_CONNECT_SECONDS, access=self._access
            )
        except StorageLost as error:
            self._lost(error, now)
            return
        self.connections += 1
        if self._failures:
            _LOG.info("the object storage at %s is reachable again", self._address)
        self._failures, self.retry_at = 0, 0.0
        for name in self._gets:
            self._connection.send(storage.get_request(self._connection.next_id(), name))
        waiting, self._waiting = self._waiting, []
        for entry in waiting:
            self.store(*entry)

    def fetch(self, names: Iterable[ObjectId]) -> None:
        """Asks for objects; the answer may be as late as their creation."""
        for name in names:
            self._gets[name] = None
            if self._connection is not None:
                self._connection.send(storage.get_request(self._connection.next_id(), name))

    def abandon(self, names: Iterable[ObjectId], now: float) -> None:
        """Nobody wants these any more, and they may never come. A get can't be taken back: the storage would wait with
        them as long as this connection lives: it is given up for a new one when nothing else is under way on it."""
        for name in names:
            if self._gets.pop(name, name) is None:
                self._abandoned.add(name)
        self._renew(now)

    def _renew(self, now: float) -> None:
        if self._abandoned and not self._gets and not self._sets and not self.wants_write:
            self._disconnect()
            self.retry_at = now

    def store(self, name: ObjectId, payload: Buffer, done: Callable[[], None], refused: Callable[[], None]) -> None:
        """Stores an object; ``done`` is called when it is, ``refused`` when the storage has no room for it."""
        entry = _Set(name, payload, done, refused)
        if self._connection is None:
            self._waiting.append(entry)
            return
        number = self._connection.next_id()
        self._sets[number] = entry
        self._connection.send(storage.set_request(number, name, payload))

    def receive(self, now: float) -> None:
        """Collects what has arrived."""
        if self._connection is None:
            return
        try:
            responses = self._connection.receive()
        except StorageLost as error:
            self._lost(error, now)
            return
        for response in responses:
            if response.type is ResponseType.SET_OK:
                if (entry := self._sets.pop(response.response_id, None)) is not None:
                    entry.done()
            elif response.type is ResponseType.DEL_NOT_EXISTS:
                if (entry := self._sets.pop(response.response_id, None)) is not None:
                    entry.refused()
            elif response.type is ResponseType.GET_OK:
                self._abandoned.discard(response.object_id)
                if self._gets.pop(response.object_id, response) is None:
                    self._fetched(response.object_id, response.payload)
        self._renew(now)

    def flush(self, now: float) -> None:
        """Sends what the connection takes now."""
        if self._connection is not None and self._connection.wants_write:
            try:
                self._connection.flush()
            except StorageLost as error:
                self._lost(error, now)
                return
            if self._abandoned:
                self._renew(now)

    def _lost(self, error: StorageLost, now: float) -> None:
        self._disconnect()
        pause = _RETRY_SECONDS[min(self._failures, len(_RETRY_SECONDS) - 1)]
        if self._failures in (0, len(_RETRY_SECONDS)):
            _LOG.warning("%s; tasks wait, trying again", error)
        self._failures += 1
        self.retry_at = now + pause

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._abandoned.clear()
        self._waiting = [*self._sets.values(), *self._waiting]
        self._sets.clear()

    def close(self) -> None:
        self._disconnect()
