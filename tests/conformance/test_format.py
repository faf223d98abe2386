"""Scenario files: what is accepted, what is rejected and how, and that published schemas are up to date."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from conformance_tests.engine import scenario as scenario_files
from conformance_tests.engine import schema, targets, traceability, verdicts
from conformance_tests.engine.scenario import BadScenario, Scenario

REJECTED = sorted((Path(__file__).parent / "rejected").glob("*.yaml"))
SCHEMAS = Path(schema.PATH).parent


@pytest.fixture(scope="module")
def scenarios() -> list[Scenario]:
    return scenario_files.load_all()


@pytest.mark.parametrize("path", REJECTED, ids=lambda p: p.stem)
def test_a_bad_file_is_rejected_with_its_name_and_the_reason(path: Path) -> None:
    expected = path.read_text().splitlines()[0].removeprefix("# expected: ")
    with pytest.raises(BadScenario) as caught:
        scenario_files.load(path)
    assert str(caught.value).startswith(str(path))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_scenario_of_the_suite_is_accepted_and_lies_where_its_role_says(scenarios: list[Scenario]) -> None:
    assert scenarios
    for scenario in scenarios:
        assert scenario.id.startswith(f"{scenario.role}/"), scenario.path


def test_scenarios_cite_requirements_that_bind_their_role(scenarios: list[Scenario]) -> None:
    assert traceability.unknown_citations(scenarios) == []
    known = verdicts.requirements()
    for scenario in scenarios:
        role = {"object-storage": "storage"}.get(scenario.role, scenario.role)
        for cited in scenario.requirements:
            assert {role, "all"} & set(known[cited].roles), f"{scenario.id}: {cited} does not bind a {role}"


def test_scenarios_name_rows_of_the_lifecycle_table(scenarios: list[Scenario]) -> None:
    assert traceability.unknown_rows(scenarios) == []


def test_the_published_scenario_schema_is_up_to_date() -> None:
    assert json.loads(schema.PATH.read_text()) == schema.make(), "run python -m conformance_tests.engine.schema"


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda p: p.stem)
def test_published_schemas_are_schemas(path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))


@pytest.mark.parametrize("name", targets.names())
def test_targets_are_accepted(name: str) -> None:
    target = targets.load(name)
    assert target.name == name
    for role in target.roles.values():
        assert set(role.defaults) <= set(role.settings)


def test_a_line_number_leads_to_the_mistake(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "format: 1\ntitle: A scenario that must be rejected\nrole: scheduler\nrequirements: [CAN-07]\n"
        "actors: {alice: {role: client}}\nsteps:\n  - connect: alice\n  - send: {actor: alice, task: {taskID: $t}}\n"
    )
    with pytest.raises(BadScenario, match=r"bad\.yaml:8: .*taskID"):
        scenario_files.load(path)


def test_repeat_numbers_its_steps() -> None:
    text = (
        "format: 1\ntitle: Repeats are numbered\nrole: scheduler\nrequirements: [CAN-07]\n"
        "actors: {alice: {role: client}}\nsteps:\n  - repeat: {times: 3, as: n, steps: "
        '[{send: {actor: alice, task: {taskId: "$t{n}"}}}]}\n'
    )
    steps = scenario_files.parse(text, "x", Path("x.yaml")).steps
    assert [getattr(step, "fields")["taskId"] for step in steps] == ["$t0", "$t1", "$t2"]  # noqa: B009
