"""A scheduler's sans-IO core with virtual time, given as an entry point ``module:factory``.

``factory(settings: dict, now: float)`` returns an object with

- ``receive(identity: bytes, frame: bytes, now: float) -> list[tuple[bytes, bytes]]``: one frame of one peer came; the
  result is what is sent: (peer, frame), in order. The peer ``b""`` stands for the monitor stream.
- ``tick(now: float)``: time has passed; the same result. Called at least every half second of virtual time.
- ``disconnect(identity: bytes, now: float)``: the peer's connection has broken; the same result (often nothing: a
  scheduler notices by the timeout).
- ``malformed(identity: bytes, frames: list[bytes], now: float)``, optional: a peer sent another number of frames than
  one; without it such messages are not delivered.

``now`` is in seconds and never goes back.
"""

from __future__ import annotations

import importlib
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from conformance_tests.engine.channels import Channel, CoreRaised, Incoming, Session, SetupFailed, decode_message
from conformance_tests.engine.scenario import Actor
from conformance_tests.engine.scheduler_channels import PeerChannel
from protocol.identifiers import Identity

_START = 1000.0
MONITOR = b""

Sent = list[tuple[bytes, bytes]]


class Core(Protocol):
    """What an entry point's factory returns."""

    def receive(self, identity: bytes, frame: bytes, now: float) -> Sent: ...

    def tick(self, now: float) -> Sent: ...

    def disconnect(self, identity: bytes, now: float) -> Sent: ...


def load_factory(entry: str) -> Any:
    """The function of ``module:function``; raises SetupFailed."""
    module, _, function = entry.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise SetupFailed(f"the core {entry} can't be loaded: {error}") from None


class CoreSession(Session):
    """One run on one core."""

    via = "core"
    synchronous = True
    patience = 0.0

    def __init__(self, factory: Any, settings: dict[str, Any]) -> None:
        self.now = _START
        self.core: Core = factory(settings, self.now)
        self._inboxes: dict[Identity, deque[bytes]] = {}

    def open(self, actor: Actor, identity: Identity) -> Channel:
        if actor.role == "storage":
            raise SetupFailed("a core has no connection to an object storage")
        identity = MONITOR if actor.role == "monitor" else identity
        self._inboxes[identity] = deque()
        return _CoreChannel(self, actor, identity)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.deliver(self._call("tick", self.now))

    def lost(self, channel: Channel) -> None:
        self._inboxes.pop(channel.identity, None)
        self.deliver(self._call("disconnect", channel.identity, self.now))

    def close(self) -> None:
        self._inboxes.clear()

    def deliver(self, sent: Sent) -> None:
        """What the core sends, to those who are connected."""
        for identity, frame in sent:
            inbox = self._inboxes.get(identity)
            if inbox is not None:
                inbox.append(frame)

    def send(self, identity: Identity, frames: Sequence[bytes]) -> None:
        if len(frames) == 1:
            self.deliver(self._call("receive", identity, frames[0], self.now))
        elif hasattr(self.core, "malformed"):
            self.deliver(self._call("malformed", identity, list(frames), self.now))

    def _call(self, name: str, *arguments: Any) -> Sent:
        try:
            sent: Sent = getattr(self.core, name)(*arguments)
        except Exception as error:
            raise CoreRaised(f"{type(error).__name__}: {error}") from error
        return sent

    def take(self, identity: Identity) -> bytes | None:
        inbox = self._inboxes.get(identity)
        return inbox.popleft() if inbox else None


class _CoreChannel(PeerChannel):
    def __init__(self, session: CoreSession, actor: Actor, identity: Identity) -> None:
        super().__init__(actor)
        self.identity = identity
        self.lenient = actor.role == "monitor"
        self._session = session

    def send(self, frames: Sequence[bytes]) -> None:
        self._session.send(self.identity, frames)

    def receive(self, seconds: float) -> Incoming | None:
        frame = self._session.take(self.identity)
        return None if frame is None else decode_message([frame])

    def close(self) -> None:
        pass
