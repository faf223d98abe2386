"""One slot's connection to the scheduler: a DEALER under an identity, and another one when it was cut (SPEC sections 2
and 8.2)."""

from __future__ import annotations

import time
from collections.abc import Iterator

import zmq

from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.identifiers import WorkerId, new_worker_id
from reference_impl.access.handshakes import HandshakeWatch
from reference_impl.access.settings import PeerAccess
from reference_impl.addresses import Address
from reference_impl.transport import has_message

GOODBYE_MILLISECONDS = 500
HEALS_SECONDS = 1.0
"""libzmq connects again in a tenth of that, if the other side listens."""
_MESSAGES_AT_ONCE = 200
_MAX_MESSAGE_BYTES = 64 << 20


class Connection:
    """``identity``, ``socket`` and ``watch`` are there after ``open``."""

    identity: WorkerId
    socket: zmq.Socket[bytes]
    watch: HandshakeWatch

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], scheduler: Address, name: str, access: PeerAccess | None
    ) -> None:
        self._context = context
        self._scheduler = str(scheduler)
        self._name = name
        self._access = access
        self._cut_at: float | None = None

    def open(self) -> None:
        """Connects under a new identity."""
        self.identity = new_worker_id(self._name)
        self.socket = self._dealer(self.identity)
        self.watch = HandshakeWatch(self.socket, cuts=True)
        self._cut_at = None
        self.socket.connect(self._scheduler)

    def stand_in(self, identity: WorkerId) -> zmq.Socket[bytes]:
        """Another connection, under the identity of a worker that can't connect itself."""
        dealer = self._dealer(identity)
        dealer.connect(self._scheduler)
        return dealer

    def _dealer(self, identity: WorkerId) -> zmq.Socket[bytes]:
        dealer: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.RCVHWM, 0),
            (zmq.SNDHWM, 0),
            (zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES),
            (zmq.TCP_KEEPALIVE, 1),
        ):
            dealer.setsockopt(option, value)
        dealer.setsockopt(zmq.IDENTITY, identity)
        if self._access is not None:
            self._access.secure(dealer)
        return dealer

    def send(self, frame: bytes) -> None:
        try:
            self.socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:  # libzmq closes the connection of a message above MAXMSGSIZE, and does not open another
            self.socket.disconnect(self._scheduler)
            self.socket.connect(self._scheduler)
            self.socket.send(frame, zmq.NOBLOCK)

    def receive(self) -> Iterator[tuple[Envelope | str, float]]:
        """What has come, with when it was read; text says what is wrong with something that is no message. Not all if
        it is much, so that others are looked at, too."""
        socket = self.socket
        receive, option = socket.recv, socket.getsockopt
        for count in range(_MESSAGES_AT_ONCE):
            if count == 1 and not has_message(socket):  # often there is one only
                return
            try:
                frame = receive(zmq.NOBLOCK)
            except zmq.Again:
                return
            now = time.monotonic()
            if option(zmq.RCVMORE):
                frames = 1
                while option(zmq.RCVMORE):
                    receive(zmq.NOBLOCK)
                    frames += 1
                yield f"{frames} frames instead of one", now
                continue
            try:
                yield Envelope.parse(frame), now
            except MalformedMessage as error:
                yield str(error), now

    def heals(self, now: float) -> bool:
        """It was cut: whether to wait a moment more, until libzmq has connected it again."""
        if self._cut_at is None:
            self._cut_at = now
        return self.watch.open and now - self._cut_at < HEALS_SECONDS

    def heal(self) -> None:
        """It was cut, and is there again, only to take leave; if libzmq has not connected it, this does. (Never both:
        the scheduler would take the later one for the worker, and what came on the other for nobody's.)"""
        healed = not self.watch.open
        self.watch.close()
        if not healed:
            self.socket.close(linger=0)
            self.socket = self.stand_in(self.identity)

    def take_leave(self) -> None:
        """What was sent still leaves; ``open`` may follow."""
        self.socket.close(linger=GOODBYE_MILLISECONDS)
