"""Identities, task ids, object ids (SPEC section 3)."""

from __future__ import annotations

import hashlib
import re

import pytest

from protocol import identifiers
from protocol.identifiers import Role, WorkerId


def test_new_identities_have_their_form() -> None:
    assert re.fullmatch(rb"Client\|[0-9a-f]{32}", identifiers.new_client_id())
    assert re.fullmatch(rb"Worker\|host-3\|[0-9a-f]{32}", identifiers.new_worker_id("host-3"))
    assert identifiers.new_client_id() != identifiers.new_client_id()
    assert len(identifiers.new_task_id()) == 16
    assert identifiers.new_task_id() != identifiers.new_task_id()


def test_a_workers_name_has_no_separator() -> None:
    with pytest.raises(ValueError, match=r"may not contain '\|': 'a\|b'"):
        identifiers.new_worker_id("a|b")


@pytest.mark.parametrize(
    ("identity", "role"),
    [
        (b"Client|00", Role.CLIENT),
        (b"Worker|w|00", Role.WORKER),
        (b"client|00", Role.OTHER),
        (b"ClientX", Role.OTHER),
        (b"", Role.OTHER),
        (b"\xff\x00", Role.OTHER),
        (b"WorkerManager|m|0", Role.OTHER),
    ],
)
def test_a_role_is_told_by_the_prefix(identity: bytes, role: Role) -> None:
    assert identifiers.role_of(identity) is role


def test_object_ids_begin_with_their_owner() -> None:
    owner = WorkerId(b"Worker|w|00")
    digest = hashlib.md5(owner).digest()
    assert identifiers.owner_digest(owner) == digest
    assert identifiers.object_id(owner, b"t" * 16) == digest + b"t" * 16
    fresh = identifiers.new_object_id(owner)
    assert fresh[:16] == digest
    assert len(fresh) == 32
    assert fresh != identifiers.new_object_id(owner)
    with pytest.raises(ValueError, match="16 bytes, not 3"):
        identifiers.object_id(owner, b"tag")


def test_the_same_content_has_the_same_id() -> None:
    assert identifiers.content_object_id(b"a", b"x") == identifiers.content_object_id(b"a", b"x")
    assert identifiers.content_object_id(b"a", b"x") != identifiers.content_object_id(b"a", b"y")
    assert identifiers.content_object_id(b"a", b"x") != identifiers.content_object_id(b"b", b"x")


def test_where_a_clients_serializer_lies() -> None:
    """As opengris-scaler 2.9.0 has it: md5 of the identity, md5 of the word."""
    expected = hashlib.md5(b"Client|1").digest() + hashlib.md5(b"serializer").digest()
    assert identifiers.serializer_object_id(b"Client|1") == expected


def test_task_ids_from_text() -> None:
    assert identifiers.parse_task_id("00" * 15 + "ff") == b"\0" * 15 + b"\xff"
    for text in ("", "00", "zz" * 16, "00" * 17):
        with pytest.raises(ValueError):
            identifiers.parse_task_id(text)
