"""docs/trace.md says what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from conformance_tests.engine.verdicts import requirements
from scalercli.commands.trace import apps
from scalercli.tracing import hops, observer, record

DOCUMENT = (Path(__file__).parents[2] / "docs" / "trace.md").read_text()


def test_every_rule_that_is_marked_is_in_the_specification_and_in_the_document() -> None:
    rules = set(re.findall(r'"([A-Z]{3}-\d\d)"', Path(str(observer.__file__)).read_text()))
    assert len(rules) > 15
    assert rules <= set(requirements())
    table = DOCUMENT[DOCUMENT.index("## Findings") : DOCUMENT.index("## From a recording")]
    assert rules == set(re.findall(r"[A-Z]{3}-\d\d", table))


def test_every_option_is_documented() -> None:
    command: Any = typer.main.get_command(apps["trace"])
    for parameter in command.params:
        for option in parameter.opts:
            if option.startswith("--"):
                assert option in DOCUMENT, option


def test_the_schemas_and_the_hops_are_documented() -> None:
    for schema in (record.HEADER, record.MESSAGE, record.SUMMARY):
        assert f"`{schema}`" in DOCUMENT
    for kind in hops._OF_TASKS:
        assert f"`scheduler: {kind}`" in DOCUMENT
