"""The rules of the object storage (SPEC section 7.3), without sockets."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.identifiers import ObjectId
from protocol.storage import NO_OBJECT, WHOLE, Request, RequestType, Response, ResponseType, Total
from reference_impl.object_storage import core, pending
from reference_impl.object_storage.core import ObjectStorage
from reference_impl.object_storage.instructions import Close, Instruction, Respond
from tests.object_storage.peers import oid

A, B, C, D = (oid(n) for n in range(1, 5))


def get(number: int, object_id: ObjectId, length: int = WHOLE) -> Request:
    return Request(number, RequestType.GET_OBJECT, object_id, length, b"")


def put(number: int, object_id: ObjectId, payload: bytes) -> Request:
    return Request(number, RequestType.SET_OBJECT, object_id, len(payload), payload)


def delete(number: int, object_id: ObjectId) -> Request:
    return Request(number, RequestType.DELETE_OBJECT, object_id, 0, b"")


def duplicate(number: int, object_id: ObjectId, source: ObjectId) -> Request:
    return Request(number, RequestType.DUPLICATE_OBJECT_ID, object_id, 48, source)


def set_ok(number: int, object_id: ObjectId) -> Response:
    return Response(number, ResponseType.SET_OK, object_id, b"")


def get_ok(number: int, object_id: ObjectId, payload: bytes) -> Response:
    return Response(number, ResponseType.GET_OK, object_id, payload)


def duplicate_ok(number: int, object_id: ObjectId) -> Response:
    return Response(number, ResponseType.DUPLICATE_OK, object_id, b"")


class World:
    """A storage, with connections that are named by their identity."""

    def __init__(self) -> None:
        self.storage = ObjectStorage()
        self.now = 1000.0
        self.connections: dict[str, int] = {}
        self.count = 0

    def connect(self, name: str) -> list[Instruction]:
        self.count += 1
        self.connections[name] = self.count
        assert self.storage.connected(self.count, self.now) == []
        return self.storage.identified(self.count, name.encode(), self.now)

    def disconnect(self, name: str) -> None:
        assert self.storage.disconnected(self.connections.pop(name), self.now) == []

    def do(self, name: str, request: Request) -> list[tuple[str, Response]]:
        """Who gets which response."""
        names = {number: name for name, number in self.connections.items()}
        result = []
        for instruction in self.storage.request(self.connections[name], request, self.now):
            assert isinstance(instruction, Respond)
            result.append((names[instruction.connection], instruction.response))
        return result

    def total(self) -> Total:
        return self.storage.total(self.now)


@pytest.fixture
def world() -> World:
    world = World()
    world.connect("x")
    world.connect("y")
    return world


def test_set_then_get(world: World) -> None:
    assert world.do("x", put(1, A, b"content")) == [("x", set_ok(1, A))]
    assert world.do("y", get(2, A)) == [("y", get_ok(2, A, b"content"))]


def test_set_replaces(world: World) -> None:
    world.do("x", put(1, A, b"old"))
    assert world.do("y", put(2, A, b"newer")) == [("y", set_ok(2, A))]
    assert world.do("x", get(3, A)) == [("x", get_ok(3, A, b"newer"))]
    assert world.total()[:3] == (1, 1, 5)


def test_an_empty_object_exists(world: World) -> None:
    world.do("x", put(1, A, b""))
    assert world.do("x", get(2, A)) == [("x", get_ok(2, A, b""))]
    assert world.total()[:3] == (1, 1, 0)


@pytest.mark.parametrize("length, expected", [(0, b""), (3, b"con"), (7, b"content"), (8, b"content")])
def test_get_cuts_to_the_wanted_length(world: World, length: int, expected: bytes) -> None:
    world.do("x", put(1, A, b"content"))
    assert world.do("x", get(2, A, length)) == [("x", get_ok(2, A, expected))]
    assert world.do("x", get(3, B, length)) == []
    assert world.do("x", put(4, B, b"content"))[0] == ("x", get_ok(3, B, expected))


def test_cutting_copies_nothing(world: World) -> None:
    payload = b"content"
    world.do("x", put(1, A, payload))
    [(_, response)] = world.do("x", get(2, A, 3))
    assert isinstance(response.payload, memoryview)
    assert response.payload.obj is payload


def test_delete(world: World) -> None:
    world.do("x", put(1, A, b"content"))
    assert world.do("y", delete(2, A)) == [("y", Response(2, ResponseType.DEL_OK, A, b""))]
    assert world.do("y", delete(3, A)) == [("y", Response(3, ResponseType.DEL_NOT_EXISTS, A, b""))]
    assert world.total() == Total(0, 0, 0, 0, 0, 0)


def test_a_get_waits_until_the_object_is_set_and_others_overtake_it(world: World) -> None:
    assert world.do("x", get(1, A)) == []
    assert world.do("x", put(2, B, b"b")) == [("x", set_ok(2, B))]
    assert world.do("x", get(3, B)) == [("x", get_ok(3, B, b"b"))]
    assert sorted(world.do("y", put(4, A, b"a"))) == [("x", get_ok(1, A, b"a")), ("y", set_ok(4, A))]
    assert world.do("y", put(5, A, b"a")) == [("y", set_ok(5, A))]


def test_gets_that_wait_for_the_same_object_are_answered_in_order(world: World) -> None:
    for number, name in enumerate("xyxy"):
        world.do(name, get(number, A))
    got = world.do("x", put(9, A, b"a"))
    assert got[:4] == [(name, get_ok(number, A, b"a")) for number, name in enumerate("xyxy")]


def test_a_pending_get_survives_a_delete(world: World) -> None:
    world.do("x", get(1, A))
    assert world.do("y", delete(2, A)) == [("y", Response(2, ResponseType.DEL_NOT_EXISTS, A, b""))]
    assert ("x", get_ok(1, A, b"a")) in world.do("y", put(3, A, b"a"))


def test_a_duplicate_survives_its_source(world: World) -> None:
    world.do("x", put(1, A, b"content"))
    assert world.do("x", duplicate(2, B, A)) == [("x", duplicate_ok(2, B))]
    assert world.total()[:3] == (2, 1, 7)
    world.do("x", delete(3, A))
    assert world.do("x", get(4, B)) == [("x", get_ok(4, B, b"content"))]
    world.do("x", delete(5, B))
    assert world.total()[:3] == (0, 0, 0)


def test_a_duplicate_does_not_follow_its_source(world: World) -> None:
    world.do("x", put(1, A, b"old"))
    world.do("x", duplicate(2, B, A))
    world.do("x", put(3, A, b"new"))
    assert world.do("x", get(4, B)) == [("x", get_ok(4, B, b"old"))]


def test_a_duplicate_replaces_its_target(world: World) -> None:
    world.do("x", put(1, A, b"a"))
    world.do("x", put(2, B, b"b"))
    world.do("x", duplicate(3, B, A))
    assert world.do("x", get(4, B)) == [("x", get_ok(4, B, b"a"))]
    assert world.total()[:3] == (2, 1, 1)


def test_a_duplicate_of_itself_changes_nothing(world: World) -> None:
    world.do("x", put(1, A, b"a"))
    assert world.do("x", duplicate(2, A, A)) == [("x", duplicate_ok(2, A))]
    assert world.total()[:3] == (1, 1, 1)


def test_a_get_waits_until_the_object_is_duplicated_to(world: World) -> None:
    world.do("x", get(1, B))
    world.do("y", put(2, A, b"a"))
    assert sorted(world.do("y", duplicate(3, B, A))) == [("x", get_ok(1, B, b"a")), ("y", duplicate_ok(3, B))]


def test_a_duplicate_waits_for_its_source(world: World) -> None:
    assert world.do("x", duplicate(1, B, A)) == []
    assert world.total()[3:5] == (1, 1)
    assert sorted(world.do("y", put(2, A, b"a"))) == [("x", duplicate_ok(1, B)), ("y", set_ok(2, A))]
    assert world.do("y", get(3, B)) == [("y", get_ok(3, B, b"a"))]


def test_a_chain_of_waiting_duplicates_of_any_length(world: World) -> None:
    length = 5000
    for i in reversed(range(length)):
        assert world.do("x", duplicate(i, oid(101 + i), oid(100 + i))) == []
    world.do("y", get(1, oid(100 + length)))
    got = world.do("x", put(length, oid(100), b"a"))
    assert got[:length] == [("x", duplicate_ok(i, oid(101 + i))) for i in range(length)]
    assert got[length:] == [("y", get_ok(1, oid(100 + length), b"a")), ("x", set_ok(length, oid(100)))]
    assert world.total() == Total(length + 1, 1, 1, 0, 0, 0)


def test_a_ring_of_waiting_duplicates_ends(world: World) -> None:
    world.do("x", duplicate(1, B, A))
    world.do("x", duplicate(2, A, B))
    world.do("x", duplicate(3, A, A))
    got = world.do("y", put(4, A, b"a"))
    assert sorted(got) == [("x", duplicate_ok(n, i)) for n, i in ((1, B), (2, A), (3, A))] + [("y", set_ok(4, A))]
    assert world.total() == Total(2, 1, 1, 0, 0, 0)


def test_total_counts(world: World) -> None:
    world.do("x", put(1, A, b"same"))
    world.do("x", put(2, B, b"same"))
    world.do("x", get(3, C))
    world.now += 2.5
    world.do("y", get(4, C))
    world.do("y", duplicate(5, A, D))
    world.now += 1.0
    expected = Total(
        object_count=2, unique_count=1, total_bytes=4, pending_requests=3, pending_objects=2, oldest_pending_seconds=3
    )
    request = Request(6, RequestType.INFO_GET_TOTAL, NO_OBJECT, 0, b"")
    answer = Response(6, ResponseType.INFO_GET_TOTAL_OK, NO_OBJECT, expected.to_bytes())
    assert world.do("y", request) == [("y", answer)]


def test_an_unknown_request_type_is_ignored(world: World) -> None:
    assert world.do("x", Request(1, 77, A, 5, b"")) == []
    assert world.total() == Total(0, 0, 0, 0, 0, 0)


def test_a_request_before_the_identity_is_ignored() -> None:
    storage = ObjectStorage()
    storage.connected(1, 0.0)
    assert storage.request(1, put(1, A, b"a"), 0.0) == []
    assert storage.request(2, put(1, A, b"a"), 0.0) == []
    assert storage.disconnected(1, 0.0) == []
    assert len(storage.total(0.0)) == 6
    assert storage.total(0.0).object_count == 0


def test_a_newer_connection_with_an_identity_in_use_closes_the_older_and_inherits(world: World) -> None:
    world.do("x", get(1, A))
    old = world.connections["x"]
    [instruction] = world.connect("x")
    assert isinstance(instruction, Close)
    assert instruction.connection == old
    assert world.storage.request(old, put(2, B, b"b"), world.now) == []
    assert ("x", get_ok(1, A, b"a")) in world.do("y", put(3, A, b"a"))
    assert world.storage.disconnected(old, world.now) == []  # too late to matter
    assert world.do("x", get(4, A)) == [("x", get_ok(4, A, b"a"))]


def test_a_get_pending_at_a_disconnect_goes_to_the_next_connection(world: World) -> None:
    world.do("x", get(1, A))
    world.disconnect("x")
    assert world.connect("x") == []
    assert ("x", get_ok(1, A, b"a")) in world.do("y", put(2, A, b"a"))


def test_what_becomes_due_while_nobody_is_there_is_sent_later_even_if_deleted(world: World) -> None:
    world.do("x", get(1, A))
    world.do("x", get(2, C))
    world.do("x", duplicate(3, B, A))
    world.disconnect("x")
    assert world.do("y", put(4, A, b"a")) == [("y", set_ok(4, A))]
    world.do("y", delete(5, A))
    assert world.do("y", get(6, B)) == [("y", get_ok(6, B, b"a"))]
    instructions = world.connect("x")
    assert instructions == [Respond(world.connections["x"], r) for r in (get_ok(1, A, b"a"), duplicate_ok(3, B))]
    assert ("x", get_ok(2, C, b"c")) in world.do("y", put(7, C, b"c"))
    world.disconnect("x")
    assert world.connect("x") == []


def test_a_responded_request_is_not_kept(world: World) -> None:
    world.do("x", put(1, A, b"a"))
    world.do("x", get(2, A))
    world.disconnect("x")
    assert world.connect("x") == []
    assert world.storage.deadline() is None


def test_who_is_gone_is_forgotten_after_a_time(world: World) -> None:
    world.do("x", get(1, A))
    world.do("y", get(2, A))
    world.disconnect("x")
    world.now += 10
    world.disconnect("y")
    world.connect("z")
    assert world.storage.deadline() == world.now - 10 + pending.GONE_SECONDS
    world.now += pending.GONE_SECONDS - 10
    assert world.total().pending_requests == 2
    assert world.storage.tick(world.now) == []
    assert world.total().pending_requests == 1
    world.now += 10
    world.storage.tick(world.now)
    assert world.total().pending_requests == 0
    assert world.storage.deadline() is None
    assert world.do("z", put(3, A, b"a")) == [("z", set_ok(3, A))]
    assert world.connect("x") == []


def test_who_comes_back_is_not_forgotten(world: World) -> None:
    world.do("x", get(1, A))
    world.disconnect("x")
    world.connect("x")
    world.now += 10 * pending.GONE_SECONDS
    world.storage.tick(world.now)
    assert ("x", get_ok(1, A, b"a")) in world.do("y", put(2, A, b"a"))


def test_too_many_requests_of_the_gone_forget_the_longest_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "GONE_REQUESTS", 3)
    for number in (1, 2):
        world.do("x", get(number, A))
        world.do("y", get(number, B))
    world.connect("z")
    world.disconnect("x")
    assert world.total().pending_requests == 4
    world.disconnect("y")
    assert world.total().pending_requests == 2
    world.do("z", put(3, A, b"a"))
    world.do("z", put(4, B, b"b"))
    assert world.connect("x") == []
    assert len(world.connect("y")) == 2


def test_too_many_bytes_for_the_gone_forget_the_longest_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "GONE_BYTES", 10)
    world.do("x", get(1, A))
    world.do("y", get(1, B))
    world.connect("z")
    world.disconnect("x")
    world.disconnect("y")
    world.do("z", put(1, A, b"123456"))
    world.do("z", put(2, B, b"123456"))
    assert world.connect("x") == []
    assert len(world.connect("y")) == 1


def test_too_many_pending_requests_close_the_connection(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "PENDING_REQUESTS", 2)
    world.do("x", get(1, A))
    world.do("x", get(2, B))
    [instruction] = world.storage.request(world.connections["x"], get(3, C), world.now)
    assert isinstance(instruction, Close)
    assert world.total() == Total(0, 0, 0, 0, 0, 0)
    assert world.do("y", put(4, A, b"a")) == [("y", set_ok(4, A))]
    assert world.connect("x") == []


def test_for_how_long_the_oldest_request_has_waited_is_known_without_looking_at_all(world: World) -> None:
    class Many(dict[Any, Any]):
        def values(self) -> Any:
            raise AssertionError("a million of them take a second")

    world.storage._pending.awaited = Many()
    for name, wanted in (("x", A), ("y", A), ("y", B)):
        world.do(name, get(1, wanted))
        world.now += 10
    assert world.total() == Total(0, 0, 0, 3, 2, 30)
    world.do("x", put(2, A, b"a"))
    assert world.total() == Total(1, 1, 1, 1, 1, 10)
    world.do("x", put(3, B, b"a"))
    assert world.total().oldest_pending_seconds == 0


def test_too_many_pending_requests_of_all_close_the_connection_that_has_the_most(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "ALL_PENDING_REQUESTS", 3)
    for number, object_id in enumerate((A, B, C)):
        world.do("x", get(number, object_id))
    [instruction] = world.storage.request(world.connections["y"], get(4, A), world.now)
    assert instruction == Close(world.connections["x"], instruction.reason)
    assert world.total().pending_requests == 1
    assert world.do("y", put(5, A, b"a")) == [("y", get_ok(4, A, b"a")), ("y", set_ok(5, A))]


def test_nothing_is_left_of_peers_that_left(world: World) -> None:
    for number in range(100):
        world.connect(f"peer {number}")
        world.do(f"peer {number}", put(1, A, b"a"))
        world.do(f"peer {number}", get(2, oid(1000 + number)))
        world.disconnect(f"peer {number}")
    world.do("x", delete(1, A))
    world.disconnect("x")
    world.disconnect("y")
    world.now += pending.GONE_SECONDS
    world.storage.tick(world.now)
    held = {**vars(world.storage), **vars(world.storage._pending)}
    for part in ("_contents", "_room", "_pending", "_gone_seconds"):
        del held[part]
    assert not any(held.values()), held
    assert world.total() == Total(0, 0, 0, 0, 0, 0)
