"""Addresses as people write them: ``tcp://host:port``."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit


class Address(NamedTuple):
    """A TCP address. Port 0 means: any free one, when binding."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises ValueError that says what is wrong."""
        parts = urlsplit(text)
        if parts.scheme != "tcp":
            raise ValueError(f"{text!r} is not an address: tcp://HOST:PORT was expected")
        try:
            port = parts.port
        except ValueError:
            raise ValueError(f"{text!r} is not an address: the port is a number from 0 to 65535") from None
        if not parts.hostname or port is None or parts.path or parts.query:
            raise ValueError(f"{text!r} is not an address: tcp://HOST:PORT was expected")
        return cls(parts.hostname, port)
