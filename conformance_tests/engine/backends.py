"""What runs are run on: the implementation of one role, by sockets or as a core, kept running between the runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq

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

    def log(self, scenario: Scenario) -> list[str]:
        """The last lines that the implementation printed, where the engine sees them."""
        return []

    @abstractmethod
    def close(self) -> None:
        """Ends what runs."""


def make_backend(target: Target, role: str, via: str, options: Options) -> Backend:
    """The backend of a role of a target."""
    spec = target.roles[role]
    if via == "core":
        return _Core(spec)
    if role == "scheduler":
        return _Scheduler(target, spec, options)
    if role == "object-storage":
        return _Storage(target, spec, options)
    return _Connecting(target, role, spec, options)


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
    """A scheduler that listens, with the object storage that it was given."""

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


class _Scheduler(Backend):
    def __init__(self, target: Target, spec: RoleTarget, options: Options) -> None:
        self._target = target
        self._spec = spec
        self._options = options
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._running: dict[str, _Running] = {}

    def session(self, scenario: Scenario) -> tuple[Session, bool]:
        key = settings_key(scenario, self._spec)
        running = self._running.get(key)
        if running is not None and running.process is not None and not running.process.alive:
            self._running.pop(key).close()
            running = None
        if running is None:
            running = self._running[key] = self._start(scenario.settings)
        used, running.used = running.used, True
        patience = self._options.patience or self._spec.patience
        started = running.started
        return WireSession(
            self._context, started.address, started.monitor, running.storage, patience, running.process
        ), used

    def _start(self, settings: dict[str, Any]) -> _Running:
        attach = self._options.attach.get("scheduler") or (self._spec.attach if not self._spec.start else None)
        if attach:
            return _Running(None, None, Started(attach["address"], attach.get("monitor", "")))
        storage = StorageStub(self._spec.magic)
        values = placeholders(self._target, self._options.placeholders)
        try:
            process = Process(self._spec, settings, {**values, "storage": storage.address})
            return _Running(process, storage, process.ready(self._spec))
        except SetupFailed:
            storage.close()
            raise

    def log(self, scenario: Scenario) -> list[str]:
        running = self._running.get(settings_key(scenario, self._spec))
        return list(running.process.lines) if running is not None and running.process is not None else []

    def done(self, scenario: Scenario, *, clean: bool) -> None:
        key = settings_key(scenario, self._spec)
        running = self._running.get(key)
        if running is not None and not clean and running.process is not None:
            self._running.pop(key).close()

    def close(self) -> None:
        for running in self._running.values():
            running.close()
        self._running.clear()
        self._context.destroy(linger=0)


class _Storage(Backend):
    def __init__(self, target: Target, spec: RoleTarget, options: Options) -> None:
        self._target = target
        self._spec = spec
        self._options = options
        self._running: dict[str, _Running] = {}

    def session(self, scenario: Scenario) -> tuple[Session, bool]:
        key = settings_key(scenario, self._spec)
        running = self._running.get(key)
        if running is not None and running.process is not None and not running.process.alive:
            self._running.pop(key).close()
            running = None
        if running is None:
            running = self._running[key] = self._start(scenario.settings)
        used, running.used = running.used, True
        patience = self._options.patience or self._spec.patience
        return StorageSession(running.started.address, self._spec.magic, patience, running.process), used

    def _start(self, settings: dict[str, Any]) -> _Running:
        attach = self._options.attach.get("object-storage") or (self._spec.attach if not self._spec.start else None)
        if attach:
            return _Running(None, None, Started(attach["address"]))
        process = Process(self._spec, settings, placeholders(self._target, self._options.placeholders))
        return _Running(process, None, process.ready(self._spec))

    def log(self, scenario: Scenario) -> list[str]:
        running = self._running.get(settings_key(scenario, self._spec))
        return list(running.process.lines) if running is not None and running.process is not None else []

    def done(self, scenario: Scenario, *, clean: bool) -> None:
        running = self._running.get(settings_key(scenario, self._spec))
        if running is not None and not clean and running.process is not None:
            self._running.pop(settings_key(scenario, self._spec)).close()

    def close(self) -> None:
        for running in self._running.values():
            running.close()
        self._running.clear()


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


class _Connecting(Backend):
    def __init__(self, target: Target, role: str, spec: RoleTarget, options: Options) -> None:
        self._target = target
        self._role = role
        self._spec = spec
        self._options = options
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._running: dict[str, _Connected] = {}

    def session(self, scenario: Scenario) -> tuple[Session, bool]:
        key = settings_key(scenario, self._spec)
        running = self._running.get(key)
        if running is not None and running.process is not None and not running.process.alive:
            self._running.pop(key).close()
            running = None
        if running is None:
            running = self._start(scenario.settings)
            self._running[key] = running
        used, running.used = running.used, True
        patience = self._options.patience or self._spec.patience
        session = RouterSession(
            running.router, running.gates, running.driver, running.process, scenario.actors, patience
        )
        return session, used

    def _start(self, settings: dict[str, Any]) -> _Connected:
        running = _Connected(self._context, self._role, self._spec)
        values = {**placeholders(self._target, self._options.placeholders), "scheduler": running.router.address}
        values["storage"] = running.storage.address
        try:
            running.process = Process(self._spec, settings, values, pipe=self._role == "client")
        except SetupFailed:
            running.close()
            raise
        if self._role == "client":
            running.driver = DriverProcess(running.process)
        return running

    def log(self, scenario: Scenario) -> list[str]:
        running = self._running.get(settings_key(scenario, self._spec))
        return list(running.process.lines) if running is not None and running.process is not None else []

    def done(self, scenario: Scenario, *, clean: bool) -> None:
        key = settings_key(scenario, self._spec)
        if not clean and key in self._running:
            self._running.pop(key).close()

    def close(self) -> None:
        for running in self._running.values():
            running.close()
        self._running.clear()
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
