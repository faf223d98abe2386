"""Each scenario against the chosen target."""

from __future__ import annotations

import pytest

from conformance_tests.engine.runner import Verdict
from conformance_tests.engine.scenario import Scenario
from conformance_tests.engine.suite import Suite
from protocol.sequence import diagram


def test_scenario(suite: Suite, scenario: Scenario) -> None:
    result = suite.judge(scenario)
    if result.verdict is Verdict.UNSUPPORTED:
        pytest.skip(result.reason)
    if result.verdict is Verdict.KNOWN:
        pytest.xfail(result.reason)
    if result.verdict is Verdict.INCONCLUSIVE:
        pytest.fail(f"inconclusive, {result.cause}: {result.reason}", pytrace=False)
    if result.verdict is Verdict.FAIL and result.failure is not None:
        text = f"{', '.join(result.requirements)} ({result.level}): {result.failure.text}"
        shown = diagram.text(result.trace) if result.trace is not None else ""
        pytest.fail(f"{text}\n\n{shown}", pytrace=False)
