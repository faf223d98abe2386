"""Which key may speak under which identity (SPEC section 11). Pure: identities and keys in, reasons out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from protocol import identifiers
from protocol.identifiers import Identity, role_of
from reference_impl.access.keys import PublicKey, Role

_NEEDED = {
    identifiers.Role.CLIENT: Role.CLIENT,
    identifiers.Role.WORKER: Role.WORKER,
    identifiers.Role.OTHER: Role.MANAGER,
}
_MAX_IDENTITIES = 100_000


class Admission:
    """``user`` is a CURVE public key as Z85, as the transport vouches for it.

    The first message under an identity ties it to its key. It stays tied while the identity is known to the scheduler,
    and afterwards until there are very many of them.
    """

    def __init__(self, allowed: Callable[[], Mapping[bytes, PublicKey]], known: Callable[[Identity], bool]) -> None:
        """``allowed`` are the keys that are allowed now; ``known`` tells of an identity whether the scheduler has a
        record of it."""
        self._allowed = allowed
        self._known = known
        self._users: dict[Identity, bytes] = {}

    def refusal(self, identity: Identity, user: bytes) -> str | None:
        """Why a message is not to be handled; None if it is."""
        if self._users.get(identity) == user:
            return None
        key = self._allowed().get(user)
        if key is None:
            return "its key was revoked"
        needed = _NEEDED[role_of(identity)]
        if needed not in key.roles:
            return f"its key {key.name} has not the role {needed.value}"
        if identity in self._users:
            return f"the key {key.name} speaks under an identity of another key"
        if len(self._users) >= _MAX_IDENTITIES:
            self._users = {other: owner for other, owner in self._users.items() if self._known(other)}
        self._users[identity] = user
        return None

    def changed(self) -> list[Identity]:
        """The allowed keys have changed: the identities that may not go on."""
        gone = [identity for identity, user in self._users.items() if not self._may(identity, user)]
        for identity in gone:
            del self._users[identity]
        return gone

    def _may(self, identity: Identity, user: bytes) -> bool:
        key = self._allowed().get(user)
        return key is not None and _NEEDED[role_of(identity)] in key.roles
