"""A view that redraws itself on a terminal, until q, Ctrl-C, or its program ends it. It follows a resize at once."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from scalercli import durations
from scalercli.output import Output


class View:
    """What is drawn, and the keys. Make it with ``view``."""

    def __init__(self, live: Any, keys: int | None, wake: int) -> None:
        self._live = live
        self._keys = keys
        self._wake = wake

    @property
    def size(self) -> tuple[int, int]:
        """(columns, lines) of the terminal, now."""
        size = self._live.console.size
        return size.width, size.height

    def show(self, renderable: Any) -> None:
        self._live.update(renderable, refresh=True)

    def pause(self, seconds: float) -> bool:
        """Waits so long, or until the terminal is resized; False when q was pressed."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._keys is not None:
            poll.register(self._keys, select.POLLIN)
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return True
            for fd, _ in poll.poll(durations.poll_milliseconds(left)):
                data = os.read(fd, 1024)
                if fd == self._wake:
                    return True
                if b"q" in data or b"Q" in data:
                    return False
                if not data:  # nobody types any more
                    poll.unregister(fd)
                    self._keys = None


@contextlib.contextmanager
def view(out: Output, *, screen: bool) -> Iterator[View]:
    """A view on stdout, which is a terminal. ``screen``: on the whole of it, which is restored afterwards."""
    from rich.console import Console
    from rich.live import Live

    # COLUMNS and LINES are what the terminal was once; rich would believe them, and not follow a resize.
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    console = Console(no_color=not out.colour, highlight=False, emoji=False, _environ=environ)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def resized(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(writer, b"\0")

    old = signal.signal(signal.SIGWINCH, resized)
    try:
        with _keys() as keys, Live(
            console=console, screen=screen, auto_refresh=False, transient=False, vertical_overflow="crop",
            redirect_stdout=False, redirect_stderr=False,
        ) as live:  # fmt: skip
            yield View(live, keys, reader)
    finally:
        signal.signal(signal.SIGWINCH, old)
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """Stdin with each key at once and without an echo; None where it is no terminal."""
    try:
        fd = sys.stdin.fileno()
    except (AttributeError, ValueError, OSError):
        yield None
        return
    try:
        ours = os.isatty(fd) and os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # a terminal, but of another session
        ours = False
    if not ours:
        yield None
        return
    import termios
    import tty

    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
