"""Requests that wait for an object, and the identities that they belong to (SPEC section 7.3).

What waits belongs to the identity, not to the connection: it survives a disconnect, and the response goes to the next
connection with that identity. Nothing is kept for ever: beyond the limits, who is gone longest is forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from protocol.identifiers import Identity, ObjectId
from protocol.storage import Request, Response

GONE_SECONDS = 600.0
"""How long the pending requests and unsent responses of an identity are kept after it disconnected."""
GONE_REQUESTS = 100_000
"""How many pending requests and unsent responses are kept for all identities that are gone together."""
GONE_BYTES = 1 << 30
"""How many bytes the unsent responses of all identities that are gone may refer to together."""


class Peer:
    """An identity that is connected, or gone and not yet forgotten."""

    __slots__ = ("connection", "gone_since", "held", "identity", "unsent", "unsent_bytes", "waiting")

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.connection: int | None = None
        self.waiting: dict[Waiting, None] = {}  # in order of arrival
        self.unsent: list[Response] = []  # responses that became due while it was gone
        self.unsent_bytes = 0
        self.gone_since = 0.0
        self.held: deque[Request] | None = None  # what came after a set that is held; None: none is


class Waiting:
    """A get or duplicate that waits until ``awaited`` exists."""

    __slots__ = ("awaited", "peer", "request", "since")

    def __init__(self, peer: Peer, request: Request, awaited: ObjectId, since: float) -> None:
        self.peer = peer
        self.request = request
        self.awaited = awaited
        self.since = since


class Pending:
    """All requests that wait, and who has gone while some of them did."""

    def __init__(self, gone_seconds: float = GONE_SECONDS) -> None:
        self._gone_seconds = gone_seconds
        self.awaited: dict[ObjectId, dict[Waiting, None]] = {}
        """What is awaited, to who waits, in order of arrival."""
        self._all: dict[Waiting, None] = {}  # in order of arrival
        self._gone: OrderedDict[Identity, Peer] = OrderedDict()  # who is gone longest comes first
        self._gone_requests = 0
        self._gone_bytes = 0

    @property
    def count(self) -> int:
        """How many requests wait."""
        return len(self._all)

    def add(self, peer: Peer, request: Request, awaited: ObjectId, now: float) -> None:
        """A request of a connected peer waits."""
        waiting = Waiting(peer, request, awaited, now)
        self.awaited.setdefault(awaited, {})[waiting] = None
        self._all[waiting] = peer.waiting[waiting] = None

    def done(self, waiting: Waiting) -> None:
        """It waits no more."""
        del self._all[waiting], waiting.peer.waiting[waiting]
        others = self.awaited[waiting.awaited]
        del others[waiting]
        if not others:
            del self.awaited[waiting.awaited]

    def forget(self, peer: Peer) -> None:
        """Nothing of it waits any more."""
        for waiting in list(peer.waiting):
            self.done(waiting)

    def oldest(self, now: float) -> float:
        """For how many seconds the oldest request has waited."""
        oldest = next(iter(self._all), None)
        return 0.0 if oldest is None else now - oldest.since

    # ---- who is gone ----

    def leave(self, peer: Peer) -> None:
        """A peer is gone whose requests wait."""
        self._gone[peer.identity] = peer
        self._gone_requests += len(peer.waiting)

    def keep(self, peer: Peer, response: Response) -> None:
        """A response to who is gone: one pending request less, one unsent response more."""
        peer.unsent.append(response)
        peer.unsent_bytes += len(response.payload)
        self._gone_bytes += len(response.payload)

    def come_back(self, peer: Peer) -> None:
        """A peer is not gone any more."""
        del self._gone[peer.identity]
        self._gone_requests -= len(peer.waiting) + len(peer.unsent)
        self._gone_bytes -= peer.unsent_bytes

    def too_long_gone(self, now: float | None) -> Peer | None:
        """Who is gone longest, if a limit does not hold; without ``now``, not by age."""
        peer = next(iter(self._gone.values()), None)
        if peer is None:
            return None
        expired = now is not None and now - peer.gone_since >= self._gone_seconds
        within = self._gone_requests <= GONE_REQUESTS and self._gone_bytes <= GONE_BYTES
        return None if within and not expired else peer

    def deadline(self) -> float | None:
        """When somebody will have been gone for too long; None: nobody is gone."""
        oldest = next(iter(self._gone.values()), None)
        return None if oldest is None else oldest.gone_since + self._gone_seconds
