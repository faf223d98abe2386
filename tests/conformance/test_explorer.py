"""The explorer: the reference holds everywhere it looks; planted faults are found, with scenarios that show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from conformance_tests.engine import targets
from conformance_tests.engine.runner import Verdict
from conformance_tests.engine.scenario import from_data
from conformance_tests.engine.suite import CORE, Options, Suite
from conformance_tests.explorer import __main__ as command
from conformance_tests.explorer import counterexample, search
from conformance_tests.explorer.walk import ROWS
from conformance_tests.explorer.world import AGAIN, HERE, Worker, answerable
from conformance_tests.mutants import catalog
from conformance_tests.mutants.model import applied

REFERENCE = command.REFERENCE


def explore(depth: int, core: str = REFERENCE, **options: Any) -> search.Report:
    return search.Search(core, search.Options(depth, **options)).run()


def verdict_of(data: dict[str, Any]) -> Verdict:
    """Of a scenario on the reference's core, as it is at the moment."""
    with Suite(targets.load("reference"), Options(via=CORE)) as suite:
        return suite.judge(from_data(data, "scheduler/found", Path("found.yaml"))).verdict


def test_the_reference_breaks_no_rule() -> None:
    report = explore(3)
    assert report.counterexample is None
    assert report.depth == 3
    assert report.interleavings > report.states > 1000
    assert len(report.rows) > 25
    assert set(report.rows) <= set(ROWS)


def test_workers_that_come_back_lose_no_task() -> None:
    """What they were sent before they timed out and after takes effect in its order (WRK-20)."""
    report = explore(4, returning=True)
    assert report.counterexample is None
    assert report.interleavings > explore(4).interleavings


def test_a_task_waits_for_the_cancel_before_it() -> None:
    came_again = Worker(HERE, held=(0, 1), cancels=((1, 0), (1, 1), (1, AGAIN), (0, 1), (1, 0)))
    assert list(answerable(came_again)) == [(1, 0), (1, 1), (0, 1)]


def test_the_command_prints_what_was_explored(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--depth", "2"]) == 0
    printed = capsys.readouterr().out
    for line in ("interleavings", "distinct states", "table rows", "per second", "broken rules          none"):
        assert line in printed


def test_a_lost_cancel_is_found_with_a_shortest_way_to_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "lost-cancel.yaml"
    with applied(catalog.find("scheduler", "running-cancel-lost")):
        assert command.main(["--depth", "3", "--empty", "--scenario", str(file)]) == 12
        data = yaml.safe_load(file.read_text())
        assert verdict_of(data) is Verdict.FAIL
    printed = capsys.readouterr().out
    assert "a shortest counterexample, 2 actions" in printed
    assert "CAN-05: wanda must get TaskCancel(t1, unforced), and does not" in printed
    assert "first divergence" in printed
    assert data["requirements"] == ["CAN-05"]
    assert verdict_of(data) is Verdict.PASS  # without the fault


@pytest.mark.parametrize(
    ("mutant", "rule"),
    [
        ("result-forwarded-twice", "TSK-01"),
        ("late-result-ignored", "CAN-07"),
        ("refusal-not-escalated", "CAN-12"),
        ("canceling-worker-lost-requeues", "CAN-08"),
        ("lost-workers-without-limit", "TSK-07"),
        ("balance-client-cancel-sent", "CAN-09"),
        ("holder-not-checked", "TSK-01"),
    ],
)
def test_planted_faults_are_found(mutant: str, rule: str) -> None:
    with applied(catalog.find("scheduler", mutant)):
        found = explore(4).counterexample
        assert found is not None
        assert found.violation.rule == rule
        data = counterexample.as_scenario(found, search.Options(4))
        assert verdict_of(data) is Verdict.FAIL
    assert verdict_of(data) is Verdict.PASS


def test_what_is_left_behind_is_found() -> None:
    with applied(catalog.find("scheduler", "client-record-leaks")):
        found = explore(1).counterexample
    assert found is not None
    assert found.violation.rule == "LIV-07"
    assert "2 clients" in found.violation.text


def test_a_core_that_shows_only_frames_is_explored_too() -> None:
    report = explore(2, "reference_impl.conformance:scheduler")
    assert report.counterexample is None
    assert not report.merges
    assert report.transitions > 100


def test_equal_states_are_merged_and_all_ways_to_them_are_counted() -> None:
    merged, apart = explore(2), explore(2, "reference_impl.conformance:scheduler")
    assert merged.interleavings == apart.interleavings
    assert merged.states < apart.states
    assert set(merged.rows) == set(apart.rows)


def test_a_core_that_cannot_be_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--core", "reference_impl.conformance:nothing"]) == 2
    assert "nothing" in capsys.readouterr().err


def test_the_world_of_a_graph(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--graph", "--depth", "4"]) == 0
    assert "broken rules          none" in capsys.readouterr().out
    with applied(catalog.find("scheduler", "graph-waiting-not-answered")):
        assert command.main(["--graph", "--depth", "4"]) == 12
    assert "broken rules          GRA-03" in capsys.readouterr().out


def test_a_fault_is_planted_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--depth", "2", "--mutant", "running-cancel-lost"]) == 12
    assert "CAN-05: wanda must get TaskCancel" in capsys.readouterr().out
    assert command.main(["--depth", "1"]) == 0  # and taken out again
    with pytest.raises(SystemExit):
        command.main(["--mutant", "nobody"])
    assert "there is no mutant scheduler/nobody" in capsys.readouterr().err
