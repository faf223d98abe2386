"""Random walks: the reference breaks no rule; a planted fault is found, made short, and found again by its seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from conformance_tests.mutants import catalog
from conformance_tests.mutants.model import applied
from scalercli.app import main

MUTANT = """format: 1
name: mutant
roles:
  scheduler:
    start: ["{python}", -m, conformance_tests.mutants.run, scheduler, running-cancel-lost, --,
            "tcp://127.0.0.1:0", --object-storage-address, "{storage}", --log-level, ERROR, "{settings}"]
    ready: {line: 'address=(?P<address>\\S+) monitor=(?P<monitor>\\S+)'}
    settings:
      loadBalanceSeconds: [--load-balance-seconds, "{value}"]
      lostWorkersLimit: [--lost-workers-limit, "{value}"]
    defaults: {loadBalanceSeconds: -1}
    ordered: true
"""
TWICE = """format: 1
name: twice
roles:
  scheduler:
    core: 'tests.conformance.broken:answers_twice'
KNOWN"""
DEVIATION = (
    "    knownDeviations: [{requirement: TSK-01, reason: It answers twice., failure: after its terminal answer}]\n"
)


def walk(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = main(["conformance", "walk", "--json", *map(str, arguments)])
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, record


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_reference_breaks_no_rule_on_its_sockets(capsys: pytest.CaptureFixture[str]) -> None:
    code, record = walk(capsys, "--walks", 8, "--seed", 3)
    assert code == 0
    assert record["via"] == "sockets"
    assert record["walks"] == 8
    assert record["actions"] > record["situations"] > 8
    assert "requirement" not in record


def test_a_scheduler_that_loses_cancels_is_found_and_the_seed_finds_it_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target, file = written(tmp_path / "mutant.yaml", MUTANT), tmp_path / "found.yaml"
    arguments = ("--target", target, "--walks", 20, "--length", 20, "--seed", 5)
    code, first = walk(capsys, *arguments, "--scenario", file)
    assert code == 12
    assert first["requirement"] == "CAN-05"
    assert first["reproduced"]
    assert first["length"] == 2  # submit, cancel
    assert first["again"] == f"scalercli conformance walk --target {target} --seed 5 --walks 20 --length 20"
    code, again = walk(capsys, *arguments)
    assert (code, again["violation"], again["walks"]) == (12, first["violation"], first["walks"])
    assert yaml.safe_load(file.read_text())["requirements"] == ["CAN-05"]
    assert main(["conformance", "replay", str(file), "--target", str(target)]) == 13
    assert main(["conformance", "replay", str(file)]) == 0


def test_two_answers_are_found_unless_they_are_known(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = written(tmp_path / "twice.yaml", TWICE.replace("KNOWN", ""))
    code, record = walk(capsys, "--target", target, "--walks", 10)
    assert (code, record["requirement"], record["length"]) == (12, "TSK-01", 2)
    for known, allow in ((DEVIATION, ()), ("", ("--allow", "TSK-01"))):
        target = written(tmp_path / "known.yaml", TWICE.replace("KNOWN", known))
        code, record = walk(capsys, "--target", target, "--walks", 10, *allow)
        assert code == 0
        assert 0 < record["knownDeviations"]["TSK-01"] <= 10
    code, _ = walk(capsys, "--target", written(tmp_path / "known.yaml", TWICE.replace("KNOWN", DEVIATION)),
                   "--walks", 10, "--allow", "none")  # fmt: skip
    assert code == 12


def test_people_get_the_diagram_the_sentence_and_the_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = written(tmp_path / "twice.yaml", TWICE.replace("KNOWN", ""))
    assert main(["conformance", "walk", "--target", str(target), "--walks", "5"]) == 12
    printed = capsys.readouterr().out
    assert "the shortest walk found that breaks a rule, 2 actions" in printed
    assert "first divergence" in printed
    assert "TSK-01: " in printed
    assert f"again: scalercli conformance walk --target {target} --seed 0 --walks 5 --length 30" in printed


def test_an_unknown_requirement_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "walk", "--allow", "NOT-AN-ID"]) == 2
    assert "--allow: SPEC.md has no requirement NOT-AN-ID" in capsys.readouterr().err


def test_a_scheduler_may_drop_a_late_result_and_answer_with_the_confirm(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--via", "core", "--walks", 40, "--seed", 2)
    with applied(catalog.find("scheduler", "late-result-ignored")):
        code, record = walk(capsys, *arguments)
    assert (code, record["walks"]) == (0, 40)
    with applied(catalog.find("scheduler", "late-result-not-forwarded")):
        code, record = walk(capsys, *arguments)
    assert (code, record["requirement"]) == (12, "CAN-07")


def test_a_walk_goes_on_after_a_refusal_that_is_not_passed_on_and_is_excused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("--via", "core", "--walks", 30, "--seed", 2)
    with applied(catalog.find("scheduler", "failed-not-passed-on")):
        code, record = walk(capsys, *arguments, "--allow", "CAN-06")
    assert (code, record["walks"]) == (0, 30)
    assert record["knownDeviations"]["CAN-06"] > 1
