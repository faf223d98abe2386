"""Worker and client runs: the engine is the scheduler, with a ROUTER that the implementation connects to.

The scheduler's actor answers heartbeats by itself and does not show them, unless the scenario's actor says
``heartbeats: true`` (show them) or ``echo: false`` (don't answer them). The same holds for the announcements of objects
(``instructions: true`` shows them). Questions are neither shown nor answered: not every scheduler does (INF-01).
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import zmq

from conformance_tests.engine.channels import (
    Channel,
    Fence,
    Incoming,
    Session,
    SetupFailed,
    decode_message,
    encode_message,
)
from conformance_tests.engine.driver_channel import DriverChannel, DriverProcess
from conformance_tests.engine.gates import GateChannel, GateServer
from conformance_tests.engine.payloads import SERIALIZER
from conformance_tests.engine.processes import Process, ProcessChannel
from conformance_tests.engine.scenario import Actor
from conformance_tests.engine.storage_stub import StorageChannel, StorageStub
from protocol import fields as message_fields
from protocol.fields import Fields
from protocol.identifiers import Identity, serializer_object_id

_ABOUT_TASKS = frozenset({"taskResult", "taskCancelConfirm", "taskLog"})
_ECHOES = {
    "workerHeartbeat": "workerHeartbeatEcho",
    "clientHeartbeat": "clientHeartbeatEcho",
    "workerManagerHeartbeat": "workerManagerHeartbeatEcho",
}
_CONNECT_SECONDS = 30.0
_LOOK_SECONDS = 0.2
"""How often it is looked whether an implementation that has not connected yet is still there."""
_STOP, _HANG_UP = b"stop", b"hang up"
_BIND_SECONDS = 5.0
_PROVING_BEATS = 2


class Router:
    """The engine's scheduler socket, as long as the implementation runs.

    A thread serves it, so that heartbeats are answered whatever the run is waiting for.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], prefix: bytes, storage: StorageStub) -> None:
        self._prefix = prefix
        self._context = context
        self._router = self._socket()
        self.address = f"tcp://127.0.0.1:{self._router.bind_to_random_port('tcp://127.0.0.1')}"
        name = f"inproc://router-{id(self)}"
        self._inside, self._outside = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        for pair in (self._inside, self._outside):
            pair.setsockopt(zmq.LINGER, 0)
        self._inside.bind(name)
        self._outside.connect(name)
        self._storage_port = storage.port
        self._came: queue.Queue[tuple[bool, Incoming]] = queue.Queue()
        self._known: set[Identity] = set()
        self._met = threading.Event()
        self._beaten = threading.Condition()
        self._beats = 0  # heartbeats of the subject
        self._listens = threading.Event()
        self.storage = storage
        self.subject: Identity = b""
        """The implementation's identity, once it has spoken."""
        self.stranger: Identity = b""
        """Who spoke before it, with an identity that the role does not have."""
        self._left = False  # it has said so; should it come back with another identity, that is the implementation
        self.echo = True
        self.tasks: set[bytes] = set()
        """Those that it was ever sent: what is said of them in a later run is no business of that one."""
        self._thread = threading.Thread(target=self._serve, name="router", daemon=True)
        self._thread.start()

    def _socket(self) -> zmq.Socket[bytes]:
        router = self._context.socket(zmq.ROUTER)
        # With the handover, a peer that comes back is not refused because the end of its old connection is not seen.
        for option, value in ((zmq.LINGER, 0), (zmq.SNDHWM, 0), (zmq.RCVHWM, 0), (zmq.ROUTER_HANDOVER, 1)):
            router.setsockopt(option, value)
        return router

    def identify(self) -> None:
        """What ``receive`` gives next: the identity of the subject."""
        self._came.put((False, Incoming("identified", {"identity": self.subject})))

    def hang_up(self) -> None:
        """Closes all connections, and listens again at the same address."""
        self._listens.clear()
        self._outside.send(_HANG_UP)
        if not self._listens.wait(_BIND_SECONDS):
            raise SetupFailed(f"can't listen at {self.address} again")

    def _listen_again(self, poller: zmq.Poller) -> None:
        poller.unregister(self._router)
        self._router.close()
        self._router = self._socket()
        deadline = time.monotonic() + _BIND_SECONDS
        while time.monotonic() < deadline:
            try:
                self._router.bind(self.address)  # libzmq closes the old one in its own time
            except zmq.ZMQError:
                time.sleep(0.005)
            else:
                self._listens.set()
                break
        poller.register(self._router, zmq.POLLIN)

    def expect_new(self) -> None:
        """From now on the next new identity that speaks is the subject."""
        self.subject = b""
        self._met.clear()

    def forget(self) -> None:
        """Drops what earlier runs left."""
        with suppress(queue.Empty):
            while True:
                self._came.get_nowait()

    def await_subject(self, seconds: float) -> bool:
        """Whether the implementation has spoken in time."""
        return self._met.wait(seconds)

    def send(self, frames: Sequence[bytes]) -> None:
        """One message to the subject."""
        self._outside.send_multipart([self.subject, *frames])

    def receive(self, seconds: float) -> tuple[bool, Incoming] | None:
        """The next message of the subject, and whether the engine has answered it already."""
        try:
            return self._came.get(timeout=seconds) if seconds > 0 else self._came.get_nowait()
        except queue.Empty:
            return None

    def await_beats(self, count: int, seconds: float) -> bool:
        """Whether so many more heartbeats of the subject have come in time."""
        with self._beaten:
            until = self._beats + count
            return self._beaten.wait_for(lambda: self._beats >= until, seconds)

    def close(self) -> None:
        """Ends the thread and closes the sockets."""
        self._outside.send(_STOP)
        self._thread.join()
        for one in (self._router, self._inside, self._outside):
            one.close()

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._inside, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._inside in ready:
                frames = self._inside.recv_multipart()
                if frames == [_STOP]:
                    return
                if frames == [_HANG_UP]:
                    self._listen_again(poller)
                    continue
                self._router.send_multipart(frames)
            if self._router in ready:
                sender, *frames = self._router.recv_multipart()
                self._handle(sender, frames)

    def _handle(self, sender: Identity, frames: list[bytes]) -> None:
        came = decode_message(frames)
        if sender.startswith(self._prefix):
            if self._left and sender != self.subject:
                self.subject, self._left = sender, False
            elif sender not in self._known and not self.subject:
                self.subject = sender
            self._known.add(sender)
        elif not self.subject:
            self.stranger = sender
        answer = _ECHOES.get(came.kind)
        echoed = answer is not None and (self.echo or sender != self.subject)
        if answer is not None and echoed:
            address = {"host": "127.0.0.1", "port": self._storage_port, "scheme": "tcp"}
            fields = {} if came.kind == "workerManagerHeartbeat" else {"objectStorageAddress": address}
            self._router.send_multipart([sender, message_fields.encode(answer, fields)])
        if came.kind == "objectInstruction" and came.fields["instructionType"] == "delete":
            for name in came.fields["objectMetadata"]["objectIds"]:  # as a scheduler does (OBJ-05)
                self.storage.delete(name)
        if sender == self.subject:
            self._left = came.kind == "workerDisconnectNotification"
            if answer is not None:
                with self._beaten:
                    self._beats += 1
                    self._beaten.notify()
            self._came.put((echoed, came))
            self._met.set()


class RouterSession(Session):
    """One run against a worker or client that connects to the engine's ROUTER."""

    via = "sockets"

    def __init__(
        self,
        router: Router,
        gates: GateServer,
        driver: DriverProcess | None,
        process: Process | None,
        actors: dict[str, Actor],
        patience: float,
    ) -> None:
        self._router = router
        self._gates = gates
        self._driver = driver
        self._actors = actors
        self.patience = patience
        self._process = process
        self._channels: list[Channel] = []
        if driver is not None:
            router.expect_new()

    def prepare(self, identities: dict[str, Identity]) -> None:
        for name, actor in self._actors.items():
            if actor.role == "client" and actor.options.get("serializer", True):
                self._router.storage.put(serializer_object_id(identities[name]), SERIALIZER)

    @property
    def subject(self) -> Identity:
        return self._router.subject

    def open(self, actor: Actor, identity: Identity) -> Channel:
        channel: Channel
        if actor.role == "scheduler":
            channel = _SchedulerChannel(self._router, actor, self._driver is not None, self._process)
            if self._driver is None:
                channel.await_subject()
        elif actor.role == "storage":
            channel = StorageChannel(self._router.storage, self._gates.port)
        elif actor.role == "gates":
            channel = GateChannel(self._gates)
        elif actor.role == "process":
            channel = ProcessChannel.of(self._process)
        elif actor.role == "driver" and self._driver is not None:
            channel = DriverChannel(self._driver, self._router.address)
        else:
            raise SetupFailed(f"a {actor.role} can't connect here")
        self._channels.append(channel)
        return channel

    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.exit_code()

    def close(self) -> None:
        self._router.echo = True
        self._router.storage.restore()
        for channel in self._channels:
            channel.close()


class _SchedulerChannel(Channel):
    def __init__(self, router: Router, actor: Actor, judges_client: bool, process: Process | None) -> None:
        self._router = router
        self._process = process
        self._judges_client = judges_client
        self._shows_heartbeats = actor.options.get("heartbeats", False)
        self._shows_instructions = actor.options.get("instructions", False)
        router.forget()
        router.echo = actor.options.get("echo", True)
        self._outstanding: set[bytes] = set()
        self._earlier = frozenset(router.tasks)

    def await_subject(self) -> None:
        """Until the implementation has spoken; raises SetupFailed."""
        deadline = time.monotonic() + _CONNECT_SECONDS
        while not self._router.await_subject(_LOOK_SECONDS):
            if self._process is None:
                raise SetupFailed("the implementation has not connected")
            if not self._process.alive or time.monotonic() > deadline:
                raise self._process.not_connected(self._router.address, _CONNECT_SECONDS, self._router.stranger)

    def send_message(self, kind: str, fields: Fields) -> None:
        if kind == "hangUp":
            self._router.hang_up()
            return
        if kind == "identify":
            self._router.identify()
            return
        if kind == "task":
            self._outstanding.add(fields["taskId"])
            self._router.tasks.add(fields["taskId"])
        self.await_subject()
        self._router.send([encode_message(kind, fields)])

    def encode_raw(self, kind: str, fields: Fields) -> bytes:
        return message_fields.encode(kind, fields)

    def send(self, frames: Sequence[bytes]) -> None:
        self.await_subject()
        self._router.send(frames)

    def receive(self, seconds: float) -> Incoming | None:
        deadline = time.monotonic() + seconds
        while True:
            came = self._router.receive(max(0.0, deadline - time.monotonic()))
            if came is None:
                return None
            echoed, message = came
            if message.kind in _ABOUT_TASKS and message.fields["taskId"] in self._earlier:
                continue
            if message.kind in ("taskResult", "taskCancelConfirm"):
                self._outstanding.discard(message.fields["taskId"])
            if self._is_shown(echoed, message):
                return message

    def _is_shown(self, echoed: bool, message: Incoming) -> bool:
        if message.kind in _ECHOES:
            return bool(self._shows_heartbeats)
        if message.kind == "informationRequest":
            return False  # whoever wants to know something may ask, and no scheduler has to answer
        return message.kind != "objectInstruction" or bool(self._shows_instructions)

    def prove(self, seconds: float) -> bool:
        """A client's second heartbeat from now was sent after it had heard of whatever it was told before: the first
        one may have been on its way."""
        return not self._judges_client or self._router.await_beats(_PROVING_BEATS, seconds)

    def mute(self, muted: bool) -> None:
        """A muted scheduler answers no heartbeats."""
        self._router.echo = not muted

    def fence(self, registered: bool) -> Fence | None:
        if self._judges_client:
            return None  # nothing that a scheduler sends must be answered by a client
        unknown = secrets.token_bytes(16)
        answer = {"taskId": unknown, "cancelConfirmType": "cancelNotFound"}
        return Fence("taskCancel", {"taskId": unknown}, "taskCancelConfirm", answer)

    def tidy(self, seconds: float) -> bool:
        """Cancels what still runs."""
        if self._judges_client:
            return True
        for task in list(self._outstanding):
            self._router.send([encode_message("taskCancel", {"taskId": task, "flags": {"force": True}})])
        deadline = time.monotonic() + seconds
        while self._outstanding and time.monotonic() < deadline:
            self.receive(deadline - time.monotonic())
        return not self._outstanding

    def close(self) -> None:
        pass
