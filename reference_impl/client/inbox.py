"""What other threads ask of a client's thread.

They put calls in and wake the thread if it waits and nobody has woken it yet; what accumulates while it is busy is one
batch.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from reference_impl.client.wakeup import WakeUp

Call = tuple[Callable[..., Any], tuple[Any, ...]]


class Inbox:
    """``put``, ``put_new`` and ``put_last`` are for any thread, the rest is for the client's."""

    def __init__(self) -> None:
        self.calls: deque[Call] = deque()
        """To be carried out, in this order."""
        self.awake = False
        """Whether the client's thread will look at them before it waits again. It says so itself."""
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a garbage collection may come back here in the same thread
        self._closed = False  # nothing new; guarded by _lock
        self._ended = False  # nobody reads it any more; guarded by _lock
        self._wakeup = WakeUp()

    @property
    def is_forked(self) -> bool:
        """Whether this is a copy, in a process that has no client's thread."""
        return os.getpid() != self._pid

    def put(self, method: Callable[..., Any], *arguments: Any) -> bool:
        """Asks for this call. False: the client's thread has ended. Raises RuntimeError in a forked process."""
        self.check_process()
        with self._lock:
            if self._ended:
                return False
            self.calls.append((method, arguments))
        self._wake()
        return True

    def put_new(self, method: Callable[..., Any], *arguments: Any) -> None:
        """The same for what brings new work: raises RuntimeError after ``put_last``, too."""
        self.check_process()
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self.calls.append((method, arguments))
        self._wake()

    def put_last(self, method: Callable[..., Any], *arguments: Any) -> None:
        """The same for what ends the client: nothing new after it. In a forked process it does nothing."""
        if self.is_forked:
            return
        with self._lock:
            self._closed = True
            if self._ended:
                return
            self.calls.append((method, arguments))
        self._wake()

    def check_process(self) -> None:
        """Raises RuntimeError in a forked process."""
        if self.is_forked:
            raise RuntimeError(f"this client belongs to process {self._pid}: after a fork, create a new one")

    def _wake(self) -> None:
        if not self.awake:
            self.awake = True
            self._wakeup.set()

    # ---- for the client's thread ----

    def fileno(self) -> int:
        """Readable when somebody has woken it, until ``clear``."""
        return self._wakeup.fileno()

    def clear(self) -> None:
        self._wakeup.clear()

    def end(self) -> list[Call]:
        """Nobody will read it any more: returns what was not carried out."""
        with self._lock:
            self._closed = self._ended = True
            rest = list(self.calls)
            self.calls.clear()
        return rest

    def close(self) -> None:
        """After ``end``."""
        self._wakeup.close()
