"""The driver of opengris-scaler's client. Runs in that package's environment: ``PYTHON opengris_client.py``."""

from __future__ import annotations

from typing import Any

from driver import Driver  # beside this file: nothing of this repository is installed there
from scaler import Client


def _connect(scheduler: str) -> Any:
    return Client(address=scheduler)


def _close(client: Any) -> None:
    client.disconnect()


if __name__ == "__main__":
    Driver(_connect, _close).serve()
