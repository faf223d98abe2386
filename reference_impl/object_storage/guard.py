"""Whose objects are whose, where there are keys (SPEC section 11). Pure, as the core that it stands in front of.

A worker's key and the cluster's own may use every object. A client's key may use those of the client that its
connection says it is: their ids begin with the digest of that identity. So that nobody can say he is another one, an
identity stays tied to the key that used it first, also when its connection is gone.
"""

from __future__ import annotations

from protocol.identifiers import Identity, ObjectId, owner_digest
from protocol.storage import Request, RequestType
from reference_impl.access.keys import PublicKey, Role
from reference_impl.object_storage.core import ObjectStorage
from reference_impl.object_storage.instructions import Close, Instruction
from reference_impl.object_storage.pending import GONE_SECONDS
from reference_impl.object_storage.room import UNLIMITED, Limits

IDLE_IDENTITIES = 10_000
"""How many identities without a connection stay tied to one key. The oldest one goes first: a key that uses very many
loses its own, never those of others."""


class GuardedObjectStorage(ObjectStorage):
    """An object storage whose connections have keys. ``admitted`` follows each ``connected``, ``closed`` each end."""

    def __init__(self, limits: Limits = UNLIMITED, gone_seconds: float = GONE_SECONDS) -> None:
        super().__init__(limits, gone_seconds)
        self._keys: dict[int, PublicKey] = {}
        self._prefixes: dict[int, bytes] = {}  # of the connections of clients
        self._users: dict[Identity, bytes] = {}  # the CURVE key that an identity is tied to
        self._identities: dict[int, Identity] = {}
        self._current: dict[Identity, int] = {}  # their connections
        self._idle: dict[bytes, dict[Identity, None]] = {}  # by key, oldest first

    def admitted(self, connection: int, key: PublicKey) -> None:
        """The handshake has shown that the other side has this key."""
        self._keys[connection] = key

    def key_of(self, connection: int) -> PublicKey | None:
        """The key that it was admitted with."""
        return self._keys.get(connection)

    def identified(self, connection: int, identity: Identity, now: float) -> list[Instruction]:
        """An identity that is another key's is refused, and so is a key that has no business here."""
        key = self._keys[connection]
        if self._users.get(identity, key.curve) != key.curve:
            return self._refuse(connection, now, f"the key {key.name} says it is {_text(identity)}, which is another's")
        if Role.WORKER not in key.roles:
            if Role.CLIENT not in key.roles:
                return self._refuse(connection, now, f"the key {key.name} has neither the role client nor worker")
            self._prefixes[connection] = owner_digest(identity)
        self._users[identity] = key.curve
        self._identities[connection], self._current[identity] = identity, connection
        self._idle.get(key.curve, {}).pop(identity, None)
        return super().identified(connection, identity, now)

    def request(self, connection: int, request: Request, now: float) -> list[Instruction]:
        """A client that asks for an object of another one loses its connection."""
        prefix = self._prefixes.get(connection)
        if prefix is not None and not _within(prefix, request):
            name = self._keys[connection].name
            return self._refuse(connection, now, f"the key {name} asks for an object of another client")
        return super().request(connection, request, now)

    def _refuse(self, connection: int, now: float, reason: str) -> list[Instruction]:
        return [Close(connection, reason), *self.disconnected(connection, now)]

    def closed(self, connection: int) -> None:
        """It is no more, for whatever reason. Its identity stays tied to its key."""
        key = self._keys.pop(connection, None)
        self._prefixes.pop(connection, None)
        identity = self._identities.pop(connection, None)
        if key is None or identity is None or self._current[identity] != connection:
            return
        del self._current[identity]
        idle = self._idle.setdefault(key.curve, {})
        idle[identity] = None
        if len(idle) > IDLE_IDENTITIES:
            oldest = next(iter(idle))
            del idle[oldest], self._users[oldest]


def _within(prefix: bytes, request: Request) -> bool:
    """Whether all objects that a request names begin so."""
    if request.type == RequestType.INFO_GET_TOTAL:
        return True
    if request.object_id[:16] != prefix:
        return False
    return request.type != RequestType.DUPLICATE_OBJECT_ID or ObjectId(bytes(request.payload))[:16] == prefix


def _text(identity: Identity) -> str:
    return identity.decode("ascii", "backslashreplace")
