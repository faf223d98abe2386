"""A server whose memory is bounded: objects in files, over real connections."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from protocol import storage
from protocol.storage import ResponseType
from reference_impl.addresses import Address
from reference_impl.object_storage.files import Disk, SpillError, SpillFiles
from reference_impl.object_storage.room import Limits
from tests.object_storage.peers import PATIENCE_SECONDS, Peer, oid, serving, start

MIB = 1 << 20


class FullDisk(Disk):
    """A disk with room for ``left`` bytes."""

    def __init__(self, left: int) -> None:
        self.left = left

    def write(self, fd: int, data: memoryview) -> int:
        if not self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write(fd, data[: self.left])
        self.left -= written
        return written


class StuckDisk(Disk):
    """A disk that writes nothing until it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def write(self, fd: int, data: memoryview) -> int:
        assert self.go.wait(PATIENCE_SECONDS)
        return super().write(fd, data)


@contextmanager
def bounded(root: Path, memory: int, disk: Disk | None = None, disk_limit: int | None = None) -> Iterator[Address]:
    with serving(limits=Limits(memory, disk_limit), files=SpillFiles(root, disk)) as address:
        yield address


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def files(root: Path) -> list[Path]:
    return [path for path in root.glob("spill-*/*") if path.is_file()]


def test_more_than_the_memory_holds_comes_back_as_it_was(tmp_path: Path) -> None:
    contents = [os.urandom(MIB + number) for number in range(8)]
    with bounded(tmp_path, 2 * MIB + 100) as address, Peer(address) as peer:
        for number, content in enumerate(contents):
            assert peer.ask(storage.set_request(number, oid(number), content)).type is ResponseType.SET_OK
        assert len(files(tmp_path)) == 6
        (directory,) = tmp_path.glob("spill-*[!k]")
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        peer.send(*(storage.get_request(number, oid(number)) for number in range(8)))
        assert [peer.receive().payload == content for content in contents] == [True] * 8
        assert peer.ask(storage.get_request(9, oid(0), 1000)).payload == contents[0][:1000]
        peer.send(*(storage.delete_request(number, oid(number)) for number in range(8)))
        assert [peer.receive().type for _ in contents] == [ResponseType.DEL_OK] * 8
        assert peer.total().total_bytes == 0
    assert list(tmp_path.iterdir()) == []


def test_what_is_queued_from_a_file_is_sent_though_the_object_is_deleted(tmp_path: Path) -> None:
    content = os.urandom(40 * MIB)
    with bounded(tmp_path, MIB) as address, Peer(address) as slow, Peer(address, b"Client|other") as other:
        slow.ask(storage.set_request(1, oid(1), content))
        slow.send(storage.get_request(2, oid(1)), storage.delete_request(3, oid(1)))  # and reads nothing yet
        while other.total().object_count:
            pass
        assert slow.receive().payload == content
        assert slow.receive().type is ResponseType.DEL_OK


def test_a_client_that_goes_while_it_is_sent_a_file_leaves_nothing_open(tmp_path: Path) -> None:
    with bounded(tmp_path, MIB) as address, Peer(address, b"Client|other") as other:
        other.ask(storage.set_request(1, oid(1), os.urandom(40 * MIB)))
        before = open_files()
        with Peer(address) as slow:
            slow.send(storage.get_request(2, oid(1)))
            slow.socket.recv(100)
        while open_files() > before:
            other.total()
        assert other.ask(storage.delete_request(3, oid(1))).type is ResponseType.DEL_OK


def test_a_slow_disk_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    disk = StuckDisk()
    first = os.urandom(MIB)
    with bounded(tmp_path, MIB, disk) as address, Peer(address) as writer, Peer(address, b"Client|other") as other:
        writer.ask(storage.set_request(1, oid(1), first))
        writer.send(storage.set_request(2, oid(2), os.urandom(MIB)))
        while other.total().object_count != 1:
            pass
        assert other.ask(storage.get_request(1, oid(1))).payload == first
        disk.go.set()
        assert writer.receive().type is ResponseType.SET_OK
        assert other.ask(storage.get_request(2, oid(1))).payload == first


def test_a_full_disk_refuses_a_set_and_harms_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = os.urandom(MIB)
    with bounded(tmp_path, MIB, FullDisk(100_000)) as address, Peer(address) as peer:
        assert peer.ask(storage.set_request(1, oid(1), first)).type is ResponseType.SET_OK
        refused = peer.ask(storage.set_request(2, oid(2), os.urandom(MIB)))
        assert (refused.type, refused.response_id) == (ResponseType.DEL_NOT_EXISTS, 2)
        assert files(tmp_path) == []  # not half of one either
        assert peer.ask(storage.get_request(3, oid(1))).payload == first
        assert peer.ask(storage.delete_request(4, oid(1))).type is ResponseType.DEL_OK
        assert peer.ask(storage.set_request(5, oid(2), first)).type is ResponseType.SET_OK
    assert "can't be spilled: No space left on device" in caplog.text
    assert f"an object of {MIB} bytes is refused" in caplog.text


def test_a_file_that_somebody_removed_ends_the_connection_that_asks_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with bounded(tmp_path, MIB) as address, Peer(address) as peer, Peer(address, b"Client|other") as other:
        peer.ask(storage.set_request(1, oid(1), os.urandom(2 * MIB)))
        for path in files(tmp_path):
            path.unlink()
        peer.send(storage.get_request(2, oid(1)))
        with pytest.raises(EOFError):
            peer.receive()
        assert other.total().object_count == 1
    assert "a spilled object can't be read" in caplog.text


def test_what_a_killed_server_left_is_removed_and_a_living_ones_files_are_not(tmp_path: Path) -> None:
    options = ("tcp://127.0.0.1:0", "--memory-limit", "1M", "--spill-directory", str(tmp_path))

    def spill(process: object) -> Path:
        line = process.stdout.readline()  # type: ignore[attr-defined]
        address = Address.parse(line.split("address=")[1].split()[0])
        known = set(files(tmp_path))
        with Peer(address) as peer:
            peer.ask(storage.set_request(1, oid(1), os.urandom(2 * MIB)))
        (path,) = set(files(tmp_path)) - known
        return path

    killed, living = start(*options), start(*options)
    try:
        left, used = spill(killed), spill(living)
        killed.send_signal(signal.SIGKILL)
        killed.communicate(timeout=PATIENCE_SECONDS)
        assert left.exists()
        with bounded(tmp_path, MIB):
            assert not left.parent.exists()
            assert used.exists()
    finally:
        for process in (killed, living):
            process.terminate()
            process.communicate(timeout=PATIENCE_SECONDS)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(SpillError, match=f"can't be spilled to {path}"):
        SpillFiles(path)
    process = start("tcp://127.0.0.1:0", "--spill-directory", str(path))
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 2
    assert errors.splitlines() == [
        f"error: objects can't be spilled to {path}: File exists",
        "hint: give another --spill-directory",
    ]


@pytest.mark.parametrize("text", ["-1", "1X", "", "K", "1.5G", "٣"])
def test_a_size_that_is_none_is_a_usage_error(text: str) -> None:
    process = start("tcp://127.0.0.1:0", f"--memory-limit={text}")
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 2
    assert errors.startswith(f"error: argument --memory-limit: {text!r} is not a size")


def test_a_directory_that_was_made_for_the_files_goes_with_them(tmp_path: Path) -> None:
    root = tmp_path / "new" / "spill"
    with bounded(root, MIB) as address, Peer(address) as peer:
        peer.ask(storage.set_request(1, oid(1), os.urandom(2 * MIB)))
        assert len(files(root)) == 1
    assert not root.exists()


@pytest.mark.parametrize("what", ["locks", "directories"])
def test_a_disk_without(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left there of what was tried, and it is not tried for ever."""
    flock, mkdir, times = fcntl.flock, Path.mkdir, iter(range(3))

    def no_flock(fd: int, operation: int) -> None:
        if next(times, None) is not None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(fd, operation)

    def no_mkdir(self: Path, *arguments: Any, **options: Any) -> None:
        if self.name.startswith("spill-"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        mkdir(self, *arguments, **options)

    with bounded(tmp_path, MIB) as address, Peer(address) as peer:
        if what == "locks":
            monkeypatch.setattr(fcntl, "flock", no_flock)
        else:
            monkeypatch.setattr(Path, "mkdir", no_mkdir)
        assert peer.ask(storage.set_request(1, oid(1), bytes(2 * MIB))).type is ResponseType.DEL_NOT_EXISTS
        assert not list(tmp_path.iterdir())
