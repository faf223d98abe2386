"""Waiting for ZeroMQ sockets and plain descriptors at once.

``zmq_poll`` looks at everything twice for each wait, and asks each socket before and after: some twenty system calls
where the role has a handful of descriptors. Here the kernel keeps the set (epoll), and a socket is asked once before a
wait, and again only if its descriptor says that something has changed.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol, Union

import zmq

READ, WRITE = int(zmq.POLLIN), int(zmq.POLLOUT)
_EVENTS, _FD = int(zmq.EVENTS), int(zmq.FD)

Key = Union["zmq.Socket[bytes]", int]


class Poller(Protocol):
    """What is used of ``zmq.Poller``."""

    def watch(self, socket: zmq.Socket[bytes]) -> None:
        """As ``register``, for a socket from which messages are only received, each time until there are none."""

    def register(self, key: Any, flags: int = READ) -> None:
        """Waits for ``key``, a ZeroMQ socket or a descriptor, to become what ``flags`` say; once more changes them."""

    def unregister(self, key: Any) -> None:
        """To be called before ``key`` is closed. Raises KeyError if it is not registered."""

    def poll(self, timeout: int | None = None) -> Any:
        """(key, flags) of what is ready, after ``timeout`` milliseconds at most."""

    def close(self) -> None:
        """It is not used any more."""


class _EpollPoller:
    """Sockets are waited for to be readable, whatever the flags."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sockets: dict[int, tuple[zmq.Socket[bytes], Callable[[int], Any]]] = {}  # by descriptor
        self._used: dict[int, tuple[zmq.Socket[bytes], Callable[[int], Any]]] = {}  # those that may be sent on, too
        self._fresh: dict[int, tuple[zmq.Socket[bytes], Callable[[int], Any]]] = {}  # watched, and not asked yet
        self._descriptors: dict[Key, int] = {}

    def watch(self, socket: zmq.Socket[bytes]) -> None:
        self.register(socket)
        descriptor = self._descriptors[socket]
        self._fresh[descriptor] = self._used.pop(descriptor)

    def register(self, key: Any, flags: int = READ) -> None:
        descriptor = self._descriptors.get(key)
        if isinstance(key, int):
            mask = (select.EPOLLIN if flags & READ else 0) | (select.EPOLLOUT if flags & WRITE else 0)
            if descriptor is not None:
                self._epoll.modify(descriptor, mask)
                return
            descriptor = key
        else:
            if descriptor is not None:
                return
            mask = select.EPOLLIN
            socket: zmq.Socket[bytes] = key
            get = super(zmq.Socket, socket).get  # without pyzmq's checks and enumerations
            descriptor = int(get(_FD))
            self._sockets[descriptor] = self._used[descriptor] = socket, get
        self._epoll.register(descriptor, mask)
        self._descriptors[key] = descriptor

    def unregister(self, key: Any) -> None:
        descriptor = self._descriptors.pop(key)
        self._sockets.pop(descriptor, None)
        self._used.pop(descriptor, None)
        self._fresh.pop(descriptor, None)
        with suppress(OSError):  # it is closed already
            self._epoll.unregister(descriptor)

    def _waiting(self) -> Iterator[Key]:
        """Sockets with messages. To ask also takes notice of what their descriptors say; and libzmq wakes only who has
        seen that there was nothing."""
        asked = [*self._used.values()]
        if self._fresh:
            asked += self._fresh.values()
            self._fresh.clear()
        for key, get in asked:
            if get(_EVENTS) & READ:
                yield key

    def poll(self, timeout: int | None = None) -> list[tuple[Key, int]]:
        # The descriptor of a socket says only that something has happened since the socket was asked or used last.
        ready: dict[Key, int] = dict.fromkeys(self._waiting(), READ)
        left = 0.0 if ready else -1 if timeout is None else timeout / 1000
        until = time.monotonic() + left if left > 0 else 0.0
        sockets = self._sockets
        while True:
            changed = self._epoll.poll(left)
            for descriptor, mask in changed:
                if descriptor in sockets:
                    key, get = sockets[descriptor]
                    if key not in ready and get(_EVENTS) & READ:
                        ready[key] = READ
                elif mask == select.EPOLLIN:
                    ready[descriptor] = READ
                else:  # an error, or the end, is for who reads
                    writes = WRITE if mask & select.EPOLLOUT else 0
                    ready[descriptor] = writes | (0 if mask == select.EPOLLOUT else READ)
            if ready or not changed:
                return list(ready.items())
            if until:  # ZeroMQ had something to say to itself
                left = max(0.0, until - time.monotonic())

    def close(self) -> None:
        self._epoll.close()


class _ZmqPoller(zmq.Poller):
    def register(self, key: Any, flags: int = READ) -> None:
        super().register(key, flags)

    def watch(self, socket: zmq.Socket[bytes]) -> None:
        self.register(socket, READ)

    def close(self) -> None:
        """There is nothing to close."""


def new_poller() -> Poller:
    """The fastest that the system has."""
    return _EpollPoller() if hasattr(select, "epoll") else _ZmqPoller()
