"""The scheduler's shell: its sockets, its clock, its connection to the object storage (SPEC sections 2 and 12).

One thread, one poller. A ROUTER at the scheduler's address, drained until it would block; an XPUB at the monitor's
address, which tells when somebody listens, so that nothing is made for nobody; a connection to the object storage
for deleting what clients leave behind.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from dataclasses import dataclass
from types import TracebackType

import zmq

from protocol import codec
from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.identifiers import Identity
from protocol.messages import BinderStatus, Kind, KindCount
from protocol.storage import MAGIC
from reference_impl.access.settings import ServerAccess
from reference_impl.addresses import Address
from reference_impl.options import PeerLog
from reference_impl.polling import Poller, new_poller
from reference_impl.processes import StopSignals
from reference_impl.resources import ResourceMeter, free_memory
from reference_impl.scheduler import information
from reference_impl.scheduler.core import SchedulerCore
from reference_impl.scheduler.door import Door
from reference_impl.scheduler.instructions import (
    DeleteObjects,
    DuplicateObject,
    Instruction,
    Note,
    Publish,
    Send,
    Stop,
    StoreThenSend,
)
from reference_impl.scheduler.outbox import LONG_BYTES, Outbox
from reference_impl.scheduler.router import Router
from reference_impl.scheduler.settings import Settings
from reference_impl.scheduler.storage_link import StorageLink
from reference_impl.transport import new_context

_LOG = logging.getLogger("scheduler")

MONITOR_PORT_OFFSET = 2
LEAST_MESSAGE_LIMIT = 16 << 20  # TRN-11
_TICK_SECONDS = 1.0
_TURN_BYTES = 1 << 14  # of whoever is there, before it is looked who else has come
_MESSAGE_BYTES = 1 << 12  # what a message takes of them, beside its own
_DRAIN_MESSAGES = 1000  # before looking at the other sockets again
_AT_ONCE = 100  # instructions
_MONITOR_HIGH_WATER_MARK = 10_000  # messages kept for a slow subscriber; more are dropped
_SUBSCRIPTION_BYTES = 1 << 12  # libzmq takes many times as much memory for one, and much time for a long one
_STORAGE_FINISH_SECONDS = 2.0
_MAX_RECEIVED_MESSAGES = 100  # of one peer, that wait to be read; it waits when there are more
_RECEIVED_BYTES = 1 << 16  # of one peer, in the kernel: libzmq takes them all at once while the other peers wait
_FREE_PORT_TRIES = 50
_CLOSE_SECONDS = 3.0
_REBIND_SECONDS, _REBIND_PAUSE_SECONDS = 1.0, 0.001


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the scheduler listens and how it reports."""

    address: Address
    monitor: Address | None  # None: the scheduler's port + 2
    storage: Address
    report_seconds: float = 1.0
    object_report_limit: int = 500
    message_bytes: int = 64 << 20  # the connection of a longer message is closed
    unsent_messages: int = 100_000  # of one peer; at more it is lost
    unsent_bytes: int = 256 << 20  # the same, of messages longer than 4 KiB
    storage_magic: bytes = MAGIC
    access: ServerAccess | None = None


class SchedulerServer:
    """A scheduler that listens. Use as a context manager; ``run`` serves until it is told to stop.

    Raises zmq.ZMQError if an address can't be bound.
    """

    def __init__(self, settings: Settings, listen: Listen) -> None:
        self._listen = listen
        self._context = new_context()
        self._router = Router(self._context)
        self._monitor = self._context.socket(zmq.XPUB)
        try:
            self._set_options()
            self._door = Door(self._context, self._router, self._monitor, listen.access, self._knows)
            self.address, self.monitor_address = self._bind()
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self.core = SchedulerCore(settings, time.monotonic())
        access = listen.access.as_peer() if listen.access is not None else None
        self._storage = StorageLink(listen.storage, f"{self.address}".encode(), listen.storage_magic, access)
        self._outbox = Outbox(self._router.socket, listen.unsent_bytes)
        self._peers = PeerLog(_LOG)
        self._received = [0] * len(Kind)
        self._sent = [0] * len(Kind)
        self._subscribers = 0
        self._stopping = False
        self._slow: dict[Identity, None] = {}  # who can't take more, which the core does not know yet
        self._meter: ResourceMeter | None = None  # not at the start, which it would slow down

    def __enter__(self) -> SchedulerServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes every socket; what was sent still leaves, for up to half a second."""
        self._storage.close()
        self._door.close()
        # libzmq was seen to wait for ever where a peer had not taken what was sent to it.
        closing = threading.Thread(target=self._context.destroy, args=(500,), daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)

    def _set_options(self) -> None:
        for option, value in (
            (zmq.RCVHWM, _MAX_RECEIVED_MESSAGES),
            (zmq.RCVBUF, _RECEIVED_BYTES),
            (zmq.SNDHWM, self._listen.unsent_messages),
            (zmq.ROUTER_MANDATORY, 1),  # what can't be sent is an error, not dropped without a word
            (zmq.MAXMSGSIZE, self._listen.message_bytes),
            (zmq.TCP_KEEPALIVE, 1),
            (zmq.ROUTER_HANDOVER, 1),  # a peer may come back before its old connection is seen to end (TRN-12)
        ):
            self._router.socket.setsockopt(option, value)
        self._set_monitor_options()

    def _set_monitor_options(self) -> None:
        self._monitor.setsockopt(zmq.SNDHWM, _MONITOR_HIGH_WATER_MARK)
        self._monitor.setsockopt(zmq.MAXMSGSIZE, _SUBSCRIPTION_BYTES)

    def _knows(self, identity: Identity) -> bool:
        return identity in self.core.clients or identity in self.core.workers

    def _bind(self) -> tuple[Address, Address]:
        wanted = self._listen.address
        for attempt in range(_FREE_PORT_TRIES):
            self._router.socket.bind(str(wanted))
            address = _bound_address(self._router.socket)
            monitor = self._listen.monitor or Address(address.host, address.port + MONITOR_PORT_OFFSET)
            try:
                self._monitor.bind(str(monitor))
                return address, _bound_address(self._monitor)
            except zmq.ZMQError as error:
                # Only a free port of our own choosing can be chosen again.
                if wanted.port or self._listen.monitor or attempt + 1 == _FREE_PORT_TRIES:
                    raise zmq.ZMQError(error.errno, f"{error.strerror} (monitor address {monitor})") from None
                self._router.socket.unbind(str(address))
        raise AssertionError("unreachable")

    def run(self, stop: StopSignals | None = None) -> None:
        """Serves until a stop signal, or until a client has shut the cluster down."""
        poller = new_poller()
        poller.register(self._router.socket)
        poller.register(self._monitor)
        self._door.register(poller)
        if stop is not None:
            poller.register(stop.fileno())
        secured = self._listen.access is not None
        next_tick = time.monotonic()
        next_report = next_tick + self._listen.report_seconds
        while not self._stopping:
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + min(_TICK_SECONDS, self._tick_seconds())
                self._carry_out(self.core.tick(now))
                if revoked := self._door.tick():
                    self._carry_out(self.core.revoke(revoked, now))
                if self._door.watchers_revoked:
                    self._renew_monitor(poller)
                self._storage.maintain(now)
                self._outbox.tidy()
            if now >= next_report:
                next_report = now + self._listen.report_seconds
                self._report(now)
            self._storage.update(poller)
            wait = int(max(0.0, min(next_tick, next_report) - time.monotonic()) * 1000) + 1
            ready = dict(poller.poll(0 if self.core.unfinished else wait))
            if stop is not None and stop.fileno() in ready:
                _LOG.info("%s: ending", stop.received.name if stop.received else "stop")
                return
            if self._router.socket in ready:
                self._drain()
            if self._monitor in ready:
                self._subscriptions()
            if self.core.unfinished:
                self._carry_out(self.core.proceed(time.monotonic()))
            self._storage.handle(ready, poller)
            self._carry_out(self._storage.take_answers())
            if secured:
                self._door.handle(ready)
        self._storage.finish(time.monotonic() + _STORAGE_FINISH_SECONDS)

    def _tick_seconds(self) -> float:
        settings = self.core.settings
        times = [settings.client_timeout, settings.worker_timeout]
        if settings.load_balance >= 0:
            times.append(settings.load_balance)
        return max(0.01, min(times))

    def _drain(self) -> None:
        """Handles what has come. What is to be done is done for many messages at once: libzmq's thread, which sleeps
        as soon as it has nothing to send, is woken once for all of them, and so is each peer."""
        now = time.monotonic()
        receive, core, received = self._door.receive, self.core, self._received
        instructions: list[Instruction] = []
        left = _TURN_BYTES
        for count in range(_DRAIN_MESSAGES):
            if count == 1 and not self._router.look():  # often there is one only
                break
            if left <= 0:
                self._carry_out(instructions)
                instructions = []
                self._router.look()
                left = _TURN_BYTES
            message = receive()
            if message is None:
                break
            sender, frame = message
            try:
                if frame is None:
                    raise MalformedMessage("several frames instead of one")
                left -= _MESSAGE_BYTES + len(frame)
                envelope = Envelope.parse(frame)
            except MalformedMessage as error:
                instructions += core.receive_malformed(sender, str(error))
                continue
            received[envelope.kind] += 1
            instructions += core.receive(sender, envelope, now)
            if len(instructions) >= _AT_ONCE:
                self._carry_out(instructions)
                instructions = []
        self._carry_out(instructions)

    def _carry_out(self, instructions: list[Instruction]) -> None:
        send, sent = self._router.send, self._sent
        for instruction in instructions:
            if isinstance(instruction, Send):
                to, envelope = instruction
                sent[envelope.kind] += 1
                frame = envelope.frame
                try:
                    if len(frame) <= LONG_BYTES:
                        send(to, frame)
                    else:
                        self._outbox.send(to, frame)
                except zmq.Again:
                    self._slow[to] = None
                except zmq.ZMQError as error:  # there is no connection to it
                    self._peers.note(logging.INFO, to, f"nothing can be sent to it: {error.strerror}")
            elif isinstance(instruction, Publish):
                self._publish(codec.encode(instruction.message))
            elif isinstance(instruction, DeleteObjects):
                self._storage.delete(instruction.object_ids)
            elif isinstance(instruction, DuplicateObject):
                self._storage.duplicate(instruction.source, instruction.copies)
            elif isinstance(instruction, StoreThenSend):
                self._storage.store(instruction)
            elif isinstance(instruction, Note):
                self._peers.note(instruction.level, instruction.peer, instruction.text)
            elif isinstance(instruction, Stop):
                _LOG.info("a client has shut the cluster down: ending")
                self._stopping = True
        while self._slow:
            self._carry_out(self.core.overflowed(self._slow.popitem()[0]))

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

    def _renew_monitor(self, poller: Poller) -> None:
        """A publisher can't close the connection of one subscriber: so all are closed, and those who may come back.
        Where that can't be done, for want of descriptors for instance, it is tried again by the next tick."""
        if not self._monitor.closed:
            poller.unregister(self._monitor)
            self._monitor.close(linger=0)
        self._subscribers, self.core.monitored = 0, False
        deadline = time.monotonic() + _REBIND_SECONDS
        try:
            self._monitor = self._context.socket(zmq.XPUB)
            self._set_monitor_options()
            self._door.guard_monitor(self._monitor)
            while not self._rebound(deadline):
                time.sleep(_REBIND_PAUSE_SECONDS)
        except zmq.ZMQError as error:
            self._monitor.close(linger=0)
            self._door.watchers_revoked = True
            self._peers.note(logging.ERROR, b"monitor", f"there is no monitor stream just now: {error}")
        else:
            poller.register(self._monitor)

    def _rebound(self, deadline: float) -> bool:
        try:
            self._monitor.bind(str(self.monitor_address))
        except zmq.ZMQError as error:  # ZeroMQ closes sockets in a thread of its own
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                raise
            return False
        return True

    def _report(self, now: float) -> None:
        try:
            if self._meter is None:
                self._meter = ResourceMeter()  # measures from now on: no report yet
                return
            if not self.core.monitored:
                return
            usage, free = self._meter.sample(), free_memory()
        except (OSError, ImportError) as error:  # who connects can use up the descriptors that this takes
            self._peers.note(logging.ERROR, b"monitor", f"there is no report just now: {error}")
            return
        self._storage.ask_total()
        binder = BinderStatus(_counts(self._received), _counts(self._sent))
        state = information.state_scheduler(self.core, now, binder, usage, free, self._storage.status)
        self._publish(codec.encode(state))
        self._publish(codec.encode(information.state_object(self.core, self._listen.object_report_limit)))


def _counts(numbers: list[int]) -> tuple[KindCount, ...]:
    return tuple(KindCount(kind.name, numbers[kind]) for kind in Kind if numbers[kind])


def _bound_address(socket: zmq.Socket[bytes]) -> Address:
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return Address.parse(endpoint.rstrip(b"\0").decode())
