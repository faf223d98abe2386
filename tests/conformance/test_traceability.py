"""SPEC.md, the scenarios and the lifecycle table fit together: nothing that can be judged is left out."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from conformance_tests.engine import scenario as scenario_files
from conformance_tests.engine import traceability
from conformance_tests.engine.scenario import ROLES, Scenario


@cache
def scenarios() -> tuple[Scenario, ...]:
    return tuple(scenario_files.load_all())


def test_every_must_has_a_scenario_or_a_reason_why_not() -> None:
    assert traceability.uncovered(scenarios()) == []


@pytest.mark.parametrize("role", ROLES)
def test_every_must_that_binds_a_role_is_judged_in_that_role(role: str) -> None:
    assert traceability.uncovered_in_role(scenarios(), role) == []


def test_what_is_cited_exists() -> None:
    assert traceability.unknown_citations(scenarios()) == []


def test_scenarios_cite_what_binds_the_role_that_they_judge() -> None:
    assert traceability.not_binding(scenarios()) == []


def test_reasons_are_reasons_and_are_needed() -> None:
    assert {i: reason for i, reason in traceability.untestable().items() if len(reason) < 40} == {}
    assert traceability.needless_reasons(scenarios()) == []


def test_every_row_of_the_lifecycle_table_has_a_scenario() -> None:
    assert traceability.uncovered_rows(scenarios()) == []


def test_scenarios_name_only_rows_that_exist() -> None:
    assert traceability.unknown_rows(scenarios()) == []


def test_titles_differ_within_a_role() -> None:
    titles = Counter((s.role, s.title) for s in scenarios())
    assert [title for title, count in titles.items() if count > 1] == []


def test_there_are_enough_scenarios() -> None:
    assert len(scenarios()) >= 120
