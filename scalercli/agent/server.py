"""The agent's loop: commands on a Unix socket in, ``Session`` in the middle, frames out. One thread, one selector."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import selectors
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import cast

from protocol.control import VERSION, ControlError, ControlReply, ControlRequest, Frames, ReplyValue, frame
from protocol.errors import MalformedMessage
from reference_impl.resources import require_descriptors
from scalercli.agent.ledger import Ledger, LedgerError
from scalercli.agent.session import UNWRITABLE_HINT, Session
from scalercli.exits import ExitCode

logger = logging.getLogger(__name__)

_ROOM_BYTES = 1 << 20
"""A command that has more than this to read is not read from: what it asks for waits."""
_MAX_STREAMS = 1_000
"""At more of one command it is turned away; those of this project have one."""
_MAX_CONNECTIONS = 1_000
_RESERVED = 64
"""Descriptors that no command gets: libzmq ends the process where it finds none."""
_CHUNK = 1 << 18
_SETTLE_SECONDS = 0.004
_RETRY_SECONDS = 1.0
_LONGEST_SECONDS = 86400.0
"""A selector takes no more than 24 days: then the loop looks again."""
_ALWAYS_TRUE = ("agent", "error")
"""Replies that say nothing that the ledger has to remember."""


class CommandConnection:
    """One command: what it sent so far, what it has to get."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.frames = Frames(ControlRequest)
        self.out: deque[memoryview] = deque()
        self.out_bytes = 0
        self.unsure: deque[memoryview] = deque()
        """Replies that hold once the ledger is written, and not before."""
        self.steps: list[Callable[[], bool | None]] = []
        self.waiting: deque[ControlRequest] = deque()  # requests that have come and are not looked at yet
        self.closed = False

    @property
    def has_room(self) -> bool:
        """Whether it reads what it is sent, so that it may ask for more."""
        return self.out_bytes < _ROOM_BYTES

    def send(self, number: int, variant: str, value: ReplyValue = None) -> None:
        if not self.closed:
            data = frame(ControlReply(VERSION, number, variant, value))
            (self.out if variant in _ALWAYS_TRUE and not self.unsure else self.unsure).append(memoryview(data))
            self.out_bytes += len(data)

    def confirm(self) -> None:
        """The ledger is written."""
        self.out += self.unsure
        self.unsure.clear()

    def fail(self, error: ControlError) -> None:
        """The ledger can't be written: what waits for that gets this instead."""
        if self.unsure or self.steps:
            self.out_bytes -= sum(map(len, self.unsure))
            self.unsure.clear()
            self.steps.clear()
            self.send(0, "error", error)

    def stream(self, step: Callable[[], bool | None]) -> None:
        self.steps.append(step)

    def pump(self) -> None:
        """Lets the streams fill the room that there is."""
        busy = True
        while busy and self.steps:
            busy = False
            for step in list(self.steps):
                if self.out_bytes >= _ROOM_BYTES:
                    return
                more = step()
                if more is None:
                    self.steps.remove(step)
                busy = busy or bool(more)

    def flush(self) -> None:
        """Sends what the socket takes; raises OSError when the command is gone."""
        while self.out:
            try:
                sent = self.socket.send(self.out[0])
            except BlockingIOError:
                return
            self.out_bytes -= sent
            if sent < len(self.out[0]):
                self.out[0] = self.out[0][sent:]
            else:
                self.out.popleft()


class AgentServer:
    """Serves one listening socket until it is told to stop, or nothing has happened for ``idle_seconds``."""

    def __init__(self, listener: socket.socket, ledger: Ledger, *, idle_seconds: float) -> None:
        """``idle_seconds`` 0: it never ends by itself. Call ``attach`` before ``run``."""
        self._listener = listener
        self._ledger = ledger
        self._idle_seconds = idle_seconds
        self._session: Session | None = None
        self._posted: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_numbers = itertools.count()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._woken = False
        self._unwritten = ""  # why the ledger can't be written
        self._retrying = False
        self._deaf = False  # there are no descriptors for new connections
        self._selector = selectors.DefaultSelector()
        self._connections: set[CommandConnection] = set()
        for sock in (listener, self._wake_reader, self._wake_writer):
            sock.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, self._drain_wake)

    def attach(self, session: Session) -> None:
        self._session = session

    def watch(self, fd: int, then: Callable[[], None]) -> None:
        """Calls ``then`` whenever ``fd`` is readable."""
        self._selector.register(fd, selectors.EVENT_READ, then)

    def unwatch(self, fd: int) -> None:
        self._selector.unregister(fd)

    def post(self, call: Callable[[], None]) -> None:
        """Runs ``call`` on the agent's thread; from any thread."""
        self._posted.append(call)
        if not self._woken:  # else it is about to look anyway: no need to tell it again for each of many calls
            self._woken = True
            with contextlib.suppress(OSError):  # its buffer is full: it is awake anyway; or it is closed
                self._wake_writer.send(b"\0")

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Runs ``call`` after that time; from the agent's thread."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._timer_numbers), call))

    @property
    def session(self) -> Session:
        assert self._session is not None
        return self._session

    def run(self) -> str:
        """Serves; returns why it stopped. Connections stay open until ``close``."""
        idle_since = time.monotonic()
        settle_at = 0.0
        unsettled = False
        while True:
            timeout = max(0.0, settle_at - time.monotonic()) if unsettled else self._timeout(idle_since)
            for key, events in self._selector.select(timeout):
                if isinstance(key.data, CommandConnection):
                    settle_at = 0.0
                    if events & selectors.EVENT_READ:
                        self._read(key.data)
                else:
                    key.data()
            while self._posted:
                self._call(self._posted.popleft())
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                self._call(heapq.heappop(self._timers)[2])
            # What a command asks is answered at once; what comes from the cluster in a stream, a few times less often.
            if settle_at and now < settle_at and not self.session.stopping and not self.session.stuck:
                unsettled = True
                continue
            unsettled = False
            self._settle()
            settle_at = time.monotonic() + _SETTLE_SECONDS
            if self.session.stopping:
                return "it was told to"
            if self.session.stuck:
                return self.session.broken
            if self._connections or self.session.living:
                idle_since = now
            elif self._idle_seconds and not self.session.keep and now - idle_since >= self._idle_seconds:
                return f"nothing to do for {self._idle_seconds:g} s"

    def _call(self, call: Callable[[], None]) -> None:
        try:
            call()
        except LedgerError as error:
            self._not_written(str(error))

    def settle(self) -> None:
        """Commits, and sends what can be sent now."""
        self._settle()

    def close(self) -> None:
        for connection in list(self._connections):
            self._drop(connection)
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    def stop_listening(self) -> None:
        if not self._deaf:
            self._selector.unregister(self._listener)
        self._deaf = False
        self._listener.close()

    def _timeout(self, idle_since: float) -> float | None:
        if self._posted:
            return 0.0
        now = time.monotonic()
        timer = max(0.0, self._timers[0][0] - now) if self._timers else None
        if not self._idle_seconds or self.session.keep or self._connections or self.session.living:
            return timer
        idle = min(_LONGEST_SECONDS, max(0.0, self._idle_seconds - (now - idle_since)))
        return idle if timer is None else min(idle, timer)

    def _accept(self) -> None:
        while True:
            try:
                require_descriptors(_RESERVED, self._listener.fileno())
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # no descriptors: it would be readable, and fail, again and again
                logger.error("new commands must wait: %s", error.strerror)
                self._selector.unregister(self._listener)
                self._deaf = True
                self.later(_RETRY_SECONDS, self._listen_again)
                return
            sock.setblocking(False)
            user = peer_user(sock)
            if user is not None and user != os.getuid():
                logger.warning("a process of user %d was turned away", user)
                message = f"the session agent is user {os.getuid()}'s, and you are user {user}"
                refusal = ControlError(ExitCode.UNREACHABLE, message, "scalercli help environment")
                with contextlib.suppress(OSError), sock:
                    sock.send(frame(ControlReply(VERSION, 0, "error", refusal)))
                continue
            if len(self._connections) >= _MAX_CONNECTIONS:
                logger.warning("a command was turned away: there are %d", _MAX_CONNECTIONS)
                sock.close()
                continue
            connection = CommandConnection(sock)
            self._connections.add(connection)
            self._selector.register(sock, selectors.EVENT_READ, connection)

    def _listen_again(self) -> None:
        if self._deaf:
            self._deaf = False
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _drain_wake(self) -> None:
        try:
            while self._wake_reader.recv(4096):
                pass
        except BlockingIOError:
            pass
        self._woken = False  # before the calls are taken: one that comes now wakes the loop again

    def _read(self, connection: CommandConnection) -> None:
        try:
            data = connection.socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return
        try:
            connection.waiting.extend(cast("list[ControlRequest]", connection.frames.feed(data)))
            self._serve(connection)
        except MalformedMessage as error:
            logger.warning("a command sent something that is not a request: %s", error)
            self._drop(connection)

    def _serve(self, connection: CommandConnection) -> None:
        """Looks at what it asks, as long as it reads the answers."""
        while connection.waiting and connection.has_room and not connection.closed:
            self.session.handle(connection, connection.waiting.popleft())
            if len(connection.steps) > _MAX_STREAMS:
                logger.warning("a command that asked for more than %d streams was turned away", _MAX_STREAMS)
                self._drop(connection)

    def _settle(self) -> None:
        try:
            self._ledger.flush()
            for connection in self._connections:
                connection.confirm()
                connection.pump()
                connection.confirm()
            if self._unwritten:
                logger.info("the ledger can be written again")
            self._unwritten = ""
        except LedgerError as error:
            self._not_written(str(error))
        for connection in list(self._connections):
            try:
                connection.flush()
            except OSError:
                self._drop(connection)
                continue
            self._serve(connection)
            if connection.closed:
                continue
            wanted = selectors.EVENT_READ if connection.has_room else 0
            wanted |= selectors.EVENT_WRITE if connection.out or connection.unsure else 0
            if self._selector.get_key(connection.socket).events != wanted:
                self._selector.modify(connection.socket, wanted, connection)

    def _not_written(self, why: str) -> None:
        """Whoever waits for the ledger is told. What is to be written is kept, and tried again."""
        if self._unwritten != why:
            logger.error("%s; it is tried again", why)
        self._unwritten = why
        for connection in self._connections:
            connection.fail(ControlError(ExitCode.INTERNAL, why, UNWRITABLE_HINT))
        if not self._retrying:
            self._retrying = True
            self.later(_RETRY_SECONDS, self._retry)

    def _retry(self) -> None:
        """A pass of the loop ends with a commit."""
        self._retrying = False

    def _drop(self, connection: CommandConnection) -> None:
        if not connection.closed:
            connection.closed = True
            self._connections.discard(connection)
            self._selector.unregister(connection.socket)
            connection.socket.close()
            self.session.drop(connection)


def peer_user(sock: socket.socket) -> int | None:
    """Who is on the other side of a Unix socket, as the kernel vouches for it; None where it can't be told: there only
    the modes of socket and directory keep others out."""
    if sys.platform != "linux":
        return None
    _, user, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(user)
