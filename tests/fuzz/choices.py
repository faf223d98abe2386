"""Bytes as a sequence of choices, so that what a fuzzer changes is what is done, not how that is written."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_WORDS = (0, 1, 2, 6, 2**64 - 1, 0xFFFFFFFC, 2**63, 2**32, 0x0000000100000000, 0x7FFFFFFF_FFFFFFFC)


class Choices:
    """Reads choices off ``data``. Where nothing is left, every choice is the first one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def byte(self) -> int:
        """0 to 255."""
        if self._at >= len(self._data):
            return 0
        self._at += 1
        return self._data[self._at - 1]

    def flag(self) -> bool:
        return bool(self.byte() & 1)

    def below(self, bound: int) -> int:
        """0 to ``bound`` - 1, of at most 65536."""
        value = self.byte()
        if bound > 256:
            value |= self.byte() << 8
        return value % bound

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def some(self, options: Sequence[T], most: int) -> tuple[T, ...]:
        """Up to ``most`` of them, if there are any; one may come more than once."""
        return tuple(self.pick(options) for _ in range(self.below(most + 1))) if options else ()

    def take(self, most: int) -> bytes:
        """Up to ``most`` of the bytes themselves."""
        count = self.below(most + 1)
        taken = self._data[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        taken, self._at = self._data[self._at :], len(self._data)
        return taken

    def word(self) -> int:
        """64 bits, often interesting ones: a Cap'n Proto pointer, an extreme number."""
        what = self.byte()
        if what < 100:
            return _WORDS[what % len(_WORDS)]
        if what < 200:
            offset = self.byte() - 64
            return (offset << 2 & 0xFFFFFFFC) | what & 3 | (self.byte() | self.byte() << 8) << 32
        return int.from_bytes(self.take(8), "little")

    def damage(self, frame: bytes) -> bytes:
        """``frame`` with one to four things changed: bits, words, its end, a piece that is there twice or missing."""
        damaged = bytearray(frame)
        for _ in range(1 + self.below(4)):
            how, at = self.byte() % 6, self.below(max(1, min(len(damaged), 65536)))
            if how == 0 and damaged:
                damaged[at] ^= 1 << self.below(8)
            elif how in (1, 2) and len(damaged) >= 8:
                struct.pack_into("<Q", damaged, min(at // 8 * 8, len(damaged) - 8), self.word())
            elif how == 3:
                del damaged[at:]
            elif how == 4:
                damaged[at:at] = damaged[at : at + 8 * (1 + self.below(4))]
            else:
                del damaged[at : at + 8 * (1 + self.below(2))]
        return bytes(damaged)

    def overwrite(self, frame: bytes) -> bytes:
        """``frame`` with one to four bits or words of it changed: as long as before."""
        damaged = bytearray(frame)
        for _ in range(1 + self.below(4)):
            if self.flag():
                damaged[self.below(len(damaged))] ^= 1 << self.below(8)
            else:
                struct.pack_into("<Q", damaged, self.below(len(damaged) // 8) * 8, self.word())
        return bytes(damaged)
