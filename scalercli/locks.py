"""The locks of a session: one that its agent holds as long as it lives, one that is held while it is being started
(see ``places``)."""

from __future__ import annotations

import fcntl
import signal
from typing import IO

from scalercli.places import Places


def is_held(places: Places) -> bool:
    """Whether an agent lives, be it one that ends or hangs."""
    try:
        with places.lock.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def noted(places: Places) -> tuple[int, str, str]:
    """The pid, the path of the socket, and the last words, as far as they stand in the file: else 0 and empty."""
    try:
        lines = places.lock.read_text(errors="replace").split("\n")
    except OSError:
        lines = []
    pid, path, reason = (lines + ["", "", ""])[:3]
    return int(pid) if pid.isdecimal() else 0, path, reason


def last_words(places: Places, patience_seconds: float = 20.0) -> str:
    """How the last agent of this session ended, where that was not in order; waits for one that is ending."""
    try:
        with places.lock.open() as lock:
            wait(lock, patience_seconds, exclusive=False)
    except (OSError, TimeoutError):
        return ""
    pid, _, reason = noted(places)
    return reason or (f"the session agent (pid {pid}) was killed" if pid else "")


def await_start(places: Places, seconds: float) -> bool:
    """Waits until no agent is being started. False if none was, or if it takes longer."""
    try:
        with places.start_lock.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                wait(lock, seconds, exclusive=False)
                return True
    except (OSError, TimeoutError):
        pass
    return False


def wait(lock: IO[str], seconds: float, *, exclusive: bool = True) -> None:
    """Returns with the lock in hand; raises TimeoutError. For the main thread."""

    def alarm(number: int, frame: object) -> None:
        raise TimeoutError

    old = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
