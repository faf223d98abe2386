"""Scenarios against a target: which run, where, and what each of them ended with.

``Suite.run`` yields one ``Result`` per scenario (and transport) as it is known. A scenario is run in every order that
it allows; the first order that fails is the result. An implementation is started once per distinct settings and
shared; a failure on a shared one is repeated on a fresh one before it counts.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from conformance_tests.engine import verdicts
from conformance_tests.engine.backends import Backend, make_backend, settings_key
from conformance_tests.engine.channels import SetupFailed
from conformance_tests.engine.orders import Order
from conformance_tests.engine.runner import Failure, Outcome, Run, Verdict
from conformance_tests.engine.scenario import Scenario, linear
from conformance_tests.engine.targets import RoleTarget, Target
from protocol.sequence.trace import Trace

SOCKETS, CORE = "sockets", "core"
_LOG_LINES = 20
_TIMEOUT_SETTINGS = ("clientTimeoutSeconds", "workerTimeoutSeconds")


@dataclass
class Result:
    """What a scenario ended with on a target."""

    scenario: Scenario
    via: str
    verdict: Verdict
    level: str
    orders: int = 0
    """How many orders were run."""
    orders_allowed: int = 0
    combination: tuple[Order, ...] = ()
    """The order that failed."""
    failure: Failure | None = None
    cause: str = ""
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    trace: Trace | None = None
    log: list[str] = field(default_factory=list)
    """The last lines that the implementation printed, where it failed."""

    @property
    def requirements(self) -> tuple[str, ...]:
        """Those that are broken, or else those that are judged."""
        return self.failure.requirements if self.failure is not None else self.scenario.requirements


@dataclass(frozen=True)
class Options:
    """How a suite is run. ``via`` is sockets, core, or empty: sockets where they can judge it, else the core."""

    via: str = ""
    max_orders: int = 2000
    jobs: int = 8
    """How many implementations are run side by side."""
    patience: float | None = None
    placeholders: dict[str, str] = field(default_factory=dict)
    attach: dict[str, dict[str, str]] = field(default_factory=dict)


class Suite:
    """Runs scenarios on one target. Use as a context manager: leaving it ends every process that it started."""

    def __init__(self, target: Target, options: Options | None = None) -> None:
        self.target = target
        self.options = options or Options()
        self._backends: dict[tuple[str, str], Backend] = {}
        self._not_startable: dict[tuple[str, str, str], str] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Suite:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process that was started."""
        for backend in self._backends.values():
            backend.close()
        self._backends.clear()

    def run(self, scenarios: Sequence[Scenario], *, keep_order: bool = False) -> Iterator[Result]:
        """One result after the other, by role and id (``keep_order``: as given). Scenarios that share an implementation
        run one after the other; what shares nothing runs side by side, since most of the time is waiting."""
        ordered = list(scenarios) if keep_order else sorted(scenarios, key=lambda s: (s.role, s.id))
        groups: dict[str, list[Scenario]] = {}
        for scenario in ordered:
            groups.setdefault(scenario.role + settings_key(scenario, self.target.roles.get(scenario.role)), []).append(
                scenario
            )
        found: dict[str, Future[Result]] = {scenario.id: Future() for scenario in ordered}
        stop = threading.Event()
        # The longest first: the many that share the defaults, then those that wait for timers.
        waiting = sorted(groups.values(), key=lambda group: (-len(group), not group[0].settings))
        with ThreadPoolExecutor(self.options.jobs, "conformance") as pool:
            try:
                for group in waiting:
                    pool.submit(self._run_group, group, found, stop)
                for scenario in ordered:
                    yield found[scenario.id].result()
            finally:
                stop.set()

    def _run_group(self, group: list[Scenario], found: dict[str, Future[Result]], stop: threading.Event) -> None:
        for scenario in group:
            if stop.is_set():
                found[scenario.id].cancel()
                continue
            try:
                found[scenario.id].set_result(self.judge(scenario))
            except BaseException as error:  # a defect of the engine: told where the results are read
                found[scenario.id].set_exception(error)
        for (role, _), backend in list(self._backends.items()):
            if role == group[0].role:
                backend.release(group[0])  # here, beside the other groups: ending processes takes time

    def judge(self, scenario: Scenario) -> Result:
        """One scenario in all its orders."""
        role = self.target.roles.get(scenario.role)
        via, unsupported = self._where(scenario, role)
        level = verdicts.level(scenario.requirements)
        result = Result(scenario, via, Verdict.PASS, level, orders_allowed=scenario.order_count)
        if unsupported or role is None:
            result.verdict, result.reason = Verdict.UNSUPPORTED, unsupported
            return result
        for combination in itertools.islice(scenario.combinations(), self.options.max_orders):
            outcome = self._once(scenario, combination, via, role)
            result.orders += 1
            result.seconds += outcome.seconds
            result.trace = outcome.trace
            if outcome.verdict is not Verdict.PASS:
                self._blame(result, outcome, combination)
                break
        if result.orders < result.orders_allowed and result.verdict is Verdict.PASS:
            result.notes.append(f"only the first {result.orders} of {result.orders_allowed} orders were run")
        if via == SOCKETS and not role.ordered and result.verdict in (Verdict.PASS, Verdict.FAIL):
            result.notes.append(
                "that nothing came is proved only if the implementation handles each connection's messages in order"
            )
        if result.verdict is Verdict.FAIL:
            result.verdict, reason = verdicts.known(result.verdict, result.failure, scenario, role.deviations)
            result.reason = reason or result.reason
            result.level = verdicts.level(result.requirements)
        return result

    def _blame(self, result: Result, outcome: Outcome, combination: tuple[Order, ...]) -> None:
        result.verdict, result.failure = outcome.verdict, outcome.failure
        result.cause, result.reason = outcome.cause, outcome.reason
        result.combination, result.trace = combination, outcome.trace
        result.notes += outcome.notes
        result.log = outcome.log

    def _where(self, scenario: Scenario, role: RoleTarget | None) -> tuple[str, str]:
        """(transport, why it can't be run)."""
        if role is None:
            return SOCKETS, f"the target has no {scenario.role}"
        attached = scenario.role in self.options.attach or (role.attach and not role.start)
        needs = set(scenario.needs)
        missing = sorted(needs - role.capabilities - {"clock", "sockets"})
        if missing:
            return SOCKETS, f"the target does not have: {', '.join(missing)}"
        excluded = sorted(set(scenario.unless) & role.capabilities)
        if excluded:
            return SOCKETS, f"it is about targets without: {', '.join(excluded)}"
        unknown = sorted(set(scenario.settings) - set(role.settings))
        has_sockets = bool(role.start or role.attach or attached)
        only_core = "clock" in needs and "clock" not in role.capabilities
        only_sockets = (
            any(actor.role in ("storage", "gates", "driver", "process") for actor in scenario.actors.values())
            or "sockets" in needs
        )
        via = self.options.via or (CORE if only_core or not has_sockets else SOCKETS)
        if via == CORE:
            if not role.core:
                return via, "it needs a clock, and the target has no core" if only_core else "the target has no core"
            if only_sockets:
                return via, "a core has neither sockets nor an object storage nor a process"
            return via, ""
        if only_core:
            return via, "it needs a clock that can be set, which sockets do not have"
        if attached and scenario.settings:
            return via, f"an attached implementation can't be given the settings {', '.join(scenario.settings)}"
        if unknown and not attached:
            return via, f"the target has no setting {', '.join(unknown)}"
        return via, ""

    def _backend(self, role: str, via: str) -> Backend:
        with self._lock:
            key = (role, via)
            if key not in self._backends:
                self._backends[key] = make_backend(self.target, role, via, self.options)
            return self._backends[key]

    def _once(self, scenario: Scenario, combination: tuple[Order, ...], via: str, role: RoleTarget) -> Outcome:
        """One order; a failure on an implementation that others have used before is repeated on a fresh one."""
        backend = self._backend(scenario.role, via)
        outcome, used = self._attempt(backend, scenario, combination)
        if outcome.verdict is Verdict.FAIL and used:
            again, _ = self._attempt(backend, scenario, combination)
            if again.verdict is Verdict.PASS:
                again.verdict, again.cause = Verdict.INCONCLUSIVE, "dependency"
                again.reason = (
                    "it passes on a fresh implementation, but failed on one that had run other scenarios before: "
                    f"{outcome.failure.text if outcome.failure else outcome.reason}"
                )
                again.trace = outcome.trace
            return again
        return outcome

    def _attempt(self, backend: Backend, scenario: Scenario, combination: tuple[Order, ...]) -> tuple[Outcome, bool]:
        settings = scenario.settings
        key = (backend.via, scenario.role, repr(sorted(settings.items())))
        try:
            if key in self._not_startable:
                raise SetupFailed(self._not_startable[key])
            session, used = backend.session(scenario)
        except SetupFailed as error:
            self._not_startable[key] = str(error)
            outcome = Outcome(Verdict.INCONCLUSIVE, Trace(scenario.role), backend.via, cause="setup", reason=str(error))
            return outcome, False
        outcome = Run(linear(scenario, combination), session, scenario.role, keepalive(settings)).run()
        if outcome.never_came:
            self._not_startable[key] = outcome.reason
        if outcome.verdict is not Verdict.PASS:
            outcome.log = backend.log(scenario)[-_LOG_LINES:]
        backend.done(
            scenario, clean=outcome.clean and not scenario.isolated and not self.target.roles[scenario.role].per_run
        )
        return outcome, used


def keepalive(settings: dict[str, Any]) -> float | None:
    """How often actors must heartbeat under these settings, in seconds; None: the defaults are long enough."""
    timeouts = [float(settings[name]) for name in _TIMEOUT_SETTINGS if name in settings]
    return min(timeouts) / 3 if timeouts else None


def stability(
    suite: Suite,
    scenarios: Sequence[Scenario],
    times: int,
    seed: int,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> Iterator[tuple[Scenario, list[Result]]]:
    """Runs all scenarios so many times in shuffled order; yields those whose verdicts differ between the rounds."""
    chosen = random.Random(seed)
    results: dict[str, list[Result]] = {}
    for number in range(times):
        shuffled = list(scenarios)
        chosen.shuffle(shuffled)
        for i, result in enumerate(suite.run(shuffled, keep_order=True)):
            progress(number * len(shuffled) + i + 1, times * len(shuffled), result.scenario.id)
            results.setdefault(result.scenario.id, []).append(result)
    for scenario in scenarios:
        if len({(r.verdict, r.failure.text if r.failure else "") for r in results[scenario.id]}) > 1:
            yield scenario, results[scenario.id]
