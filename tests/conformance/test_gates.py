"""Gates: what has happened at one is seen at once."""

from __future__ import annotations

import socket

from conformance_tests.engine.gates import GateServer


def test_a_task_that_has_said_its_name_is_seen_without_waiting() -> None:
    server = GateServer()
    with socket.create_connection(("127.0.0.1", server.port)) as task:
        task.sendall(b"low\n")
        server.wait(0.0)
        assert [(event.kind, event.fields) for event in server.events] == [("gateOpened", {"name": "low"})]
        server.release("low", 1)
        assert task.makefile().readline() == "1\n"
    server.close()
