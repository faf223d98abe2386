"""Malformed bytes on the object storage's port: that connection ends, the others do not notice (SPEC section 10)."""

from __future__ import annotations

import logging
import random
import socket
import struct
from collections.abc import Iterator

import pytest

from protocol import storage
from protocol.storage import ResponseType
from reference_impl.addresses import Address
from tests.object_storage.peers import PATIENCE_SECONDS, Peer, oid, serving
from tests.object_storage.test_framing import malformed_sessions

A = oid(1)


@pytest.fixture
def address() -> Iterator[Address]:
    with serving() as address:
        yield address


@pytest.fixture
def witness(address: Address) -> Iterator[Peer]:
    """Another connection, in the middle of its work: half of a payload sent, and a get that waits."""
    content = bytes(200_000)
    with Peer(address, b"witness") as peer:
        peer.send(storage.get_request(1, A))
        assert peer.total().pending_requests == 1
        raw = b"".join(storage.set_request(2, oid(2), content))
        peer.socket.sendall(raw[:100_000])
        yield peer
        peer.socket.sendall(raw[100_000:])
        assert peer.receive().type is ResponseType.SET_OK
        assert peer.ask(storage.get_request(3, oid(2))).payload == content
        peer.send(storage.set_request(4, A, b"a"))
        assert {peer.receive().response_id, peer.receive().response_id} == {1, 4}
        assert peer.total().pending_requests == 0


def ends(address: Address, data: bytes) -> bool:
    """Sends ``data`` on a new connection; whether the server then closes it."""
    with socket.create_connection(address, PATIENCE_SECONDS) as sock:
        try:
            sock.sendall(data)
            while sock.recv(65_536):
                pass
        except ConnectionError:
            pass
        except TimeoutError:
            return False
    return True


@pytest.mark.parametrize("name", malformed_sessions())
@pytest.mark.usefixtures("witness")
def test_malformed_messages_end_their_connection(address: Address, name: str) -> None:
    assert ends(address, malformed_sessions()[name])


@pytest.mark.usefixtures("witness")
def test_requests_before_malformed_bytes_are_answered(address: Address) -> None:
    with Peer(address, b"stumbles") as peer:
        peer.send(storage.delete_request(1, oid(9)), [bytes(8)])
        assert peer.receive().response_id == 1
        assert peer.closed()


@pytest.mark.parametrize("opening", [b"GET / HTTP/1.1\r\n\r\n", b"YMQ\x01", b"\xff" * 100_000, b"\0"])
@pytest.mark.usefixtures("witness")
def test_another_protocol_ends_its_connection(address: Address, opening: bytes) -> None:
    assert ends(address, opening)


@pytest.mark.usefixtures("witness")
def test_random_bytes_end_their_connection(address: Address) -> None:
    chance = random.Random(5)
    for _ in range(50):
        noise = chance.randbytes(chance.randrange(100, 5000))
        assert ends(address, noise)
        assert ends(address, storage.MAGIC + struct.pack("<Q", 8) + noise)
        assert ends(address, storage.greeting(b"noise") + b"\xff" + noise)
        assert ends(address, storage.greeting(b"noise") + storage._header_and_length(1, 0, A, 2**40)[:88] + noise)


@pytest.mark.usefixtures("witness")
def test_an_announced_length_alone_takes_no_memory_and_blocks_nobody(address: Address) -> None:
    with Peer(address, b"announces") as peer, Peer(address, b"works") as other:
        peer.send([storage._header_and_length(1, 0, oid(5), storage.MAX_MESSAGE_BYTES)])
        peer.socket.shutdown(socket.SHUT_WR)  # whether it was taken or refused, it ends here
        assert peer.closed()
        assert other.ask(storage.set_request(1, oid(6), b"x")).type is ResponseType.SET_OK
        assert other.total().total_bytes == 1


@pytest.mark.parametrize("cut", [0, 2, 4, 10, 13, 20, 100, 110])
@pytest.mark.usefixtures("witness")
def test_a_half_open_connection_blocks_nobody(address: Address, cut: int) -> None:
    """It stops in the middle of the magic, the identity, a header, a payload; later it goes away."""
    session = storage.greeting(b"half") + b"".join(storage.set_request(1, oid(9), b"123456789"))
    half = socket.create_connection(address, PATIENCE_SECONDS)
    half.sendall(session[:cut])
    with Peer(address, b"works") as other:
        assert other.ask(storage.set_request(1, oid(6), b"x")).type is ResponseType.SET_OK
        half.close()
        assert other.total().object_count == 1


@pytest.mark.usefixtures("witness")
def test_a_reset_connection_harms_nobody(address: Address) -> None:
    reset = Peer(address, b"resets")
    reset.send(*(storage.get_request(i, oid(9)) for i in range(10)))
    assert reset.total().pending_requests == 11
    reset.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reset.close()
    with Peer(address, b"works") as other:
        assert other.ask(storage.set_request(1, oid(9), bytes(100_000))).type is ResponseType.SET_OK
        assert other.total().pending_requests == 1
    with Peer(address, b"resets") as back:
        assert [back.receive().response_id for _ in range(10)] == list(range(10))


@pytest.mark.usefixtures("witness")
def test_an_unknown_request_type_is_ignored(address: Address) -> None:
    with Peer(address, b"newer") as peer:
        raw = bytearray(storage.delete_request(1, A)[0])
        raw[8 + 32] = 5
        peer.send([bytes(raw)])
        assert peer.ask(storage.delete_request(2, oid(9))).response_id == 2


def test_it_is_logged_once_per_host_and_interval(address: Address, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            assert ends(address, b"GET / HTTP/1.1\r\n\r\n")
    [record] = caplog.records
    text = record.getMessage()
    assert text.startswith("127.0.0.1: connection from 127.0.0.1:")
    assert (
        "closed: the other side opens with b'GET ', this one speaks b'YMQ\\x02' (opengris-scaler 2.7.0 to 2.9.0)"
        in text
    )
