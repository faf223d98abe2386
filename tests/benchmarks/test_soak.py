"""The soak: a short one is well, and one in which something grows, is lost or is left is not."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.soak.verdict import judge

HELD = dict.fromkeys(
    ("tasks", "clients", "objects", "objects_of_nobody", "object_bytes", "storage_pending", "ledger_bytes"), 1
)
USE = {"rss": 100 << 20, "pss": 1, "uss": 1, "fds": 20, "threads": 3, "cpu": 1.0}
LINES: list[dict[str, Any]] = [
    {"line": "start", "seed": 1, "seconds": 40, "capacity": 20.0, "fraction": 0.5, "rate": 10.0},
    *(
        {
            "line": "sample",
            "at": at,
            "processes": {"scheduler": USE, "processors": USE},
            "processors": 2,
            "operations": {"small": {"done": 9, "tasks": 9, "lost": 0, "wrong": 0, "seconds": 1.0, "longest": 0.5}},
            "held_back": 0,
            **HELD,
        }
        for at in (10, 20, 30, 40)
    ),
    {"line": "end", "faults": [], "held": HELD, "held_before": HELD},
]


def verdict(lines: list[dict[str, Any]]) -> tuple[bool, str]:
    out = io.StringIO()
    return judge(lines, Console(file=out, width=200)), out.getvalue()


def test_what_is_flat_holds() -> None:
    holds, text = verdict(LINES)
    assert holds and "flat, nothing lost" in text


@pytest.mark.parametrize(
    ("measure", "value", "says"),
    [("rss", 106 << 20, r"memory of the scheduler grew by 6\.0%"), ("fds", 24, "24 descriptors, it had 20")],
)
def test_what_grows_does_not_hold(measure: str, value: float, says: str) -> None:
    lines = json.loads(json.dumps(LINES))  # no two samples share what they say
    lines[-2]["processes"]["scheduler"][measure] = lines[-3]["processes"]["scheduler"][measure] = value
    holds, text = verdict(lines)
    assert not holds and re.search(says, text)


def test_a_run_that_was_aborted_can_be_read_and_does_not_hold() -> None:
    holds, text = verdict(LINES[:-1])
    assert not holds and "did not come to its end" in text


def test_failures_and_what_is_left_do_not_hold() -> None:
    failure = {"line": "failure", "operation": "small", "seed": 7, "outcome": "wrong", "what": "a sum: 3 instead of 4"}
    end = LINES[-1] | {"faults": ["processes are left behind: 77 python"]}
    holds, text = verdict([*LINES[:-1], failure, end])
    assert not holds and "a sum: 3 instead of 4" in text and "left behind: 77" in text


def test_a_short_one_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--hours", "0.0005", "--capacity-seconds", "1"]
    report = tmp_path / "report"
    done = subprocess.run([*command, "--report", str(report)], capture_output=True, text=True)
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert {line["line"] for line in lines} == {"start", "sample", "end"}, done
    assert lines[-1]["faults"] == []
