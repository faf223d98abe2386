"""The core under test, given as an entry point ``module:factory`` with ``factory(settings: dict, now: float)``.

Best is a core that can go back. Its factory returns an object with

- ``send(identity, message, now) -> list[(identity, message)]`` and ``tick(now)``, with ``protocol.messages`` values,
- ``snapshot() -> object`` and ``restore(object)``,
- ``fingerprint() -> hashable``, equal for states from which the same follows: they are explored once,
- ``states() -> dict[task id, state]``, optional: lets each transition be compared with the lifecycle table,
- ``residue() -> dict[str, int]``, optional: what it still holds of clients, by names for people (LIV-07).

Any core that the conformance engine can drive (``receive``, ``tick``, ``disconnect`` with frames) works, too: each
state is then reached by replaying all that led there, and no two states are known to be equal, which is slow.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

from conformance_tests.engine.core_session import load_factory
from protocol import codec
from protocol.messages import Message

Sent = list[tuple[bytes, Message]]
START = 1000.0


class Explorable(Protocol):
    """What the explorer works with."""

    merges: bool
    """Whether ``fingerprint`` is one."""

    def send(self, identity: bytes, message: Message, now: float) -> Sent: ...

    def tick(self, now: float) -> Sent: ...

    def snapshot(self) -> Any: ...

    def restore(self, snapshot: Any) -> None: ...

    def fingerprint(self) -> Hashable: ...

    def states(self) -> dict[bytes, str] | None: ...

    def residue(self) -> dict[str, int] | None: ...


def load(entry: str, settings: dict[str, Any]) -> Explorable:
    """The core of an entry point; raises SetupFailed where it can't be loaded."""
    factory = load_factory(entry)
    core = factory(settings, START)
    if all(hasattr(core, name) for name in ("send", "tick", "snapshot", "restore", "fingerprint")):
        return _Going(core)
    return _Replayed(lambda: factory(settings, START))


class _Going:
    """A core that offers everything itself."""

    merges = True

    def __init__(self, core: Any) -> None:
        self.send = core.send
        self.tick = core.tick
        self.snapshot = core.snapshot
        self.restore = core.restore
        self.fingerprint = core.fingerprint
        self.states = getattr(core, "states", lambda: None)
        self.residue = getattr(core, "residue", lambda: None)


class _Replayed:
    """A core of which only messages are seen."""

    merges = False

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._core = make()
        self._past: list[tuple[bytes, bytes, float]] = []

    def send(self, identity: bytes, message: Message, now: float) -> Sent:
        return self._do((identity, codec.encode(message), now))

    def tick(self, now: float) -> Sent:
        return self._do((b"", b"", now))

    def _do(self, event: tuple[bytes, bytes, float]) -> Sent:
        self._past.append(event)
        return [(to, codec.decode(frame)) for to, frame in self._apply(event) if to]

    def _apply(self, event: tuple[bytes, bytes, float]) -> list[tuple[bytes, bytes]]:
        identity, frame, now = event
        found: list[tuple[bytes, bytes]] = self._core.receive(identity, frame, now) if frame else self._core.tick(now)
        return found

    def snapshot(self) -> Any:
        return tuple(self._past)

    def restore(self, snapshot: Any) -> None:
        self._core, self._past = self._make(), list(snapshot)
        for event in snapshot:
            self._apply(event)

    def fingerprint(self) -> Hashable:
        return tuple(self._past)

    def states(self) -> dict[bytes, str] | None:
        return None

    def residue(self) -> dict[str, int] | None:
        return None
