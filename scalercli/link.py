"""The command's end of the connection to the session agent; ``launch`` starts one where there is none.

Where no agent lives and none is needed (a status after the fact), ``Offline`` answers the same requests from the
ledger alone.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from protocol.control import (
    VERSION,
    AgentInfo,
    ControlError,
    ControlReply,
    ControlRequest,
    Frames,
    RequestValue,
    frame,
)
from protocol.errors import MalformedMessage
from scalercli import durations, locks
from scalercli.errors import CliError
from scalercli.exits import ExitCode
from scalercli.places import Places, unusable

_ANSWER_SECONDS = 30.0
_START_SECONDS = 20.0
_CHUNK = 1 << 18


_opened: list[AgentLink | Offline] = []


def close_all() -> None:
    """Closes every link of this command; called once, when it ends."""
    while _opened:
        _opened.pop().close()


class TimedOut(Exception):
    """No reply came in time."""


class AgentGone(CliError):
    """The agent closed the connection."""

    def __init__(self, places: Places) -> None:
        super().__init__(
            "the session agent has ended",
            f"scalercli status shows what is known of its tasks; its log: {places.log}",
            ExitCode.UNREACHABLE,
        )


class Link(Protocol):
    """Requests go out, replies come in, in the order in which the agent has them."""

    live: bool
    """False: no agent lives, nothing runs."""

    def send(self, variant: str, value: RequestValue = None) -> int:
        """The number that the replies will carry."""

    def receive(self, deadline: float | None = None) -> ControlReply:
        """The next reply, of any number. ``deadline``: on time.monotonic(). Raises TimedOut, CliError for an error
        reply and for a lost agent, BrokenPipeError when nobody reads our stdout any more."""

    def close(self) -> None: ...


def replies(link: Link, number: int, deadline: float | None = None) -> Iterator[ControlReply]:
    """The replies to one request up to its ``done``, which is left out; for links with one request at a time."""
    while True:
        reply = link.receive(deadline)
        if reply.number == number:
            if reply.variant == "done":
                return
            yield reply


class AgentLink:
    """A connection to a living agent."""

    live = True

    def __init__(self, sock: socket.socket, places: Places) -> None:
        self.places = places
        self.info = AgentInfo(0)
        self._socket = sock
        self._frames = Frames(ControlReply)
        self._received: deque[ControlReply] = deque()
        self._number = 0
        self._watch_stdout = False
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        _opened.append(self)

    def watch_stdout(self) -> None:
        """From now on ``receive`` notices when the reader of our stdout goes away."""
        try:
            self._poll.register(sys.stdout.fileno(), 0)
            self._watch_stdout = True
        except (OSError, ValueError):
            pass  # no such descriptor: nothing to watch

    def ignore_stdout(self) -> None:
        if self._watch_stdout:
            self._poll.unregister(sys.stdout.fileno())
            self._watch_stdout = False

    def send(self, variant: str, value: RequestValue = None) -> int:
        self._number += 1
        data = memoryview(frame(ControlRequest(VERSION, self._number, variant, value)))
        # Never only send: an agent whose replies nobody takes would stop reading.
        self._socket.setblocking(False)
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLOUT)
        while data:
            try:
                data = data[self._socket.send(data) :]
                continue
            except BlockingIOError:
                pass
            except OSError:
                raise AgentGone(self.places) from None
            if any(events & ~select.POLLOUT for _, events in poll.poll()):
                self._take()
        return self._number

    def receive(self, deadline: float | None = None) -> ControlReply:
        while not self._received:
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = self._poll.poll(None if timeout is None else durations.poll_milliseconds(timeout))
            if not ready and deadline is not None and time.monotonic() >= deadline:
                raise TimedOut
            for fd, _ in ready:
                if fd != self._socket.fileno():
                    raise BrokenPipeError
            self._take()
        reply = self._received.popleft()
        if isinstance(reply.value, ControlError):
            raise CliError(reply.value.message, reply.value.hint, reply.value.exit_code)
        return reply

    def wait(self, other_fd: int | None) -> tuple[list[ControlReply], bool]:
        """Blocks until there are replies, or ``other_fd`` can be read: the replies, and whether it can. Raises as
        ``receive`` does."""
        if other_fd is not None:
            self._poll.register(other_fd, select.POLLIN)
        readable = False
        try:
            if not self._received:
                for fd, _ in self._poll.poll():
                    if fd == other_fd:
                        readable = True
                    elif fd == self._socket.fileno():
                        self._take()
                    else:
                        raise BrokenPipeError
        finally:
            if other_fd is not None:
                self._poll.unregister(other_fd)
        got = []
        while self._received:
            got.append(self.receive())
        return got, readable

    def wait_closed(self, deadline: float) -> None:
        """Returns when the agent has closed the connection; raises TimedOut."""
        while True:
            try:
                self.receive(deadline)
            except AgentGone:
                return

    def close(self) -> None:
        self._socket.close()

    def _take(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise AgentGone(self.places)
        try:
            self._received.extend(self._frames.feed(data))  # type: ignore[arg-type]
        except MalformedMessage as error:
            raise CliError(
                f"the session agent sent something that is not an answer: {error}",
                "scalercli cluster down, then repeat",
                ExitCode.PROTOCOL,
            ) from None


class Offline:
    """The ledger of a session whose agent is gone."""

    live = False

    def __init__(self, places: Places) -> None:
        from scalercli.agent.ledger import Ledger, LedgerError
        from scalercli.agent.session import Session

        self._received: deque[ControlReply] = deque()
        self._number = 0
        self._steps: list[object] = []
        try:
            there = places.ledger.exists()
            self._ledger = Ledger(places.ledger, read_only=True) if there else Ledger(None)
        except LedgerError as error:
            raise CliError(str(error), "", ExitCode.INTERNAL) from None
        except OSError as error:
            raise unusable(places.ledger, error) from None
        _opened.append(self)
        self._session = Session(self._ledger, None, lambda: AgentInfo(0), lambda call: call())

    def send(self, variant: str, value: RequestValue = None) -> int:
        self._number += 1
        self._session.handle(_Inbox(self._received), ControlRequest(VERSION, self._number, variant, value))
        return self._number

    def receive(self, deadline: float | None = None) -> ControlReply:
        if not self._received:
            raise TimedOut
        reply = self._received.popleft()
        if isinstance(reply.value, ControlError):
            raise CliError(reply.value.message, reply.value.hint, reply.value.exit_code)
        return reply

    def unfinished(self) -> bool:
        """Whether there are tasks that the next agent takes up."""
        from scalercli.agent.ledger import resumable

        return any(resumable(entry.row) for entry in self._ledger.open())

    def close(self) -> None:
        self._ledger.close()


class _Inbox:
    def __init__(self, received: deque[ControlReply]) -> None:
        self._received = received

    def send(self, number: int, variant: str, value: object = None) -> None:
        self._received.append(ControlReply(VERSION, number, variant, value))  # type: ignore[arg-type]

    def stream(self, step: object) -> None:
        while step():  # type: ignore[operator]
            pass


def find_agent(
    places: Places, greeting: str = "ping", *, patience_seconds: float = _ANSWER_SECONDS
) -> AgentLink | None:
    """A connection to the living agent, if there is one; its answer to the greeting is in ``info``. Raises CliError
    for one that does not answer in time."""
    paths = [str(places.socket)]
    noted = [""]
    try:
        noted = places.lock.read_text().split("\n")
        if len(noted) > 1 and noted[1] and noted[1] != paths[0]:
            paths.insert(0, noted[1])
    except (OSError, UnicodeDecodeError):
        pass
    for path in paths:
        sock = socket.socket(socket.AF_UNIX)
        link = AgentLink(sock, places)
        try:
            sock.connect(path)
            with contextlib.suppress(AgentGone):  # one that turns us away has said why
                link.send(greeting)
            answer = link.receive(time.monotonic() + patience_seconds).value
            if isinstance(answer, AgentInfo):
                link.info = answer
                return link
        except (OSError, AgentGone):
            link.close()
        except TimedOut:
            link.close()
            raise CliError(
                f"the session agent{f' (pid {noted[0]})' if noted[0] else ''} does not answer",
                f"kill -9 {noted[0]}" if noted[0] else "scalercli doctor",
                ExitCode.UNREACHABLE,
            ) from None
    return None


def find_starting(places: Places, greeting: str = "ping") -> AgentLink | None:
    """The same, once the agent that is being started is ready: the command that started it may have been interrupted.
    None if there is no such agent, or if it takes too long."""
    if not locks.await_start(places, _START_SECONDS):
        return None
    return find_agent(places, greeting)


def link_or_ledger(cluster: str) -> AgentLink | Offline:
    """A connection to the living agent, or else its ledger; but if that has tasks that outlive their agent (they wait
    for others, or may be submitted again), to a new agent, which takes them up."""
    places = Places(cluster)
    found = find_agent(places)
    if found is not None:
        return found
    offline = Offline(places)
    if not offline.unfinished():
        return offline
    from scalercli import launch, settings

    offline.close()
    return launch.open_link(cluster, workers=settings.workers(None), idle_seconds=settings.idle_seconds())
