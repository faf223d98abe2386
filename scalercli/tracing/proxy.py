"""A proxy between peers and a scheduler that forwards every message as it is, and tells what passed.

Theory of operation. A ROUTER at the front is the scheduler to its peers; for each identity that speaks there is one
DEALER with the same identity at the back, so that the scheduler sees the peers it would see without the proxy. Frames
pass unread, malformed ones too. One thread; what passed goes into a queue that somebody else reads, so that a slow
reader delays nobody (it costs memory instead).

The order in which messages are recorded is the order in which they passed here. On one connection that is the order
in which they were sent and will be handled; across connections a message to the scheduler and one from it may cross.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable

import zmq

from protocol.identifiers import Identity
from reference_impl.addresses import Address
from scalercli.tracing.record import Recorded
from scalercli.tracing.storage_proxy import StorageProxy

_FORGET_SECONDS = 600.0
"""After so long without a word in either direction the connection of an identity is closed: it has gone."""
_SWEEP_SECONDS = 30.0
_DRAIN_MESSAGES = 500
_MONITOR_PORT_OFFSET = 2
_LINGER_MILLISECONDS = 1000


class CantListen(OSError):
    """The text says where and why."""


class Proxy:
    """Listens when it is made; ``start`` serves in a thread of its own until ``close``.

    ``tap`` is called in that thread with each message that passes. ``storage``: also stand between the peers and the
    object storage, by putting an address of this proxy into the echoes. Raises CantListen.
    """

    def __init__(
        self, listen: Address, scheduler: Address, tap: Callable[[Recorded], None], *, storage: bool = False
    ) -> None:
        self._scheduler = str(scheduler)
        self._tap = tap
        self._context = zmq.Context()
        self._context.setsockopt(zmq.MAX_SOCKETS, 65535)
        self._front = self._socket(zmq.ROUTER)
        try:
            self._front.bind(str(listen))
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise CantListen(f"can't listen at {listen}: {os.strerror(error.errno or 0)}") from None
        endpoint = self._front.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        self.address = Address.parse(endpoint.rstrip(b"\0").decode())
        self._backs: dict[Identity, zmq.Socket[bytes]] = {}
        self._identities: dict[zmq.Socket[bytes], Identity] = {}
        self._heard: dict[Identity, float] = {}
        self._poller = zmq.Poller()
        self._poller.register(self._front, zmq.POLLIN)
        self._monitor = self._pass_monitor_on(scheduler)
        self._wake, self._waker = socket.socketpair()
        self._poller.register(self._wake.fileno(), zmq.POLLIN)
        self._started = time.monotonic()
        self._storage = StorageProxy(self.address.host, scheduler.host, self._note_storage) if storage else None
        self._thread = threading.Thread(target=self._run, name="trace-proxy", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; what it was given is forwarded first. May be called from any thread, more than once."""
        with contextlib.suppress(OSError):
            self._waker.send(b"x")
        if self._thread.is_alive():
            self._thread.join()
        if not self._context.closed:
            if self._storage is not None:
                self._storage.close()
            self._context.destroy(linger=_LINGER_MILLISECONDS)
        self._wake.close()
        self._waker.close()

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        made: zmq.Socket[bytes] = self._context.socket(kind)
        for option, value in ((zmq.RCVHWM, 0), (zmq.SNDHWM, 0), (zmq.LINGER, _LINGER_MILLISECONDS)):
            made.setsockopt(option, value)
        return made

    def _pass_monitor_on(self, scheduler: Address) -> dict[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """Where to find the monitor stream of a scheduler, two above its port, this proxy has it, too; not recorded.
        Each socket to the one that gets what comes; nothing where that port is taken."""
        subscribers, there = self._socket(zmq.XPUB), self._socket(zmq.XSUB)
        for one in (subscribers, there):
            one.setsockopt(zmq.LINGER, 0)
        try:
            subscribers.bind(str(self.address._replace(port=self.address.port + _MONITOR_PORT_OFFSET)))
            there.connect(str(scheduler._replace(port=scheduler.port + _MONITOR_PORT_OFFSET)))
        except zmq.ZMQError:
            subscribers.close()
            there.close()
            return {}
        for one in (subscribers, there):
            self._poller.register(one, zmq.POLLIN)
        return {subscribers: there, there: subscribers}

    def _drain_monitor(self, source: zmq.Socket[bytes]) -> None:
        for _ in range(_DRAIN_MESSAGES):
            try:
                frames = source.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._monitor[source].send_multipart(frames)

    def _run(self) -> None:
        next_sweep = time.monotonic() + _SWEEP_SECONDS
        ending = False
        while True:
            events = self._poller.poll(0 if ending else int(_SWEEP_SECONDS * 1000))
            if ending and not events:
                return
            for ready, _ in events:
                if ready is self._front:
                    self._drain_front()
                elif isinstance(ready, int):
                    self._poller.unregister(ready)
                    ending = True
                elif ready in self._monitor:
                    self._drain_monitor(ready)
                else:
                    self._drain_back(ready)
            now = time.monotonic()
            if now >= next_sweep:
                next_sweep = now + _SWEEP_SECONDS
                self._forget_silent(now)

    def _drain_front(self) -> None:
        for _ in range(_DRAIN_MESSAGES):
            try:
                identity, *frames = self._front.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            at = time.monotonic()
            self._back(identity).send_multipart(frames or [b""])
            self._note(at, identity, True, frames)

    def _drain_back(self, back: zmq.Socket[bytes]) -> None:
        identity = self._identities.get(back)
        if identity is None:
            return
        for _ in range(_DRAIN_MESSAGES):
            try:
                frames = back.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            at = time.monotonic()
            sent = frames if self._storage is None else self._storage.redirect(frames)
            self._front.send_multipart([identity, *sent])
            self._note(at, identity, False, frames)

    def _back(self, identity: Identity) -> zmq.Socket[bytes]:
        back = self._backs.get(identity)
        if back is None:
            back = self._socket(zmq.DEALER)
            if not identity.startswith(b"\0"):  # one that ZeroMQ gave: the scheduler gives another
                back.setsockopt(zmq.ROUTING_ID, identity)
            back.connect(self._scheduler)
            self._backs[identity], self._identities[back] = back, identity
            self._poller.register(back, zmq.POLLIN)
        return back

    def _forget_silent(self, now: float) -> None:
        for identity in [i for i, heard in self._heard.items() if now - heard > _FORGET_SECONDS]:
            back = self._backs.pop(identity)
            del self._heard[identity], self._identities[back]
            self._poller.unregister(back)
            back.close()

    def _note(self, at: float, identity: Identity, from_peer: bool, frames: list[bytes]) -> None:
        self._heard[identity] = at
        self._tap(Recorded(at - self._started, identity, from_peer, tuple(frames)))

    def _note_storage(self, identity: bytes, from_peer: bool, frames: tuple[bytes, ...]) -> None:
        self._tap(Recorded(time.monotonic() - self._started, identity, from_peer, frames, storage=True))
