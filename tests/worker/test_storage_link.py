"""The agent's connection to the object storage, against one that remembers what it was asked."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator

import pytest

from conformance_tests.engine.storage_stub import StorageStub
from protocol.identifiers import ObjectId
from reference_impl.worker.storage_link import StorageLink

SECONDS = 30.0
A, B = ObjectId(b"a" * 32), ObjectId(b"b" * 32)


@pytest.fixture
def stub() -> Iterator[StorageStub]:
    stub = StorageStub()
    yield stub
    stub.close()


class World:
    """A link that is connected, and what it has fetched."""

    def __init__(self, stub: StorageStub) -> None:
        self.stub = stub
        self.fetched: list[ObjectId] = []
        self.link = StorageLink(b"Worker|w", lambda name, _: self.fetched.append(name))
        self.link.use("127.0.0.1", stub.port, 0.0)

    def until(self, holds: Callable[[], bool]) -> None:
        """Serves the link until this is so."""
        deadline = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < deadline
            self.link.flush(0.0)
            if self.link.fileno() >= 0 and select.select([self.link.fileno()], [], [], 0.05)[0]:
                self.link.receive(0.0)

    def asked(self, what: str) -> list[bytes]:
        return [name for kind, name in self.stub.records if kind == what]


@pytest.fixture
def world(stub: StorageStub) -> Iterator[World]:
    world = World(stub)
    yield world
    world.link.close()


def test_gets_that_nobody_wants_any_more_do_not_keep_the_storage_waiting(world: World) -> None:
    world.link.fetch([A])
    world.until(lambda: world.asked("getObject") == [A])
    world.link.abandon([A], 5.0)
    assert world.link.fileno() < 0
    assert world.link.retry_at == 5.0
    world.link.maintain(5.0)
    world.link.fetch([B])
    world.until(lambda: len(world.asked("connected")) == 2)
    first, second = world.asked("connected")
    assert first != second  # so that the storage does not wait for the old one on behalf of the new one
    world.until(lambda: world.asked("getObject") == [A, B])
    world.stub.put(B, b"content")
    world.until(lambda: world.fetched == [B])


def test_what_is_under_way_comes_first(world: World) -> None:
    stored: list[str] = []
    world.link.fetch([A, B])
    world.until(lambda: len(world.asked("getObject")) == 2)
    world.link.store(ObjectId(b"c" * 32), b"x", lambda: stored.append("c"), lambda: stored.append("refused"))
    world.link.abandon([A], 0.0)
    assert world.link.fileno() >= 0
    world.until(lambda: stored == ["c"])
    assert world.link.fileno() >= 0
    world.stub.put(B, b"content")
    world.until(lambda: world.fetched == [B])
    assert world.link.fileno() < 0


def test_gets_that_were_not_even_sent_when_nobody_wanted_them_any_more(world: World) -> None:
    world.link.fetch([A])
    assert world.link.wants_write
    world.link.abandon([A], 0.0)
    assert world.link.fileno() >= 0
    world.link.flush(5.0)
    assert world.link.fileno() < 0
    assert world.link.retry_at == 5.0


def test_what_comes_after_all_is_nothing_to_wait_for(world: World) -> None:
    world.link.fetch([A, B])
    world.until(lambda: len(world.asked("getObject")) == 2)
    world.link.abandon([A], 0.0)
    world.stub.put(A, b"late")
    world.stub.put(B, b"content")
    world.until(lambda: world.fetched == [B])
    assert world.link.fileno() >= 0


def test_a_set_that_is_refused_is_told(world: World) -> None:
    told: list[str] = []
    world.stub.refuse(0)
    world.link.store(A, b"x", lambda: told.append("done"), lambda: told.append("refused"))
    world.until(lambda: told == ["refused"])


def test_what_was_not_asked_for_is_not_abandoned(world: World) -> None:
    world.link.abandon([A], 0.0)
    assert world.link.fileno() >= 0
