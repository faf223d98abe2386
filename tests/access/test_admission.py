"""Which key may speak under which identity (SPEC SEC-12, SEC-13)."""

from __future__ import annotations

import pytest

from protocol.identifiers import Identity
from reference_impl.access import admission as module
from reference_impl.access.admission import Admission
from reference_impl.access.keys import EVERYTHING, PublicKey, Role

ADA, BOB, W1, BOSS = b"ada", b"bob", b"w1", b"boss"
CLIENT, WORKER, MANAGER = Identity(b"Client|1"), Identity(b"Worker|w|1"), Identity(b"Manager|m|1")


def key(name: bytes, *roles: Role) -> PublicKey:
    return PublicKey(name.decode(), name, "", frozenset(roles))


KEYS = {
    ADA: key(ADA, Role.CLIENT), BOB: key(BOB, Role.CLIENT, Role.MONITOR), W1: key(W1, Role.WORKER),
    BOSS: key(BOSS, *EVERYTHING),
}  # fmt: skip


def admission() -> Admission:
    return Admission(lambda: KEYS, lambda identity: False)


@pytest.mark.parametrize("user", [ADA, BOB, W1, BOSS, b"eve"])
@pytest.mark.parametrize(("identity", "role"), [(CLIENT, Role.CLIENT), (WORKER, Role.WORKER), (MANAGER, Role.MANAGER)])
def test_an_identity_needs_a_key_with_its_role(user: bytes, identity: Identity, role: Role) -> None:
    refusal = admission().refusal(identity, user)
    if user not in KEYS:
        assert refusal == "its key was revoked"
    elif role in KEYS[user].roles:
        assert refusal is None
    else:
        assert refusal == f"its key {user.decode()} has not the role {role.value}"


def test_an_identity_belongs_to_the_key_that_used_it_first() -> None:
    door = admission()
    assert door.refusal(CLIENT, ADA) is None
    assert door.refusal(CLIENT, BOB) == "the key bob speaks under an identity of another key"
    assert door.refusal(CLIENT, BOSS) == "the key boss speaks under an identity of another key"
    assert door.refusal(CLIENT, ADA) is None
    assert door.refusal(Identity(b"Client|2"), BOB) is None


def test_a_refused_message_ties_nothing() -> None:
    door = admission()
    assert door.refusal(CLIENT, W1) is not None
    assert door.refusal(CLIENT, ADA) is None


def test_what_a_revoked_key_loses() -> None:
    allowed = dict(KEYS)
    door = Admission(lambda: allowed, lambda identity: False)
    other = Identity(b"Client|2")
    for identity, user in ((CLIENT, ADA), (other, BOB), (WORKER, W1)):
        assert door.refusal(identity, user) is None
    del allowed[ADA]
    assert door.changed() == [CLIENT]
    assert door.refusal(CLIENT, ADA) == "its key was revoked"
    assert door.refusal(other, BOB) is None
    allowed[W1] = key(W1, Role.CLIENT)
    assert door.changed() == [WORKER]  # it lost the role
    assert door.changed() == []


def test_a_key_that_has_just_been_allowed_counts_at_once() -> None:
    allowed: dict[bytes, PublicKey] = {}
    door = Admission(lambda: allowed, lambda identity: False)
    assert door.refusal(CLIENT, ADA) == "its key was revoked"
    allowed[ADA] = KEYS[ADA]
    assert door.refusal(CLIENT, ADA) is None


def test_memory_is_bounded_and_those_who_are_known_stay_tied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_IDENTITIES", 100)
    door = Admission(lambda: KEYS, lambda identity: identity == CLIENT)
    assert door.refusal(CLIENT, ADA) is None
    for number in range(1000):
        assert door.refusal(Identity(b"Client|other%d" % number), BOB) is None
    assert len(door._users) <= 101
    assert door.refusal(CLIENT, BOB) == "the key bob speaks under an identity of another key"
