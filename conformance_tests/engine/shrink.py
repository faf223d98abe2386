"""A failing run made as small as it can be: fewer steps, the same failure.

A step may only go if the rest still makes sense: the shrunk scenario must fail in the same way on the implementation
under test, and pass on a core that is known to conform (that of the target ``reference``). Without such a core (other
roles than the scheduler) only the steps after the failure go, and those of actors that the failure does not concern.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from conformance_tests.engine import replays
from conformance_tests.engine import targets as target_files
from conformance_tests.engine.channels import SetupFailed
from conformance_tests.engine.core_session import CoreSession, load_factory
from conformance_tests.engine.runner import Failure, Run, Verdict
from conformance_tests.engine.scenario import BadScenario, Scenario
from conformance_tests.engine.suite import Result, Suite, keepalive

_MAX_RUNS = 150


def minimal(suite: Suite, result: Result) -> Result:
    """The result of the smallest scenario found that fails like this one; itself if none is smaller."""
    assert result.failure is not None
    like = result.scenario
    data = replays.linear_data(like, result.combination)
    best = _judged(suite, data, like)
    if best is None or not _same(best.failure, result.failure):
        return replace(result, scenario=replays.to_scenario(data, like), combination=())
    budget = _MAX_RUNS
    oracle = _Oracle(like)
    changed = True
    while changed and budget > 0:
        changed = False
        for smaller in _smaller(best.scenario.data):
            budget -= 1
            if budget <= 0:
                break
            if not oracle.passes(smaller):
                continue
            judged = _judged(suite, smaller, like)
            if judged is not None and _same(judged.failure, result.failure):
                best, changed = judged, True
                break
    return replace(best, notes=result.notes)


def data_of(result: Result) -> dict[str, Any]:
    """The content of the scenario file of a result."""
    return result.scenario.data


def _judged(suite: Suite, data: dict[str, Any], like: Scenario) -> Result | None:
    try:
        scenario = replays.to_scenario(data, like)
    except BadScenario:
        return None
    result = suite.judge(scenario)
    return result if result.verdict in (Verdict.FAIL, Verdict.KNOWN) else None


def _same(one: Failure | None, other: Failure | None) -> bool:
    """Whether two failures are the same: the same requirement at the same step, and what came is of the same kind."""
    if one is None or other is None:
        return False
    kinds = one.came.split(" ")[0], other.came.split(" ")[0]
    return one.requirements == other.requirements and one.step == other.step and kinds[0] == kinds[1]


def _smaller(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Scenarios with fewer steps: halves, then single steps from the end; then without actors that do nothing."""
    steps = data["steps"]
    size = len(steps) // 2
    while size >= 1:
        for start in range(len(steps) - size, -1, -size):
            left = steps[:start] + steps[start + size :]
            if left:
                yield _without_idle({**data, "steps": left})
        size //= 2


def _without_idle(data: dict[str, Any]) -> dict[str, Any]:
    text = repr(data["steps"])
    actors = {name: spec for name, spec in data.get("actors", {}).items() if f"'{name}'" in text or f"${name}'" in text}
    return {**data, "actors": actors}


class _Oracle:
    """A core that conforms, to tell a smaller scenario from nonsense."""

    def __init__(self, like: Scenario) -> None:
        self._like = like
        self._factory: Any = None
        self._defaults: dict[str, Any] = {}
        try:
            spec = target_files.load("reference").roles.get(like.role)
            if spec is not None and spec.core:
                self._factory = load_factory(spec.core)
                self._defaults = spec.defaults
        except (target_files.BadTarget, SetupFailed):
            pass

    def passes(self, data: dict[str, Any]) -> bool:
        if self._factory is None:
            return _only_the_end_is_gone(data, self._like)
        try:
            scenario = replays.to_scenario(data, self._like)
        except BadScenario:
            return False
        if any(actor.role == "storage" for actor in scenario.actors.values()):
            return _only_the_end_is_gone(data, self._like)
        session = CoreSession(self._factory, {**self._defaults, **scenario.settings})
        return Run(scenario, session, scenario.role, keepalive(scenario.settings)).run().verdict is Verdict.PASS


def _only_the_end_is_gone(data: dict[str, Any], like: Scenario) -> bool:
    """Without an oracle: what is left is a beginning of the whole."""
    whole = [step.raw for step in like.steps]
    steps: list[Any] = data["steps"]
    return steps == whole[: len(steps)]
