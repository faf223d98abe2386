"""What runs are run on: the implementation of one role, by sockets or as a core, kept running between the runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import zmq

from conformance_tests.engine import keys
from conformance_tests.engine.channels import Session, SetupFailed
from conformance_tests.engine.core_session import CoreSession, load_factory
from conformance_tests.engine.driver_channel import DriverProcess
from conformance_tests.engine.gates import GateServer
from conformance_tests.engine.processes import Process, Started, python
from conformance_tests.engine.router_session import Router, RouterSession
from conformance_tests.engine.scenario import Scenario
from conformance_tests.engine.storage_session import StorageSession
from conformance_tests.engine.storage_stub import StorageStub
from conformance_tests.engine.targets import RoleTarget, Target
from conformance_tests.engine.wire_session import WireSession

if TYPE_CHECKING:
    from conformance_tests.engine.suite import Options


class Backend(ABC):
    """The implementation of one role. ``session`` gives what the next run speaks through."""

    via = "sockets"

    @abstractmethod
    def session(self, scenario: Scenario) -> tuple[Session, bool]:
        """A session, and whether other runs have used the implementation before; raises SetupFailed."""

    def done(self, scenario: Scenario, *, clean: bool) -> None:  # noqa: B027  # most keep nothing
        """The run is over; what is not clean is not used again."""

    def release(self, scenario: Scenario) -> None:  # noqa: B027
        """No more runs like this one come for now: what only they use is ended."""

    def log(self, scenario: Scenario) -> list[str]:
        """The last lines that the implementation printed, where the engine sees them."""
        return []

    @abstractmethod
    def close(self) -> None:
        """Ends what runs."""


def make_backend(target: Target, role: str, via: str, options: Options) -> Backend:
    """The backend of a role of a target."""
    if via == "core":
        return _Core(target.roles[role])
    if role == "scheduler":
        return _Scheduler(target, role, options)
    if role == "object-storage":
        return _Storage(target, role, options)
    return _Connecting(target, role, options)


class _Core(Backend):
    via = "core"

    def __init__(self, spec: RoleTarget) -> None:
        self._spec = spec
        self._factory: Any = None

    def session(self, scenario: Scenario) -> tuple[Session, bool]:
        if self._factory is None:
            self._factory = load_factory(self._spec.core)
        return CoreSession(self._factory, {**self._spec.defaults, **scenario.settings}), False

    def close(self) -> None:
        pass


class _Running:
    """A scheduler or an object storage that listens; a scheduler with the object storage that it was given."""

    def __init__(self, process: Process | None, storage: StorageStub | None, started: Started) -> None:
        self.process = process
        self.storage = storage
        self.started = started
        self.used = False

    def close(self) -> None:
        if self.process is not None:
            self.process.stop()
        if self.storage is not None:
            self.storage.close()


class _Connected:
    """A worker or a client's driver that runs, and the scheduler and storage that the engine plays for it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], role: str, spec: RoleTarget) -> None:
        self.storage = StorageStub(spec.magic)
        self.gates = GateServer()
        self.router = Router(context, b"Worker|" if role == "worker" else b"Client|", self.storage)
        self.process: Process | None = None
        self.driver: DriverProcess | None = None
        self.used = False

    def close(self) -> None:
        if self.driver is not None:
            self.driver.stop()
        elif self.process is not None:
            self.process.stop()
        self.router.close()
        self.gates.close()
        self.storage.close()


_R = TypeVar("_R", _Running, _Connected)


class _OnSockets(Backend, Generic[_R]):
    """One implementation for each distinct settings, started when the first run needs it."""

    def __init__(self, target: Target, role: str, options: Options) -> None:
        self._role = role
        self._spec = target.roles[role]
        self._values = placeholders(target, options.placeholders)
        self._attach = options.attach.get(role) or (self._spec.attach if not self._spec.start else None)
        self._patience = options.patience or self._spec.patience
        self._running: dict[str, _R] = {}

    @abstractmethod
    def _start(self, settings: dict[str, Any]) -> _R:
        """Raises SetupFailed."""

    @abstractmethod
    def _open(self, running: _R, scenario: Scenario) -> Session:
        """What a run speaks through."""

    def session(self, scenario: Scenario) -> tuple[Session, bool]:
        key = settings_key(scenario, self._spec)
        running = self._running.get(key)
        if running is not None and running.process is not None and not running.process.alive:
            self._drop(key)
            running = None
        if running is None:
            running = self._running[key] = self._start(scenario.settings)
        used, running.used = running.used, True
        return self._open(running, scenario), used

    def done(self, scenario: Scenario, *, clean: bool) -> None:
        if not clean:
            self.release(scenario)

    def release(self, scenario: Scenario) -> None:
        self._drop(settings_key(scenario, self._spec))

    def _drop(self, key: str) -> None:
        running = self._running.get(key)
        if running is not None and running.process is not None:  # what was attached to goes on
            self._running.pop(key).close()

    def log(self, scenario: Scenario) -> list[str]:
        running = self._running.get(settings_key(scenario, self._spec))
        return list(running.process.lines) if running is not None and running.process is not None else []

    def close(self) -> None:
        for running in self._running.values():
            running.close()
        self._running.clear()


class _Scheduler(_OnSockets[_Running]):
    def __init__(self, target: Target, role: str, options: Options) -> None:
        super().__init__(target, role, options)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        if self._attach and "keyFile" in self._attach:
            keys.use(self._context, self._attach["keyFile"], self._attach["serverKey"])

    def _open(self, running: _Running, scenario: Scenario) -> Session:
        started = running.started
        return WireSession(
            self._context, started.address, started.monitor, running.storage, self._patience, running.process
        )

    def _start(self, settings: dict[str, Any]) -> _Running:
        if self._attach:
            return _Running(None, None, Started(self._attach["address"], self._attach.get("monitor", "")))
        storage = StorageStub(self._spec.magic)
        try:
            process = Process(self._spec, settings, {**self._values, "storage": storage.address})
            return _Running(process, storage, process.ready(self._spec))
        except SetupFailed:
            storage.close()
            raise

    def close(self) -> None:
        super().close()
        self._context.destroy(linger=0)


class _Storage(_OnSockets[_Running]):
    def _open(self, running: _Running, scenario: Scenario) -> Session:
        return StorageSession(running.started.address, self._spec.magic, self._patience, running.process)

    def _start(self, settings: dict[str, Any]) -> _Running:
        if self._attach:
            return _Running(None, None, Started(self._attach["address"]))
        process = Process(self._spec, settings, self._values)
        return _Running(process, None, process.ready(self._spec))


class _Connecting(_OnSockets[_Connected]):
    def __init__(self, target: Target, role: str, options: Options) -> None:
        super().__init__(target, role, options)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def _open(self, running: _Connected, scenario: Scenario) -> Session:
        return RouterSession(
            running.router, running.gates, running.driver, running.process, scenario.actors, self._patience
        )

    def _start(self, settings: dict[str, Any]) -> _Connected:
        running = _Connected(self._context, self._role, self._spec)
        values = {**self._values, "scheduler": running.router.address, "storage": running.storage.address}
        try:
            running.process = Process(self._spec, settings, values, pipe=self._role == "client")
        except SetupFailed:
            running.close()
            raise
        if self._role == "client":
            running.driver = DriverProcess(running.process)
        return running

    def close(self) -> None:
        super().close()
        self._context.destroy(linger=0)


def settings_key(scenario: Scenario, spec: RoleTarget | None) -> str:
    """What tells implementations apart that are not shared: other settings, or a scenario that has its own."""
    own = scenario.id if scenario.isolated or (spec is not None and spec.per_run) else ""
    return repr((own, sorted(scenario.settings.items())))


def placeholders(target: Target, given: dict[str, str]) -> dict[str, str]:
    """The values of a target's placeholders: given, from the environment, or their defaults."""
    import os

    values = {"python": python(), "suite": str(Path(__file__).parent.parent)}
    for name, default in target.placeholders.items():
        value = given.get(name) or os.environ.get(f"CONFORMANCE_{name.upper()}") or default
        if value:
            values[name] = value
    return values
