"""One poller, and what is to be called when something in it is ready."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reference_impl.polling import READ, WRITE, new_poller

Handler = Callable[[], None]


class Reactor:
    """Sockets of ZeroMQ and plain descriptors, each with its handler. A handler may be called for nothing."""

    def __init__(self) -> None:
        self._poller = new_poller()
        self._handlers: dict[Any, Handler] = {}
        self._writing: set[int] = set()
        self._soon: list[Handler] = []

    def register(self, key: Any, handler: Handler) -> None:
        """Calls ``handler`` when ``key`` can be read."""
        self._handlers[key] = handler
        self._poller.register(key)

    def watch(self, socket: Any, handler: Handler) -> None:
        """The same for a ZeroMQ socket from which messages are only received, each time until there are none."""
        self._handlers[socket] = handler
        self._poller.watch(socket)

    def unregister(self, key: Any) -> None:
        """No error if it is not registered. To be called before a descriptor is closed."""
        if self._handlers.pop(key, None) is not None:
            self._writing.discard(key)
            self._poller.unregister(key)

    def knows(self, key: Any) -> bool:
        return key in self._handlers

    def watch_writing(self, descriptor: int, wanted: bool) -> None:
        """Calls the handler also when the descriptor takes more, from now on or not any more."""
        if wanted != (descriptor in self._writing):
            self._writing ^= {descriptor}
            self._poller.register(descriptor, READ | WRITE if wanted else READ)

    def soon(self, handler: Handler) -> None:
        """Calls it once, in ``settle``."""
        if handler not in self._soon:
            self._soon.append(handler)

    def settle(self) -> None:
        """Does what is to be done before the next wait."""
        while self._soon:
            self._soon.pop(0)()

    def once(self, seconds: float) -> None:
        """Waits until something is ready, at most so long, and handles it."""
        handlers = self._handlers
        for key, _ in self._poller.poll(int(seconds * 1000) + 1 if seconds > 0 else 0):
            handler = handlers.get(key)  # an earlier handler may have closed it
            if handler is not None:
                handler()
