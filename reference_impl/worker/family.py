"""The processes that a process has started, whatever group or session they moved to (Linux; where the system does not
tell, none is found).

A *subreaper* gets the orphans below it as its children. Each processor is one, and so is the zygote: as long as a
processor lives, all that its tasks started is below it, and when it has ended that is below the zygote.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_PF_EXITING = 4


def become_subreaper() -> None:
    """From now on orphans below this process become its children, if it can find them. Not inherited by a fork."""
    if sys.platform == "linux" and Path(f"/proc/self/task/{os.getpid()}/children").exists():
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def is_subreaper() -> bool:
    """Whether this process has become one."""
    value = ctypes.c_int(0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(value), 0, 0, 0)
    return bool(value.value)


def children(pid: int) -> list[int]:
    """The children of a process, zombies too; none if it is gone or this system does not tell."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_bytes().split())
    return found


def descendants(pid: int) -> Iterator[tuple[int, int]]:
    """(process, its parent) of everything below a process, parents first."""
    todo = [pid]
    while todo:
        parent = todo.pop()
        for child in children(parent):
            yield child, parent
            todo.append(child)


def end_orphans(seconds: float, keep: Collection[int] = ()) -> None:
    """Kills and reaps the children of this process but for those to ``keep``: what became its children while they end,
    too. For who is a subreaper; for at most so long."""
    deadline = time.monotonic() + seconds
    while (orphans := [pid for pid in children(os.getpid()) if pid not in keep]) and time.monotonic() < deadline:
        for pid in orphans:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and is not reaped yet."""
    return _status(pid)[0] == "Z"


def is_ending(pid: int) -> bool:
    """Whether a process is on its way out, or gone: what it has open is closed by the system. True if this system does
    not tell."""
    try:
        return bool(int(_fields(pid)[6]) & _PF_EXITING)
    except (OSError, IndexError, ValueError):
        return True


def signal_outsiders(leader: int, number: int) -> int:
    """Signals what is below the leader of a process group and is not in the group. How many there were."""
    count = 0
    for pid, parent in descendants(leader):
        with contextlib.suppress(OSError):
            if os.getpgid(pid) != leader and signal_child(pid, parent, number):
                count += 1
    return count


def signal_child(pid: int, parent: int, number: int) -> bool:
    """Signals a process if it is, now, a child of ``parent``: never one that has got its number since. False if it
    is not."""
    descriptor = os.pidfd_open(pid)
    try:
        if _status(pid)[1] != parent:
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    finally:
        os.close(descriptor)


def _fields(pid: int) -> list[bytes]:
    """What /proc/PID/stat says behind the name: state, parent and so on; raises OSError."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()


def _status(pid: int) -> tuple[str, int]:
    """State letter and parent of a process; ("", 0) if it is gone."""
    try:
        fields = _fields(pid)
        return fields[0].decode(), int(fields[1])
    except (OSError, IndexError, ValueError):
        return "", 0
