"""Attaching to an implementation that runs already."""

from __future__ import annotations

import sys

import pytest

from conformance_tests.engine.processes import Process
from conformance_tests.engine.targets import load
from scalercli.app import main


@pytest.mark.parametrize("role", ["scheduler", "object-storage"])
def test_attach_judges_what_runs_there_and_leaves_it_running(role: str, capsys: pytest.CaptureFixture[str]) -> None:
    spec = load("reference").roles[role]
    process = Process(spec, {}, {"python": sys.executable, "storage": "tcp://127.0.0.1:1"})
    try:
        started = process.ready(spec)
        name = {"scheduler": "foreign-cancel", "object-storage": "get-waits"}[role]
        code = main(["conformance", "run", "--role", role, "--attach", started.address, name])
        assert (code, process.alive) == (0, True)
        assert f"{role}/{name}" in capsys.readouterr().out
    finally:
        process.stop()
