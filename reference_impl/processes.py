"""Processes that must not outlive what started them, and signals as bytes on a file descriptor."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
from types import FrameType

_PR_SET_PDEATHSIG = 1
_THRESHOLDS = 2_000, 10, 1_000


def die_with_parent(parent_pid: int) -> None:
    """From now on this process is killed when its parent ends, however that happens (Linux only; elsewhere a no-op).

    ``parent_pid`` is the parent as the caller knows it: if it is gone already, this process ends at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def collect_seldom() -> None:
    """Has Python look for cycles among all objects only seldom. A server makes hardly any, but keeps a million objects,
    and to look at these takes 300 ms in which nobody is served."""
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


class Losses:
    """How often something was lost and may be replaced. Times are in seconds, on any clock."""

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self.seconds = seconds
        self._times: list[float] = []

    def lost(self, now: float) -> int:
        """It was lost once more. How often that was too often in ``seconds``; 0 as long as it is replaced."""
        self._times = [at for at in self._times if now - at < self.seconds] + [now]
        return len(self._times) if len(self._times) > self._limit else 0


class StopSignals:
    """SIGTERM and SIGINT as readiness of a socket: poll ``fileno()``, then stop. For the main thread only.

    ``others`` are signals that do not stop; ``take`` tells which of them came."""

    def __init__(self, *others: signal.Signals) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self.received: signal.Signals | None = None
        self.times = 0
        """How often it was told to stop."""
        self._others: set[signal.Signals] = set()
        self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._old = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        self._old.update({s: signal.signal(s, self._note_other) for s in others})

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self.times += 1
        with contextlib.suppress(BlockingIOError):  # what the wake-up wrote may have been read before this ran
            self._writer.send(b"\0")

    def _note_other(self, number: int, frame: FrameType | None) -> None:
        self._others.add(signal.Signals(number))

    def fileno(self) -> int:
        return self._reader.fileno()

    def take(self) -> set[signal.Signals]:
        """The other signals that came since this was last called. ``fileno()`` is not readable after it, unless it is
        time to stop."""
        if self.received is None:
            with contextlib.suppress(BlockingIOError):
                self._reader.recv(4096)
        others, self._others = self._others, set()
        return others

    def once_more(self) -> None:
        """``fileno()`` is not readable any more, until another signal comes."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)

    def close(self) -> None:
        """Restores what was there before; but a process that was told to end ignores being told again."""
        signal.set_wakeup_fd(self._old_fd)
        for number, handler in self._old.items():
            signal.signal(number, handler if self.received is None else signal.SIG_IGN)
        self._reader.close()
        self._writer.close()
