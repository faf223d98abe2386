"""What the engine says of schedulers that are broken in known ways, on their cores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from conformance_tests.engine import junit, records, replays, shrink, verdicts
from conformance_tests.engine import scenario as scenario_files
from conformance_tests.engine.runner import Verdict
from conformance_tests.engine.scenario import Scenario
from conformance_tests.engine.suite import Options, Result, Suite
from conformance_tests.engine.targets import Target, load
from protocol.sequence import diagram

DEVIATION = """
    knownDeviations:
      - requirement: {requirement}
        scenario: "{scenario}"
        reason: This target is broken on purpose.
        failure: "{failure}"
"""


def target(directory: Path, core: str, deviation: str = "") -> Target:
    path = directory / "broken.yaml"
    path.write_text(
        f"format: 1\nname: broken\nroles:\n  scheduler:\n    core: tests.conformance.broken:{core}\n{deviation}"
    )
    return load(str(path))


def scenario(name: str) -> Scenario:
    return scenario_files.load(scenario_files.DIRECTORY / f"{name}.yaml")


def judge(target: Target, name: str) -> Result:
    with Suite(target, Options()) as suite:
        return suite.judge(scenario(name))


def test_a_forgotten_answer_fails_with_what_was_expected(tmp_path: Path) -> None:
    result = judge(target(tmp_path, "swallows_cancel_not_found"), "scheduler/foreign-cancel")
    assert result.verdict is Verdict.FAIL
    assert result.failure is not None
    assert result.failure.requirements == ("CAN-11",)
    assert result.level == "MUST"
    assert "mallory expects taskCancelConfirm {taskId: $t1" in result.failure.expected
    assert result.failure.came == "nothing came"


def test_a_second_answer_fails_at_the_next_silence(tmp_path: Path) -> None:
    result = judge(target(tmp_path, "answers_twice"), "scheduler/foreign-cancel")
    assert result.failure is not None
    assert result.failure.expected == "nothing more comes to alice"
    assert "taskResult {taskId: $t1" in result.failure.came


def test_a_race_reports_the_order_that_fails(tmp_path: Path) -> None:
    result = judge(target(tmp_path, "answers_twice"), "scheduler/race-cancel-result")
    assert result.verdict is Verdict.FAIL
    assert result.orders_allowed == 6
    named = records.order_names(result.scenario, result.combination)
    assert sorted(named) == sorted(
        ["alice sends taskCancel"] * 2 + ["wanda sends taskResult"] + ["wanda sends taskCancelConfirm"]
    )


def test_the_diagram_marks_the_divergence_once(tmp_path: Path) -> None:
    result = judge(target(tmp_path, "answers_twice"), "scheduler/foreign-cancel")
    assert result.trace is not None
    shown = diagram.text(result.trace)
    assert shown.count("first divergence") == 1
    assert [line.startswith(">>>") for line in shown.split("\n")].count(True) == 2  # the label and the arrow
    drawn = diagram.mermaid(result.trace)
    assert drawn.startswith("sequenceDiagram")
    assert drawn.count("first divergence") == 1
    assert "alice->>scheduler: task" in drawn


def test_a_counterexample_is_smaller_and_fails_in_the_same_way(tmp_path: Path) -> None:
    with Suite(target(tmp_path, "answers_twice"), Options()) as suite:
        found = suite.judge(scenario("scheduler/foreign-cancel"))
        smaller = shrink.minimal(suite, found)
        path = tmp_path / "counterexample.yaml"
        replays.write(path, shrink.data_of(smaller), smaller, " --target broken")
        again = suite.judge(scenario_files.load(path))
    assert len(shrink.data_of(smaller)["steps"]) < len(found.scenario.data["steps"])
    assert "mallory" not in shrink.data_of(smaller)["actors"]  # who has nothing to do with it
    assert again.verdict is Verdict.FAIL
    assert again.failure is not None
    assert again.failure.expected == "nothing more comes to alice"


def test_a_counterexample_of_a_race_has_one_order(tmp_path: Path) -> None:
    with Suite(target(tmp_path, "answers_twice"), Options()) as suite:
        found = suite.judge(scenario("scheduler/race-cancel-result"))
        smaller = shrink.minimal(suite, found)
    assert smaller.scenario.order_count == 1


def known(tmp_path: Path, requirement: str, scenario_: str, failure: str, core: str) -> tuple[Result, list[str]]:
    text = DEVIATION.format(requirement=requirement, scenario=scenario_, failure=failure)
    broken = target(tmp_path, core, text)
    result = judge(broken, "scheduler/foreign-cancel")
    wrong = verdicts.wrong_deviations(broken.roles["scheduler"].deviations, [result], complete=True)
    return result, [w.why for w in wrong]


def test_a_known_deviation_does_not_fail_the_run(tmp_path: Path) -> None:
    result, wrong = known(tmp_path, "CAN-11", "foreign-*", "nothing came", "swallows_cancel_not_found")
    assert result.verdict is Verdict.KNOWN
    assert result.reason == "This target is broken on purpose."
    assert wrong == []
    assert verdicts.exit_code([result], []) == 0


def test_a_known_deviation_that_fails_in_another_way_is_unmatched(tmp_path: Path) -> None:
    result, wrong = known(tmp_path, "CAN-11", "*", "cancelFailed came", "swallows_cancel_not_found")
    assert result.verdict is Verdict.FAIL
    assert len(wrong) == 1
    assert wrong[0].startswith("unmatched: scheduler/foreign-cancel fails in another way")


def test_a_known_deviation_that_passes_is_stale(tmp_path: Path) -> None:
    result, wrong = known(tmp_path, "CAN-11", "*", "nothing came", "__import__")
    assert result.verdict is Verdict.INCONCLUSIVE  # no such core
    text = DEVIATION.format(requirement="CAN-11", scenario="*", failure="nothing came")
    path = tmp_path / "fine.yaml"
    core = "reference_impl.conformance:scheduler"
    path.write_text(f"format: 1\nname: fine\nroles:\n  scheduler:\n    core: {core}\n{text}")
    fine = load(str(path))
    passed = judge(fine, "scheduler/foreign-cancel")
    wrong = [w.why for w in verdicts.wrong_deviations(fine.roles["scheduler"].deviations, [passed], complete=True)]
    assert wrong == ["stale: scheduler/foreign-cancel passes"]
    stale = verdicts.wrong_deviations(fine.roles["scheduler"].deviations, [passed], complete=True)
    assert verdicts.exit_code([passed], stale) == 12
    race = [replace(d, sometimes=True) for d in fine.roles["scheduler"].deviations]
    assert not any("stale" in w.why for w in verdicts.wrong_deviations(race, [passed], complete=True))


def test_a_known_deviation_about_nothing_is_unmatched_in_a_complete_run_only(tmp_path: Path) -> None:
    _, wrong = known(tmp_path, "BAL-01", "*", "nothing came", "swallows_cancel_not_found")
    assert wrong == ["unmatched: no scenario is about it"]


def test_a_core_that_raises_is_a_failure_and_not_a_crash_of_the_engine(tmp_path: Path) -> None:
    result = judge(target(tmp_path, "crashes"), "scheduler/foreign-cancel")
    assert result.verdict is Verdict.FAIL
    assert result.failure is not None
    assert "RuntimeError: boom" in result.failure.came


def test_what_a_target_cannot_do_is_unsupported(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "format: 1\ntitle: A scenario that needs something\nrole: scheduler\nrequirements: [BAL-01]\n"
        "needs: [balancing]\nactors: {alice: {role: client}}\nsteps: [{connect: alice}]\n"
    )
    with Suite(target(tmp_path, "answers_twice"), Options()) as suite:
        result = suite.judge(scenario_files.load(path))
    assert result.verdict is Verdict.UNSUPPORTED
    assert result.reason == "the target does not have: balancing"


def test_a_mistake_in_a_scenario_is_not_the_implementations_fault(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "format: 1\ntitle: A scenario with a mistake in it\nrole: scheduler\nrequirements: [TSK-02]\n"
        "actors: {alice: {role: client}}\nsteps:\n  - connect: alice\n"
        "  - send: {actor: alice, taskCancel: {taskId: {hex: '00'}}}\n"
    )
    with Suite(target(tmp_path, "answers_twice"), Options()) as suite:
        result = suite.judge(scenario_files.load(path))
    assert (result.verdict, result.cause) == (Verdict.INCONCLUSIVE, "harness")
    assert "line 8: the taskCancel that the scenario sends is malformed" in result.reason


def test_junit_counts_and_holds_the_diagram(tmp_path: Path) -> None:
    failed = judge(target(tmp_path, "answers_twice"), "scheduler/foreign-cancel")
    passed = judge(target(tmp_path, "answers_twice"), "scheduler/queued-cancel")
    text = junit.document("broken", [failed, passed])
    assert 'tests="2" failures="1" errors="0" skipped="0"' in text
    assert "first divergence" in text
    assert 'type="MUST CAN-11"' in text


@pytest.mark.parametrize("name", ["queued-cancel", "late-result"])
def test_verdicts_on_the_core_are_repeatable(name: str, tmp_path: Path) -> None:
    with Suite(load("reference"), Options(via="core")) as suite:
        assert {suite.judge(scenario(f"scheduler/{name}")).verdict for _ in range(20)} == {Verdict.PASS}
