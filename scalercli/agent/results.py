"""What the agent reads out of a result without ever unpickling it."""

from __future__ import annotations

_PROTO, _FRAME, _STOP = 0x80, 0x95, 0x2E
_INTS = {0x4B: 1, 0x4D: 2, 0x4A: 4}  # BININT1, BININT2, BININT: bytes of the number


def command_exit_code(payload: bytes) -> int | None:
    """The number in a pickle that is nothing but a small number, as a command's result is; else None."""
    at = 2 if payload[:1] == bytes((_PROTO,)) else 0
    if payload[at : at + 1] == bytes((_FRAME,)):
        at += 9
    size = _INTS.get(payload[at] if at < len(payload) else -1)
    if size is None or len(payload) != at + size + 2 or payload[-1] != _STOP:
        return None
    return int.from_bytes(payload[at + 1 : at + 1 + size], "little", signed=size == 4)
