"""Replay files: a failing run as a scenario file of its own, in one order, that says how to run it again."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from conformance_tests.engine.scenario import Scenario, from_data, linear
from conformance_tests.engine.suite import Result


def linear_data(scenario: Scenario, combination: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """The content of a scenario file that has only this order, without repeats."""
    data = copy.deepcopy(scenario.data)
    data["steps"] = [copy.deepcopy(step.raw) for step in linear(scenario, combination).steps]
    data.pop("table", None)
    return data


def to_scenario(data: dict[str, Any], like: Scenario) -> Scenario:
    """The scenario of such data, with the id of the one that it was made from."""
    return from_data(data, like.id, like.path)


def write(path: Path, data: dict[str, Any], result: Result, flags: str) -> None:
    """A replay file: a scenario file whose comments say where it comes from."""
    failure = result.failure
    lines = [
        f"# Made from {result.scenario.id} ({result.via}) by scalercli conformance run{flags}",
        f"# Fails with: {failure.text}" if failure else "#",
        f"# Again: scalercli conformance replay {path}{flags}",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    body = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)
    path.write_text("\n".join(line.replace("\n", " ") for line in lines) + "\n" + body)
