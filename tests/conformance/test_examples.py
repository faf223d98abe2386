"""The guide's example: what is said about the toy scheduler holds, and what the guide has you write works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conformance_tests.engine import scenario as scenario_files
from conformance_tests.engine import targets
from conformance_tests.engine.runner import Verdict
from conformance_tests.engine.suite import Suite
from scalercli.app import main

ROOT = Path(__file__).parent.parent.parent
TOY = ROOT / "conformance_tests" / "examples" / "toy.yaml"
GUIDE = ROOT / "docs" / "conformance.md"
JUDGED = {
    "first-in-first-out": set(),
    "cancel-passes-flags": set(),
    "race-cancel-result": set(),
    "queued-cancel": {"CAN-04"},
    "second-cancel-in-flight": {"CAN-09"},
    "foreign-cancel": {"CAN-11"},
    "duplicate-id-queued": {"TSK-03"},
    "foreign-answers-running": {"TSK-04"},
    "refused-cancel-keeps-place": {"TSK-05"},
    "lost-tasks-all-come-back": {"TSK-06"},
    "client-leaves": {"LIV-06"},
    "frames-that-are-no-message": {"MAL-01"},
}
"""Scenarios, and what the toy breaks in them."""


def test_the_toy_breaks_what_the_guide_says() -> None:
    scenarios = scenario_files.select(scenario_files.load_all(role="scheduler"), list(JUDGED))
    with Suite(targets.load(str(TOY))) as suite:
        found = {r.scenario.id.rpartition("/")[2]: r for r in suite.run(scenarios)}
    broken = {name: set(r.requirements) if r.verdict is Verdict.FAIL else set() for name, r in found.items()}
    assert broken == JUDGED
    assert {r.verdict for r in found.values()} == {Verdict.PASS, Verdict.FAIL}
    listed = GUIDE.read_text().split("Most of what somebody in a hurry forgets")[1].split("```")[0]
    assert set(re.findall(r"[A-Z]{3}-\d\d", listed)) == set().union(*JUDGED.values())


def test_the_toy_has_40_lines() -> None:
    code = (TOY.parent / "toy_scheduler.py").read_text().split('"""')[2]
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(lines) <= 40


def test_the_target_file_in_the_guide_is_the_one_that_is_used() -> None:
    shown = re.findall(r"```yaml\n(format: 1\nname: toy.*?)```", GUIDE.read_text(), re.DOTALL)[0]
    assert TOY.read_text().endswith(shown)


def test_the_failure_in_the_guide_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    shown = GUIDE.read_text().split("queued-cancel\nfail")[1].split("```")[0]
    code = main(["conformance", "run", "--target", "conformance_tests/examples/toy.yaml", "queued-cancel"])
    assert code == 12
    printed = capsys.readouterr().out
    assert shown.partition("\n")[2].strip() == printed.partition("\n")[2].strip()


def test_the_scenario_in_the_guide_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = re.findall(r"```yaml\n(format: 1\ntitle.*?)```", GUIDE.read_text(), re.DOTALL)[0]
    file = tmp_path / "scheduler" / "second-cancel-of-a-queued-task.yaml"
    file.parent.mkdir()
    file.write_text(shown)
    assert main(["conformance", "run", "--scenarios", str(tmp_path), "--via", "core"]) == 0
    assert "scheduler/second-cancel-of-a-queued-task" in capsys.readouterr().out
