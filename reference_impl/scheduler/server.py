"""The scheduler's shell: its sockets, its clock, its connection to the object storage (SPEC sections 2 and 12).

One thread, one poller. A ROUTER at the scheduler's address, drained until it would block; an XPUB at the monitor's
address, which tells when somebody listens, so that nothing is made for nobody; a connection to the object storage
for deleting what clients leave behind.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

import zmq

from protocol import codec, storage
from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.identifiers import ObjectId
from protocol.messages import BinderStatus, Kind, KindCount, ObjectStorageStatus
from protocol.storage import MAGIC
from reference_impl.addresses import Address
from reference_impl.options import PeerLog
from reference_impl.processes import StopSignals
from reference_impl.resources import ResourceMeter, free_memory
from reference_impl.scheduler import information
from reference_impl.scheduler.core import SchedulerCore
from reference_impl.scheduler.instructions import (
    DeleteObjects,
    DuplicateObject,
    Instruction,
    Note,
    Publish,
    Send,
    Stop,
)
from reference_impl.scheduler.settings import Settings
from reference_impl.storage_connection import StorageConnection, StorageLost
from reference_impl.transport import new_context

_LOG = logging.getLogger("scheduler")

MONITOR_PORT_OFFSET = 2
MAX_MESSAGE_BYTES = 64 << 20
_TICK_SECONDS = 1.0
_DRAIN_MESSAGES = 1000  # before looking at the other sockets again
_MONITOR_HIGH_WATER_MARK = 10_000  # messages kept for a slow subscriber; more are dropped
_STORAGE_RETRY_SECONDS = 2.0
_STORAGE_CONNECT_SECONDS = 0.5
_STORAGE_FINISH_SECONDS = 2.0
_MAX_PENDING_REQUESTS = 1_000_000
_FREE_PORT_TRIES = 50
_IDENTITY = b"Scheduler|"
_READ, _READ_AND_WRITE = int(zmq.POLLIN), int(zmq.POLLIN | zmq.POLLOUT)  # an | of flags is slow


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the scheduler listens and how it reports."""

    address: Address
    monitor: Address | None  # None: the scheduler's port + 2
    storage: Address
    report_seconds: float = 1.0
    object_report_limit: int = 500
    storage_magic: bytes = MAGIC


class SchedulerServer:
    """A scheduler that listens. Use as a context manager; ``run`` serves until it is told to stop.

    Raises zmq.ZMQError if an address can't be bound.
    """

    def __init__(self, settings: Settings, listen: Listen) -> None:
        self._listen = listen
        self._context = new_context()
        self._router = self._context.socket(zmq.ROUTER)
        self._monitor = self._context.socket(zmq.XPUB)
        try:
            self._set_options()
            self.address, self.monitor_address = self._bind()
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self.core = SchedulerCore(settings, time.monotonic())
        self._storage = _StorageLink(listen.storage, f"{self.address}".encode(), listen.storage_magic)
        self._peers = PeerLog(_LOG)
        self._received = [0] * len(Kind)
        self._sent = [0] * len(Kind)
        self._subscribers = 0
        self._stopping = False
        self._meter = ResourceMeter()

    def __enter__(self) -> SchedulerServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes every socket; what was sent still leaves, for up to half a second."""
        self._storage.close()
        self._context.destroy(linger=500)

    def _set_options(self) -> None:
        for option, value in (
            (zmq.RCVHWM, 0),
            (zmq.SNDHWM, 0),
            (zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES),
            (zmq.TCP_KEEPALIVE, 1),
            (zmq.ROUTER_HANDOVER, 1),  # a peer may come back before its old connection is seen to end (TRN-12)
        ):
            self._router.setsockopt(option, value)
        self._monitor.setsockopt(zmq.SNDHWM, _MONITOR_HIGH_WATER_MARK)

    def _bind(self) -> tuple[Address, Address]:
        wanted = self._listen.address
        for attempt in range(_FREE_PORT_TRIES):
            self._router.bind(str(wanted))
            address = _bound_address(self._router)
            monitor = self._listen.monitor or Address(address.host, address.port + MONITOR_PORT_OFFSET)
            try:
                self._monitor.bind(str(monitor))
                return address, _bound_address(self._monitor)
            except zmq.ZMQError as error:
                # Only a free port of our own choosing can be chosen again.
                if wanted.port or self._listen.monitor or attempt + 1 == _FREE_PORT_TRIES:
                    raise zmq.ZMQError(error.errno, f"{error.strerror} (monitor address {monitor})") from None
                self._router.unbind(str(address))
        raise AssertionError("unreachable")

    def run(self, stop: StopSignals | None = None) -> None:
        """Serves until a stop signal, or until a client has shut the cluster down."""
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        if stop is not None:
            poller.register(stop.fileno(), zmq.POLLIN)
        next_tick = next_report = time.monotonic()
        while not self._stopping:
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + min(_TICK_SECONDS, self._tick_seconds())
                self._carry_out(self.core.tick(now))
                self._storage.maintain(now)
            if now >= next_report:
                next_report = now + self._listen.report_seconds
                self._report(now)
            self._storage.update(poller)
            wait = max(0.0, min(next_tick, next_report) - time.monotonic())
            ready = dict(poller.poll(int(wait * 1000) + 1))
            if stop is not None and stop.fileno() in ready:
                _LOG.info("%s: ending", stop.received.name if stop.received else "stop")
                return
            if self._router in ready:
                self._drain()
            if self._monitor in ready:
                self._subscriptions()
            self._storage.handle(ready, poller)
        self._storage.finish(time.monotonic() + _STORAGE_FINISH_SECONDS)

    def _tick_seconds(self) -> float:
        settings = self.core.settings
        times = [settings.client_timeout, settings.worker_timeout]
        if settings.load_balance >= 0:
            times.append(settings.load_balance)
        return max(0.01, min(times))

    def _drain(self) -> None:
        now = time.monotonic()
        receive, core = self._router.recv_multipart, self.core
        for _ in range(_DRAIN_MESSAGES):
            try:
                frames = receive(zmq.NOBLOCK)
            except zmq.Again:
                return
            sender = frames[0]
            if len(frames) != 2:
                reason = f"{len(frames) - 1} frames instead of one"
                self._carry_out(core.receive_malformed(sender, reason))
                continue
            try:
                envelope = Envelope.parse(frames[1])
            except MalformedMessage as error:
                self._carry_out(core.receive_malformed(sender, str(error)))
                continue
            self._received[envelope.kind] += 1
            self._carry_out(core.receive(sender, envelope, now))

    def _carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Send):
                self._sent[instruction.envelope.kind] += 1
                try:
                    self._router.send_multipart((instruction.to, instruction.envelope.frame), zmq.NOBLOCK)
                except zmq.ZMQError as error:  # the peer is gone, or can't take more
                    self._peers.note(logging.WARNING, instruction.to, f"nothing can be sent to it: {error}")
            elif isinstance(instruction, Publish):
                self._publish(codec.encode(instruction.message))
            elif isinstance(instruction, DeleteObjects):
                self._storage.delete(instruction.object_ids)
            elif isinstance(instruction, DuplicateObject):
                self._storage.duplicate(instruction.source, instruction.copies)
            elif isinstance(instruction, Note):
                self._peers.note(instruction.level, instruction.peer, instruction.text)
            elif isinstance(instruction, Stop):
                _LOG.info("a client has shut the cluster down: ending")
                self._stopping = True

    def _publish(self, frame: bytes) -> None:
        self._monitor.send(frame, zmq.NOBLOCK)

    def _subscriptions(self) -> None:
        while True:
            try:
                frame = self._monitor.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            # XPUB reports the first subscription to a topic and the end of the last one.
            if frame[:1] == b"\x01":
                self._subscribers += 1
            elif frame[:1] == b"\x00":
                self._subscribers -= 1
        self.core.monitored = self._subscribers > 0

    def _report(self, now: float) -> None:
        if not self.core.monitored:
            return
        self._storage.ask_total()
        binder = BinderStatus(_counts(self._received), _counts(self._sent))
        state = information.state_scheduler(
            self.core, now, binder, self._meter.sample(), free_memory(), self._storage.status
        )
        self._publish(codec.encode(state))
        self._publish(codec.encode(information.state_object(self.core, self._listen.object_report_limit)))


def _counts(numbers: list[int]) -> tuple[KindCount, ...]:
    return tuple(KindCount(kind.name, numbers[kind]) for kind in Kind if numbers[kind])


def _bound_address(socket: zmq.Socket[bytes]) -> Address:
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return Address.parse(endpoint.rstrip(b"\0").decode())


_Request = tuple[ObjectId, "ObjectId | None"]
"""An object to delete; or to make, as a copy of the second one."""


class _StorageLink:
    """Deletes and copies objects in the object storage, also when it is away for a while, and asks it for its
    totals."""

    def __init__(self, address: Address, name: bytes, magic: bytes) -> None:
        self._address = address
        self._magic = magic
        self._identity = _IDENTITY + name
        self._connection: StorageConnection | None = None
        self._registered = 0  # what the poller waits for, on this connection
        self._retry_at = 0.0
        self._waiting: deque[_Request] = deque(maxlen=_MAX_PENDING_REQUESTS)
        self._unanswered: dict[int, _Request] = {}  # sent on this connection, by request id
        self._asked = False
        self.status = ObjectStorageStatus()
        """What the last infoGetTotal said."""

    def delete(self, object_ids: tuple[ObjectId, ...]) -> None:
        self._ask([(object_id, None) for object_id in object_ids])

    def duplicate(self, source: ObjectId, copies: tuple[ObjectId, ...]) -> None:
        """The requests are on their way when this returns, unless the storage is away."""
        self._ask([(object_id, source) for object_id in copies])
        if self._connection is not None:
            with contextlib.suppress(StorageLost):  # the next ``update`` meets the same error, and handles it
                self._connection.flush()

    def _ask(self, requests: Iterable[_Request]) -> None:
        connection = self._connection
        if connection is None:
            self._waiting.extend(requests)
            return
        for request in requests:
            object_id, source = request
            request_id = connection.next_id()
            self._unanswered[request_id] = request
            if source is None:
                connection.send(storage.delete_request(request_id, object_id))
            else:
                connection.send(storage.duplicate_request(request_id, object_id, source))

    def ask_total(self) -> None:
        if self._connection is not None and not self._asked:
            self._asked = True
            self._connection.send(storage.total_request(self._connection.next_id()))

    def maintain(self, now: float) -> None:
        """Connects, if there is no connection and it is time to try."""
        if self._connection is not None or now < self._retry_at:
            return
        try:
            self._connection = StorageConnection(
                self._address, self._identity, magic=self._magic, timeout_seconds=_STORAGE_CONNECT_SECONDS
            )
        except StorageLost as error:
            _LOG.warning("%s; next try in %g s", error, _STORAGE_RETRY_SECONDS)
            self._retry_at = now + _STORAGE_RETRY_SECONDS
            return
        waiting, self._waiting = tuple(self._waiting), deque(maxlen=_MAX_PENDING_REQUESTS)
        self._ask(waiting)

    def update(self, poller: zmq.Poller) -> None:
        """Sends what can be sent, and lets the poller wait for what the connection waits for."""
        if self._connection is None:
            return
        try:
            if self._connection.wants_write:
                self._connection.flush()
        except StorageLost as error:
            self._lost(error, poller)
            return
        wanted = _READ_AND_WRITE if self._connection.wants_write else _READ
        if wanted != self._registered:
            poller.register(self._connection.fileno(), wanted)
            self._registered = wanted

    def handle(self, ready: dict[object, int], poller: zmq.Poller) -> None:
        if self._connection is None or self._connection.fileno() not in ready:
            return
        try:
            for response in self._connection.receive():
                if response.type is storage.ResponseType.INFO_GET_TOTAL_OK:
                    self._asked = False
                    self.status = ObjectStorageStatus(*storage.Total.from_bytes(response.payload))
                else:
                    self._unanswered.pop(response.response_id, None)
        except (StorageLost, MalformedMessage) as error:
            self._lost(error, poller)

    def finish(self, deadline: float) -> None:
        """Waits until everything is deleted, for a bounded time. It serves nothing else from then on."""
        poller, self._registered = zmq.Poller(), 0
        self.maintain(time.monotonic())
        while self._unanswered and self._connection is not None and time.monotonic() < deadline:
            self.update(poller)
            self.handle(dict(poller.poll(int(1000 * (deadline - time.monotonic())) + 1)), poller)

    def _lost(self, error: Exception, poller: zmq.Poller) -> None:
        _LOG.warning("%s; deletions and copies wait until it is back", error)
        if self._connection is not None:
            if self._registered:
                poller.unregister(self._connection.fileno())
            self._connection.close()
        self._connection, self._registered, self._asked = None, 0, False
        self._waiting.extend(self._unanswered.values())  # nobody knows whether these were carried out: once more
        self._unanswered.clear()

    def close(self) -> None:
        """Sends what is waiting, as far as the socket takes it, and closes."""
        if self._connection is not None:
            try:
                self._connection.flush()
            except StorageLost as error:
                _LOG.warning("%s", error)
            self._connection.close()
            self._connection = None
