"""What goes to files and what is refused while memory and disk are bounded, without files."""

from __future__ import annotations

import os
import random

import pytest

from protocol.identifiers import ObjectId
from protocol.storage import ResponseType
from reference_impl.object_storage import core
from reference_impl.object_storage.contents import LARGE_BYTES
from reference_impl.object_storage.core import ObjectStorage
from reference_impl.object_storage.instructions import (
    Close,
    Instruction,
    Pause,
    Refused,
    Respond,
    RespondFrom,
    Resume,
)
from reference_impl.object_storage.room import RETRY_SECONDS, Compare, Limits, Remove, Write
from tests.object_storage.peers import oid
from tests.object_storage.test_core import World, delete, duplicate, get, put

A, B, C, D, E = (oid(n) for n in range(1, 6))
LARGE = LARGE_BYTES


def payload(size: int = LARGE) -> bytes:
    return os.urandom(size)


class Bounded(World):
    """A storage with room for two large objects in memory, and files that are dictionaries."""

    def __init__(self, memory: int | None = 2 * LARGE, disk: int | None = None) -> None:
        super().__init__()
        self.storage = ObjectStorage(Limits(memory, disk))
        self.files: dict[int, bytes] = {}
        self.broken = False
        self.log: list[str] = []

    def ask(self, name: str, *requests: object) -> list[str]:
        """Requests, and all that follows from them when every file operation is done at once; what is responded."""
        out: list[Instruction] = []
        for request in requests:
            out += self.storage.request(self.connections[name], request, self.now)  # type: ignore[arg-type]
        return self.carry_out(out)

    def carry_out(self, todo: list[Instruction]) -> list[str]:
        said: list[str] = []
        todo = list(todo)
        while todo:
            what = todo.pop(0)
            if isinstance(what, Write):
                if self.broken:
                    todo += self.storage.not_written(what.file, "the disk is full", self.now)
                    continue
                self.files[what.file] = bytes(what.payload)
                todo += self.storage.written(what.file, self.now)
            elif isinstance(what, Compare):
                equal = self.files[what.file] == bytes(what.payload)
                todo += self.storage.compared(what.ticket, equal, self.now)
            elif isinstance(what, Remove):
                del self.files[what.file]
            elif isinstance(what, Respond):
                said.append(what.response.type.name)
                if what.response.type is ResponseType.GET_OK:
                    said[-1] += f" {bytes(what.response.payload)[:4].hex()}"
            elif isinstance(what, RespondFrom):
                content = self.files[what.payload.file][: what.payload.length]
                said.append(f"GET_OK from file {content[:4].hex()}")
            elif isinstance(what, Refused):
                self.log.append(what.reason)
        return said

    def in_memory(self) -> int:
        return self.storage._contents.memory_bytes


def one(memory: int | None = 2 * LARGE, disk: int | None = None) -> Bounded:
    world = Bounded(memory, disk)
    world.connect("one")
    return world


def head(data: bytes) -> str:
    return data[:4].hex()


def test_the_least_recently_used_object_goes_to_a_file() -> None:
    world = one()
    first, second, third = payload(), payload(), payload()
    assert world.ask("one", put(1, A, first), put(2, B, second)) == ["SET_OK", "SET_OK"]
    assert world.ask("one", get(3, A)) == [f"GET_OK {head(first)}"]  # B is the least recently used one now
    assert world.ask("one", put(4, C, third)) == ["SET_OK"]
    assert list(world.files.values()) == [second]
    assert world.in_memory() == 2 * LARGE
    assert world.ask("one", get(5, B)) == [f"GET_OK from file {head(second)}"]
    assert world.ask("one", get(6, C)) == [f"GET_OK {head(third)}"]


def test_a_set_is_confirmed_only_when_there_is_room_and_holds_what_follows_it() -> None:
    world = one(LARGE)
    world.connect("two")
    connection = world.connections["one"]
    world.ask("one", put(1, A, payload()))
    out = world.storage.request(connection, put(2, B, payload()), 0)
    assert [type(i) for i in out] == [Write, Pause]
    assert world.storage.request(connection, delete(3, B), 0) == []
    assert world.ask("two", get(4, A)) != []  # others are served meanwhile
    assert world.in_memory() == LARGE
    out = world.storage.written(1, 0)
    types = [i.response.type for i in out if isinstance(i, Respond)]
    assert types == [ResponseType.SET_OK, ResponseType.DEL_OK]
    assert isinstance(out[-1], Resume)


def test_who_is_closed_for_too_many_pending_requests_while_its_set_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is left, and who was held behind it goes on."""
    monkeypatch.setattr(core, "ALL_PENDING_REQUESTS", 2)
    world = one(LARGE)
    world.connect("two")
    world.connect("three")
    world.ask("one", put(1, A, payload()), get(2, B), get(3, C))
    assert [type(i) for i in world.storage.request(world.connections["one"], put(4, D, payload()), 0)] == [Write, Pause]
    assert [type(i) for i in world.storage.request(world.connections["two"], put(5, D, payload()), 0)] == [Pause]
    [closed] = world.storage.request(world.connections["three"], get(6, E), 0)
    assert closed == Close(world.connections["one"], closed.reason)
    out = world.storage.written(1, 0)
    assert [i.response.type for i in out if isinstance(i, Respond)] == [ResponseType.SET_OK]
    assert out[-1] == Resume(world.connections["two"])


def test_an_object_larger_than_the_memory_goes_to_a_file_at_once() -> None:
    world = one(LARGE)
    large = payload(3 * LARGE)
    world.connect("two")
    assert world.ask("two", get(1, A)) == []
    assert world.ask("one", put(2, A, large)) == [f"GET_OK {head(large)}", "SET_OK"]
    assert world.in_memory() == 0
    assert world.ask("one", get(3, A, 10)) == [f"GET_OK from file {head(large)}"]
    assert world.ask("one", get(4, A, 0)) == ["GET_OK "]


def test_content_in_a_file_is_still_stored_once() -> None:
    world = one(LARGE)
    same = payload()
    world.ask("one", put(1, A, same), put(2, B, payload()))
    assert world.ask("one", put(3, C, bytes(same))) == ["SET_OK"]
    total = world.storage.total(0)
    assert (total.object_count, total.unique_count, total.total_bytes) == (3, 2, 2 * LARGE)
    assert world.ask("one", duplicate(4, D, A), delete(5, A), delete(6, C)) == ["DUPLICATE_OK", "DEL_OK", "DEL_OK"]
    assert world.ask("one", get(7, D)) == [f"GET_OK from file {head(same)}"]
    assert world.ask("one", delete(8, D)) == ["DEL_OK"]
    assert world.files == {}


def test_content_that_only_looks_like_that_in_a_file_is_kept_apart() -> None:
    world = one(1 << 20)
    first, second = bytearray(1 << 20), bytearray(1 << 20)
    second[1 << 19] = 1  # between the pieces that are looked at
    world.ask("one", put(1, A, bytes(first)), put(2, B, payload()))
    assert world.ask("one", put(3, C, bytes(second))) == ["SET_OK"]
    assert world.storage.total(0).unique_count == 3


def test_deleting_and_replacing_remove_the_file() -> None:
    world = one(LARGE + 100)
    world.ask("one", put(1, A, payload()), put(2, B, payload()))
    assert len(world.files) == 1
    world.ask("one", put(3, A, b"small"))
    assert world.files == {}
    world.ask("one", put(4, C, payload()), delete(5, B), delete(6, C))
    assert world.files == {}
    assert world.storage.total(0).total_bytes == 5


def test_an_object_that_is_deleted_while_it_is_written() -> None:
    world = one(LARGE)
    world.connect("two")
    world.ask("one", put(1, A, payload()))
    todo = world.storage.request(world.connections["one"], put(2, B, payload()), 0)
    assert world.ask("two", delete(3, A)) == ["DEL_OK", "SET_OK"]  # there is room now
    assert world.carry_out(todo) == []
    assert world.files == {}
    assert world.in_memory() == LARGE


def test_when_memory_and_disk_are_full_a_set_is_refused_and_changes_nothing() -> None:
    world = one(LARGE, LARGE)
    first = payload()
    world.ask("one", put(1, A, first), put(2, B, payload()))
    assert world.ask("one", put(3, C, payload()), put(4, A, payload()), get(5, A)) == [
        "DEL_NOT_EXISTS",
        "DEL_NOT_EXISTS",
        f"GET_OK from file {head(first)}",
    ]
    assert world.log == ["memory and disk are full"] * 2
    assert world.ask("one", delete(6, A), put(7, C, payload())) == ["DEL_OK", "SET_OK"]


def test_small_objects_stay_in_memory_and_are_refused_when_it_is_full_of_them() -> None:
    world = one(LARGE)
    for number in range(100):
        assert world.ask("one", put(number, oid(100 + number), payload(LARGE // 100))) == ["SET_OK"]
    assert world.ask("one", put(1, A, payload(LARGE // 100))) == ["DEL_NOT_EXISTS"]
    assert world.ask("one", put(2, B, payload())) == ["SET_OK"]  # a large one has the disk
    assert len(world.files) == 1


def test_a_disk_that_is_full_refuses_and_is_tried_again_later() -> None:
    world = one(LARGE)
    first, second = payload(), payload()
    world.ask("one", put(1, A, first))
    world.broken = True
    assert world.ask("one", put(2, B, second), get(3, A)) == ["DEL_NOT_EXISTS", f"GET_OK {head(first)}"]
    assert world.log == ["a file can't be written: the disk is full"]
    world.broken = False
    assert world.ask("one", put(4, B, second)) == ["DEL_NOT_EXISTS"]  # not tried so soon
    world.now += RETRY_SECONDS
    assert world.ask("one", put(5, B, second)) == ["SET_OK"]
    assert list(world.files.values()) == [first]
    world.broken = True
    assert world.ask("one", put(6, C, payload(2 * LARGE))) == ["DEL_NOT_EXISTS"]
    assert world.in_memory() == LARGE


def test_a_connection_that_goes_while_its_set_is_held_leaves_nothing() -> None:
    world = one(LARGE)
    world.connect("two")
    world.ask("two", put(1, A, payload()))
    todo = world.storage.request(world.connections["one"], put(2, B, payload(2 * LARGE)), 0)
    todo += world.storage.request(world.connections["one"], put(3, C, b"later"), 0)
    world.disconnect("one")
    assert world.carry_out(todo) == []
    assert world.files == {}
    assert world.storage.total(0).object_count == 1
    todo = world.storage.request(world.connections["two"], put(4, B, payload(2 * LARGE)), 0)
    world.count += 1
    world.storage.connected(world.count, 0)
    todo += world.storage.identified(world.count, b"two", 0)  # takes the identity
    assert world.carry_out(todo) == []
    assert world.files == {}


def test_a_comparison_for_a_connection_that_has_gone_says_nothing_about_the_next() -> None:
    world = one(LARGE)
    world.connect("two")
    same, other = payload(), bytearray(LARGE)
    world.ask("one", put(1, A, same), put(2, B, payload()))
    todo = world.storage.request(world.connections["one"], put(3, C, same), 0)
    assert isinstance(todo[0], Compare)
    assert world.storage.request(world.connections["two"], put(4, D, bytes(other)), 0) == [
        Pause(world.connections["two"])
    ]
    world.storage.disconnected(world.connections.pop("one"), 0)
    assert world.storage.compared(todo[0].ticket, True, 0) is not None
    names: list[ObjectId] = [A, B, C]
    assert [name in world.storage._contents for name in names] == [True, True, False]


def test_a_get_of_who_is_gone_is_answered_from_the_file_when_it_is_back() -> None:
    world = one(LARGE)
    world.connect("two")
    first = payload()
    world.ask("one", put(1, A, first), put(2, B, payload()))
    assert world.ask("two", get(3, C)) == []
    world.disconnect("two")
    assert world.ask("one", duplicate(4, C, A)) == ["DUPLICATE_OK"]
    assert world.carry_out(world.connect("two")) == [f"GET_OK from file {head(first)}"]
    world.disconnect("two")
    assert world.storage.total(0).pending_requests == 0


def test_sets_that_wait_for_room_are_served_in_their_order() -> None:
    world = one(LARGE)
    world.connect("two")
    world.ask("one", put(1, A, payload()))
    todo = world.storage.request(world.connections["one"], put(2, B, payload()), 0)
    todo += world.storage.request(world.connections["two"], put(3, C, payload()), 0)
    assert world.carry_out(todo) == ["SET_OK", "SET_OK"]
    assert len(world.files) == 2
    assert world.in_memory() == LARGE


class Slow(Bounded):
    """The same, but files are written, compared and removed later, in their order, and not always."""

    def __init__(self, memory: int, disk: int, rng: random.Random) -> None:
        super().__init__(memory, disk)
        self.rng = rng
        self.jobs: list[Write | Compare | Remove] = []
        self.said: list[Respond | RespondFrom] = []
        self.paused: set[int] = set()

    def take(self, out: list[Instruction]) -> None:
        for what in out:
            if isinstance(what, (Write, Compare, Remove)):
                self.jobs.append(what)
            elif isinstance(what, (Respond, RespondFrom)):
                self.said.append(what)
            elif isinstance(what, Pause):
                self.paused.add(what.connection)
            elif isinstance(what, Resume):
                self.paused.remove(what.connection)

    def work(self) -> None:
        """One job of the thread."""
        job = self.jobs.pop(0)
        self.now += 1
        if isinstance(job, Remove):
            del self.files[job.file]
        elif isinstance(job, Compare):
            self.take(self.storage.compared(job.ticket, self.files[job.file] == bytes(job.payload), self.now))
        elif self.rng.random() < 0.1:
            self.take(self.storage.not_written(job.file, "full", self.now))
        else:
            self.files[job.file] = bytes(job.payload)
            self.take(self.storage.written(job.file, self.now))


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_contents_are_right_and_the_bounds_hold(seed: int) -> None:
    rng = random.Random(seed)
    memory, disk = rng.choice([LARGE, 3 * LARGE, 5 * LARGE]), rng.choice([0, 2 * LARGE, 20 * LARGE])
    world = Slow(memory, disk, rng)
    pool = [bytes([n]) * rng.choice([100, LARGE, LARGE + n, 2 * LARGE]) for n in range(8)]
    names = [oid(n) for n in range(1, 7)]
    model: dict[ObjectId, bytes] = {}
    sent: dict[int, list[tuple[str, ObjectId, bytes]]] = {}
    for name in ("one", "two", "three"):
        world.connect(name)
        sent[world.connections[name]] = []

    def judge() -> None:
        """Takes what was responded, in the order of each connection, and compares it with the model."""
        for response in world.said:
            kind, name, content = sent[response.connection].pop(0)
            if isinstance(response, RespondFrom):
                assert kind == "get"
                assert world.files[response.payload.file][: response.payload.length] == model[name]
            elif response.response.type is ResponseType.GET_OK:
                assert (kind, bytes(response.response.payload)) == ("get", model[name])
            elif response.response.type is ResponseType.SET_OK:
                assert kind == "set"
                model[name] = content
            elif kind == "set":
                assert response.response.type is ResponseType.DEL_NOT_EXISTS
            else:
                assert response.response.type is (ResponseType.DEL_OK if name in model else ResponseType.DEL_NOT_EXISTS)
                model.pop(name, None)
        world.said.clear()
        assert world.in_memory() <= memory
        assert world.storage._contents.disk_bytes <= disk

    for _ in range(400):
        free = [c for c in sent if c not in world.paused]
        if world.jobs and (not free or rng.random() < 0.4):
            world.work()
        else:
            # What was received already comes although nothing more is read.
            connection = rng.choice(free if free and rng.random() < 0.9 else list(sent))
            name, content = rng.choice(names), rng.choice(pool)
            kind = rng.choice(["set", "set", "get", "delete"])
            if kind == "get" and (name not in model or connection in world.paused):
                continue
            sent[connection].append((kind, name, content))
            request = put(1, name, content) if kind == "set" else get(1, name) if kind == "get" else delete(1, name)
            world.take(world.storage.request(connection, request, world.now))
        judge()
    while world.jobs:
        world.work()
        judge()
    assert not world.paused
    assert not any(sent.values())
    assert {name for name in names if name in world.storage._contents} == set(model)
    world.ask("one", *(delete(1, name) for name in names))
    world.jobs += []
    total = world.storage.total(world.now)
    assert (total.object_count, total.unique_count, total.total_bytes) == (0, 0, 0)
    assert world.files == {}


def test_nothing_is_said_to_a_connection_that_has_gone() -> None:
    world = one(LARGE)
    world.connect("two")
    world.ask("two", put(1, A, payload()))
    first, wanted = world.connections["one"], payload()
    assert world.storage.request(first, get(2, B), 0) == []
    todo = world.storage.request(first, put(3, C, payload()), 0)
    todo += world.storage.request(world.connections["two"], put(4, B, wanted), 0)
    todo += world.storage.disconnected(world.connections.pop("one"), world.now)
    assert world.carry_out(todo) == ["SET_OK"]
    assert world.carry_out(world.connect("one")) == [f"GET_OK {head(wanted)}"]


def test_what_a_newer_connection_of_the_identity_gets_goes_to_it() -> None:
    world = one(LARGE)
    world.connect("two")
    world.ask("two", put(1, A, payload()))
    first = world.connections["one"]
    assert world.storage.request(first, get(2, B), 0) == []
    world.storage.request(first, put(3, C, payload()), 0)
    world.storage.request(world.connections["two"], put(4, B, payload()), 0)
    world.storage.written(1, 0)  # room for one
    out = world.connect("one")
    while not any(isinstance(what, Respond) for what in out):
        out += world.storage.written(2, 0)
    assert {what.connection for what in out if isinstance(what, Respond)} <= set(world.connections.values())


def test_who_fits_does_not_wait_behind_who_does_not() -> None:
    world = one(LARGE + 1000)
    world.connect("two")
    world.ask("one", put(1, A, payload()))
    todo = world.storage.request(world.connections["one"], put(2, B, payload()), 0)
    assert world.ask("two", put(3, C, b"small")) == ["SET_OK"]
    assert world.carry_out(todo) == ["SET_OK"]
