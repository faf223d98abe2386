"""What the object storage and its peers need of a connection: a plain socket has it, and ``tls.TlsSocket``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from protocol.storage import Buffer


class Stream(Protocol):
    """Bytes, not blocking: BlockingIOError where it would."""

    def fileno(self) -> int: ...

    def setblocking(self, flag: bool, /) -> None: ...

    def recv_into(self, buffer: memoryview, /) -> int: ...

    def sendmsg(self, buffers: Iterable[Buffer], /) -> int: ...

    def close(self) -> None: ...
