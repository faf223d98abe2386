"""Several runs side by side: scenarios that they judge differently, and requirements by implementations.

A run is the JSONL that ``scalercli conformance run -o jsonl`` prints and ``--results FILE`` writes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance_tests.engine import html, records, verdicts
from conformance_tests.engine.runner import Verdict

NOT_RUN = "not run"


class NotARun(ValueError):
    """The text names the file and what is wrong with it."""


@dataclass
class RunFile:
    """One run: its results by scenario, and the summary if it was complete."""

    path: Path
    name: str
    results: dict[str, dict[str, Any]]
    summary: dict[str, Any] = field(default_factory=dict)


def read(path: Path) -> RunFile:
    """The results of a file; raises NotARun."""
    found = RunFile(path, "", {})
    try:
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if record.get("schema") == records.RESULT:
                found.results[record["scenario"]] = record
            elif record.get("schema") == records.SUMMARY:
                found.summary = record
    except (OSError, ValueError, AttributeError, KeyError) as error:
        why = getattr(error, "strerror", None) or error
        raise NotARun(f"{path} is not the JSONL of a run: {why}") from None
    if not found.results:
        raise NotARun(f"{path} is not the JSONL of a run: it has no results")
    found.name = str(next(iter(found.results.values()))["target"])
    return found


def read_all(paths: Sequence[Path]) -> list[RunFile]:
    """Several files; runs of the same target are told apart by their files' names."""
    runs = [read(path) for path in paths]
    same = Counter(run.name for run in runs)
    for run in runs:
        if same[run.name] > 1:
            run.name = f"{run.name} ({run.path.name})"
    return runs


@dataclass(frozen=True)
class Difference:
    """One scenario that the runs judge differently, with a verdict and the reason for it per run."""

    scenario: str
    verdicts: tuple[str, ...]
    why: tuple[str, ...]


def differences(runs: Sequence[RunFile]) -> list[Difference]:
    """The scenarios whose verdict, or whose failure, is not the same in all runs."""
    found = []
    for scenario in sorted({name for run in runs for name in run.results}):
        results = [run.results.get(scenario) for run in runs]
        verdict = tuple(r["verdict"] if r else NOT_RUN for r in results)
        why = tuple(_why(r) for r in results)
        if len(set(zip(verdict, why, strict=True))) > 1:
            found.append(Difference(scenario, verdict, why))
    return found


def _why(record: dict[str, Any] | None) -> str:
    if record is None:
        return ""
    failure = record.get("failure")
    return f"{failure['expected']}; {failure['came']}" if failure else str(record.get("reason", ""))


def matrix(runs: Sequence[RunFile]) -> list[dict[str, Any]]:
    """One row per requirement that some run judges, in the order of SPEC.md; one cell per run."""
    per_run = [_by_requirement(run) for run in runs]
    known = verdicts.requirements()
    there = {requirement for cells in per_run for requirement in cells}
    rows = []
    for requirement in [*(i for i in known if i in there), *sorted(there - known.keys())]:
        about = known.get(requirement)
        cells = [_cell(cells.get(requirement, [])) for cells in per_run]
        rows.append(
            {
                "id": requirement,
                "level": about.level if about else "",
                "section": about.section if about else "",
                "roles": " ".join(about.roles) if about else "",
                "text": about.text if about else "SPEC.md does not have it",
                "words": f"{requirement} {about.text if about else ''}".lower(),
                "cells": cells,
                "differs": len({cell["verdict"] for cell in cells}) > 1,
            }
        )
    return rows


def _by_requirement(run: RunFile) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for record in run.results.values():
        for requirement in record["requirements"]:
            found.setdefault(requirement, []).append(record)
    return found


def _cell(results: Sequence[dict[str, Any]]) -> dict[str, str]:
    verdict = html.worst(r["verdict"] for r in results)
    why = [r["scenario"] for r in results if r["verdict"] == verdict]
    return {"verdict": verdict, "style": html.STYLES[verdict], "why": ", ".join(why)}


def page(runs: Sequence[RunFile]) -> str:
    """The comparison as one self-contained HTML page."""
    rows = matrix(runs)
    roles = dict.fromkeys(role for row in rows for role in row["roles"].split())
    return html.render(
        "compare.html",
        title="Requirements by implementations",
        data={"runs": [run.name for run in runs], "requirements": rows},
        runs=[_run_row(run) for run in runs],
        verdicts=[v.value for v in Verdict],
        styles=html.STYLES,
        roles=list(roles),
        requirements=rows,
    )


def _run_row(run: RunFile) -> dict[str, Any]:
    counts = Counter(r["verdict"] for r in run.results.values())
    failed = Counter(r["level"] for r in run.results.values() if r["verdict"] == "fail")
    return {
        "name": run.name,
        "file": run.path.name,
        "scenarios": len(run.results),
        "verdicts": {v.value: counts[v.value] for v in Verdict},
        "must_failed": failed["MUST"],
        "should_failed": sum(failed.values()) - failed["MUST"],
        "conforms": run.summary.get("exit", verdicts.NOT_CONFORMANT) == verdicts.CONFORMS,
    }
