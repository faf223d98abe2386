"""Whoever reaches the scheduler can connect, without a key, too: that must not end it, nor keep others waiting."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from protocol import codec
from protocol.identifiers import new_client_id
from protocol.messages import (
    ClientHeartbeat,
    ClientHeartbeatEcho,
    InformationQuery,
    InformationRequest,
    InformationResponse,
    ObjectStorageAddress,
)
from reference_impl.access import keys
from reference_impl.access.allowed import AllowedKeys
from reference_impl.access.handshakes import HandshakeWatch
from reference_impl.access.settings import ServerAccess
from reference_impl.addresses import Address
from reference_impl.polling import new_poller
from reference_impl.scheduler.server import Listen, SchedulerServer
from reference_impl.scheduler.settings import Settings
from tests.access.house import PATIENCE_SECONDS, House, Peer, Running

ANYWHERE = Address("127.0.0.1", 0)
NOWHERE = Address("127.0.0.1", 1)
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16 + 32)
READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB"
PATIENCE = int(PATIENCE_SECONDS)
LONG = 1 << 20
"""libzmq takes 50 MB and half a second for a subscription of this length."""


@pytest.fixture
def scheduler() -> Iterator[Running]:
    running = Running("scheduler", str(ANYWHERE), "-osa", str(NOWHERE))
    try:
        yield running
    finally:
        running.end()


@contextlib.contextmanager
def no_descriptors(running: Running) -> Iterator[None]:
    """It has none left, because of those who connect."""
    pid = running.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    top = max(int(descriptor.name) for descriptor in Path(f"/proc/{pid}/fd").iterdir()) + 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (top, before[1]))
    with contextlib.ExitStack() as crowd:
        for _ in range(top):
            crowd.enter_context(socket.create_connection(Address.parse(running.facts["address"]), PATIENCE))
        yield
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process")
def test_reports_and_answers_while_there_are_no_descriptors(scheduler: Running) -> None:
    version = InformationRequest(codec.encode_query(InformationQuery(1, "version")))
    with (
        Peer(Address.parse(scheduler.facts["address"]), new_client_id(), None) as peer,
        zmq.Context() as context,
        context.socket(zmq.SUB) as subscriber,
    ):
        subscriber.setsockopt(zmq.RCVTIMEO, 1000 * PATIENCE)
        subscriber.subscribe(b"")
        subscriber.connect(scheduler.facts["monitor"])
        subscriber.recv()
        assert isinstance(peer.ask(version), InformationResponse)
        with no_descriptors(scheduler):
            scheduler.says("there is no report just now")
            assert isinstance(peer.ask(version), InformationResponse)
        while subscriber.poll(0):
            subscriber.recv()
        subscriber.recv()


def test_a_subscription_that_is_very_long(scheduler: Running) -> None:
    with socket.create_connection(Address.parse(scheduler.facts["monitor"]), PATIENCE) as subscriber:
        subscriber.sendall(GREETING + b"\x04" + bytes([len(READY)]) + READY)
        with contextlib.suppress(ConnectionError):
            subscriber.sendall(b"\x02" + struct.pack(">Q", 1 + LONG) + b"\x01" + bytes(LONG))
        with contextlib.suppress(ConnectionResetError):
            while subscriber.recv(1 << 16):  # it is not kept
                pass
    with Peer(Address.parse(scheduler.facts["address"]), new_client_id(), None) as peer:
        assert isinstance(peer.ask(ClientHeartbeat()), ClientHeartbeatEcho)


def test_handshakes_that_nobody_looks_at_keep_nobody_waiting(tmp_path: Path) -> None:
    """Many come before the scheduler looks at them, once a second."""
    path = tmp_path / "router"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
        watch = HandshakeWatch(router)
        router.bind(f"ipc://{path}")
        dealer.setsockopt(zmq.LINGER, 0)
        try:
            for _ in range(2100):  # 2,000 messages wait in a socket that libzmq makes and one of ours
                with socket.socket(socket.AF_UNIX) as knocking:
                    knocking.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", PATIENCE, 0))
                    knocking.connect(str(path))
            dealer.connect(f"ipc://{path}")
            dealer.send(b"hello")
            assert router.poll(1000 * PATIENCE)
        finally:
            watch.ended()
            watch.close()


def test_a_monitor_stream_that_can_not_be_had_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher's key is revoked while there are no descriptors."""
    house = House(tmp_path)
    key = keys.load_private(house.private("cluster"))
    access = ServerAccess(key, AllowedKeys(house.allowed, key.public))
    settings = Settings(ObjectStorageAddress(*NOWHERE, "tls"))
    with SchedulerServer(settings, Listen(ANYWHERE, None, NOWHERE, access=access)) as server:
        poller = new_poller()
        poller.register(server._monitor)
        server._door.register(poller)
        server._door.watchers_revoked = True
        with monkeypatch.context() as patch:
            patch.setattr(server._context, "socket", _fails)
            for _ in range(2):
                server._renew_monitor(poller)
                assert server._door.watchers_revoked
        server._renew_monitor(poller)
        assert not server._door.watchers_revoked
        with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
            house.access("cluster").secure(subscriber)
            subscriber.subscribe(b"")
            subscriber.connect(str(server.monitor_address))
            while not server.core.monitored:
                ready = dict(poller.poll(1000 * PATIENCE))
                assert ready
                server._door.handle(ready)
                server._subscriptions()
        poller.close()


def _fails(*_: object) -> None:
    raise zmq.ZMQError(errno.EMFILE, os.strerror(errno.EMFILE))
