"""What the tests of the object storage talk with: a client that reads response by response, and servers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from protocol import storage
from protocol.identifiers import ObjectId
from protocol.storage import Buffer, Response, Total
from reference_impl.addresses import Address
from reference_impl.object_storage.server import Server

PATIENCE_SECONDS = 30.0


def oid(number: int) -> ObjectId:
    """An object id for tests."""
    return ObjectId(number.to_bytes(32, "big"))


class Peer:
    """A blocking connection to an object storage."""

    def __init__(self, address: Address, identity: bytes = b"Client|test", magic: bytes = storage.MAGIC) -> None:
        self.socket = socket.create_connection(address, PATIENCE_SECONDS)
        self._side = storage.ClientSide(magic)
        self._responses: deque[Response] = deque()
        self.socket.sendall(storage.greeting(identity, magic))

    def send(self, *requests: list[Buffer]) -> None:
        self.socket.sendall(b"".join(b"".join(request) for request in requests))

    def receive(self) -> Response:
        while not self._responses:
            count = self.socket.recv_into(self._side.buffer())
            if not count:
                raise EOFError("the storage closed the connection")
            self._responses.extend(self._side.received(count))
        return self._responses.popleft()

    def ask(self, request: list[Buffer]) -> Response:
        self.send(request)
        return self.receive()

    def total(self) -> Total:
        """Also a barrier: every request sent before it has been handled."""
        return Total.from_bytes(self.ask(storage.total_request(2**32)).payload)

    def server_identity(self) -> bytes | None:
        self.total()
        return self._side.peer

    def closed(self) -> bool:
        """Waits for the server's end of the connection to close; False if a response comes instead."""
        try:
            self.receive()
        except (EOFError, ConnectionError):
            return True
        return False

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def serving(**options: Any) -> Iterator[Address]:
    """A server in a thread of this process."""
    server = Server(Address("127.0.0.1", 0), **options)
    stop, trigger = socket.socketpair()
    thread = threading.Thread(target=server.run, args=(stop,))
    thread.start()
    try:
        yield server.address
    finally:
        trigger.close()
        thread.join(PATIENCE_SECONDS)
        server.close()
        stop.close()
        assert not thread.is_alive()


def start(*arguments: str) -> subprocess.Popen[str]:
    """The command, as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "reference_impl.object_storage", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONUNBUFFERED="1"),
    )
