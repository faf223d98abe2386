"""What a process uses, for heartbeats and the monitor stream. psutil, 20 ms of a start, is loaded when it is needed."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import suppress
from pathlib import Path

from protocol.messages import Resource

_U16_MAX = 0xFFFF


class ResourceMeter:
    """Samples one process. ``cpu`` is in tenths of a percent of one core since the last sample. If nothing can be
    read, since no more files can be opened, the last sample is returned again."""

    def __init__(self, pid: int | None = None) -> None:
        import psutil

        self._process = psutil.Process(pid)
        self._process.cpu_percent()
        self._last = Resource(0, 0)

    def sample(self) -> Resource:
        try:
            with self._process.oneshot():
                cpu = int(self._process.cpu_percent() * 10)
                self._last = Resource(min(cpu, _U16_MAX), self._process.memory_info().rss)
        except OSError:
            pass
        return self._last


def require_descriptors(count: int, any_open: int) -> None:
    """Raises OSError unless this process may open so many more. ``any_open`` is one that it has."""
    lowest = os.dup(any_open)
    os.close(lowest)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and lowest + count > limit:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def free_memory() -> int:
    """Bytes that this machine could still give."""
    import psutil

    return int(psutil.virtual_memory().available)


def lies_in_memory(path: Path) -> bool:
    """Whether what is written there takes memory and no disk. The path need not exist."""
    import psutil

    real = path.resolve()
    mounts = [p for p in psutil.disk_partitions(all=True) if real.is_relative_to(p.mountpoint)]
    return bool(mounts) and max(mounts, key=lambda p: len(p.mountpoint)).fstype in ("tmpfs", "ramfs")


def usable_memory() -> int:
    """Bytes of memory of this machine, or what the control group of this process may use, if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # none, or "max"
            total = min(total, int(Path(path).read_text()))
    return total
