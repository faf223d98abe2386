"""A connection with somebody's identity that is open and says nothing, as that of a peer which was cut off is for a
scheduler that has not seen its end. ZMTP by hand, because libzmq would connect again when it is closed.
"""

from __future__ import annotations

import socket
from contextlib import suppress

from conformance_tests.engine.channels import SetupFailed
from protocol.identifiers import Identity

_SECONDS = 5.0
_PONG_SECONDS = 0.5
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
_COMMAND, _LONG_COMMAND = 0x04, 0x06


class Twin:
    """Connects; returns when the scheduler has it. Raises SetupFailed."""

    def __init__(self, address: str, identity: Identity) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        try:
            self._socket = socket.create_connection((host.strip("[]"), int(port)), _SECONDS)
            self._socket.sendall(_GREETING)
            self._read(len(_GREETING))
            self._send(b"\x05READY" + _property(b"Socket-Type", b"DEALER") + _property(b"Identity", identity))
            self._command()
            self._send(b"\x04PING\0\0")
            self._socket.settimeout(_PONG_SECONDS)
            with suppress(TimeoutError):  # ZMTP 3.0 has no PONG
                self._command()
        except OSError as error:
            raise SetupFailed(f"no connection by hand: {error}") from None

    def close(self) -> None:
        self._socket.close()

    def _send(self, body: bytes) -> None:
        head = (
            bytes((_COMMAND, len(body))) if len(body) < 256 else bytes((_LONG_COMMAND,)) + len(body).to_bytes(8, "big")
        )
        self._socket.sendall(head + body)

    def _command(self) -> None:
        """Reads a frame."""
        long = self._read(1)[0] & 0x02
        self._read(int.from_bytes(self._read(8 if long else 1), "big"))

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self._socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("it was closed")
            data += piece
        return data


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value
