"""pycapnp's opinion of frames, for ``tests.fuzz.codecs``: each comes behind its length, and so does each answer."""

from __future__ import annotations

import struct
import sys

from tests.protocol import judge


def main() -> None:
    """Ends at the end of its input."""
    while head := sys.stdin.buffer.read(4):
        frame = sys.stdin.buffer.read(*struct.unpack("<I", head))
        try:
            answer = repr(judge.read(frame))
        except Exception as error:
            answer = f"!{type(error).__name__}: {error}"
        raw = answer.encode()
        sys.stdout.buffer.write(struct.pack("<I", len(raw)) + raw)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
