"""The rules of the object storage (SPEC section 7.3), sans-IO: events in, instructions out.

An event is a method call: ``connected``, ``identified``, ``request``, ``disconnected``, ``tick``, and of the files
``written``, ``not_written``, ``compared``. ``connection`` is a number that the shell gives to a connection and never
uses again; ``now`` is a monotonic time in seconds. Each returns the list of instructions that follow, in order.
"""

from __future__ import annotations

from collections import deque

from protocol.identifiers import EVERYTHING, Identity, ObjectId
from protocol.storage import Buffer, Request, RequestType, Response, ResponseType, Total
from reference_impl.object_storage.contents import Content, Contents, OnDisk
from reference_impl.object_storage.instructions import Close, Instruction, Pause, Refused, Respond, RespondFrom, Resume
from reference_impl.object_storage.pending import GONE_SECONDS, Peer, Pending
from reference_impl.object_storage.room import UNLIMITED, Chore, Limits, Outcome, Put, Remove, Room

PENDING_REQUESTS = 1_000_000
"""How many requests of one connection may be pending; at more it is closed, and they are forgotten."""
ALL_PENDING_REQUESTS = 2_000_000
"""The same for all together; at more that one is closed which has the most."""

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


class ObjectStorage:
    """All objects, and all requests that wait for one.

    Requests of a connection are answered in order, except that a get or duplicate of a missing object steps aside
    until it exists: see ``pending``, which bounds what is kept for who is gone, and PENDING_REQUESTS. Who is forgotten
    loses the duplicates that it had pending, too. The objects themselves are kept until they are deleted, in memory or,
    where that is bounded, in files: see ``room``. While a set is held, so is everything that its connection asked for
    later.
    """

    def __init__(self, limits: Limits = UNLIMITED, gone_seconds: float = GONE_SECONDS) -> None:
        self._contents = Contents()
        self._room = Room(self._contents, limits)
        self._pending = Pending(gone_seconds)
        self._connections: dict[int, Peer | None] = {}  # None: not identified yet
        self._peers: dict[Identity, Peer] = {}

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
            peer = self._peers[identity] = Peer(identity)
        elif peer.connection is not None:
            instructions.append(Close(peer.connection, "a newer connection has its identity"))
            dropped = self._drop_held(peer, peer.connection)
            del self._connections[peer.connection]
        else:
            self._pending.come_back(peer)
        peer.connection = connection
        self._connections[connection] = peer
        instructions += [Respond(connection, response) for response in peer.unsent]
        peer.unsent, peer.unsent_bytes = [], 0
        for waiting in list(peer.waiting):  # for what lies in a file: only then
            content = self._contents.get(waiting.awaited)
            if content is not None:
                self._pending.done(waiting)
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
        self, peer: Peer, connection: int, request: Request, now: float, instructions: list[Instruction]
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
                if object_id in self._pending.awaited:
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
            deleted = contents.delete(object_id)
            if not deleted and object_id[16:] == EVERYTHING:
                deleted = contents.delete_all(object_id[:16])
            outcome_type = _DEL_OK if deleted else _DEL_NOT_EXISTS
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
        if object_id in self._pending.awaited:
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

    def _drop_held(self, peer: Peer, connection: int) -> bool:
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
                self._pending.leave(peer)
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
        return self._pending.deadline()

    def total(self, now: float) -> Total:
        """What infoGetTotal answers."""
        return Total(
            object_count=len(self._contents),
            unique_count=self._contents.unique_count,
            total_bytes=self._contents.total_bytes,
            pending_requests=self._pending.count,
            pending_objects=len(self._pending.awaited),
            oldest_pending_seconds=int(self._pending.oldest(now)),
        )

    def _wait(self, peer: Peer, request: Request, awaited: ObjectId, now: float) -> list[Instruction]:
        self._pending.add(peer, request, awaited, now)
        if len(peer.waiting) > PENDING_REQUESTS:
            reason = f"more than {PENDING_REQUESTS} pending requests"
        elif self._pending.count > ALL_PENDING_REQUESTS:
            peer = max(self._peers.values(), key=lambda one: len(one.waiting) if one.connection is not None else 0)
            reason = f"more than {ALL_PENDING_REQUESTS} pending requests of all, most of them are its own"
        else:
            return []
        connection = peer.connection
        assert connection is not None  # those of who is gone are fewer: GONE_REQUESTS
        self._drop_held(peer, connection)  # who is held behind it goes on after this request
        del self._connections[connection]
        self._forget(peer)
        return [Close(connection, reason)]

    def _serve_waiting(self, object_id: ObjectId, content: Content, payload: Buffer | OnDisk) -> list[Instruction]:
        """``object_id`` has come to exist: the responses of all that waits for it, and for the copies that this
        makes. A get of who is gone goes on waiting for what lies in a file, which may go before it comes back."""
        instructions: list[Instruction] = []
        created = deque([object_id])
        while created:
            for waiting in list(self._pending.awaited.get(created.popleft(), ())):
                request, connection = waiting.request, waiting.peer.connection
                if request.type == _DUPLICATE:
                    self._contents.name(request.object_id, content)
                    created.append(request.object_id)
                    response = Response(request.request_id, _DUPLICATE_OK, request.object_id, b"")
                elif connection is not None:
                    self._pending.done(waiting)
                    instructions.append(_get_ok(connection, request, payload))
                    continue
                elif isinstance(payload, OnDisk):
                    continue
                else:
                    cut = _cut(payload, request.length)
                    response = Response(request.request_id, _GET_OK, request.object_id, cut)
                self._pending.done(waiting)
                if connection is not None:
                    instructions.append(Respond(connection, response))
                else:
                    self._pending.keep(waiting.peer, response)
        self._limit_gone(None)
        return instructions

    def _limit_gone(self, now: float | None) -> None:
        """Forgets identities that are gone, longest first, until all limits hold; without ``now``, not by age."""
        while (peer := self._pending.too_long_gone(now)) is not None:
            self._pending.come_back(peer)
            self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        del self._peers[peer.identity]
        self._pending.forget(peer)


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
