"""Mutants: each is put in and taken out again, and the suite notices a sample of them."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest

from conformance_tests.engine import scenario as scenario_files
from conformance_tests.mutants import __main__ as command
from conformance_tests.mutants import catalog
from conformance_tests.mutants.judge import Judge
from conformance_tests.mutants.model import applied
from protocol import spec_text
from protocol.lifecycle import TABLE
from reference_impl.scheduler import core, dispatch, graphs, lifecycle, ownership, presence

EVERY = [mutant for role in catalog.ROLES for mutant in catalog.of_role(role)]
SAMPLE = ["running-cancel-lost", "second-cancel-sent", "late-result-keeps-the-place", "holder-not-checked"]


def test_there_are_enough_of_each_role() -> None:
    assert len(EVERY) >= 60
    assert all(len(catalog.of_role(role)) >= 15 for role in catalog.ROLES)
    assert len({mutant.id for mutant in EVERY}) == len(EVERY)


def test_each_names_a_requirement_that_exists() -> None:
    known = set(spec_text.requirements())
    assert {mutant.requirement for mutant in EVERY} <= known


def _patched() -> list[dict[object, object]]:
    classes = (
        core.SchedulerCore,
        dispatch.Dispatch,
        graphs.Graphs,
        lifecycle.Lifecycle,
        ownership.Ownership,
        presence.Presence,
    )
    return [TABLE, core._HANDLERS, lifecycle._ACTIONS, *[dict(vars(one)) for one in classes]]  # type: ignore[list-item]


def test_each_is_put_in_and_taken_out() -> None:
    before = [dict(mapping) for mapping in copy.deepcopy(_patched()[:1]) + _patched()[1:]]
    for mutant in EVERY:
        with applied(mutant):
            pass
    assert before == _patched()


@pytest.fixture(scope="module")
def judge() -> Judge:
    names = ("running", "late-result", "queued-cancel", "second-cancel", "foreign", "replaced", "race-cancel")
    chosen = [s for s in scenario_files.load_all(role="scheduler") if any(name in s.id for name in names)]
    return Judge("scheduler", [s for s in chosen if not {"sockets"} & set(s.needs)])


@pytest.mark.parametrize("name", SAMPLE)
def test_the_suite_notices_a_sample(judge: Judge, name: str) -> None:
    killed = judge.judge(catalog.find("scheduler", name))
    assert killed
    assert killed.how


def test_a_role_runs_with_a_fault_in_a_process_of_its_own() -> None:
    run = [sys.executable, "-m", "conformance_tests.mutants.run"]
    done = subprocess.run([*run, "scheduler", "running-cancel-lost", "--", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "--object-storage-address" in done.stdout
    done = subprocess.run([*run, "scheduler", "no-such-fault", "--"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: there is no mutant scheduler/no-such-fault\n")


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list", "--role", "client"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(catalog.of_role("client"))
    assert any("client/cancel-not-sent" in line and "CAN-01" in line for line in lines)


def test_the_score_in_the_readme_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    monkeypatch.setattr(command, "_README", readme)
    assert command._wrong_claim(3, 3) == ""
    readme.write_text("It notices 3 of 3 mutants.")
    assert command._wrong_claim(3, 3) == ""
    assert command._wrong_claim(3, 4) == "README.md says 3 of 3 mutants, but it is 3 of 4 mutants"
    readme.write_text("No word.")
    assert "says nothing" in command._wrong_claim(3, 4)
