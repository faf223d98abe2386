"""Whose objects are whose, where there are keys (SPEC SEC-15, SEC-16): the pure guard."""

from __future__ import annotations

import pytest

from protocol.identifiers import ClientId, ObjectId, new_object_id
from protocol.storage import Request, RequestType, ResponseType
from reference_impl.access.keys import EVERYTHING, PublicKey, Role
from reference_impl.object_storage import guard as module
from reference_impl.object_storage.guard import GuardedObjectStorage
from reference_impl.object_storage.instructions import Close, Instruction, Respond

ADA, BOB = ClientId(b"Client|ada"), ClientId(b"Client|bob")
ADAS, BOBS = new_object_id(ADA), new_object_id(BOB)
WHOLE = 2**64 - 1


def key(name: str, *roles: Role) -> PublicKey:
    return PublicKey(name, name.encode(), "", frozenset(roles))


class World:
    """Connections by number; each answer is kept apart."""

    def __init__(self) -> None:
        self.storage = GuardedObjectStorage()
        self.number = 0

    def connect(self, identity: bytes, owner: PublicKey) -> tuple[int, list[Instruction]]:
        self.number += 1
        self.storage.connected(self.number, 0.0)
        self.storage.admitted(self.number, owner)
        return self.number, self.closing(self.storage.identified(self.number, identity, 0.0))

    def ask(self, connection: int, kind: RequestType, object_id: ObjectId, payload: bytes = b"") -> list[Instruction]:
        length = WHOLE if kind is RequestType.GET_OBJECT else len(payload)
        return self.closing(self.storage.request(connection, Request(1, kind, object_id, length, payload), 0.0))

    def closing(self, instructions: list[Instruction]) -> list[Instruction]:
        """As the shell does: what is closed is told to the guard."""
        for instruction in instructions:
            if isinstance(instruction, Close):
                self.storage.closed(instruction.connection)
        return instructions


def kinds(instructions: list[Instruction]) -> list[ResponseType]:
    assert all(isinstance(instruction, Respond) for instruction in instructions), instructions
    return [instruction.response.type for instruction in instructions if isinstance(instruction, Respond)]


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("kind", "object_id", "payload"),
    [
        (RequestType.GET_OBJECT, BOBS, b""),
        (RequestType.SET_OBJECT, BOBS, b"mine now"),
        (RequestType.DELETE_OBJECT, BOBS, b""),
        (RequestType.DUPLICATE_OBJECT_ID, ADAS, BOBS),
        (RequestType.DUPLICATE_OBJECT_ID, BOBS, ADAS),
    ],
    ids=["get", "set", "delete", "duplicate of it", "duplicate to it"],  # object ids are new each time
)
def test_a_client_that_asks_for_an_object_of_another_loses_its_connection(
    world: World, kind: RequestType, object_id: ObjectId, payload: bytes
) -> None:
    bob, _ = world.connect(BOB, key("bob", Role.CLIENT))
    assert kinds(world.ask(bob, RequestType.SET_OBJECT, BOBS, b"secret")) == [ResponseType.SET_OK]
    ada, _ = world.connect(ADA, key("ada", Role.CLIENT))
    assert world.ask(ada, kind, object_id, payload) == [Close(ada, "the key ada asks for an object of another client")]
    assert world.ask(ada, RequestType.INFO_GET_TOTAL, ObjectId(bytes(32))) == []
    answer = world.ask(bob, RequestType.GET_OBJECT, BOBS)
    assert isinstance(answer[0], Respond) and answer[0].response.payload == b"secret"


def test_a_client_has_the_use_of_its_own(world: World) -> None:
    ada, _ = world.connect(ADA, key("ada", Role.CLIENT))
    copy = new_object_id(ADA)
    assert kinds(world.ask(ada, RequestType.SET_OBJECT, ADAS, b"x")) == [ResponseType.SET_OK]
    assert kinds(world.ask(ada, RequestType.DUPLICATE_OBJECT_ID, copy, ADAS)) == [ResponseType.DUPLICATE_OK]
    assert kinds(world.ask(ada, RequestType.GET_OBJECT, copy)) == [ResponseType.GET_OK]
    assert kinds(world.ask(ada, RequestType.DELETE_OBJECT, copy)) == [ResponseType.DEL_OK]
    assert kinds(world.ask(ada, RequestType.INFO_GET_TOTAL, ObjectId(bytes(32)))) == [ResponseType.INFO_GET_TOTAL_OK]


@pytest.mark.parametrize("roles", [{Role.WORKER}, {Role.WORKER, Role.CLIENT}, EVERYTHING])
def test_a_worker_and_the_cluster_have_the_use_of_all(world: World, roles: frozenset[Role]) -> None:
    worker, _ = world.connect(b"Worker|w|1|x", key("w", *roles))
    assert kinds(world.ask(worker, RequestType.SET_OBJECT, ADAS, b"x")) == [ResponseType.SET_OK]
    assert kinds(world.ask(worker, RequestType.GET_OBJECT, ADAS)) == [ResponseType.GET_OK]


@pytest.mark.parametrize("roles", [{Role.MONITOR}, {Role.MANAGER, Role.MONITOR}, frozenset()])
def test_others_have_no_business_here(world: World, roles: frozenset[Role]) -> None:
    number, answer = world.connect(ADA, key("mo", *roles))
    assert answer == [Close(number, "the key mo has neither the role client nor worker")]


def test_an_identity_of_another_key_is_refused_and_its_owner_keeps_the_connection(world: World) -> None:
    ada, _ = world.connect(ADA, key("ada", Role.CLIENT))
    for owner in (key("bob", Role.CLIENT), key("w", Role.WORKER)):
        number, answer = world.connect(ADA, owner)
        assert answer == [Close(number, f"the key {owner.name} says it is Client|ada, which is another's")]
    assert kinds(world.ask(ada, RequestType.SET_OBJECT, ADAS, b"x")) == [ResponseType.SET_OK]


def test_an_identity_stays_its_keys_when_the_connection_is_gone(world: World) -> None:
    ada, _ = world.connect(ADA, key("ada", Role.CLIENT))
    world.ask(ada, RequestType.SET_OBJECT, ADAS, b"x")
    world.storage.disconnected(ada, 0.0)
    world.storage.closed(ada)
    number, answer = world.connect(ADA, key("bob", Role.CLIENT))
    assert answer == [Close(number, "the key bob says it is Client|ada, which is another's")]
    ada, answer = world.connect(ADA, key("ada", Role.CLIENT))
    assert answer == [] and kinds(world.ask(ada, RequestType.GET_OBJECT, ADAS)) == [ResponseType.GET_OK]


def test_a_newer_connection_of_the_same_key_takes_over(world: World) -> None:
    first, _ = world.connect(ADA, key("ada", Role.CLIENT))
    second, answer = world.connect(ADA, key("ada", Role.CLIENT))
    assert answer == [Close(first, "a newer connection has its identity")]
    assert kinds(world.ask(second, RequestType.SET_OBJECT, ADAS, b"x")) == [ResponseType.SET_OK]
    assert world.storage.key_of(first) is None and world.storage.key_of(second) is not None


def test_who_uses_very_many_identities_loses_only_his_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_IDENTITIES", 10)
    ada, _ = world.connect(ADA, key("ada", Role.CLIENT))
    world.storage.disconnected(ada, 0.0)
    world.storage.closed(ada)
    for number in range(100):
        bob, _ = world.connect(b"Client|%d" % number, key("bob", Role.CLIENT))
        world.storage.disconnected(bob, 0.0)
        world.storage.closed(bob)
    assert len(world.storage._users) == 11
    _, answer = world.connect(ADA, key("bob", Role.CLIENT))
    assert isinstance(answer[0], Close)
