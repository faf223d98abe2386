"""A TCP proxy that spoils connections: it drops, delays, halves and reorders them, one at a time.

It knows nothing of what passes. One thread with an event loop of its own; the methods may be called from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from reference_impl.addresses import Address

_CHUNK = 1 << 16
_RESET = struct.pack("ii", 1, 0)


class Connection:
    """One that passes through here: ``near`` is who connected, ``far`` who was connected to."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near, self.far = near, far
        self.flows = asyncio.Event()
        self.flows.set()
        self.halve = False  # the next chunk is cut in half, and the connection with it
        self.detached = False

    def reset(self, *sides: asyncio.StreamWriter) -> None:
        for side in sides or (self.near, self.far):
            sock = side.get_extra_info("socket")
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            side.transport.abort()


class Proxy:
    """Listens at ``address``, a free loopback port, on behalf of ``to``."""

    def __init__(self, to: Address) -> None:
        self._to = to
        self._connections: dict[Connection, None] = {}
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        listening: socket.socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = Address("127.0.0.1", listening.getsockname()[1])
        self._thread = threading.Thread(target=self._run, args=(listening,), name=f"proxy-{to}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    # ---- faults; each returns whether there was a connection for it ----

    def drop(self, where: float, seconds: float) -> bool:
        """Both sides see a reset."""
        return self._do(where, lambda connection: connection.reset())

    def delay(self, where: float, seconds: float) -> bool:
        """Nothing passes for a while, then everything does."""

        def delay(connection: Connection) -> None:
            connection.flows.clear()
            self._loop.call_later(seconds, connection.flows.set)

        return self._do(where, delay)

    def halve(self, where: float, seconds: float) -> bool:
        """Half of what comes next passes, then both sides see the end, and after a while a reset."""

        def halve(connection: Connection) -> None:
            connection.halve = True

        return self._do(where, halve)

    def reorder(self, where: float, seconds: float) -> bool:
        """The near side sees a reset and comes again, before the far side sees that the old connection has ended."""

        def reorder(connection: Connection) -> None:
            connection.detached = True
            connection.reset(connection.near)
            self._loop.call_later(seconds, self._end, connection)

        return self._do(where, reorder)

    def _do(self, where: float, what: Callable[[Connection], None]) -> bool:
        done = threading.Event()
        hit: list[Connection] = []

        def act() -> None:
            there = [connection for connection in self._connections if not connection.detached]
            if there:
                hit.append(there[int(where * len(there))])
                what(hit[0])
            done.set()

        self._loop.call_soon_threadsafe(act)
        done.wait()
        return bool(hit)

    # ---- the thread ----

    def _run(self, listening: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(listening))
        self._loop.close()

    async def _serve(self, listening: socket.socket) -> None:
        server = await asyncio.start_server(self._accept, sock=listening)
        await self._stop.wait()
        server.close()
        for connection in list(self._connections):
            connection.reset()
            connection.flows.set()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _accept(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            far_reader, far = await asyncio.open_connection(*self._to)
        except OSError:
            near.transport.abort()
            return
        connection = Connection(near, far)
        self._connections[connection] = None
        try:
            await asyncio.gather(
                self._pump(connection, near_reader, far), self._pump(connection, far_reader, near, to_near=True)
            )
        finally:
            if not connection.detached:
                self._end(connection)

    def _end(self, connection: Connection) -> None:
        connection.reset()
        self._connections.pop(connection, None)

    async def _pump(
        self, connection: Connection, source: asyncio.StreamReader, to: asyncio.StreamWriter, *, to_near: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_CHUNK):
                await connection.flows.wait()
                if connection.halve:
                    connection.halve = False
                    to.write(data[: len(data) // 2])
                    await to.drain()
                    break
                to.write(data)
                await to.drain()
        if connection.detached and not to_near:
            return  # the far side sees the end later
        for side in (connection.near,) if connection.detached else (connection.near, connection.far):
            side.close()
