"""Results as data: the objects of ``-o jsonl``, which JUnit, diffs and pages are made from (schema/result-1.json)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from conformance_tests.engine import verdicts
from conformance_tests.engine.runner import Verdict
from conformance_tests.engine.scenario import Scenario
from conformance_tests.engine.steps import Concurrently, interleave_names
from conformance_tests.engine.suite import Result
from conformance_tests.engine.verdicts import Wrong
from protocol.sequence import diagram

RESULT = "scalercli.conformance.result/1"
SUMMARY = "scalercli.conformance.summary/1"
DEVIATION = "scalercli.conformance.deviation/1"


def result(found: Result, target: str, *, replay: str = "") -> dict[str, Any]:
    """One result. ``requirement`` is the first that is broken, or judged."""
    record: dict[str, Any] = {
        "schema": RESULT,
        "target": target,
        "scenario": found.scenario.id,
        "title": found.scenario.title,
        "role": found.scenario.role,
        "via": found.via,
        "verdict": found.verdict.value,
        "level": found.level,
        "requirement": found.requirements[0],
        "requirements": list(found.requirements),
        "orders": found.orders,
        "ordersAllowed": found.orders_allowed,
        "seconds": round(found.seconds, 6),
    }
    if found.cause:
        record["cause"] = found.cause
    if found.reason:
        record["reason"] = found.reason
    if found.notes:
        record["notes"] = found.notes
    if found.failure is not None:
        record["failure"] = {
            "where": found.failure.where,
            "expected": found.failure.expected,
            "came": found.failure.came,
            "order": order_names(found.scenario, found.combination),
            "spec": spec_sentences(found.requirements),
        }
        if found.trace is not None:
            record["trace"] = found.trace.as_data()
            record["mermaid"] = diagram.mermaid(found.trace)
        if found.log:
            record["log"] = found.log
        if replay:
            record["replay"] = replay
    return record


def spec_sentences(ids: Sequence[str]) -> list[dict[str, str]]:
    """What SPEC.md says under these ids."""
    known = verdicts.requirements()
    return [
        {"id": i, "section": known[i].section, "level": known[i].level, "text": known[i].text}
        for i in ids
        if i in known
    ]


def order_names(scenario: Scenario, combination: Sequence[tuple[int, ...]]) -> list[str]:
    """The order of the steps of the ``concurrently`` blocks, in words."""
    blocks = [step for step in scenario.steps if isinstance(step, Concurrently)]
    names: list[str] = []
    for block, order in zip(blocks, combination, strict=False):
        names += interleave_names(block, order)
    return names


def _broken(results: Sequence[Result], verdict: Verdict) -> list[str]:
    return sorted({i for r in results if r.verdict is verdict for i in r.requirements})


def summary(target: str, results: Sequence[Result], wrong: Sequence[Wrong], seconds: float) -> dict[str, Any]:
    """The counts, and whether the target conforms."""
    verdict_counts = Counter(r.verdict.value for r in results)
    return {
        "schema": SUMMARY,
        "target": target,
        "scenarios": len(results),
        "orders": sum(r.orders for r in results),
        "verdicts": {v.value: verdict_counts.get(v.value, 0) for v in Verdict},
        "mustFailed": sum(r.verdict is Verdict.FAIL and r.level == "MUST" for r in results),
        "shouldFailed": sum(r.verdict is Verdict.FAIL and r.level != "MUST" for r in results),
        "brokenRequirements": _broken(results, Verdict.FAIL),
        "knownDeviations": _broken(results, Verdict.KNOWN),
        "deviationsThatDoNotHold": [
            {"requirement": w.deviation.requirement, "scenario": w.deviation.scenario, "why": w.why} for w in wrong
        ],
        "seconds": round(seconds, 3),
        "exit": verdicts.exit_code(results, wrong),
    }
