"""The reference against its own suite, and what a run leaves behind."""

from __future__ import annotations

import psutil

from conformance_tests.engine import scenario as scenario_files
from conformance_tests.engine.runner import Verdict
from conformance_tests.engine.suite import Options, Result, Suite
from conformance_tests.engine.targets import load


def _run(via: str) -> list[Result]:
    target = load("reference")
    scenarios = [s for s in scenario_files.load_all() if via == "" or target.roles[s.role].core]
    with Suite(target, Options(via=via)) as suite:
        return list(suite.run(scenarios))


def _not_passed(results: list[Result]) -> list[str]:
    return [
        f"{r.scenario.id}: {r.verdict.value} {r.failure.text if r.failure else r.reason}"
        for r in results
        if r.verdict not in (Verdict.PASS, Verdict.UNSUPPORTED)
    ]


def test_the_reference_passes_by_sockets_and_leaves_no_process() -> None:
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    results = _run("")
    assert _not_passed(results) == []
    assert {p.pid for p in psutil.Process().children(recursive=True)} <= before


def test_the_reference_passes_on_its_core() -> None:
    results = _run("core")
    assert _not_passed(results) == []
    assert sum(r.orders for r in results) >= len([r for r in results if r.verdict is Verdict.PASS])
