"""Under which identities a worker is registered, in a file, for the one that is started in its place if it is killed.

Nobody tells a scheduler that a worker was killed: it finds out after the worker timeout (LIV-05). The next worker with
the same file finds what the killed one has left there, and takes leave in its name (LIV-13), so that its tasks go
elsewhere at once.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from protocol.identifiers import Identity, Role, WorkerId, role_of

_LOG = logging.getLogger("worker")
_MAX_BYTES = 1 << 20
_MAX_IDENTITY_BYTES = 255


class Identities:
    """The file is this process's as long as it lives. ``left`` are the identities of a worker that was killed."""

    def __init__(self, path: Path) -> None:
        """Raises OSError; BlockingIOError if the worker lives whose file it is; ValueError for a file of something
        else."""
        self._path = path
        self._now: dict[int, WorkerId] = {}
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.left = _identities(os.pread(self._descriptor, _MAX_BYTES, 0))
        except (OSError, ValueError):
            os.close(self._descriptor)
            raise

    def note(self, slot: int, identity: WorkerId) -> None:
        """From now on a slot has this one."""
        self._now[slot] = identity
        self._write()

    def forget_left(self) -> None:
        """Somebody has taken leave for those that are ``left``."""
        self.left.clear()
        self._write()

    def _write(self) -> None:
        content = b"".join(b"%s\n" % identity for identity in (*self.left, *self._now.values()))
        try:
            os.pwrite(self._descriptor, content, 0)
            os.ftruncate(self._descriptor, len(content))
        except OSError as error:  # all that depends on it is how soon tasks run again if this process is killed
            _LOG.warning("%s can't be written: %s", self._path, error.strerror)

    def close(self) -> None:
        """All have taken leave."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _identities(content: bytes) -> list[WorkerId]:
    lines = content.splitlines()
    if any(len(line) > _MAX_IDENTITY_BYTES or role_of(Identity(line)) is not Role.WORKER for line in lines):
        raise ValueError("it holds something else than identities of workers")
    return list(map(WorkerId, lines))
