from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest

from reference_impl.addresses import Address
from tests.scheduler.processes import Running, start


@pytest.fixture
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    options = getattr(request, "param", ())
    with socket.create_server(("127.0.0.1", 0)) as storage:  # takes the connection and says nothing
        storage_address = str(Address(*storage.getsockname()))
        process = start("tcp://127.0.0.1:0", "-osa", storage_address, "--log-level", "ERROR", *options)
        assert process.stdout is not None
        assert process.stderr is not None
        with process:
            try:
                facts = dict(word.split("=", 1) for word in process.stdout.readline().split()[2:])
                running = Running(process, Address.parse(facts["address"]), Address.parse(facts["monitor"]))
                yield running
                running.close()
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
                assert process.stderr.read() == ""
            finally:
                process.kill()  # one that does not end fails its test, and is not left behind
