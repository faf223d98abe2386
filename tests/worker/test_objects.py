"""The agent's object cache: fetched once, kept while used, bounded otherwise."""

from __future__ import annotations

import random

import pytest

from protocol.identifiers import ObjectId, TaskId
from reference_impl.worker.objects import Holder, ObjectCache


def name(number: int) -> ObjectId:
    return ObjectId(number.to_bytes(32, "big"))


def holder(number: int) -> Holder:
    return (0, TaskId(number.to_bytes(16, "big")))


A, B = holder(1), holder(2)


def test_each_object_is_fetched_once_for_all() -> None:
    cache = ObjectCache(100)
    assert cache.want(A, [name(1), name(2), name(1)]) == [name(1), name(2)]
    assert cache.want(B, [name(2), name(3)]) == [name(3)]
    assert cache.arrived(name(2), b"two") == []
    assert cache.arrived(name(1), b"one") == [A]
    assert cache.complete(A) and not cache.complete(B)
    assert cache.arrived(name(3), b"three") == [B]
    assert cache.payload(name(2)) == b"two"
    cache.release(A)
    cache.release(B)
    assert cache.want(A, [name(1), name(2), name(3)]) == []
    assert cache.complete(A)


def test_the_bound_drops_the_least_recently_used_and_never_what_is_in_use() -> None:
    cache = ObjectCache(10)
    cache.want(A, [name(1), name(2)])
    cache.arrived(name(1), bytes(6))
    cache.arrived(name(2), bytes(6))
    assert cache.bytes == 12
    assert len(cache.payload(name(1))) == 6
    cache.release(A)
    assert cache.bytes == 6
    assert cache.want(B, [name(2)]) == []
    assert cache.want(A, [name(1)]) == [name(1)]


def test_deleted_objects_go_now_or_after_their_last_use() -> None:
    cache = ObjectCache(100)
    cache.want(A, [name(1)])
    cache.arrived(name(1), b"x")
    cache.forget([name(1), name(9)])
    assert cache.payload(name(1)) == b"x"
    cache.release(A)
    assert cache.bytes == 0
    cache.want(A, [name(2)])
    cache.arrived(name(2), b"x")
    cache.release(A)
    cache.forget([name(2)])
    assert cache.bytes == 0


def test_what_was_deleted_before_it_came_is_not_waited_for() -> None:
    cache = ObjectCache(100)
    cache.want(A, [name(1), name(2)])
    cache.want(B, [name(2)])
    assert cache.release(A) == [name(1)]  # somebody still waits for the other
    assert cache.forget([name(1), name(2), name(3)]) == []
    assert cache.release(B) == [name(2)]
    assert cache.want(A, [name(1)]) == [name(1)]
    assert cache.arrived(name(1), b"x") == [A]


def test_what_was_deleted_while_somebody_waited_is_given_up_with_the_last_one() -> None:
    cache = ObjectCache(100)
    cache.want(A, [name(1)])
    cache.want(B, [name(1)])
    assert cache.forget([name(1)]) == []
    assert cache.release(A) == []
    assert cache.release(B) == [name(1)]
    assert cache.want(A, [name(1)]) == [name(1)]
    assert cache.arrived(name(1), b"x") == [A]
    assert cache.release(A) == []
    assert cache.bytes == 1


def test_nobody_waits_any_more() -> None:
    cache = ObjectCache(100)
    cache.want(A, [name(1)])
    assert cache.release(A) == [name(1)]
    assert cache.want(B, [name(1)]) == [name(1)]
    assert cache.arrived(name(1), b"x") == [B]
    assert cache.release(B) == []
    cache.want(A, [name(2)])
    cache.release(A)
    assert cache.arrived(name(2), b"x") == []
    assert cache.bytes == 1
    assert cache.arrived(name(7), b"never asked for") == []


@pytest.mark.parametrize("seed", range(20))
def test_the_books_balance(seed: int) -> None:
    rng = random.Random(seed)
    cache = ObjectCache(20)
    asked: set[ObjectId] = set()
    held: dict[Holder, set[ObjectId]] = {}
    for _ in range(500):
        who, what = holder(rng.randrange(4)), name(rng.randrange(8))
        match rng.randrange(4):
            case 0 if who not in held:
                held[who] = {what, name(rng.randrange(8))}
                asked.update(cache.want(who, sorted(held[who])))
            case 1 if asked:
                what = asked.pop()
                for done in cache.arrived(what, bytes(rng.randrange(12))):
                    assert cache.complete(done)
                    for each in held[done]:
                        cache.payload(each)
            case 2:
                asked.difference_update(cache.release(who))
                held.pop(who, None)
            case 3:
                asked.difference_update(cache.forget([what]))
    for who in list(held):
        asked.difference_update(cache.release(who))
    assert not asked
    assert 0 <= cache.bytes <= 20
