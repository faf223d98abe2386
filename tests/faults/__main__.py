"""``python -m tests.faults``: the campaigns of several seeds, and their report. Exit code 1 if anything was found."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from rich.console import Console

from tests.faults import report
from tests.faults.campaign import run
from tests.faults.plan import RESTARTS, Kind

GIVEN_SEED = 8
PICKED_SEEDS = 3
TASKS = 2500
TASKS_PER_FAULT = 40


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, action="append", help="run this one only (can be repeated)")
    parser.add_argument("--tasks", type=int, default=TASKS, help="of each seed (%(default)s)")
    parser.add_argument("--tasks-per-fault", type=int, default=TASKS_PER_FAULT, help="(%(default)s)")
    parser.add_argument("--only", action="append", choices=[kind.name.lower() for kind in Kind], metavar="KIND")
    parser.add_argument("--jsonl", type=Path, help="write the report there, too")
    options = parser.parse_args(argv)
    seeds = options.seed or [*(random.SystemRandom().randrange(1_000_000) for _ in range(PICKED_SEEDS)), GIVEN_SEED]
    kinds = frozenset(Kind[name.upper()] for name in options.only) if options.only else frozenset(Kind) - RESTARTS
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"seeds: {', '.join(map(str, seeds))}; {options.tasks} tasks each")
    outcomes = []
    for seed in seeds:
        outcome = run(seed, options.tasks, options.tasks_per_fault, kinds)
        outcomes.append(outcome)
        verdict = "passed" if outcome.passed else "FAILED"
        console.print(f"seed {seed}: {verdict} in {outcome.seconds:.0f} s, {outcome.faults.total()} faults")
    report.show(outcomes, console)
    if options.jsonl:
        options.jsonl.write_text(report.lines(outcomes))
    failed = [outcome.seed for outcome in outcomes if not outcome.passed]
    for seed in failed:
        only = "".join(f" --only {name}" for name in options.only or ())
        sizes = f"--tasks {options.tasks} --tasks-per-fault {options.tasks_per_fault}"
        console.print(f"again: python -m tests.faults --seed {seed} {sizes}{only}", soft_wrap=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
