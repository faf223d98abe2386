"""Where tasks report that they have started, and wait: so that a scenario knows, and decides, when they end.

A task connects, says the gate's name in one line, and waits for a line. ``gateClosed`` comes when its connection is
closed before that: its process is gone.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from conformance_tests.engine.channels import Channel, Incoming, SetupFailed
from protocol.fields import BadFields, Fields


class GateServer:
    """Listens for tasks, as long as the implementation runs."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.listener, selectors.EVENT_READ)
        self._connections: dict[socket.socket, str] = {}
        self.events: deque[Incoming] = deque()

    def wait(self, seconds: float) -> None:
        """Lets events come, for at most that long, until there is one."""
        deadline = time.monotonic() + seconds
        while True:
            ready = self._selector.select(max(0.0, deadline - time.monotonic()))
            for key, _ in ready:
                assert isinstance(key.fileobj, socket.socket)
                self._accept() if key.fileobj is self.listener else self._read(key.fileobj)
            # A connection that has just been accepted may have said its name already.
            if self.events or (not ready and time.monotonic() >= deadline):
                return

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            connection, _ = self.listener.accept()
            self._connections[connection] = ""
            self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(4096)
        except OSError:
            data = b""
        name = self._connections[connection]
        if data:
            self._connections[connection] = name + data.decode("utf-8", "replace")
            if data.endswith(b"\n"):
                self._connections[connection] = self._connections[connection].strip()
                self.events.append(Incoming("gateOpened", {"name": self._connections[connection]}))
            return
        self._drop(connection)
        self.events.append(Incoming("gateClosed", {"name": name}))

    def release(self, name: str, value: object) -> None:
        """Lets the task at this gate go on; raises BadFields if none is there."""
        for connection, there in self._connections.items():
            if there == name:
                with suppress(OSError):
                    connection.sendall(json.dumps(value).encode() + b"\n")
                self._drop(connection)
                return
        raise BadFields(f"no task waits at the gate {name!r}")

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        self._connections.pop(connection, None)
        connection.close()

    def reset(self) -> None:
        """Forgets what earlier runs left."""
        for connection in list(self._connections):
            self._drop(connection)
        self.wait(0.0)
        self.events.clear()

    def close(self) -> None:
        self.reset()
        self._selector.close()
        self.listener.close()


class GateChannel(Channel):
    """The actor that sees the gates."""

    def __init__(self, server: GateServer) -> None:
        self._server = server
        server.reset()

    def send_message(self, kind: str, fields: Fields) -> None:
        if kind != "release":
            raise BadFields(f"gates can't send {kind}")
        name = fields["name"]
        self._server.release(name.decode() if isinstance(name, bytes) else name, fields.get("value"))

    def send(self, frames: Sequence[bytes]) -> None:
        raise SetupFailed("gates have no frames")

    def receive(self, seconds: float) -> Incoming | None:
        if not self._server.events:
            self._server.wait(seconds)
        return self._server.events.popleft() if self._server.events else None

    def close(self) -> None:
        pass
