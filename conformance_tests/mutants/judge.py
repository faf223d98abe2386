"""Runs the suite against a mutant until a scenario notices it.

A scheduler's mutants run as a core in this process, all scenarios that a core can run; what survives there, and all
other roles, run as a process of their own over sockets. A scenario counts only if the reference itself passes it.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from conformance_tests.engine import scenario as scenario_files
from conformance_tests.engine import targets
from conformance_tests.engine.runner import Verdict
from conformance_tests.engine.scenario import Scenario
from conformance_tests.engine.suite import CORE, SOCKETS, Options, Result, Suite
from conformance_tests.engine.targets import Target
from conformance_tests.mutants.model import Mutant, applied

_PATIENCE = 2.0
_SECONDS = 20  # for one scenario on a core: a mutant may loop for ever
_RUN = ("-m", "conformance_tests.mutants.run")


@dataclass(frozen=True)
class Killed:
    """Which scenario noticed, and what it said; both empty for a survivor."""

    scenario: str = ""
    how: str = ""
    should: bool = False
    """Only a SHOULD is broken by it."""

    def __bool__(self) -> bool:
        return bool(self.scenario)


class _TooLong(Exception):
    pass


class Judge:
    """The scenarios of one role, and those that the unchanged reference passes."""

    def __init__(self, role: str, scenarios: Sequence[Scenario] | None = None) -> None:
        self.role = role
        self._target = targets.load("reference")
        chosen = scenario_files.load_all(role=role) if scenarios is None else list(scenarios)
        self.on_core: list[Scenario] = []
        self.on_sockets: list[Scenario] = []
        self.left_out: list[str] = []
        """Scenarios that the reference does not pass, with the reason."""
        rest = self._baseline(chosen, CORE, self.on_core) if self._target.roles[role].core else chosen
        self._baseline(rest, SOCKETS, self.on_sockets)

    def _baseline(self, scenarios: Sequence[Scenario], via: str, passed: list[Scenario]) -> list[Scenario]:
        """Adds what passes to ``passed``; the others."""
        rest: list[Scenario] = []
        with Suite(self._target, Options(via=via)) as suite:
            for scenario in scenarios:
                result = suite.judge(scenario)
                if result.verdict is Verdict.PASS:
                    passed.append(scenario)
                    continue
                rest.append(scenario)
                if via == SOCKETS:
                    self.left_out.append(f"{scenario.id}: {result.verdict.value}, {_reason(result)}")
        return rest

    def judge(self, mutant: Mutant) -> Killed:
        """The first scenario that notices; those about the mutant's requirement are asked first."""
        if self.on_core:
            with applied(mutant), Suite(self._target, Options(via=CORE)) as suite:
                killed = _first(suite, _near(self.on_core, mutant))
            if killed:
                return killed
        # What a core tells its shell is seen over sockets only: those about the same requirement run there, too.
        again = [s for s in self.on_core if mutant.requirement in s.requirements and "clock" not in s.needs]
        scenarios = [*again, *self.on_sockets]
        if not scenarios:
            return Killed()
        with Suite(_mutated(self._target, mutant), Options(via=SOCKETS, patience=_PATIENCE)) as suite:
            return _first(suite, _near(scenarios, mutant))


def _mutated(target: Target, mutant: Mutant) -> Target:
    """The same target, started with the fault."""
    role = target.roles[mutant.role]
    at = role.start.index("-m")
    start = (*role.start[:at], *_RUN, mutant.role, mutant.name, "--", *role.start[at + 2 :])
    return replace(target, roles={mutant.role: replace(role, start=start)})


def _near(scenarios: Sequence[Scenario], mutant: Mutant) -> list[Scenario]:
    group = mutant.requirement.partition("-")[0]
    return sorted(
        scenarios,
        key=lambda s: (mutant.requirement not in s.requirements, not any(r.startswith(group) for r in s.requirements)),
    )


def _first(suite: Suite, scenarios: Sequence[Scenario]) -> Killed:
    """The first scenario that fails; if none does, the first that could not be judged, which counts as noticed, too:
    a run of the suite is not successful then."""
    unclear = Killed()
    for scenario in scenarios:
        try:
            with _limit(_SECONDS):
                result = suite.judge(scenario)
        except _TooLong:
            return Killed(scenario.id, f"no end after {_SECONDS} s")
        except Exception as error:  # a fault may crash the core in any way
            return Killed(scenario.id, f"crashes: {type(error).__name__} {error}")
        if result.verdict is Verdict.FAIL:
            return _killed(result)
        if result.verdict is not Verdict.PASS:
            unclear = unclear or _killed(result)
    return unclear


def _reason(result: Result) -> str:
    return result.failure.text if result.failure is not None else result.reason


def _killed(result: Result) -> Killed:
    return Killed(result.scenario.id, f"{result.verdict.value}: {_reason(result)}", result.level != "MUST")


@contextlib.contextmanager
def _limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
