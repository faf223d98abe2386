"""The files that objects are spilled to, one per content: written by a thread of its own, so that a slow disk keeps no
connection waiting; read by the server itself, piece by piece.

They lie in a private directory of this process under a root that servers may share. Beside the directory lies a lock
file, held locked as long as the process lives: a directory whose lock can be taken was left behind, and is removed when
the next server starts.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import shutil
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Union

from protocol.storage import Buffer
from reference_impl.resources import lies_in_memory

_PIECE_BYTES = 1 << 22
_LOCK_SUFFIX = ".lock"
_PREFIX = "spill-"

logger = logging.getLogger(__name__)


class Written(NamedTuple):
    """``file`` holds what it was to hold; or not, then ``reason`` says why, and it is not there."""

    file: int
    reason: str


class Compared(NamedTuple):
    """The answer to ``compare``; False also if the file can't be read."""

    ticket: int
    equal: bool


Finished = Union[Written, Compared]


class SpillError(OSError):
    """The directory for spilled objects can't be used; the text says why."""


def default_root() -> Path:
    """A directory of this user under the system's temporary directory."""
    return Path(tempfile.gettempdir()) / f"scalercli-spill-{os.getuid()}"


class Disk:
    """What is done to files; tests put faults in here."""

    def write(self, fd: int, data: memoryview) -> int:
        return os.write(fd, data)


class SpillFiles:
    """Files by number. All methods but the thread's own are for one thread. ``close`` removes everything."""

    def __init__(self, root: Path | None = None, disk: Disk | None = None) -> None:
        """``root`` None: ``default_root()``. Nothing is made before the first write, but a root that is given must be
        usable: raises SpillError."""
        self.root = root or default_root()
        self._keep_root = root is not None and root.exists()  # the user's own
        self._disk = disk or Disk()
        self._directory: Path | None = None
        self._lock = -1
        self._thread: threading.Thread | None = None
        self._jobs: queue.SimpleQueue[tuple[str, int, int, Buffer] | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[Finished] = queue.SimpleQueue()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._uses: dict[int, int] = {}  # how often a file is queued to be sent
        self._doomed: set[int] = set()  # to be removed when it is not queued any more
        try:
            if root is not None:
                _private_directory(root)
            _remove_left_overs(self.root)
        except BaseException:
            self._close_sockets()
            raise

    def fileno(self) -> int:
        """Readable when ``finished`` has something."""
        return self._wake.fileno()

    def write(self, file: int, payload: Buffer) -> None:
        """Starts to write a new file."""
        self._start("write", 0, file, payload)

    def compare(self, ticket: int, file: int, payload: Buffer) -> None:
        """Starts to compare a file with a payload."""
        self._start("compare", ticket, file, payload)

    def remove(self, file: int) -> None:
        """Removes a file as soon as it is not in use."""
        if file in self._uses:
            self._doomed.add(file)
        else:
            self._start("remove", 0, file, b"")

    def hold(self, file: int) -> None:
        """The file is in use."""
        self._uses[file] = self._uses.get(file, 0) + 1

    def release(self, file: int) -> None:
        """The opposite of ``hold``."""
        self._uses[file] -= 1
        if not self._uses[file]:
            del self._uses[file]
            if file in self._doomed:
                self._doomed.remove(file)
                self.remove(file)

    def open(self, file: int) -> int:
        """A file descriptor to read a file; raises OSError."""
        return os.open(self._path(file), os.O_RDONLY | os.O_CLOEXEC)

    def finished(self) -> list[Finished]:
        """What has been done since the last call."""
        with suppress(BlockingIOError):
            self._wake.recv(4096)
        found: list[Finished] = []
        while True:
            try:
                found.append(self._finished.get_nowait())
            except queue.Empty:
                return found

    def close(self) -> None:
        """Ends the thread and removes the directory."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            with suppress(OSError):
                _lock_path(self._directory).unlink()
            os.close(self._lock)
            if not self._keep_root:
                with suppress(OSError):
                    self.root.rmdir()  # only if nobody else uses it
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._wake.close()
        self._waker.close()

    def _path(self, file: int) -> Path:
        if self._directory is None:
            raise SpillError("nothing was spilled yet")
        return self._directory / str(file)

    def _start(self, what: str, ticket: int, file: int, payload: Buffer) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="spill", daemon=True)
            self._thread.start()
        self._jobs.put((what, ticket, file, payload))

    # ---- in the thread ----

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            what, ticket, file, payload = job
            if what == "write":
                self._finish(Written(file, self._write(file, payload)))
            elif what == "compare":
                self._finish(Compared(ticket, self._equal(file, payload)))
            else:
                with suppress(OSError):
                    self._path(file).unlink()
            del job, payload  # not kept while waiting for the next one

    def _finish(self, what: Finished) -> None:
        self._finished.put(what)
        with suppress(BlockingIOError):  # then it is readable already
            self._waker.send(b"\0")

    def _write(self, file: int, payload: Buffer) -> str:
        """The reason why not, or nothing."""
        try:
            if self._directory is None:
                self._directory, self._lock = _own_directory(self.root)
                logger.info("the memory limit is reached: objects go to files in %s", self._directory)
                if lies_in_memory(self._directory):
                    logger.warning("%s lies in memory: that saves none; choose a --spill-directory", self._directory)
            path = self._path(file)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            return error.strerror or str(error)
        try:
            with memoryview(payload) as view:
                done = 0
                while done < len(view):
                    done += self._disk.write(fd, view[done : done + _PIECE_BYTES])
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            return error.strerror or str(error)
        finally:
            os.close(fd)
        return ""

    def _equal(self, file: int, payload: Buffer) -> bool:
        try:
            with self._path(file).open("rb", buffering=0) as stored, memoryview(payload) as view:
                if os.fstat(stored.fileno()).st_size != len(view):
                    return False
                done = 0
                while done < len(view):
                    piece = stored.read(_PIECE_BYTES)
                    if not piece or piece != view[done : done + len(piece)].tobytes():
                        return False
                    done += len(piece)
        except OSError as error:
            logger.error("a spilled object can't be read: %s", error)
            return False
        return True


def _private_directory(path: Path) -> None:
    """Makes sure that it is there, and that no other user can put something in the way. Raises SpillError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise SpillError(f"objects can't be spilled to {path}: {error.strerror}") from error
    if status.st_uid not in (os.getuid(), 0):
        raise SpillError(f"objects can't be spilled to {path}: it belongs to another user")
    if not os.access(path, os.W_OK | os.X_OK):
        raise SpillError(f"objects can't be spilled to {path}: it can't be written to")


def _lock_path(directory: Path) -> Path:
    return directory.with_name(directory.name + _LOCK_SUFFIX)


def _own_directory(root: Path) -> tuple[Path, int]:
    """A new directory, and the descriptor that keeps its lock. Raises OSError."""
    while True:
        _private_directory(root)
        directory = root / f"{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
        lock = None
        try:
            lock = _take_lock(_lock_path(directory), os.O_CREAT | os.O_EXCL)
            if lock is not None:
                directory.mkdir(mode=0o700)
                return directory, lock
        except BaseException:
            with suppress(OSError):
                _lock_path(directory).unlink()
            if lock is not None:
                os.close(lock)
            raise


def _take_lock(path: Path, flags: int) -> int | None:
    """A descriptor that keeps the lock at ``path``; None if another process has it, or has just removed it. Raises
    OSError where there are no locks."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    except (FileNotFoundError, FileExistsError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_ino == path.stat().st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass  # somebody has it, or it has gone
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _remove_left_overs(root: Path) -> None:
    """Removes what servers that are no more have left in ``root``."""
    try:
        if root.stat().st_uid != os.getuid():
            return
        locks = list(root.glob(f"{_PREFIX}*{_LOCK_SUFFIX}"))
    except OSError:
        return
    for path in locks:
        lock = None
        with suppress(OSError):
            lock = _take_lock(path, 0)
        if lock is None:
            continue
        directory = path.with_name(path.name[: -len(_LOCK_SUFFIX)])
        logger.info("%s was left behind by a server that is no more: removed", directory)
        shutil.rmtree(directory, ignore_errors=True)
        with suppress(OSError):
            path.unlink()
        os.close(lock)
