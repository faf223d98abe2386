"""Waiting for ZeroMQ sockets and descriptors at once."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import closing

import pytest
import zmq

from reference_impl.polling import READ, WRITE, Poller, new_poller

LONG = 20_000  # ms; only a fault waits for so long


@pytest.fixture
def poller() -> Iterator[Poller]:
    with closing(new_poller()) as made:
        yield made


@pytest.fixture
def pair() -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """A DEALER and the ROUTER that it is connected to; the ROUTER knows it as b"me"."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.IDENTITY, b"me")
    dealer.connect(f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}")
    dealer.send(b"hello")
    assert router.recv_multipart() == [b"me", b"hello"]
    yield dealer, router
    context.destroy(0)


def test_what_came_while_a_socket_was_used_is_not_missed(
    poller: Poller, pair: tuple[zmq.Socket[bytes], zmq.Socket[bytes]]
) -> None:
    dealer, router = pair
    poller.register(dealer)
    for _ in range(20):
        dealer.getsockopt(zmq.EVENTS)  # from now on its descriptor tells
        router.send_multipart([b"me", b"news"])
        assert select.select([dealer.getsockopt(zmq.FD)], [], [], LONG / 1000)[0]
        dealer.send(b"something")  # takes notice of what the descriptor says, which is silent from now on
        assert dict(poller.poll(LONG)) == {dealer: READ}
        assert dealer.recv() == b"news"
        assert not poller.poll(0)


def test_a_socket_that_is_only_watched_wakes_too(
    poller: Poller, pair: tuple[zmq.Socket[bytes], zmq.Socket[bytes]]
) -> None:
    dealer, router = pair
    dealer.send(b"0")
    assert router.poll(LONG)
    poller.watch(router)
    for number in range(20):
        if number:
            dealer.send(b"%d" % number)
        assert dict(poller.poll(LONG)) == {router: READ}
        assert router.recv_multipart(zmq.NOBLOCK) == [b"me", b"%d" % number]
        with pytest.raises(zmq.Again):
            router.recv(zmq.NOBLOCK)
    poller.unregister(router)
    dealer.send(b"more")
    assert router.poll(LONG)
    assert not poller.poll(0)


def test_a_descriptor_is_waited_for_as_wanted(poller: Poller) -> None:
    reading, writing = os.pipe()
    try:
        poller.register(reading)
        poller.register(writing, WRITE)
        assert dict(poller.poll(LONG)) == {writing: WRITE}
        poller.unregister(writing)
        assert not poller.poll(1)
        os.write(writing, b"x")
        assert dict(poller.poll(LONG)) == {reading: READ}
        poller.register(reading, WRITE)  # a pipe can't be written to at this end
        assert not poller.poll(0)
        poller.register(reading, READ | WRITE)
        assert dict(poller.poll(LONG)) == {reading: READ}
    finally:
        os.close(writing)
        assert dict(poller.poll(LONG))[reading] & READ, "the end can be read"
        poller.unregister(reading)
        os.close(reading)


def test_a_descriptor_that_was_closed_can_be_unregistered_and_come_again(poller: Poller) -> None:
    first, other = os.pipe()
    poller.register(first)
    os.close(first)
    poller.unregister(first)
    again = os.dup(other)
    assert again == first
    poller.register(again, WRITE)
    assert dict(poller.poll(LONG)) in ({again: WRITE}, {again: READ | WRITE})
    poller.unregister(again)
    for descriptor in (again, other):
        os.close(descriptor)
    with pytest.raises(KeyError):
        poller.unregister(again)
