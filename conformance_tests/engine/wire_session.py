"""A scheduler over sockets: each actor is a DEALER with an identity of its own, a monitor is a SUB."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import zmq

from conformance_tests.engine.channels import Channel, Incoming, Session, SetupFailed, decode_message, encode_message
from conformance_tests.engine.processes import Process, ProcessChannel
from conformance_tests.engine.scenario import Actor
from conformance_tests.engine.scheduler_channels import PeerChannel
from conformance_tests.engine.storage_stub import StorageChannel, StorageStub
from conformance_tests.engine.twins import Twin
from protocol.identifiers import Identity

_GOODBYE_MILLISECONDS = 500
_PROBES = 30
_PROBE_SECONDS = 2.0


class WireSession(Session):
    """One run against a scheduler that listens at ``address``."""

    via = "sockets"

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        monitor: str,
        storage: StorageStub | None,
        patience: float,
        process: Process | None = None,
    ) -> None:
        self._context = context
        self._address = address
        self._monitor = monitor
        self._storage = storage
        self.patience = patience
        self._process = process
        self._channels: list[Channel] = []
        self._twins: list[Twin] = []

    def open(self, actor: Actor, identity: Identity) -> Channel:
        channel: Channel
        if actor.role == "storage":
            if self._storage is None:
                raise SetupFailed("the object storage of an attached scheduler can't be watched")
            channel = StorageChannel(self._storage)
        elif actor.role == "monitor":
            if not self._monitor:
                raise SetupFailed("the address of the monitor stream is not known")
            channel = _MonitorChannel(self._context, self._monitor, self._address)
        elif actor.role == "process":
            channel = ProcessChannel.of(self._process)
        else:
            if actor.options.get("twin", False):
                self._twins.append(Twin(self._address, identity))
            channel = _DealerChannel(self._context, self._address, actor, identity)
        self._channels.append(channel)
        return channel

    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.exit_code()

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        for twin in self._twins:
            twin.close()


class _DealerChannel(PeerChannel):
    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, actor: Actor, identity: Identity) -> None:
        super().__init__(actor)
        self.identity = identity
        self._socket = context.socket(zmq.DEALER)
        for option, value in ((zmq.SNDHWM, 0), (zmq.RCVHWM, 0), (zmq.LINGER, _GOODBYE_MILLISECONDS)):
            self._socket.setsockopt(option, value)
        self._socket.setsockopt(zmq.ROUTING_ID, identity)
        self._socket.connect(address)

    def send(self, frames: Sequence[bytes]) -> None:
        self._socket.send_multipart(list(frames))

    def receive(self, seconds: float) -> Incoming | None:
        return _receive(self._socket, seconds)

    def close(self) -> None:
        self._socket.close()


class _MonitorChannel(Channel):
    lenient = True

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, scheduler: str) -> None:
        self._context = context
        self._scheduler = scheduler
        self._socket = context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(address)

    def register(self) -> None:
        """Waits until the subscription has arrived, which nothing announces: a worker without room for tasks comes
        and goes until the stream shows it. Gives up after a while: the scenario will find out."""
        worker = Actor("probe", "worker", {})
        for attempt in range(_PROBES):
            identity = f"Worker|probe|{secrets.token_hex(8)}".encode()
            probe = _DealerChannel(self._context, self._scheduler, worker, identity)
            probe.send([encode_message("workerHeartbeat", {"queueSize": 0})])
            probe.receive(_PROBE_SECONDS)
            probe.send([encode_message("workerDisconnectNotification", {})])
            seen = self._sees(identity, 0.01 * (attempt + 1))
            probe.close()
            if seen:
                return

    def _sees(self, worker: Identity, seconds: float) -> bool:
        """Whether the stream shows, within that time, that this worker is there and gone."""
        while (came := self.receive(seconds)) is not None:
            if came.kind == "stateWorker" and came.fields["workerId"] == worker:
                if came.fields["state"] == "disconnected":
                    return True
                seconds = _PROBE_SECONDS
        return False

    def send(self, frames: Sequence[bytes]) -> None:
        raise SetupFailed("a monitor only listens")

    def receive(self, seconds: float) -> Incoming | None:
        return _receive(self._socket, seconds)

    def close(self) -> None:
        self._socket.close()


def _receive(socket: zmq.Socket[bytes], seconds: float) -> Incoming | None:
    try:
        return decode_message(socket.recv_multipart(zmq.NOBLOCK))
    except zmq.Again:
        pass
    if seconds <= 0 or not socket.poll(int(seconds * 1000) + 1):
        return None
    return decode_message(socket.recv_multipart())
