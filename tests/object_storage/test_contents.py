"""Which payloads share memory, and when it goes."""

from __future__ import annotations

import os
import random

import pytest

from protocol.identifiers import ObjectId
from protocol.storage import Buffer
from reference_impl.object_storage.contents import Contents
from tests.object_storage.peers import oid

SIZES = [0, 1, 1024, 1025, 65_536, 65_537, 300_000]


def payload_of(contents: Contents, object_id: ObjectId) -> Buffer:
    content = contents.get(object_id)
    assert content is not None
    return content.payload


@pytest.mark.parametrize("size", SIZES)
def test_equal_payloads_are_one_content(size: int) -> None:
    contents = Contents()
    payload = os.urandom(size)
    for number, copy in enumerate((payload, bytearray(payload), memoryview(bytes(payload)))):
        contents.set(oid(number), copy)
    assert (len(contents), contents.unique_count, contents.total_bytes) == (3, 1, size)
    assert payload_of(contents, oid(0)) is payload_of(contents, oid(2))


@pytest.mark.parametrize("size", SIZES[1:])
def test_different_payloads_of_one_size_are_two(size: int) -> None:
    contents = Contents()
    payload = bytearray(size)
    contents.set(oid(1), bytes(payload))
    payload[-1] = 1
    contents.set(oid(2), bytes(payload))
    assert (contents.unique_count, contents.total_bytes) == (2, 2 * size)


def test_payloads_that_only_look_equal_are_kept_apart() -> None:
    contents = Contents()
    size = 1 << 20
    first, second = bytearray(size), bytearray(size)
    second[size // 2] = 1  # between the pieces that are looked at
    contents.set(oid(1), first)
    contents.set(oid(2), second)
    contents.set(oid(3), bytes(first))
    assert bytes(payload_of(contents, oid(1))) == first
    assert bytes(payload_of(contents, oid(2))) == second
    assert (len(contents), contents.unique_count) == (3, 2)
    for number in (2, 1, 3):
        assert contents.delete(oid(number))
    assert (len(contents), contents.unique_count, contents.total_bytes) == (0, 0, 0)


def test_memory_goes_with_the_last_name() -> None:
    contents = Contents()
    content = contents.set(oid(1), b"content")
    contents.name(oid(2), content)
    assert contents.delete(oid(1))
    assert not contents.delete(oid(1))
    assert payload_of(contents, oid(2)) == b"content"
    assert contents.total_bytes == 7
    assert contents.delete(oid(2))
    assert (len(contents), contents.unique_count, contents.total_bytes) == (0, 0, 0)
    assert oid(2) not in contents


def test_naming_and_setting_the_same_again_changes_nothing() -> None:
    contents = Contents()
    content = contents.set(oid(1), b"content")
    contents.name(oid(1), content)
    contents.set(oid(1), b"content")
    assert (len(contents), contents.unique_count, contents.total_bytes) == (1, 1, 7)
    contents.set(oid(1), b"other")
    assert (len(contents), contents.unique_count, contents.total_bytes) == (1, 1, 5)


def test_counts_hold_in_a_random_walk() -> None:
    chance = random.Random(3)
    contents = Contents()
    model: dict[int, bytes] = {}
    payloads = [bytes([i]) * size for i in range(3) for size in (0, 5, 2000, 70_000)]
    for _ in range(5000):
        number = chance.randrange(20)
        choice = chance.randrange(3)
        if choice == 0:
            model[number] = chance.choice(payloads)
            contents.set(oid(number), model[number])
        elif choice == 1:
            assert contents.delete(oid(number)) == (model.pop(number, None) is not None)
        elif model:
            source = chance.choice(list(model))
            content = contents.get(oid(source))
            assert content is not None
            contents.name(oid(number), content)
            model[number] = model[source]
        assert len(contents) == len(model)
        assert contents.unique_count == len(set(model.values()))
        assert contents.total_bytes == sum(map(len, set(model.values())))
    assert {n: bytes(payload_of(contents, oid(n))) for n in model} == model
