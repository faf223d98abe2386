"""The scheduler's scenarios cover the lifecycle table and every MUST that binds a scheduler."""

from __future__ import annotations

from functools import cache

import pytest
import yaml

from conformance_tests.engine import scenario as scenario_files
from conformance_tests.engine.scenario import Scenario
from protocol.lifecycle import IGNORED, TABLE
from protocol.spec_text import requirements

UNTESTABLE = scenario_files.DIRECTORY.parent / "untestable.yaml"


@cache
def scenarios() -> tuple[Scenario, ...]:
    return tuple(scenario_files.load_all(role="scheduler"))


@cache
def untestable() -> dict[str, str]:
    return dict(yaml.safe_load(UNTESTABLE.read_text()))


def known_rows() -> set[tuple[str, str]]:
    rows = {(state.value, event.value[0]) for state, events in TABLE.items() for event in events}
    ignored = {
        (state.value, event.value[0])
        for state, events in IGNORED.items()
        for event, reason in events.items()
        if reason.possible
    }
    return rows | ignored


def test_every_row_of_the_lifecycle_table_has_a_scenario() -> None:
    covered = {row for scenario in scenarios() for row in scenario.table}
    assert sorted(known_rows() - covered) == []


def test_scenarios_name_only_rows_that_exist() -> None:
    wrong = {s.id: sorted(set(s.table) - known_rows()) for s in scenarios() if set(s.table) - known_rows()}
    assert wrong == {}


def test_every_must_of_a_scheduler_has_a_scenario_or_a_reason() -> None:
    cited = {requirement for scenario in scenarios() for requirement in scenario.requirements}
    musts = {r.id for r in requirements().values() if r.level == "MUST" and {"scheduler", "all"} & set(r.roles)}
    assert sorted(musts - cited - set(untestable())) == []


def test_scenarios_cite_requirements_that_bind_a_scheduler() -> None:
    binding = {r.id for r in requirements().values() if {"scheduler", "all"} & set(r.roles)}
    wrong = {s.id: sorted(set(s.requirements) - binding) for s in scenarios() if set(s.requirements) - binding}
    assert wrong == {}


@pytest.mark.parametrize("identifier", sorted(untestable()))
def test_what_is_untestable_exists_and_has_a_reason(identifier: str) -> None:
    assert identifier in requirements()
    assert len(untestable()[identifier]) > 20


def test_titles_differ() -> None:
    titles = [scenario.title for scenario in scenarios()]
    assert len(set(titles)) == len(titles)
