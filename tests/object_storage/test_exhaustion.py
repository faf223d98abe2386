"""Who connects very often, or takes all descriptors, or reads nothing, keeps what others need."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from protocol import storage
from protocol.storage import Buffer, ResponseType
from reference_impl.addresses import Address
from reference_impl.object_storage import server as server_module
from reference_impl.object_storage.files import SpillFiles
from reference_impl.object_storage.outgoing import sendfile_to
from reference_impl.object_storage.room import Limits
from reference_impl.object_storage.server import Server
from tests.object_storage.peers import PATIENCE_SECONDS, Peer, oid, serving, start

MIB = 1 << 20
ANYWHERE = Address("127.0.0.1", 0)


def test_who_connects_very_often_has_a_turn_as_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_ACCEPTS", 2)
    with contextlib.closing(Server(ANYWHERE)) as server, contextlib.ExitStack() as crowd:
        for _ in range(3):
            crowd.enter_context(socket.create_connection(server.address, PATIENCE_SECONDS))
        server._accept()
        assert len(server._connections) == 2
        assert server._selector.select(PATIENCE_SECONDS)
        server._accept()
        assert len(server._connections) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process")
def test_files_can_be_opened_whoever_connects(tmp_path: Path) -> None:
    process = start("tcp://127.0.0.1:0", "--memory-limit", "100K", "--spill-directory", str(tmp_path))
    with process, contextlib.ExitStack() as crowd:
        try:
            assert process.stdout is not None and process.stderr is not None
            address = Address.parse(process.stdout.readline().rsplit("address=", 1)[1].strip())
            peer = crowd.enter_context(Peer(address))
            for number in range(2):  # one of them goes to a file
                large = bytes([number]) * 90_000
                assert peer.ask(storage.set_request(number, oid(number), large)).type is ResponseType.SET_OK
            top = max(int(descriptor.name) for descriptor in Path(f"/proc/{process.pid}/fd").iterdir()) + 20
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (top, top))
            for _ in range(top):
                crowd.enter_context(socket.create_connection(address, PATIENCE_SECONDS))
            assert any("new connections must wait" in line for line in process.stderr)
            assert peer.ask(storage.set_request(2, oid(2), bytes([2]) * 90_000)).type is ResponseType.SET_OK
            for number in range(3):
                assert bytes(peer.ask(storage.get_request(3, oid(number))).payload) == bytes([number]) * 90_000
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=PATIENCE_SECONDS)
            process.kill()


def test_who_does_not_read_on_keeps_no_file_open(tmp_path: Path) -> None:
    limits, files = Limits(MIB), SpillFiles(tmp_path)
    with contextlib.ExitStack() as slow, serving(limits=limits, files=files) as address:
        peer = slow.enter_context(Peer(address, b"Client|0"))
        assert peer.ask(storage.set_request(0, oid(0), bytes(32 * MIB))).type is ResponseType.SET_OK
        [file] = tmp_path.glob("spill-*/*")
        for number in range(1, 4):
            one = slow.enter_context(Peer(address, b"Client|%d" % number))
            one.send(storage.get_request(1, oid(0)))
            assert select.select([one.socket], [], [], PATIENCE_SECONDS)[0]
            assert one.socket.recv(200)  # the greeting, and the beginning
        peer.total()
        assert str(file) not in {str(fd.resolve()) for fd in Path("/proc/self/fd").iterdir()}


class Endless:
    """A stream that has always more, as TLS with a fast sender."""

    def __init__(self, begins: bytes) -> None:
        self._inner, self._other = socket.socketpair()
        self._begins = begins
        self.most = 0

    def fileno(self) -> int:
        return self._inner.fileno()

    def setblocking(self, flag: bool, /) -> None:
        pass

    def recv_into(self, buffer: memoryview, /) -> int:
        if self._begins:
            buffer[: len(self._begins)] = self._begins
            count, self._begins = len(self._begins), b""
            return count
        self.most = max(self.most, len(buffer))
        return len(buffer)

    def sendmsg(self, buffers: Iterable[Buffer], /) -> int:
        return self._inner.sendmsg(buffers)

    def close(self) -> None:
        self._inner.close()
        self._other.close()


def test_a_very_long_payload_is_read_piece_by_piece() -> None:
    head = storage.set_request(1, oid(1), bytes(64 * MIB))[0]
    stream = Endless(storage.greeting(b"Client|x") + bytes(head))
    with contextlib.closing(Server(ANYWHERE)) as server:
        connection = server._connected(stream, ("here", 1), sendfile_to(stream))
        assert connection is not None
        server._read(connection)
        while connection.side.incoming or not stream.most:
            server._read(connection)
        assert stream.most <= 4 * MIB
        assert oid(1) in server._core._contents


def test_who_connects_while_there_is_no_memory_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(Server(ANYWHERE)) as server:
        with monkeypatch.context() as patch:
            patch.setattr(storage, "ServerSide", no_memory)
            with socket.create_connection(server.address, PATIENCE_SECONDS) as closed:
                server._accept()
                assert not server._connections
                assert closed.recv(1) == b""
        with socket.create_connection(server.address, PATIENCE_SECONDS):
            server._accept()
            assert len(server._connections) == 1


def no_memory(*_: object) -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
