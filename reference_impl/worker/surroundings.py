"""What a task finds in its process, put right again for the next one: output that it closed, redirected or made
non-blocking, the working directory, and how its children end."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys


class Surroundings:
    """Of a process that runs tasks. Made when all is as the first one is to find it."""

    def __init__(self, stdout: int, stderr: int) -> None:
        """From now on the two are what this process writes."""
        self._kept = {1: stdout, 2: stderr}  # close-on-exec duplicates that a task has no reason to touch
        self._is = {number: self._identity(kept) for number, kept in self._kept.items()}
        self._streams: dict[int, io.TextIOWrapper] = {}
        for number, kept in self._kept.items():
            os.dup2(kept, number)
            self._open(number)
        self._directory = -1

    def stay(self) -> None:
        """The working directory is the one for each task."""
        with contextlib.suppress(OSError):  # it is gone, or not for us: tasks see to that themselves
            self._directory = os.open(".", os.O_RDONLY | os.O_CLOEXEC)

    @staticmethod
    def _identity(descriptor: int) -> tuple[int, int]:
        status = os.fstat(descriptor)
        return status.st_dev, status.st_ino

    def _open(self, number: int) -> None:
        stream = open(number, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
        self._streams[number] = stream
        if number == 1:
            sys.stdout = sys.__stdout__ = stream  # type: ignore[misc]
        else:
            sys.stderr = sys.__stderr__ = stream  # type: ignore[misc]

    def flush(self) -> None:
        """Everything that the task wrote is in the pipes."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):  # closed, or something else by now
                stream.flush()

    def settle(self) -> None:
        """The next task finds things as this one did."""
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else nobody learns how a child has ended
        if self._directory >= 0:
            with contextlib.suppress(OSError):
                os.fchdir(self._directory)
        for number, kept in self._kept.items():
            os.set_blocking(kept, True)  # the pipe itself, which a program may have changed for all who have it
            try:
                same = self._identity(number) == self._is[number]
            except OSError:
                same = False
            if not same:
                os.dup2(kept, number)
            stream = self._streams[number]
            current = sys.stdout if number == 1 else sys.stderr
            if stream.closed or current is not stream:
                self._open(number)
