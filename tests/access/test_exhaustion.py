"""Whoever reaches a storage with keys can connect, also without one: that must not harm those who have one."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import selectors
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol import storage
from protocol.identifiers import new_client_id, object_id
from reference_impl.access import allowed as allowed_keys
from reference_impl.access import keys
from reference_impl.access.allowed import AllowedKeys
from reference_impl.access.keys import Role
from reference_impl.access.settings import ServerAccess
from reference_impl.addresses import Address
from reference_impl.object_storage import core, secured
from reference_impl.object_storage.connection import WRITE_LIMIT_BYTES
from reference_impl.object_storage.room import UNLIMITED
from reference_impl.storage_connection import StorageConnection, StorageLost
from tests.access.house import PATIENCE_SECONDS, House, Running

ANYWHERE = "tcp://127.0.0.1:0"
BEGIN = b"\x16\x03\x01\x00"
"""Of a TLS handshake."""


@pytest.fixture
def house(tmp_path: Path) -> House:
    made = House(tmp_path)
    made.key("ada", Role.CLIENT)
    return made


@pytest.fixture
def running(house: House) -> Iterator[Running]:
    process = Running("object_storage", ANYWHERE, *house.server_options())
    try:
        yield process
    finally:
        process.end()


def address_of(running: Running) -> Address:
    return Address.parse(running.facts["address"])


def knock(address: Address) -> socket.socket:
    return socket.create_connection(address, PATIENCE_SECONDS)


def works(address: Address, house: House) -> bool:
    """Somebody with a key gets in."""
    with contextlib.closing(StorageConnection(address, new_client_id(), access=house.access("ada"))):
        return True


def ended(knocking: socket.socket) -> bool:
    with contextlib.suppress(ConnectionResetError):
        return not knocking.recv(1)
    return True


@pytest.mark.parametrize("said", [b"", BEGIN, b"GET / HTTP/1.1\r\n\r\n"])
def test_connections_that_are_reset_before_anybody_looks(running: Running, house: House, said: bytes) -> None:
    address = address_of(running)
    os.kill(running.process.pid, signal.SIGSTOP)
    try:
        gone = knock(address)
        gone.sendall(said)
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
    finally:
        os.kill(running.process.pid, signal.SIGCONT)
    assert works(address, house)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process")
def test_a_handshake_that_goes_on_while_there_are_no_descriptors(running: Running, house: House) -> None:
    address, pid = address_of(running), running.process.pid
    assert works(address, house)
    with knock(address) as half:
        half.sendall(BEGIN)
        assert works(address, house)  # so the one before was accepted, too
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        top = max(int(descriptor.name) for descriptor in Path(f"/proc/{pid}/fd").iterdir()) + 1
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (top, before[1]))
        with contextlib.ExitStack() as crowd:
            for _ in range(top):
                crowd.enter_context(knock(address))
            running.says("new connections must wait")
            half.sendall(b"nonsense, not a handshake")
            assert ended(half)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert works(address, house)


def test_the_list_stays_as_it_was_while_there_are_no_descriptors(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ada, cluster = keys.load_public(house.public("ada")), keys.load_public(house.public("cluster"))
    found = AllowedKeys(house.allowed, cluster)
    bob = house.key("bob", Role.CLIENT)
    for place, name in ((os, "scandir"), (allowed_keys, "load_public")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, _fails(errno.EMFILE, as_key=name == "load_public"))
            assert not found.look()
        assert ada.curve in found.by_curve and bob.curve not in found.by_curve
    assert found.look() and bob.curve in found.by_curve
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", _fails(errno.EACCES))
        assert found.look()
    assert set(found.by_curve) == {cluster.curve}


def _fails(number: int, *, as_key: bool = False) -> object:
    def fail(path: object) -> None:
        error = OSError(number, os.strerror(number))
        if as_key:
            raise keys.KeyFileError(str(error), "") from error
        raise error

    return fail


def test_more_handshakes_than_allowed_wait_without_being_looked_at(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secured, "_HANDSHAKES", 2)
    key = keys.load_private(house.private("cluster"))
    access = ServerAccess(key, AllowedKeys(house.allowed, key.public))
    with (
        contextlib.closing(secured.SecuredServer(Address.parse(ANYWHERE), access, UNLIMITED)) as server,
        knock(server.address) as first,
        knock(server.address),
        knock(server.address),
    ):
        server._accept()
        assert len(server._handshaking) == 2
        assert not server._selector.select(0)  # it would be asked again and again
        first.sendall(b"nonsense, not a handshake")
        while len(server._handshaking) == 2:
            assert server._selector.select(PATIENCE_SECONDS)
            server._accept()
        assert server._selector.select(PATIENCE_SECONDS)
        server._accept()
        assert len(server._handshaking) == 2


def in_process(house: House) -> secured.SecuredServer:
    key = keys.load_private(house.private("cluster"))
    access = ServerAccess(key, AllowedKeys(house.allowed, key.public))
    return secured.SecuredServer(Address.parse(ANYWHERE), access, UNLIMITED)


@contextlib.contextmanager
def served(server: secured.SecuredServer) -> Iterator[None]:
    ours, its = socket.socketpair()
    with ours, its:
        thread = threading.Thread(target=server.run, args=(its,))
        thread.start()
        try:
            yield
        finally:
            ours.close()
            thread.join()


def test_who_asks_and_never_reads_is_not_read_from(house: House) -> None:
    identity = new_client_id()
    what = object_id(identity, bytes(16))
    asked = b"".join(b"".join(storage.get_request(number, what)) for number in range(1000))
    with contextlib.closing(in_process(house)) as server, served(server):
        asking = StorageConnection(server.address, identity, access=house.access("ada"))
        with contextlib.closing(asking):
            asking.send(storage.set_request(0, what, bytes(500)))
            asking.drain(PATIENCE_SECONDS)
            [connection] = server._connections.values()
            asking.send([asked])
            while connection.events & selectors.EVENT_READ or not connection.events:
                asking.flush()
                if not asking.wants_write:
                    asking.send([asked])
                assert connection.outgoing.size < 3 * WRITE_LIMIT_BYTES


def test_who_is_closed_by_another_one_while_there_is_more_of_both(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "ALL_PENDING_REQUESTS", 2)
    with contextlib.closing(in_process(house)) as server, contextlib.ExitStack() as both:
        with served(server):
            peers = []
            for _ in range(2):
                peer = StorageConnection(server.address, identity := new_client_id(), access=house.access("ada"))
                both.enter_context(contextlib.closing(peer))
                peer.send(storage.total_request(0))
                peers.append((peer, identity))
                while not peer.receive():
                    peer.drain(PATIENCE_SECONDS)
            (few, few_identity), (most, most_identity) = peers
            for number in range(2):
                most.send(storage.get_request(number, object_id(most_identity, bytes(16))))
            most.send(storage.total_request(2))
            while not most.receive():
                most.drain(PATIENCE_SECONDS)
        first, second = server._connections.values()
        server._unread = {first: None, second: None}  # as if more had been decrypted than was read
        few.send(storage.get_request(0, object_id(few_identity, bytes(16))))
        few.drain(PATIENCE_SECONDS)
        assert select.select([first.socket], [], [], PATIENCE_SECONDS)[0]
        server._tick()
        assert list(server._connections.values()) == [first]


def test_who_is_let_in_while_there_is_no_memory_is_closed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(in_process(house)) as server, served(server):
        with monkeypatch.context() as patch:
            patch.setattr(storage, "ServerSide", no_memory)
            with pytest.raises(StorageLost):
                works(server.address, house)
        assert works(server.address, house)


def no_memory(*_: object) -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
