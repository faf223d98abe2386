"""A scheduler process and sockets to it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import zmq

from protocol import codec
from protocol.identifiers import ClientId, WorkerId, new_client_id, new_worker_id
from protocol.messages import ClientHeartbeat, ClientHeartbeatEcho, Message, WorkerHeartbeat, WorkerHeartbeatEcho
from reference_impl.addresses import Address

HANG_MILLISECONDS = 20_000


@dataclass
class Running:
    """A scheduler process and the sockets that a test has opened to it."""

    process: subprocess.Popen[str]
    address: Address
    monitor: Address
    context: zmq.Context[zmq.Socket[bytes]] = field(default_factory=zmq.Context)
    sockets: list[zmq.Socket[bytes]] = field(default_factory=list)

    def socket(self, kind: int) -> zmq.Socket[bytes]:
        new = self.context.socket(kind)
        new.setsockopt(zmq.LINGER, 0)
        new.setsockopt(zmq.RCVTIMEO, HANG_MILLISECONDS)
        self.sockets.append(new)
        return new

    def dealer(self, identity: bytes) -> zmq.Socket[bytes]:
        dealer = self.socket(zmq.DEALER)
        dealer.setsockopt(zmq.IDENTITY, identity)
        dealer.connect(str(self.address))
        return dealer

    def close(self) -> None:
        for opened in self.sockets:
            opened.close()
        self.context.term()

    def client(self) -> tuple[ClientId, zmq.Socket[bytes]]:
        identity = new_client_id()
        dealer = self.dealer(identity)
        assert isinstance(exchange(dealer, ClientHeartbeat()), ClientHeartbeatEcho)
        return identity, dealer

    def worker(self, queue_size: int = 10) -> tuple[WorkerId, zmq.Socket[bytes]]:
        identity = new_worker_id("test")
        dealer = self.dealer(identity)
        assert isinstance(exchange(dealer, WorkerHeartbeat(queue_size=queue_size)), WorkerHeartbeatEcho)
        return identity, dealer


def exchange(dealer: zmq.Socket[bytes], message: Message) -> Message:
    dealer.send(codec.encode(message))
    return codec.decode(dealer.recv())


def start(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "reference_impl.scheduler", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
