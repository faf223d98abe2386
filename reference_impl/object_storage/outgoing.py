"""What is to be sent to one connection (SPEC section 7.3): buffers, and parts of files, in order.

What lies in memory is sent by one system call for many buffers, what lies in a file without reading it whole. A file is
held from the moment a part of it is queued, so that it is not removed before that has been sent.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Union

from protocol.storage import Buffer
from reference_impl.access.stream import Stream
from reference_impl.object_storage.contents import OnDisk
from reference_impl.object_storage.files import SpillFiles

_JOIN_AVERAGE_BYTES = 1 << 14  # buffers smaller than this are joined: cheaper than one iovec for each
_JOIN_COUNT = 1 << 13
_IOVECS = 512
_SENDS = 8  # in a row on one connection, while something of them lies in files
_SENDFILE_BYTES = 1 << 20  # at once: what is not in the page cache is read from the disk meanwhile

SendFrom = Callable[[int, int, int], int]
"""Sends from a descriptor, an offset and a count of bytes: how many were taken; BlockingIOError where it would."""


class FileLost(Exception):
    """A file that was written can't be read."""


class _FilePart:
    """Bytes of a file that are still to be sent. The file is open only while it is sent: who does not read on keeps no
    descriptor."""

    __slots__ = ("end", "fd", "file", "offset")

    def __init__(self, part: OnDisk) -> None:
        self.file = part.file
        self.fd = -1
        self.offset = 0
        self.end = part.length

    def __len__(self) -> int:
        return self.end - self.offset

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


_Part = Union[Buffer, _FilePart]


class Outgoing:
    """The queue of one connection. ``close`` it in the end; it does not close the stream."""

    __slots__ = ("_file_parts", "_files", "_parts", "_send_from", "_stream", "size")

    def __init__(self, stream: Stream, files: SpillFiles, send_from: SendFrom) -> None:
        """``send_from`` is how the stream sends bytes of a file."""
        self._stream = stream
        self._files = files
        self._send_from = send_from
        self._parts: deque[_Part] = deque()  # none is empty
        self._file_parts = 0  # in ``_parts``
        self.size = 0
        """In bytes; 0: nothing is to be sent."""

    def put(self, buffers: Iterable[Buffer]) -> None:
        """Queues buffers, none of them empty."""
        for buffer in buffers:
            self._parts.append(buffer)
            self.size += len(buffer)

    def put_file(self, part: OnDisk) -> None:
        """Queues at least one byte of a file."""
        self._files.hold(part.file)
        self._parts.append(_FilePart(part))
        self._file_parts += 1
        self.size += part.length

    def send(self) -> None:
        """Sends what the stream takes: usually everything in one system call. Raises OSError and FileLost."""
        if not self.size:
            return
        parts = self._parts
        if self._file_parts:
            try:
                for _ in range(_SENDS):
                    if not parts or not self._send_first():
                        break
            finally:
                if parts and isinstance(parts[0], _FilePart):
                    parts[0].close()
            return
        if 1 < len(parts) <= _JOIN_COUNT and self.size < len(parts) * _JOIN_AVERAGE_BYTES:
            joined = b"".join(parts)  # type: ignore[arg-type]  # there are only buffers
            parts.clear()
            parts.append(joined)
        self._send_buffers(islice(parts, _IOVECS))  # type: ignore[arg-type]

    def close(self) -> None:
        """Forgets what is queued."""
        for part in self._parts if self._file_parts else ():
            if isinstance(part, _FilePart):
                self._close_part(part)
        self._parts.clear()
        self._file_parts = self.size = 0

    def _send_first(self) -> bool:
        """Sends what comes first, from memory or from a file: whether there may be room for more."""
        first = self._parts[0]
        if isinstance(first, _FilePart):
            return self._send_file(first)
        buffers: list[Buffer] = []
        for buffer in islice(self._parts, _IOVECS):
            if isinstance(buffer, _FilePart):
                break
            buffers.append(buffer)
        left = len(self._parts) - len(buffers)
        self._send_buffers(buffers)
        return len(self._parts) == left

    def _send_buffers(self, buffers: Iterable[Buffer]) -> None:
        """One system call for the first of what is queued."""
        try:
            sent = self._stream.sendmsg(buffers)
        except BlockingIOError:
            return
        self.size -= sent
        parts = self._parts
        while sent:
            first = parts[0]
            assert not isinstance(first, _FilePart)
            if sent < len(first):
                parts[0] = memoryview(first)[sent:]
                break
            sent -= len(first)
            parts.popleft()

    def _send_file(self, part: _FilePart) -> bool:
        if part.fd < 0:
            try:
                part.fd = self._files.open(part.file)
            except OSError as error:
                raise FileLost(f"a spilled object can't be read: {error}") from error
        try:
            sent = self._send_from(part.fd, part.offset, min(len(part), _SENDFILE_BYTES))
        except BlockingIOError:
            return False
        if not sent:
            raise FileLost("a spilled object can't be read: its file is too short")
        part.offset += sent
        self.size -= sent
        if not len(part):
            self._parts.popleft()
            self._file_parts -= 1
            self._close_part(part)
        return True

    def _close_part(self, part: _FilePart) -> None:
        part.close()
        self._files.release(part.file)


def sendfile_to(stream: Stream) -> SendFrom:
    """How a stream that does not encrypt sends bytes of a file: the kernel takes them from there."""
    return lambda descriptor, offset, count: os.sendfile(stream.fileno(), descriptor, offset, count)
