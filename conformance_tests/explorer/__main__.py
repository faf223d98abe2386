"""``python -m conformance_tests.explorer --core module:factory --depth N``."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from conformance_tests.engine.channels import SetupFailed
from conformance_tests.explorer import counterexample, graphs
from conformance_tests.explorer.search import Options, Report, Search
from conformance_tests.explorer.walk import IGNORED, ROWS
from conformance_tests.mutants import catalog
from conformance_tests.mutants.model import applied

REFERENCE = "reference_impl.conformance:scheduler_core"
CONFORMS, USAGE, NOT_CONFORMANT = 0, 2, 12


def main(argv: list[str] | None = None) -> int:
    """Explores and prints; 0 if no rule was broken, 12 if one was, 2 if the core can't be loaded."""
    parser = argparse.ArgumentParser(
        prog="python -m conformance_tests.explorer",
        description="Every interleaving of a small world (2 clients, 2 workers, 3 tasks, cancels, losses, balancing), "
        "judged by the rules of SPEC.md.",
    )
    parser.add_argument("--core", default=REFERENCE, metavar="MODULE:FACTORY", help="default: the reference")
    parser.add_argument("--depth", type=int, default=5, metavar="N", help="how many actions of peers (default: 5)")
    parser.add_argument("--empty", action="store_true", help="do not also start with all tasks submitted")
    parser.add_argument("--no-balancing", action="store_true", help="for schedulers without balancing")
    parser.add_argument(
        "--returning",
        action="store_true",
        help="workers that have timed out may register again under the same identity",
    )
    parser.add_argument("--graph", action="store_true", help="another world: one graph of three nodes (SPEC 5.6)")
    parser.add_argument(
        "--mutant",
        metavar="NAME",
        help="plant this fault in the reference first, for example running-cancel-lost "
        "(python -m conformance_tests.mutants --list --role scheduler has all)",
    )
    parser.add_argument("--scenario", type=Path, metavar="FILE", help="write a counterexample to this file")
    given = parser.parse_args(argv)
    if given.depth < 1:
        parser.error("--depth must be at least 1")
    if given.mutant is not None and given.mutant not in (m.name for m in catalog.of_role("scheduler")):
        parser.error(f"--mutant: there is no mutant scheduler/{given.mutant}")
    options = Options(given.depth, not given.empty, not given.no_balancing, given.returning)
    planted = applied(catalog.find("scheduler", given.mutant)) if given.mutant is not None else nullcontext()
    try:
        if given.graph:
            with planted:
                explored = graphs.explore(given.core, given.depth)
            print(graphs.summary(given.core, explored))
            return CONFORMS if explored.broken is None else NOT_CONFORMANT
        with planted:
            report = Search(given.core, options, _progress if sys.stderr.isatty() else None).run()
    except SetupFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    print(summary(given.core, report))
    found = report.counterexample
    if found is None:
        return CONFORMS
    text = counterexample.as_yaml(found, options)
    print(f"\na shortest counterexample, {len(found.actions)} actions:\n\n{counterexample.as_text(found)}\n")
    if given.scenario is not None:
        given.scenario.write_text(text)
        print(f"as a scenario: {given.scenario}")
    else:
        print(text, end="")
    return NOT_CONFORMANT


def _progress(depth: int, states: int) -> None:
    print(f"depth {depth}: {states} states", file=sys.stderr)


def summary(core: str, report: Report) -> str:
    """What was explored, in lines for people."""
    rate = report.transitions / report.processor_seconds if report.processor_seconds else 0.0
    lines = [
        f"core                  {core}",
        f"depth                 {report.depth} of {report.options.depth}"
        + (", and the same from where every task is submitted" if report.options.busy else ""),
        f"interleavings         {report.interleavings:,}",
        f"distinct states       {report.states:,}"
        + ("" if report.merges else " (equal ones are not known to be equal)"),
        f"transitions           {report.transitions:,} in {report.seconds:.1f} s"
        f" ({rate:,.0f} per second of processor time)",
        f"table rows            {len(report.rows)} of {len(ROWS)}",
        f"  not reached         {_pairs(set(ROWS) - set(report.rows))}",
        f"ignored pairs         {len(report.ignored)} of {len(IGNORED)}",
        f"  not reached         {_pairs(IGNORED - set(report.ignored))}",
        "reduced               a message's way to the core (the same as a peer that acts later); equal states are one",
        "checked in each state what each message must cause, no more and no less (TSK-01, TSK-04, TSK-05, CAN, BAL); "
        "then, all workers",
        "                      having answered, one answer per task"
        + (", and nothing left once the clients are gone (LIV-07)" if report.shows_residue else ""),
        f"task states           {'compared' if report.shows_states else 'not shown by this core'}",
        f"broken rules          {report.counterexample.violation.rule if report.counterexample else 'none'}",
    ]
    return "\n".join(lines)


def _pairs(pairs: set[tuple[str, str]] | frozenset[tuple[str, str]]) -> str:
    return ", ".join(f"{state} + {event}" for state, event in sorted(pairs)) or "-"


if __name__ == "__main__":
    sys.exit(main())
