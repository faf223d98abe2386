"""Mutants of the object storage."""

from __future__ import annotations

import os
from typing import Any

from conformance_tests.mutants.model import Mutants, Patcher
from protocol import storage
from protocol.errors import ProtocolError
from protocol.storage import Request, RequestType, Response, ResponseType, Total
from reference_impl.object_storage import server
from reference_impl.object_storage.contents import Contents, OnDisk
from reference_impl.object_storage.core import ObjectStorage
from reference_impl.object_storage.files import SpillFiles
from reference_impl.object_storage.instructions import Close, Respond
from reference_impl.object_storage.outgoing import Outgoing
from reference_impl.object_storage.room import Outcome, Put

mutant = MUTANTS = Mutants("object-storage")


@mutant("STO-27", "the deletion of everything of an owner deletes nothing")
def everything_is_nothing(p: Patcher) -> None:
    from reference_impl.object_storage import core

    p.set(core, "EVERYTHING", b"")


@mutant("STO-09", "a set is not answered")
def set_not_answered(p: Patcher) -> None:
    _responses(p, lambda r: None if r.type == ResponseType.SET_OK else r)


@mutant("STO-09", "a set does not replace what is there")
def set_keeps_the_first(p: Patcher) -> None:
    def set_(self: Contents, object_id: Any, payload: Any) -> Any:
        return self.get(object_id) or before(self, object_id, payload)

    before = Contents.set
    p.set(Contents, "set", set_)


@mutant("STO-10", "a get answers one byte more than it was asked for")
def get_ignores_the_length(p: Patcher) -> None:
    from reference_impl.object_storage import core

    p.set(core, "_cut", lambda payload, length: payload)


@mutant("STO-10", "a get of an empty object waits")
def get_of_empty_waits(p: Patcher) -> None:
    def get(self: Contents, object_id: Any) -> Any:
        content = before(self, object_id)
        return content if content is not None and len(content.payload) else None

    before = Contents.get
    p.set(Contents, "get", get)


@mutant("STO-11", "a get of a missing object is answered at once, with nothing")
def get_does_not_wait(p: Patcher) -> None:
    def wait(self: ObjectStorage, peer: Any, request: Request, awaited: Any, now: float) -> Any:
        if request.type != RequestType.GET_OBJECT:
            return before(self, peer, request, awaited, now)
        response = Response(request.request_id, ResponseType.GET_OK, request.object_id, b"")
        return [Respond(peer.connection, response)]

    before = ObjectStorage._wait
    p.set(ObjectStorage, "_wait", wait)


@mutant("STO-11", "of several gets that wait for an object only the first is answered")
def only_the_first_waiter(p: Patcher) -> None:
    def serve(self: ObjectStorage, object_id: Any, content: Any, payload: Any) -> Any:
        return before(self, object_id, content, payload)[:1]

    before = ObjectStorage._serve_waiting
    p.set(ObjectStorage, "_serve_waiting", serve)


@mutant("STO-11", "a get that waits is not answered when the object is made by a duplicate")
def duplicates_wake_nobody(p: Patcher) -> None:
    def request(self: ObjectStorage, connection: int, asked: Request, now: float) -> Any:
        found = before(self, connection, asked, now)
        return found[-1:] if asked.type == RequestType.DUPLICATE_OBJECT_ID else found

    before = ObjectStorage.request
    p.set(ObjectStorage, "request", request)


@mutant("STO-12", "a delete of what is not there is answered with delOK")
def delete_always_ok(p: Patcher) -> None:
    _responses(p, lambda r: r._replace(type=ResponseType.DEL_OK) if r.type == ResponseType.DEL_NOT_EXISTS else r)


@mutant("STO-12", "a delete deletes nothing")
def delete_keeps(p: Patcher) -> None:
    p.set(Contents, "delete", lambda self, object_id: object_id in self)


@mutant("STO-12", "a delete ends the gets that wait for the id")
def delete_ends_waiting_gets(p: Patcher) -> None:
    def request(self: ObjectStorage, connection: int, asked: Request, now: float) -> Any:
        if asked.type == RequestType.DELETE_OBJECT:
            for waiting in list(self._pending.awaited.get(asked.object_id, ())):
                self._pending.done(waiting)
        return before(self, connection, asked, now)

    before = ObjectStorage.request
    p.set(ObjectStorage, "request", request)


@mutant("STO-13", "a duplicate of a missing source is answered at once")
def duplicate_does_not_wait(p: Patcher) -> None:
    def wait(self: ObjectStorage, peer: Any, request: Request, awaited: Any, now: float) -> Any:
        if request.type != RequestType.DUPLICATE_OBJECT_ID:
            return before(self, peer, request, awaited, now)
        return [
            Respond(peer.connection, Response(request.request_id, ResponseType.DUPLICATE_OK, request.object_id, b""))
        ]

    before = ObjectStorage._wait
    p.set(ObjectStorage, "_wait", wait)


@mutant("STO-14", "a copy is gone when its source is deleted")
def copy_goes_with_its_source(p: Patcher) -> None:
    def delete(self: Contents, object_id: Any) -> bool:
        content = self.get(object_id)
        names = [name for name, other in self._objects.items() if other is content] if content is not None else []
        return sum(before(self, name) for name in names) > 0

    before = Contents.delete
    p.set(Contents, "delete", delete)


@mutant("STO-14", "a copy changes when its source is set again")
def copy_follows_its_source(p: Patcher) -> None:
    def set_(self: Contents, object_id: Any, payload: Any) -> Any:
        old = self.get(object_id)
        names = [name for name, other in self._objects.items() if other is old] if old is not None else []
        content = before(self, object_id, payload)
        for name in names:
            self.name(name, content)
        return content

    before = Contents.set
    p.set(Contents, "set", set_)


@mutant("STO-15", "the number of distinct contents counts equal ones apart")
def unique_counts_ids(p: Patcher) -> None:
    def total(self: ObjectStorage, now: float) -> Total:
        found = before(self, now)
        return found._replace(unique_count=found.object_count)

    before = ObjectStorage.total
    p.set(ObjectStorage, "total", total)


@mutant("STO-15", "pending requests are not counted")
def pending_not_counted(p: Patcher) -> None:
    def total(self: ObjectStorage, now: float) -> Total:
        return before(self, now)._replace(pending_requests=0)

    before = ObjectStorage.total
    p.set(ObjectStorage, "total", total)


@mutant("STO-15", "the bytes of a deleted object still count")
def bytes_leak(p: Patcher) -> None:
    def release(self: Contents, content: Any) -> None:
        total = self.total_bytes
        before(self, content)
        self.total_bytes = total

    before = Contents._release
    p.set(Contents, "_release", release)


@mutant("STO-16", "answers of one connection come in reverse order where several are due together")
def answers_out_of_order(p: Patcher) -> None:
    def send(self: Outgoing) -> None:
        if len(self._parts) > 4:
            half = len(self._parts) // 2
            self._parts.rotate(half - half % 2)
        before(self)

    before = Outgoing.send
    p.set(Outgoing, "send", send)


@mutant("STO-08", "the response carries another request id")
def response_id_off_by_one(p: Patcher) -> None:
    _responses(p, lambda r: r._replace(request_id=r.request_id + 1))


@mutant("STO-08", "the response does not name the object")
def response_names_no_object(p: Patcher) -> None:
    _responses(p, lambda r: r._replace(object_id=bytes(32)))


@mutant("STO-02", "other magic bytes are accepted")
def magic_not_checked(p: Patcher) -> None:
    def greet(self: Any) -> bool:
        start = self._start
        if self._end - start >= 4:
            self._small[start : start + 4] = self._magic
        return bool(before(self))

    before = storage._Side._greet
    p.set(storage._Side, "_greet", greet)


@mutant("STO-04", "an older connection with the same identity stays open")
def older_connection_stays(p: Patcher) -> None:
    def identified(self: ObjectStorage, connection: int, identity: Any, now: float) -> Any:
        old = self._peers.get(identity)
        number = old.connection if old is not None else None
        found = before(self, connection, identity, now)
        if number is not None:
            self._connections[number] = old
        return [i for i in found if not isinstance(i, Close)]

    before = ObjectStorage.identified
    p.set(ObjectStorage, "identified", identified)


@mutant("STO-17", "what waits is forgotten with its connection")
def waiting_goes_with_the_connection(p: Patcher) -> None:
    def disconnected(self: ObjectStorage, connection: int, now: float) -> Any:
        peer = self._connections.get(connection)
        for waiting in list(peer.waiting) if peer is not None else []:
            self._pending.done(waiting)
        return before(self, connection, now)

    before = ObjectStorage.disconnected
    p.set(ObjectStorage, "disconnected", disconnected)


@mutant("STO-18", "a request of an unknown type closes the connection")
def unknown_type_closes(p: Patcher) -> None:
    def request(self: ObjectStorage, connection: int, asked: Request, now: float) -> Any:
        if not isinstance(asked.type, RequestType):
            raise ProtocolError(f"an unknown request type {asked.type}")
        return before(self, connection, asked, now)

    before = ObjectStorage.request
    p.set(ObjectStorage, "request", request)


@mutant("STO-18", "a request of an unknown type is answered")
def unknown_type_answered(p: Patcher) -> None:
    def request(self: ObjectStorage, connection: int, asked: Request, now: float) -> Any:
        if not isinstance(asked.type, RequestType):
            return [Respond(connection, Response(asked.request_id, ResponseType.DEL_NOT_EXISTS, asked.object_id, b""))]
        return before(self, connection, asked, now)

    before = ObjectStorage.request
    p.set(ObjectStorage, "request", request)


@mutant("STO-19", "an unreadable header ends the whole process")
def unreadable_header_ends_the_process(p: Patcher) -> None:
    def lost(self: Any, connection: Any, level: int, reason: str) -> None:
        if level >= 30:
            raise SystemExit(1)
        before(self, connection, level, reason)

    before = server.Server._lost
    p.set(server.Server, "_lost", lost)


@mutant("STO-19", "an unreadable header is passed over, and its connection stays open")
def unreadable_header_ignored(p: Patcher) -> None:
    def lost(self: Any, connection: Any, level: int, reason: str) -> None:
        if level < 30:
            before(self, connection, level, reason)

    before = server.Server._lost
    p.set(server.Server, "_lost", lost)


@mutant("STO-03", "the storage greets with another identity")
def other_identity(p: Patcher) -> None:
    def greeting(identity: Any, magic: Any) -> Any:
        return before(b"Storage", magic)

    before = storage.greeting
    p.set(storage, "greeting", greeting)


def _responses(p: Patcher, change: Any) -> None:
    """Each response is changed, or left out where the change is None."""

    def perform(self: Any, instructions: Any) -> None:
        kept: list[Any] = []
        for instruction in instructions:
            response = change(instruction.response) if isinstance(instruction, Respond) else None
            if response is not None:
                kept.append(Respond(instruction.connection, response))
            elif isinstance(instruction, Close):
                kept.append(instruction)
        before(self, kept)

    before = server.Server._perform
    p.set(server.Server, "_perform", perform)


@mutant("STO-22", "a set for which there is no room is confirmed all the same")
def full_says_ok(p: Patcher) -> None:
    def ended(self: ObjectStorage, put: Put, outcome: Outcome, instructions: Any) -> None:
        if outcome is Outcome.REFUSED:
            done = Response(put.request.request_id, ResponseType.SET_OK, put.request.object_id, b"")
            instructions.append(Respond(put.connection, done))
        else:
            before(self, put, outcome, instructions)

    before = ObjectStorage._put_ended
    p.set(ObjectStorage, "_put_ended", ended)


@mutant("STO-22", "a set for which there is no room closes the connection")
def full_closes(p: Patcher) -> None:
    def ended(self: ObjectStorage, put: Put, outcome: Outcome, instructions: Any) -> None:
        if outcome is Outcome.REFUSED:
            instructions += self.disconnected(put.connection, 0.0)
            instructions.append(Close(put.connection, "full"))
        else:
            before(self, put, outcome, instructions)

    before = ObjectStorage._put_ended
    p.set(ObjectStorage, "_put_ended", ended)


@mutant("STO-22", "a set that is refused deletes what was there")
def full_deletes(p: Patcher) -> None:
    def ended(self: ObjectStorage, put: Put, outcome: Outcome, instructions: Any) -> None:
        if outcome is Outcome.REFUSED:
            self._contents.delete(put.request.object_id)
        before(self, put, outcome, instructions)

    before = ObjectStorage._put_ended
    p.set(ObjectStorage, "_put_ended", ended)


@mutant("STO-23", "what lies in a file is stored a second time when it is set again")
def files_are_not_shared(p: Patcher) -> None:
    p.set(Contents, "like", lambda self, key: None)


@mutant("STO-23", "what is taken for equal to a file is not compared with it")
def files_are_not_compared(p: Patcher) -> None:
    def key(payload: Any) -> Any:
        return len(payload)

    from reference_impl.object_storage import room

    p.set(room, "key_of", key)
    p.set(SpillFiles, "_equal", lambda self, file, payload: True)


@mutant("STO-23", "the disk of a deleted object is never used again")
def disk_is_not_given_back(p: Patcher) -> None:
    def release(self: Contents, content: Any) -> None:
        disk = self.disk_bytes
        before(self, content)
        if self.disk_bytes < disk:
            self.disk_bytes, self.total_bytes = disk, self.total_bytes + disk - self.disk_bytes

    before = Contents._release
    p.set(Contents, "_release", release)


@mutant("STO-23", "a get of an object in a file ignores the wanted length")
def whole_file(p: Patcher) -> None:
    def from_file(self: Any, connection: Any, what: Any) -> None:
        whole = self._files.open(what.payload.file)
        length = os.fstat(whole).st_size
        os.close(whole)
        before(self, connection, what._replace(payload=OnDisk(what.payload.file, length)))

    before = server.Server._queue_file
    p.set(server.Server, "_queue_file", from_file)


@mutant("STO-25", "the storage ends when it is full")
def full_ends(p: Patcher) -> None:
    def ended(self: ObjectStorage, put: Put, outcome: Outcome, instructions: Any) -> None:
        if outcome is Outcome.REFUSED:
            os._exit(1)
        before(self, put, outcome, instructions)

    before = ObjectStorage._put_ended
    p.set(ObjectStorage, "_put_ended", ended)
