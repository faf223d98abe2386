"""The report of a campaign: a table for people, JSON lines for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.faults.campaign import Outcome
from tests.faults.plan import Kind

_EXAMPLES = 5


def record(outcome: Outcome) -> dict[str, Any]:
    """One line of JSONL."""
    truth = outcome.truth
    return {
        "seed": outcome.seed,
        "campaign": outcome.name,
        "tasks": truth.tasks,
        "passed": outcome.passed,
        "seconds": round(outcome.seconds, 1),
        "faults": {kind.value: outcome.faults[kind] for kind in Kind if outcome.faults[kind]},
        "outcomes": dict(sorted(truth.outcomes.items())),
        "lost": truth.lost,
        "doubled": truth.doubled,
        "wrong": truth.wrong,
        "left": outcome.left,
        "forgotten": outcome.forgotten,
    }


def lines(outcomes: Sequence[Outcome]) -> str:
    return "".join(json.dumps(record(outcome)) + "\n" for outcome in outcomes)


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """A column per seed."""
    table = Table(title="Fault campaign")
    table.add_column("seed")
    for outcome in outcomes:
        table.add_column(outcome.name, justify="right")

    def row(name: str, values: Sequence[object]) -> None:
        table.add_row(name, *[str(value) if value else "-" for value in values])

    row("seconds", [f"{outcome.seconds:.0f}" for outcome in outcomes])
    row("tasks", [outcome.truth.tasks for outcome in outcomes])
    row("faults", [outcome.faults.total() for outcome in outcomes])
    for kind in Kind:
        if any(outcome.faults[kind] for outcome in outcomes):
            row(f"  {kind.value}", [outcome.faults[kind] for outcome in outcomes])
    table.add_section()
    for name in sorted({name for outcome in outcomes for name in outcome.truth.outcomes}):
        row(name, [outcome.truth.outcomes[name] for outcome in outcomes])
    table.add_section()
    for name in ("lost", "doubled", "wrong"):
        table.add_row(f"[bold]{name}", *[str(len(getattr(outcome.truth, name))) for outcome in outcomes])
    if any(outcome.forgotten for outcome in outcomes):
        row("objects only killed schedulers knew", [outcome.forgotten for outcome in outcomes])
    table.add_row("[bold]left behind", *[str(len(outcome.left)) for outcome in outcomes])
    console.print(table)
    for outcome in outcomes:
        if outcome.passed:
            continue
        truth = outcome.truth
        console.print(f"{outcome.name}: its log is {outcome.log}", markup=False, soft_wrap=True)
        examples = [f"lost: task {number}" for number in truth.lost]
        examples += [f"doubled: {text}" for text in truth.doubled] + [f"wrong: {text}" for text in truth.wrong]
        for text in [*examples[:_EXAMPLES], *[f"left behind: {text}" for text in outcome.left]]:
            console.print(f"  {text}", markup=False, soft_wrap=True)
