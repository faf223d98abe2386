"""SPEC.md, scenarios and the lifecycle table held against each other.

A requirement that no scenario can judge stands in ``untestable.yaml`` with the reason: ``MAL-09: a peer sees neither
counters nor logs``. ``TRN-06/object-storage: …`` is about one of the roles that the requirement binds.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

from conformance_tests.engine.scenario import Scenario
from conformance_tests.engine.verdicts import requirements
from protocol import lifecycle

UNTESTABLE = Path(__file__).parent.parent / "untestable.yaml"


def untestable() -> dict[str, str]:
    """The requirements that no scenario can judge, with the reasons."""
    loaded: dict[str, str] = yaml.safe_load(UNTESTABLE.read_text()) or {} if UNTESTABLE.exists() else {}
    return loaded


def unknown_citations(scenarios: Iterable[Scenario]) -> list[str]:
    """What scenarios and ``untestable.yaml`` cite and SPEC.md does not have."""
    known = requirements()
    found = [f"{s.id} cites {i}" for s in scenarios for i in _cited(s) if i not in known]
    return found + [f"untestable.yaml cites {i}" for i in untestable() if i.partition("/")[0] not in known]


def _cited(scenario: Scenario) -> list[str]:
    named = [step.requirement for step in scenario.steps if step.requirement]
    return [*scenario.requirements, *named]


def uncovered(scenarios: Iterable[Scenario], level: str = "MUST") -> list[str]:
    """The requirements of this level that have neither a scenario nor a reason."""
    cited = {i for s in scenarios for i in _cited(s)} | set(untestable())
    return [i for i, r in requirements().items() if r.level == level and i not in cited]


def uncovered_in_role(scenarios: Iterable[Scenario], role: str, level: str = "MUST") -> list[str]:
    """The same for one of the roles that scenarios judge: what binds it, and none of its scenarios is about."""
    cited = {i for s in scenarios if s.role == role for i in _cited(s)}
    return [i for i in binding(role, level) if i not in cited and not {i, f"{i}/{role}"} & untestable().keys()]


def binding(role: str, level: str = "") -> list[str]:
    """The requirements that bind a role, all of them or those of a level."""
    mine = {role.removeprefix("object-"), "all"}
    return [i for i, r in requirements().items() if mine & set(r.roles) and level in ("", r.level)]


def not_binding(scenarios: Iterable[Scenario]) -> list[str]:
    """What scenarios cite although it does not bind the role that they judge."""
    return [f"{s.id} cites {i}" for s in scenarios for i in s.requirements if i not in binding(s.role)]


def needless_reasons(scenarios: Iterable[Scenario]) -> list[str]:
    """The entries of ``untestable.yaml`` that a scenario is about after all."""
    cited = {i for s in scenarios for i in _cited(s)}
    in_role = {f"{i}/{s.role}" for s in scenarios for i in _cited(s)}
    return [i for i in untestable() if i in cited or i in in_role]


def unknown_rows(scenarios: Iterable[Scenario]) -> list[str]:
    """The rows that scenarios claim to exercise and the lifecycle table does not have."""
    there = {*rows(), *ignored()}
    return [f"{s.id}: {state} + {event}" for s in scenarios for state, event in s.table if (state, event) not in there]


def uncovered_rows(scenarios: Iterable[Scenario]) -> list[tuple[str, str]]:
    """The rows, and the pairs that peers can cause and that change nothing, that no scenario exercises."""
    exercised = {row for s in scenarios for row in s.table}
    return [row for row in (*rows(), *ignored()) if row not in exercised]


def rows() -> list[tuple[str, str]]:
    """(state, event) of every transition."""
    return [(state.value, event.value[0]) for state, events in lifecycle.TABLE.items() for event in events]


def ignored() -> list[tuple[str, str]]:
    """(state, event) of every pair that a peer can cause and that changes nothing."""
    return [
        (state.value, event.value[0])
        for state, events in lifecycle.IGNORED.items()
        for event, entry in events.items()
        if entry.possible
    ]
