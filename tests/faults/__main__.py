"""``python -m tests.faults``: campaigns with several seeds, one of them with restarts of scheduler and storage, and the
report of all. Exit code 1 if anything was lost, doubled, wrong or left behind."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from rich.console import Console

from tests.faults import report
from tests.faults.campaign import Outcome, run
from tests.faults.plan import RESTARTS, Kind

GIVEN_SEED = 8
PICKED_SEEDS = 3
TASKS = 2500
TASKS_PER_FAULT = 25
TASKS_PER_RESTART = 200


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--seed",
        type=int,
        action="append",
        help=f"run this one only (can be repeated); without it {PICKED_SEEDS} that are picked, and {GIVEN_SEED}",
    )
    parser.add_argument("--tasks", type=int, default=TASKS, metavar="N", help="of each seed (default: %(default)s)")
    parser.add_argument("--tasks-per-fault", type=int, metavar="N", help=f"(default: {TASKS_PER_FAULT})")
    parser.add_argument(
        "--only",
        action="append",
        choices=[kind.name.lower() for kind in Kind],
        metavar="KIND",
        help="only these kinds of faults: %(choices)s",
    )
    parser.add_argument("--restarts", action="store_true", help="restarts of scheduler and storage, besides kills")
    parser.add_argument("--jsonl", type=Path, metavar="FILE", help="write the report there, too, a line per seed")
    options = parser.parse_args(argv)
    picked = [random.SystemRandom().randrange(1_000_000) for _ in range(PICKED_SEEDS)]
    seeds = options.seed or [*picked, GIVEN_SEED]
    runs = [(seed, options.restarts) for seed in seeds]
    if not options.seed and not options.only:
        runs.append((picked[0], True))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"seeds: {', '.join(map(str, seeds))}; {options.tasks} tasks each")
    outcomes: list[Outcome] = []
    failed: list[str] = []
    for seed, restarts in runs:
        kinds = frozenset(Kind[name.upper()] for name in options.only or ()) or frozenset(Kind) - RESTARTS
        if restarts:
            kinds = RESTARTS | {Kind.KILL_WORKER, Kind.KILL_AGENT}
        per_fault = options.tasks_per_fault or (TASKS_PER_RESTART if restarts else TASKS_PER_FAULT)
        name = f"{seed}{' restarts' if restarts else ''}"
        outcome = run(name, seed, options.tasks, per_fault, kinds)
        outcomes.append(outcome)
        console.print(f"{name}: {'passed' if outcome.passed else 'FAILED'} in {outcome.seconds:.0f} s")
        if not outcome.passed:
            more = [f"--only {only}" for only in options.only or ()] + ["--restarts"] * restarts
            again = f"--seed {seed} --tasks {options.tasks} --tasks-per-fault {per_fault}"
            failed.append(" ".join(["python -m tests.faults", again, *more]))
    report.show(outcomes, console)
    if options.jsonl:
        options.jsonl.write_text(report.lines(outcomes))
    for command in failed:
        console.print(f"again: {command}", soft_wrap=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
