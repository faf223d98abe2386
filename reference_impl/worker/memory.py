"""The memory that a task may use (Linux; elsewhere only the resource limit is set, which some systems ignore).

Two nets. Each process of a task has a resource limit: an allocation above it fails, which in Python raises
MemoryError. And what a task and all processes that it started use together is looked at with each heartbeat: it is
killed when that is more.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import traceback
from collections.abc import Iterator
from pathlib import Path

from reference_impl.worker.family import descendants

LIMIT_VARIABLE = "_SCALER_WORKER_MEMORY_LIMIT"  # bytes; from the agent to its processors
_RESERVE_BYTES = 64 << 20
"""What a processor may use on top to say that its task has failed."""


class MemoryLimit:
    """The limit of the process that makes it, in addition to what it uses already."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._soft = _data_bytes() + limit_bytes
        self._hard = self._soft + _RESERVE_BYTES
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        if most != resource.RLIM_INFINITY:
            self._hard = min(self._hard, most)
            self._soft = min(self._soft, most)
        resource.setrlimit(resource.RLIMIT_DATA, (self._soft, self._hard))

    @contextlib.contextmanager
    def relaxed(self, error: MemoryError) -> Iterator[None]:
        """What the failed task holds is given up, and there is room to tell of it; the error says why, if it did not
        say anything."""
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (self._hard, self._hard))
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        if not error.args:
            error.args = (f"a task may use {self._limit} bytes of memory on this worker",)
        try:
            yield
        finally:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_DATA, (self._soft, self._hard))


def family_bytes(pid: int) -> int:
    """What a process and all below it use together, in bytes; memory that they share counts once. 0 if unknown."""
    return sum([_proportional_bytes(process) for process in (pid, *[child for child, _ in descendants(pid)])])


def _proportional_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _data_bytes() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_bytes().split()[5])
        return pages * resource.getpagesize()
    return 0
