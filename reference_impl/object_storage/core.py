"""The rules of the object storage (SPEC section 7.3), sans-IO: events in, instructions out.

An event is a method call: ``connected``, ``identified``, ``request``, ``disconnected``, ``tick``, and of the files
``written``, ``not_written``, ``compared``. ``connection`` is a number that the shell gives to a connection and never
uses again; ``now`` is a monotonic time in seconds. Each returns the list of instructions that follow, in order.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple, Union

from protocol.identifiers import Identity, ObjectId
from protocol.storage import Buffer, Request, RequestType, Response, ResponseType, Total
from reference_impl.object_storage.contents import Content, Contents, OnDisk
from reference_impl.object_storage.room import UNLIMITED, Chore, Compare, Limits, Outcome, Put, Remove, Room, Write

GONE_SECONDS = 600.0
"""How long the pending requests and unsent responses of an identity are kept after it disconnected."""
GONE_REQUESTS = 100_000
"""How many pending requests and unsent responses are kept for all identities that are gone together."""
GONE_BYTES = 1 << 30
"""How many bytes the unsent responses of all identities that are gone may refer to together."""
PENDING_REQUESTS = 1_000_000
"""How many requests of one connection may be pending; at more it is closed, and they are forgotten."""

_SET = RequestType.SET_OBJECT
_GET = RequestType.GET_OBJECT
_DELETE = RequestType.DELETE_OBJECT
_DUPLICATE = RequestType.DUPLICATE_OBJECT_ID
_TOTAL = RequestType.INFO_GET_TOTAL
_SET_OK = ResponseType.SET_OK
_GET_OK = ResponseType.GET_OK
_DEL_OK = ResponseType.DEL_OK
_DEL_NOT_EXISTS = ResponseType.DEL_NOT_EXISTS
_DUPLICATE_OK = ResponseType.DUPLICATE_OK
_TOTAL_OK = ResponseType.INFO_GET_TOTAL_OK


class Respond(NamedTuple):
    """Send ``response`` on ``connection``, after what was to be sent there before."""

    connection: int
    response: Response


class Close(NamedTuple):
    """Close ``connection``; no ``disconnected`` is expected for it."""

    connection: int
    reason: str


class RespondFrom(NamedTuple):
    """The same, for a getOK whose payload lies in a file."""

    connection: int
    response_id: int
    object_id: ObjectId
    payload: OnDisk


class Pause(NamedTuple):
    """Do not read from ``connection``, which may be paused already: a set of it is held until there is room."""

    connection: int


class Resume(NamedTuple):
    """Read from ``connection`` again."""

    connection: int


class Refused(NamedTuple):
    """Log that a set of ``connection`` was refused, and why."""

    connection: int
    size: int
    reason: str


Instruction = Union[Respond, RespondFrom, Close, Pause, Resume, Refused, Write, Compare, Remove]


class _Peer:
    """An identity that is connected, or gone and not yet forgotten."""

    __slots__ = ("connection", "gone_since", "held", "identity", "unsent", "unsent_bytes", "waiting")

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.connection: int | None = None
        self.waiting: dict[_Waiting, None] = {}  # in order of arrival
        self.unsent: list[Response] = []  # responses that became due while it was gone
        self.unsent_bytes = 0
        self.gone_since = 0.0
        self.held: deque[Request] | None = None  # what came after a set that is held; None: none is


class _Waiting:
    """A get or duplicate that waits until ``awaited`` exists."""

    __slots__ = ("awaited", "peer", "request", "since")

    def __init__(self, peer: _Peer, request: Request, awaited: ObjectId, since: float) -> None:
        self.peer = peer
        self.request = request
        self.awaited = awaited
        self.since = since


class ObjectStorage:
    """All objects, and all requests that wait for one.

    Requests of a connection are answered in order, except that a get or duplicate of a missing object steps aside
    until it exists. What waits belongs to the identity, not to the connection: it survives a disconnect, and the
    response goes to the next connection with that identity. Nothing is kept for ever: see GONE_SECONDS,
    GONE_REQUESTS and GONE_BYTES (beyond them, who is gone longest is forgotten first, duplicates that it had
    pending included) and PENDING_REQUESTS. The objects themselves are kept until they are deleted, in memory or, where
    that is bounded, in files: see ``room``. While a set is held, so is everything that its connection asked for later.
    """

    def __init__(self, limits: Limits = UNLIMITED) -> None:
        self._contents = Contents()
        self._room = Room(self._contents, limits)
        self._waiting: dict[ObjectId, dict[_Waiting, None]] = {}  # what is awaited, to who waits, in order of arrival
        self._waiting_count = 0
        self._connections: dict[int, _Peer | None] = {}  # None: not identified yet
        self._peers: dict[Identity, _Peer] = {}
        self._gone: OrderedDict[Identity, _Peer] = OrderedDict()  # who is gone longest comes first
        self._gone_requests = 0
        self._gone_bytes = 0

    def connected(self, connection: int, now: float) -> list[Instruction]:
        """A new connection; who it is comes later."""
        self._connections[connection] = None
        return self.tick(now)

    def identified(self, connection: int, identity: Identity, now: float) -> list[Instruction]:
        """The connection said who it is. An older connection with that identity is closed; what waits for the
        identity is this connection's from now on."""
        instructions = self.tick(now)
        peer = self._peers.get(identity)
        dropped = False
        if peer is None:
            peer = self._peers[identity] = _Peer(identity)
        elif peer.connection is not None:
            instructions.append(Close(peer.connection, "a newer connection has its identity"))
            dropped = self._drop_held(peer, peer.connection)
            del self._connections[peer.connection]
        else:
            self._remove_gone(peer)
        peer.connection = connection
        self._connections[connection] = peer
        instructions += [Respond(connection, response) for response in peer.unsent]
        peer.unsent, peer.unsent_bytes = [], 0
        for waiting in list(peer.waiting):  # for what lies in a file: only then
            content = self._contents.get(waiting.awaited)
            if content is not None:
                self._done_waiting(waiting)
                instructions.append(_get_ok(connection, waiting.request, content.payload))
        return self._continue(now, instructions) if dropped else instructions

    def request(self, connection: int, request: Request, now: float) -> list[Instruction]:
        """A request of an identified connection. One of an unknown type is ignored."""
        peer = self._connections.get(connection)
        if peer is None:
            return []
        if peer.held is not None:
            peer.held.append(request)
            return []
        instructions: list[Instruction] = []
        self._carry_out(peer, connection, request, now, instructions)
        if self._room.held or self._contents.left:
            self._continue(now, instructions)
        return instructions

    def _carry_out(
        self, peer: _Peer, connection: int, request: Request, now: float, instructions: list[Instruction]
    ) -> None:
        number, kind, object_id, length, payload = request
        contents, room = self._contents, self._room
        if kind == _GET:
            content = contents.get(object_id)
            if content is None:
                instructions += self._wait(peer, request, object_id, now)
            elif isinstance(content.payload, OnDisk):
                instructions.append(_get_ok(connection, request, content.payload))
            else:
                cut = _cut(content.payload, length)
                instructions.append(Respond(connection, Response(number, _GET_OK, object_id, cut)))
        elif kind == _SET:
            # Nothing in files, nobody waiting for room, and it fits: so it is nearly always.
            if not contents.disk_bytes and not room.held and contents.total_bytes + len(payload) <= room.memory:
                content = contents.set(object_id, payload)
                if object_id in self._waiting:
                    instructions += self._serve_waiting(object_id, content, payload)
                instructions.append(Respond(connection, Response(number, _SET_OK, object_id, b"")))
                return
            put = Put(connection, request)
            chores: list[Chore] = []
            outcome = room.put(put, now, chores)
            instructions += chores
            if outcome is Outcome.HELD:
                peer.held = deque()
                instructions.append(Pause(connection))
            else:
                self._put_ended(put, outcome, instructions)
        elif kind == _DELETE:
            outcome_type = _DEL_OK if contents.delete(object_id) else _DEL_NOT_EXISTS
            instructions.append(Respond(connection, Response(number, outcome_type, object_id, b"")))
        elif kind == _DUPLICATE:
            source = ObjectId(bytes(payload))
            content = contents.get(source)
            if content is None:
                instructions += self._wait(peer, request, source, now)
                return
            contents.name(object_id, content)
            instructions += self._serve_waiting(object_id, content, content.payload)
            instructions.append(Respond(connection, Response(number, _DUPLICATE_OK, object_id, b"")))
        elif kind == _TOTAL:
            instructions.append(Respond(connection, Response(number, _TOTAL_OK, object_id, self.total(now).to_bytes())))

    def _put_ended(self, put: Put, outcome: Outcome, instructions: list[Instruction]) -> None:
        connection, request = put.connection, put.request
        object_id = request.object_id
        if outcome is Outcome.REFUSED:
            instructions.append(Refused(connection, len(request.payload), self._room.refused))
            instructions.append(Respond(connection, Response(request.request_id, _DEL_NOT_EXISTS, object_id, b"")))
            return
        assert put.content is not None
        if object_id in self._waiting:
            instructions += self._serve_waiting(object_id, put.content, request.payload)
        instructions.append(Respond(connection, Response(request.request_id, _SET_OK, object_id, b"")))

    def written(self, file: int, now: float) -> list[Instruction]:
        """A Write has been done."""
        chores: list[Chore] = []
        self._room.written(file, chores)
        return self._continue(now, [*chores])

    def not_written(self, file: int, reason: str, now: float) -> list[Instruction]:
        """A Write has failed; there is no such file."""
        self._room.not_written(file, reason, now)
        return self._continue(now, [])

    def compared(self, ticket: int, equal: bool, now: float) -> list[Instruction]:
        """The answer to a Compare; False also if it can't be told."""
        self._room.compared(ticket, equal)
        return self._continue(now, [])

    def _continue(self, now: float, instructions: list[Instruction]) -> list[Instruction]:
        """Removes files that nothing names any more, and carries on with the sets that are held, and with what came
        after them on their connections."""
        while True:
            left = self._contents.left
            instructions += [Remove(file) for file in left]
            left.clear()
            chores: list[Chore] = []
            ended = self._room.retry(now, chores)
            instructions += chores
            if ended is None:
                return instructions
            put, outcome = ended
            self._put_ended(put, outcome, instructions)
            peer = self._connections[put.connection]
            assert peer is not None
            later, peer.held = peer.held or deque(), None
            while later and peer.held is None and put.connection in self._connections:
                self._carry_out(peer, put.connection, later.popleft(), now, instructions)
            if peer.held is not None:
                peer.held = later
            elif put.connection in self._connections:
                instructions.append(Resume(put.connection))

    def _drop_held(self, peer: _Peer, connection: int) -> bool:
        """Forgets the set that is held, and what came after it. Whether there was one: then others may go on."""
        if peer.held is None:
            return False
        self._room.drop(connection)
        peer.held = None
        return True

    def disconnected(self, connection: int, now: float) -> list[Instruction]:
        """The connection is no more."""
        instructions: list[Instruction] = []
        peer = self._connections.pop(connection, None)
        if peer is not None:
            peer.connection = None
            peer.gone_since = now
            if peer.waiting:
                self._gone[peer.identity] = peer
                self._gone_requests += len(peer.waiting)
            else:
                del self._peers[peer.identity]
            if self._drop_held(peer, connection):
                self._continue(now, instructions)
        return instructions + self.tick(now)

    def tick(self, now: float) -> list[Instruction]:
        """Time has passed. Due at ``deadline()``; more often does no harm."""
        self._limit_gone(now)
        return []

    def deadline(self) -> float | None:
        """When ``tick`` is due next; None: not before another event."""
        oldest = next(iter(self._gone.values()), None)
        return None if oldest is None else oldest.gone_since + GONE_SECONDS

    def total(self, now: float) -> Total:
        """What infoGetTotal answers."""
        oldest = min((next(iter(w)).since for w in self._waiting.values()), default=now)
        return Total(
            object_count=len(self._contents),
            unique_count=self._contents.unique_count,
            total_bytes=self._contents.total_bytes,
            pending_requests=self._waiting_count,
            pending_objects=len(self._waiting),
            oldest_pending_seconds=int(now - oldest),
        )

    def _wait(self, peer: _Peer, request: Request, awaited: ObjectId, now: float) -> list[Instruction]:
        waiting = _Waiting(peer, request, awaited, now)
        self._waiting.setdefault(awaited, {})[waiting] = None
        self._waiting_count += 1
        peer.waiting[waiting] = None
        if len(peer.waiting) <= PENDING_REQUESTS or peer.connection is None:
            return []
        connection = peer.connection
        del self._connections[connection]
        self._forget(peer)
        return [Close(connection, f"more than {PENDING_REQUESTS} pending requests")]

    def _serve_waiting(self, object_id: ObjectId, content: Content, payload: Buffer | OnDisk) -> list[Instruction]:
        """``object_id`` has come to exist: the responses of all that waits for it, and for the copies that this
        makes. A get of who is gone goes on waiting for what lies in a file, which may go before it comes back."""
        instructions: list[Instruction] = []
        created = deque([object_id])
        while created:
            for waiting in list(self._waiting.get(created.popleft(), ())):
                request, connection = waiting.request, waiting.peer.connection
                if request.type == _DUPLICATE:
                    self._contents.name(request.object_id, content)
                    created.append(request.object_id)
                    response = Response(request.request_id, _DUPLICATE_OK, request.object_id, b"")
                elif connection is not None:
                    self._done_waiting(waiting)
                    instructions.append(_get_ok(connection, request, payload))
                    continue
                elif isinstance(payload, OnDisk):
                    continue
                else:
                    cut = _cut(payload, request.length)
                    response = Response(request.request_id, _GET_OK, request.object_id, cut)
                self._done_waiting(waiting)
                self._respond_later_or_now(waiting.peer, response, instructions)
        self._limit_gone(None)
        return instructions

    def _done_waiting(self, waiting: _Waiting) -> None:
        self._waiting_count -= 1
        del waiting.peer.waiting[waiting]
        others = self._waiting[waiting.awaited]
        del others[waiting]
        if not others:
            del self._waiting[waiting.awaited]

    def _respond_later_or_now(self, peer: _Peer, response: Response, instructions: list[Instruction]) -> None:
        if peer.connection is not None:
            instructions.append(Respond(peer.connection, response))
        else:  # one pending request less, one unsent response more
            peer.unsent.append(response)
            peer.unsent_bytes += len(response.payload)
            self._gone_bytes += len(response.payload)

    def _limit_gone(self, now: float | None) -> None:
        """Forgets identities that are gone, longest first, until all limits hold; without ``now``, not by age."""
        while self._gone:
            peer = next(iter(self._gone.values()))
            expired = now is not None and now - peer.gone_since >= GONE_SECONDS
            if not expired and self._gone_requests <= GONE_REQUESTS and self._gone_bytes <= GONE_BYTES:
                return
            self._remove_gone(peer)
            self._forget(peer)

    def _remove_gone(self, peer: _Peer) -> None:
        del self._gone[peer.identity]
        self._gone_requests -= len(peer.waiting) + len(peer.unsent)
        self._gone_bytes -= peer.unsent_bytes

    def _forget(self, peer: _Peer) -> None:
        del self._peers[peer.identity]
        for waiting in list(peer.waiting):
            self._done_waiting(waiting)


def _get_ok(connection: int, request: Request, payload: Buffer | OnDisk) -> Respond | RespondFrom:
    number, object_id = request.request_id, request.object_id
    if not isinstance(payload, OnDisk):
        return Respond(connection, Response(number, _GET_OK, object_id, _cut(payload, request.length)))
    length = min(request.length, payload.length)
    if not length:
        return Respond(connection, Response(number, _GET_OK, object_id, b""))
    return RespondFrom(connection, number, object_id, OnDisk(payload.file, length))


def _cut(payload: Buffer, length: int) -> Buffer:
    return payload if length >= len(payload) else memoryview(payload)[:length]
