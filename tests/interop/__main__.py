"""``make interop``: the matrix as a table, then many tasks through each single-role swap.

The exit code is 1 if a cell fails, and 2 if the peer is not there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from tests.interop import matrix, peer
from tests.interop.combinations import ALL, OURS, SWAPS, Combination
from tests.interop.many import Many, run_many

Outcome = TypeVar("Outcome", matrix.Row, Many)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.interop", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "combinations", nargs="*", type=Combination.parse, help="four letters each, O for ours, P for the peer (all)"
    )
    parser.add_argument("--check", action="append", default=[], metavar="NAME", help="only this check; may be repeated")
    parser.add_argument("--big", type=int, default=matrix.BIG >> 20, metavar="MIB", help="the largest payload")
    parser.add_argument("--tasks", type=int, default=5000, metavar="N", help="tasks through each swap; 0: none")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="combinations at a time")
    parser.add_argument("--logs", type=Path, metavar="DIRECTORY", help="keep the roles' logs there")
    parser.add_argument("--json", action="store_true", help="one JSON line per combination instead of the tables")
    options = parser.parse_args()
    if why := peer.missing():
        print(f"error: {why}", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 150, soft_wrap=False)
    chosen = options.combinations or ALL
    with tempfile.TemporaryDirectory(prefix="interop-") as temporary:
        logs = options.logs or Path(temporary)
        rows = _each(
            chosen,
            options.jobs,
            lambda c: matrix.run(c, logs / c.name, big=options.big << 20, only=options.check),
        )
        swaps = [c for c in SWAPS if c in chosen] if options.tasks and not options.check else []
        runs = _each(swaps, 1, lambda c: run_many(c, logs / f"{c.name}-many", options.tasks))
    if options.json:
        for row in rows:
            cells = [vars(cell) for cell in row.cells]
            print(json.dumps({"combination": row.combination.name, "state": row.state, "cells": cells}))
        for run in runs:
            print(json.dumps({"combination": run.combination.name, "tasks": run.tasks, "problems": run.problems}))
    else:
        _show(console, rows, runs)
    return 1 if any(row.state == matrix.FAILED for row in rows) or any(run.problems for run in runs) else 0


def _each(combinations: Iterable[Combination], jobs: int, function: Callable[[Combination], Outcome]) -> list[Outcome]:
    """In the given order, each with a note on stderr when it is done."""

    def one(combination: Combination) -> Outcome:
        outcome = function(combination)
        print(f"{combination.name} {outcome.state}, {outcome.seconds:.0f} s", file=sys.stderr, flush=True)
        return outcome

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, combinations))


def _who(combination: Combination) -> list[str]:
    return ["ours" if who == OURS else f"[cyan]{who}[/]" for who in combination]


def _show(console: Console, rows: list[matrix.Row], runs: list[Many]) -> None:
    table = Table(
        "client", "scheduler", "worker", "storage", "state", "checks", "seconds", title="Every role with every role"
    )
    colours = {matrix.COMPLETE: "green", matrix.DEVIATION: "yellow", matrix.FAILED: "red"}
    notes: dict[str, list[str]] = {}
    for row in rows:
        counts = {state: sum(cell.state == state for cell in row.cells) for state in colours}
        shown = " + ".join(
            f"{n} {s}" for s, n in zip(("complete", "deviating", "failed"), counts.values(), strict=True) if n
        )
        table.add_row(*_who(row.combination), f"[{colours[row.state]}]{row.state}[/]", shown, f"{row.seconds:.1f}")
        for cell in row.cells:
            if cell.state == matrix.DEVIATION:
                notes.setdefault(f"{cell.check}: {cell.text}", []).append(row.combination.name)
    console.print(table)
    for note, names in notes.items():
        console.print(f"{note}\n  [dim]in {' '.join(names)} (client, scheduler, worker, storage)[/]", highlight=False)
    if runs:
        table = Table(
            "client",
            "scheduler",
            "worker",
            "storage",
            "tasks",
            "state",
            "tasks/s",
            title="Many tasks through each swap",
        )
        for run in runs:
            colour = "red" if run.problems else "green"
            table.add_row(*_who(run.combination), str(run.tasks), f"[{colour}]{run.state}[/]", f"{run.rate:,.0f}")
        console.print(table)
    for problem in [p for row in rows for p in row.problems()] + [p for run in runs for p in run.problems]:
        console.print(f"[red]failed[/] {problem}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
