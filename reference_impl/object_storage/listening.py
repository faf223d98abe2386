"""Where the object storage listens (SPEC section 7.3): why an address can't be had, and what becomes of those who
connect while there are no descriptors for them."""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import time

from reference_impl.addresses import Address
from reference_impl.resources import require_descriptors

_BACKLOG = 1024
_PAUSE_SECONDS = 1.0
_RESERVED = 8  # descriptors that nobody gets who connects: they are for files, of objects and of keys
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_BIND_HINTS = {
    errno.EADDRINUSE: "choose another port; port 0 takes any free one",
    errno.EACCES: "choose a port above 1023; port 0 takes any free one",
}

logger = logging.getLogger(__name__)


class BindError(OSError):
    """The address can't be listened on; the text says why, ``hint`` what to do."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


class Listener:
    """A listening socket that is left alone for a while when there are no descriptors for those who connect: they wait
    in the kernel."""

    def __init__(self, address: Address) -> None:
        """Raises BindError."""
        self._socket = listen(address)
        host, port = self._socket.getsockname()[:2]
        self.address = Address(host, port)
        """Where it listens, with the real port."""
        self.again_at: float | None = None
        """When accepting is to be resumed, after there were no descriptors."""
        self._accepting = False

    def resume(self, selector: selectors.BaseSelector) -> None:
        """Accepting begins, or goes on."""
        self.again_at = None
        if not self._accepting:
            self._accepting = True
            selector.register(self._socket, selectors.EVENT_READ)

    def pause(self, selector: selectors.BaseSelector) -> None:
        """Those who connect wait until ``resume``."""
        if self._accepting:
            self._accepting = False
            selector.unregister(self._socket)

    def accept(self, selector: selectors.BaseSelector) -> tuple[socket.socket, tuple[str, int]] | None:
        """Somebody who has connected, and from where; None: nobody has, or must wait."""
        if not self._accepting:
            return None
        try:
            require_descriptors(_RESERVED, self._socket.fileno())
            sock, peer = self._socket.accept()
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                logger.error("new connections must wait: %s", error.strerror)
                self.pause(selector)
                self.again_at = time.monotonic() + _PAUSE_SECONDS
            return None  # else that one is gone already
        return sock, peer[:2]

    def close(self) -> None:
        self._socket.close()


def listen(address: Address) -> socket.socket:
    """A non-blocking listening socket; the host may be a name, or ``*`` for all IPv4 addresses. Raises BindError."""
    host = "0.0.0.0" if address.host == "*" else address.host
    try:
        family, kind, proto, _, where = socket.getaddrinfo(
            host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise BindError(f"{address}: no such host: {host!r}", "give an address of this machine") from error
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        hint = _BIND_HINTS.get(error.errno or 0, "give an address of this machine, such as tcp://127.0.0.1:0")
        raise BindError(f"can't listen on {address}: {error.strerror}", hint) from error
    return listener
