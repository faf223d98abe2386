"""Where objects lie: names (object ids) for contents that are shared while they are equal. Pure."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from typing import Union

from protocol.identifiers import ObjectId
from protocol.storage import Buffer

LARGE_BYTES = 1 << 16
"""A content of at least this size may go to a file."""

_WHOLE_KEY_BYTES = 1 << 10
_PIECE_BYTES = 1 << 12
_PIECES = 16
_COMPARE_BYTES = 1 << 16

Key = Union[bytes, tuple[int, int]]


class OnDisk:
    """The first ``length`` bytes of a file of the storage, known by its number."""

    __slots__ = ("file", "length")

    def __init__(self, file: int, length: int) -> None:
        self.file = file
        self.length = length

    def __len__(self) -> int:
        return self.length


class Content:
    """One payload, and how many object ids name it."""

    __slots__ = ("key", "names", "payload", "size")

    def __init__(self, payload: Buffer | OnDisk, key: Key | None) -> None:
        self.payload = payload
        self.size = len(payload)
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
        self._shared: dict[Key, Content] = {}
        self.large: OrderedDict[Content, None] = OrderedDict()
        """Those in memory that may go to a file, least recently used first; see ``take_large``."""
        self.large_bytes = 0
        """Of those."""
        self.unique_count = 0
        """Distinct contents."""
        self.total_bytes = 0
        """Of the distinct contents."""
        self.disk_bytes = 0
        """Of those, in files."""
        self.left: list[int] = []
        """Files that nothing names any more; to be emptied by who removes them."""

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, object_id: ObjectId) -> bool:
        return object_id in self._objects

    @property
    def memory_bytes(self) -> int:
        """Of the distinct contents in memory."""
        return self.total_bytes - self.disk_bytes

    def get(self, object_id: ObjectId) -> Content | None:
        content = self._objects.get(object_id)
        if content is not None and content.size >= LARGE_BYTES and content in self.large:
            self.large.move_to_end(content)
        return content

    def set(self, object_id: ObjectId, payload: Buffer) -> Content:
        """Makes ``object_id`` a name for ``payload``, whatever it named before."""
        key = key_of(payload)
        content = self._shared.get(key)
        if content is None and isinstance(key, bytes):  # the most common case, and the cheapest
            content = self._shared[key] = Content(key, key)
            self.unique_count += 1
            self.total_bytes += content.size
        elif content is None:
            content = self.add(payload, key)
        elif not isinstance(key, bytes):
            content = self.equal(key, payload) or self.add(payload, key)
        self.name(object_id, content)
        return content

    def like(self, key: Key) -> Content | None:
        """The content that others with this key are compared with; it need not be equal."""
        return self._shared.get(key)

    def equal(self, key: Key, payload: Buffer) -> Content | None:
        """The content in memory that is equal to ``payload``, if there is one that can be found."""
        content = self._shared.get(key)
        if content is None or isinstance(content.payload, OnDisk):
            return None
        return content if isinstance(key, bytes) or _equal(content.payload, payload) else None

    def add(self, payload: Buffer | OnDisk, key: Key) -> Content:
        """A new content, which needs a name at once."""
        self.unique_count += 1
        self.total_bytes += len(payload)
        # A small payload is its own key: one copy of it.
        content = Content(key if isinstance(key, bytes) else payload, None if key in self._shared else key)
        if content.key is not None:
            self._shared[key] = content
        if isinstance(payload, OnDisk):
            self.disk_bytes += content.size
        elif content.size >= LARGE_BYTES:
            self.put_large(content)
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

    def delete_all(self, prefix: bytes) -> bool:
        """Deletes what begins so; whether there was anything. It looks at every id."""
        names = [object_id for object_id in self._objects if object_id.startswith(prefix)]
        for object_id in names:
            self.delete(object_id)
        return bool(names)

    def frees(self, object_id: ObjectId) -> int:
        """Bytes of memory that go when ``object_id`` is replaced."""
        old = self._objects.get(object_id)
        return old.size if old is not None and old.names == 1 and not isinstance(old.payload, OnDisk) else 0

    def take_large(self) -> Content:
        """Takes the least recently used content out of ``large``: it is to be written to a file."""
        content, _ = self.large.popitem(last=False)
        self.large_bytes -= content.size
        return content

    def put_large(self, content: Content, *, used: bool = True) -> None:
        """Puts a content into ``large``; it counts as the least recently used one if not ``used``."""
        self.large[content] = None
        self.large_bytes += content.size
        if not used:
            self.large.move_to_end(content, last=False)

    def moved(self, content: Content, file: int) -> None:
        """A content that is in memory is in a file from now on."""
        content.payload = OnDisk(file, content.size)
        self.disk_bytes += content.size

    def _release(self, content: Content) -> None:
        content.names -= 1
        if not content.names:
            self.unique_count -= 1
            self.total_bytes -= content.size
            if content.key is not None:
                del self._shared[content.key]
            if isinstance(content.payload, OnDisk):
                self.disk_bytes -= content.size
                self.left.append(content.payload.file)
            elif content.size >= LARGE_BYTES and content in self.large:
                del self.large[content]
                self.large_bytes -= content.size


def key_of(payload: Buffer) -> Key:
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
