"""The driver of the reference's client: ``python -m conformance_tests.drivers.reference_client [TIMEOUT_SECONDS]``."""

from __future__ import annotations

import sys

from conformance_tests.drivers.driver import Driver
from reference_impl.client import Client


def main() -> None:
    """Serves until stdin ends."""
    timeout = float(sys.argv[1]) if sys.argv[1:] else 60.0

    def connect(scheduler: str) -> Client:
        return Client(scheduler, heartbeat_interval_seconds=0.2, timeout_seconds=timeout)

    Driver(connect, Client.close).serve()


if __name__ == "__main__":
    main()
