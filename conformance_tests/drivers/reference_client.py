"""The driver of the reference's client: ``python -m conformance_tests.drivers.reference_client``."""

from __future__ import annotations

from conformance_tests.drivers.driver import Driver
from reference_impl.client import Client


def _connect(scheduler: str) -> Client:
    return Client(scheduler, heartbeat_interval_seconds=0.2)


def main() -> None:
    """Serves until stdin ends."""
    Driver(_connect, Client.close).serve()


if __name__ == "__main__":
    main()
