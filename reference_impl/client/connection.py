"""A client's connection to the scheduler: a DEALER, what becomes of its handshakes, and whether it was cut (SPEC
sections 2, 8.1 and 11)."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import zmq

from protocol import codec
from protocol.errors import MalformedMessage
from protocol.identifiers import ClientId
from protocol.messages import Message
from reference_impl.access.handshakes import HandshakeWatch, Refusal, Verdict
from reference_impl.access.settings import PeerAccess
from reference_impl.addresses import Address
from reference_impl.errors import SchedulerUnreachable
from reference_impl.transport import has_message

_MESSAGES_AT_ONCE = 500


class SchedulerConnection:
    """Poll ``socket``, and ``watch.socket`` while it is of interest why there may never be a connection."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: Address,
        identity: ClientId,
        access: PeerAccess | None,
    ) -> None:
        self._address = address
        self.socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, identity)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.setsockopt(zmq.RCVHWM, 0)
        if access is not None:
            access.secure(self.socket)
        self.watch = HandshakeWatch(self.socket, cuts=True)
        self._whole_at = time.monotonic()  # the connection was not cut before
        self._verdict = Verdict(access.key.public.name if access is not None else None)

    def open(self) -> None:
        """Raises SchedulerUnreachable if the address can't be one."""
        try:
            socket.getaddrinfo(self._address.host, self._address.port)  # libzmq would try for ever
            self.socket.connect(str(self._address))
        except (zmq.ZMQError, OSError) as error:
            text = f"{self._address} can't be used as a scheduler's address: {error}"
            raise SchedulerUnreachable(text) from None

    def send(self, message: Message) -> None:
        """Raises zmq.Again once ZeroMQ has given the connection up."""
        self.socket.send(codec.encode(message), zmq.NOBLOCK)

    def receive(self) -> Iterator[Message | str]:
        """What has come; text says what is wrong with something that is no message. Not all if it is much."""
        receive = self.socket.recv_multipart
        for count in range(_MESSAGES_AT_ONCE):
            if count == 1 and not has_message(self.socket):  # often there is one only
                return
            try:
                frames = receive(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(frames) != 1:
                yield f"{len(frames)} frames instead of one"
                continue
            try:
                message = codec.decode(frames[0])
            except MalformedMessage as error:
                yield f"a message that can't be read: {error}"
                continue
            yield message

    # ---- whether it is there ----

    def refusal(self) -> SchedulerUnreachable | None:
        """Why there may never be a connection, if handshakes have shown that since the last call."""
        refusal = self._verdict.refusal(self.watch.ended())
        return None if refusal is None else self._refused(refusal)

    def silence(self) -> str:
        """What handshakes have shown about a scheduler that does not answer; empty: nothing."""
        return self._verdict.silence()

    def given_up(self, *, was_known: bool) -> SchedulerUnreachable:
        """Why ZeroMQ has given it up; ``was_known``: the scheduler had answered before."""
        if was_known:
            why = "a message was too large for it, or the key was revoked"
            return SchedulerUnreachable(f"the scheduler at {self._address} has closed the connection: {why}")
        return self._refused(self._verdict.given_up(self.watch.ended()))

    def _refused(self, refusal: Refusal) -> SchedulerUnreachable:
        return SchedulerUnreachable(f"the scheduler at {self._address} {refusal.what} ({refusal.hint})")

    def cut_after(self, now: float) -> float | None:
        """If it was cut since this was asked last, and is there again: a time before that. For each heartbeat."""
        after = self._whole_at if self.watch.healed() else None
        if not self.watch.open:
            self._whole_at = now
        return after
