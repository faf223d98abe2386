"""The client's requests to the object storage, kept until they are answered, over as many connections as it takes.

After a reconnect the storage is asked for an object that it had, the serializer, and for its totals: if these come
first, it does not have it any more (STO-11, STO-16), since it was started anew, and all that it held is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from protocol import storage
from protocol.identifiers import ClientId, ObjectId, serializer_object_id
from protocol.storage import ResponseType
from reference_impl.access.settings import PeerAccess
from reference_impl.addresses import Address
from reference_impl.client.core import ClientCore
from reference_impl.client.instructions import Abandon, Fetch, Instruction, Store, Unstore
from reference_impl.storage_connection import StorageConnection, StorageLost

_log = logging.getLogger("reference_impl.client")

_CONNECT_SECONDS = 1.0
_REFUSED_SECONDS = 2.0
"""If nobody listens for so long, there is no storage any more, and what it held is gone."""
_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)


class StorageLink:
    """``execute`` carries out what the core says to what has happened here."""

    def __init__(
        self,
        core: ClientCore,
        identity: ClientId,
        execute: Callable[[list[Instruction]], None],
        magic: bytes,
        timeout_seconds: float,
        access: PeerAccess | None = None,
    ) -> None:
        self.retry_at: float | None = None
        """When ``maintain`` is due, None if there is a connection."""
        self._core = core
        self._identity = identity
        self._execute = execute
        self._magic = magic
        self._access = access
        self._number = 0  # of the last request; one that waits is answered on a later connection (STO-17)
        self._timeout = timeout_seconds
        self._address: Address | None = None
        self._connection: StorageConnection | None = None
        self.connections = 0
        """How many there were. (A new one may have the descriptor of the last one.)"""
        self._answered = False  # this connection has been of use
        self._stores: dict[ObjectId, Store] = {}
        self._fetches: dict[ObjectId, None] = {}
        self._garbage: dict[ObjectId, None] = {}  # to be deleted
        self._requests: dict[int, ObjectId] = {}  # on this connection
        self._proof = False  # the serializer is there
        self._probe = 0  # the number of the totals that are asked for after the serializer; 0: nothing is in doubt
        self._lost_at = 0.0
        self._failures = 0
        self._gone = False  # it was away for too long, and the core knows

    def connect(self, address: Address, timeout_seconds: float) -> None:
        """The first connection; raises StorageLost."""
        self._address = address
        self._connection = self._open(address, timeout_seconds)

    def _open(self, address: Address, timeout_seconds: float) -> StorageConnection:
        self.connections += 1
        return StorageConnection(
            address, self._identity, magic=self._magic, timeout_seconds=timeout_seconds, access=self._access
        )

    def _next(self) -> int:
        self._number += 1
        return self._number

    def fileno(self) -> int:
        """-1 without a connection."""
        return self._connection.fileno() if self._connection is not None else -1

    @property
    def wants_write(self) -> bool:
        return self._connection is not None and self._connection.wants_write

    # ---- requests ----

    def store(self, instruction: Store) -> None:
        self._stores[instruction.object_id] = instruction
        if self._connection is not None and not self._probe:
            self._send_store(self._connection, instruction)

    def fetch(self, instruction: Fetch) -> None:
        self._fetches[instruction.object_id] = None
        if self._connection is not None and not self._probe:
            self._send_fetch(self._connection, instruction.object_id)

    def unstore(self, instruction: Unstore) -> None:
        """Deletes these behind what is on its way; nobody waits for the answers."""
        for object_id in instruction.object_ids:
            self._stores.pop(object_id, None)
            if self._connection is not None and not self._probe:
                self._connection.send(storage.delete_request(self._next(), object_id))

    def abandon(self, instruction: Abandon) -> None:
        """Deletes these, and what was on its way. Where somebody waits for one that will never come, the storage would
        wait, too: each gets an empty object first."""
        garbage = dict.fromkeys((*instruction.object_ids, *self._stores, *self._fetches))
        garbage.pop(serializer_object_id(self._identity), None)  # the next one has the same id
        self._stores.clear()
        self._fetches.clear()
        self._requests.clear()
        self._proof = False
        self._garbage.update(garbage)
        if self._connection is not None and not self._probe:
            self._delete(self._connection, garbage)

    def _delete(self, connection: StorageConnection, garbage: Iterable[ObjectId]) -> None:
        for object_id in garbage:
            connection.send(storage.set_request(self._next(), object_id, b""))
            number = self._next()
            self._requests[number] = object_id
            connection.send(storage.delete_request(number, object_id))

    def _send_store(self, connection: StorageConnection, instruction: Store) -> None:
        number = self._next()
        self._requests[number] = instruction.object_id
        connection.send(storage.set_request(number, instruction.object_id, instruction.payload))

    def _send_fetch(self, connection: StorageConnection, object_id: ObjectId) -> None:
        number = self._next()
        self._requests[number] = object_id
        connection.send(storage.get_request(number, object_id))

    # ---- the connection ----

    def maintain(self, now: float) -> None:
        """Tries to connect again, if it is time."""
        if self.retry_at is None or now < self.retry_at:
            return
        assert self._address is not None
        try:
            self._connection = self._open(self._address, _CONNECT_SECONDS)
        except StorageLost as error:
            self._lost(error, now)
            return
        self.retry_at, self._answered = None, False
        if self._proof and not self._gone:
            self._connection.send(storage.get_request(self._next(), serializer_object_id(self._identity), 1))
            self._probe = self._next()
            self._connection.send(storage.total_request(self._probe))
        else:
            self._back(self._connection)

    def _back(self, connection: StorageConnection) -> None:
        """It has what it had: what has no answer is asked for again."""
        self._probe = 0
        self._delete(connection, self._garbage)
        for store in self._stores.values():
            self._send_store(connection, store)
        for object_id in self._fetches:
            self._send_fetch(connection, object_id)
        if self._gone:
            self._gone = False
            self._execute(self._core.storage_back())

    def flush(self, now: float) -> None:
        """Sends what the connection takes now."""
        if self._connection is not None and self._connection.wants_write:
            try:
                self._connection.flush()
            except StorageLost as error:
                self._lost(error, now)

    def drain(self, seconds: float, now: float) -> None:
        """Sends all that is queued, for at most so long."""
        if self._connection is not None:
            try:
                self._connection.drain(seconds)
            except StorageLost as error:
                self._lost(error, now)

    def receive(self, now: float) -> None:
        """Handles what has arrived."""
        connection = self._connection
        if connection is None:
            return
        try:
            responses = connection.receive()
        except StorageLost as error:
            self._lost(error, now)
            return
        for response in responses:
            self._answered, self._failures = True, 0
            if self._probe:
                if response.type is ResponseType.GET_OK:
                    self._back(connection)
                elif response.type is ResponseType.INFO_GET_TOTAL_OK:
                    self._restarted()
                continue
            object_id = self._requests.pop(response.response_id, None)
            if object_id is None or self._garbage.pop(object_id, object_id) is None:
                continue
            if response.type is ResponseType.GET_OK:
                self._fetches.pop(object_id, None)
                self._execute(self._core.fetched(object_id, response.payload))
            elif response.type is ResponseType.SET_OK:
                self._stores.pop(object_id, None)
                self._proof = self._proof or object_id == serializer_object_id(self._identity)
                self._execute(self._core.stored(object_id))
            elif response.type is ResponseType.DEL_NOT_EXISTS:
                self._stores.pop(object_id, None)
                self._execute(self._core.not_stored(object_id))

    def _restarted(self) -> None:
        _log.warning("the object storage at %s has lost what it held", self._address)
        self._probe, self._proof = 0, False
        self._garbage.clear()
        self._stores.clear()
        self._fetches.clear()
        self._execute(self._core.storage_restarted())

    def _lost(self, error: StorageLost, now: float) -> None:
        if self._connection is not None:
            if self._answered:
                self._lost_at = now
            useless = not self._answered
            self._disconnect()
        else:
            useless = False
        self.retry_at = now + _RETRY_SECONDS[min(self._failures, len(_RETRY_SECONDS) - 1)]
        if not self._failures:
            _log.info("%s; trying again", error)
        self._failures += 1
        # One that never says anything does not understand us: who waits is told at once.
        refused = isinstance(error.__cause__, ConnectionRefusedError)
        patience = min(self._timeout, _REFUSED_SECONDS) if refused else self._timeout
        if not self._gone and ((useless and not self._proof) or now - self._lost_at > patience):
            self._gone, self._proof = True, False
            self._stores.clear()
            self._fetches.clear()
            self._execute(self._core.storage_lost(str(error)))

    def _disconnect(self) -> None:
        assert self._connection is not None
        self._connection.close()
        self._connection = None
        self._requests.clear()
        self._probe = 0

    def close(self) -> None:
        if self._connection is not None:
            self._disconnect()
