"""Where objects lie: names (object ids) for contents that are shared while they are equal. Pure."""

from __future__ import annotations

import zlib
from typing import Union

from protocol.identifiers import ObjectId
from protocol.storage import Buffer

_WHOLE_KEY_BYTES = 1 << 10
_PIECE_BYTES = 1 << 12
_PIECES = 16
_COMPARE_BYTES = 1 << 16

_Key = Union[bytes, tuple[int, int]]


class Content:
    """One payload, and how many object ids name it."""

    __slots__ = ("key", "names", "payload")

    def __init__(self, payload: Buffer, key: _Key | None) -> None:
        self.payload = payload
        self.names = 0
        self.key = key  # None: not found by later payloads


class Contents:
    """Objects by id. Memory goes with the last id that names a content.

    Equal payloads of different ids share memory. To find them costs little, whatever their size: a payload of up to
    1 KiB is looked up by itself, a larger one by its length and the CRC of 16 pieces of 4 KiB (of all of it up to
    64 KiB), and what is found is compared byte by byte. So what is shared is always equal; but of several large
    payloads that differ while length and CRC agree, only the first is ever shared. The others are kept, and
    counted, apart. (Hashing 64 MiB takes longer than receiving them.)
    """

    def __init__(self) -> None:
        self._objects: dict[ObjectId, Content] = {}
        self._shared: dict[_Key, Content] = {}
        self.unique_count = 0
        """Distinct contents."""
        self.total_bytes = 0
        """Of the distinct contents."""

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, object_id: ObjectId) -> bool:
        return object_id in self._objects

    def get(self, object_id: ObjectId) -> Content | None:
        return self._objects.get(object_id)

    def set(self, object_id: ObjectId, payload: Buffer) -> Content:
        """Makes ``object_id`` a name for ``payload``, whatever it named before."""
        key = _key(payload)
        content = self._shared.get(key)
        if content is None:
            content = self._shared[key] = self._add(payload, key)
        elif not isinstance(key, bytes) and not _equal(content.payload, payload):
            content = self._add(payload, None)
        self.name(object_id, content)
        return content

    def name(self, object_id: ObjectId, content: Content) -> None:
        """Makes ``object_id`` a name for ``content``, whatever it named before."""
        content.names += 1  # first: it may be the same content
        old = self._objects.get(object_id)
        self._objects[object_id] = content
        if old is not None:
            self._release(old)

    def delete(self, object_id: ObjectId) -> bool:
        """Whether there was such an object."""
        content = self._objects.pop(object_id, None)
        if content is None:
            return False
        self._release(content)
        return True

    def _add(self, payload: Buffer, key: _Key | None) -> Content:
        self.unique_count += 1
        self.total_bytes += len(payload)
        # A small payload is its own key: one copy of it.
        return Content(key if isinstance(key, bytes) else payload, key)

    def _release(self, content: Content) -> None:
        content.names -= 1
        if not content.names:
            self.unique_count -= 1
            self.total_bytes -= len(content.payload)
            if content.key is not None:
                del self._shared[content.key]


def _key(payload: Buffer) -> _Key:
    size = len(payload)
    if size <= _WHOLE_KEY_BYTES:
        return bytes(payload)
    if size <= _PIECES * _PIECE_BYTES:
        return size, zlib.crc32(payload)
    view = memoryview(payload)
    crc = 0
    for i in range(_PIECES):
        start = (size - _PIECE_BYTES) * i // (_PIECES - 1)
        crc = zlib.crc32(view[start : start + _PIECE_BYTES], crc)
    return size, crc


def _equal(a: Buffer, b: Buffer) -> bool:
    if len(a) != len(b):
        return False
    # By pieces of bytes: comparing two memoryviews goes element by element.
    left, right = memoryview(a), memoryview(b)
    return all(
        left[i : i + _COMPARE_BYTES].tobytes() == right[i : i + _COMPARE_BYTES].tobytes()
        for i in range(0, len(left), _COMPARE_BYTES)
    )
