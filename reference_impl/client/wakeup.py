"""Waking a thread that waits in a poller."""

from __future__ import annotations

import os
import socket
import threading


class WakeUp:
    """A file descriptor that a thread can make readable for another."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # closing and setting must not meet: the number may be reused
        self._pair: tuple[socket.socket, socket.socket] | None = None
        if hasattr(os, "eventfd"):
            self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self._pair = socket.socketpair()
            for end in self._pair:
                end.setblocking(False)
            self._fd = self._pair[0].fileno()

    def fileno(self) -> int:
        return self._fd

    def set(self) -> None:
        with self._lock:
            if self._fd < 0:
                return
            try:
                if self._pair is None:
                    os.eventfd_write(self._fd, 1)
                else:
                    self._pair[1].send(b"!")
            except BlockingIOError:
                pass  # it is readable already

    def clear(self) -> None:
        try:
            if self._pair is None:
                os.eventfd_read(self._fd)
            else:
                self._pair[0].recv(4096)
        except BlockingIOError:
            pass

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0 and self._pair is None:
                os.close(self._fd)
            elif self._pair is not None:
                for end in self._pair:
                    end.close()
            self._fd = -1
