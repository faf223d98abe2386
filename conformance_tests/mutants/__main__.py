"""``python -m conformance_tests.mutants``: how many faults the suite notices."""

from __future__ import annotations

import argparse
import fnmatch
import re
import sys
import time
from pathlib import Path

from conformance_tests.mutants import catalog
from conformance_tests.mutants.judge import Judge, Killed
from conformance_tests.mutants.model import Mutant

_README = Path(__file__).parents[2] / "README.md"
_CLAIM = re.compile(r"(\d+) of (\d+) mutants")


def main(argv: list[str] | None = None) -> int:
    """Prints one line per mutant and the score; 1 when one survives that is not shown equivalent."""
    parser = argparse.ArgumentParser(
        prog="python -m conformance_tests.mutants",
        description="Runs the scenarios against mutants of the reference: each has one small fault that the suite must "
        "notice.",
    )
    parser.add_argument("--role", choices=catalog.ROLES, action="append", help="this role only; may be repeated")
    parser.add_argument("--list", action="store_true", help="say what the mutants are, and run nothing")
    parser.add_argument("mutants", nargs="*", metavar="MUTANT", help="names, with * as in a shell; default: all")
    given = parser.parse_args(argv)
    survivors = equivalent = killed = 0
    started = time.monotonic()
    for role in given.role or catalog.ROLES:
        chosen = [m for m in catalog.of_role(role) if _wanted(m, given.mutants)]
        if given.list:
            for mutant in chosen:
                print(f"{mutant.id:52} {mutant.requirement:7} {mutant.description}")
            continue
        if not chosen:
            continue
        judge = Judge(role)
        scenarios = len(judge.on_core) + len(judge.on_sockets)
        print(f"{role}: {len(chosen)} mutants, {scenarios} scenarios ({len(judge.on_core)} of them on the core)")
        for left_out in judge.left_out:
            print(f"  left out    {left_out}")
        for mutant in chosen:
            found = judge.judge(mutant)
            print(_line(mutant, found), flush=True)
            killed += bool(found)
            equivalent += not found and bool(mutant.equivalent)
            survivors += not found and not mutant.equivalent
    if given.list:
        return 0
    judged = killed + survivors
    score = 100 * killed / judged if judged else 0.0
    print(
        f"score: {killed} of {judged} killed ({score:.1f} %), {survivors} survived, {equivalent} equivalent, "
        f"in {time.monotonic() - started:.0f} s"
    )
    claim = _wrong_claim(killed, judged) if given.role is None and not given.mutants else ""
    if claim:
        print(claim)
    return 1 if survivors or not judged or claim else 0


def _wrong_claim(killed: int, judged: int) -> str:
    """What README.md says of the score, if it is not so; empty where there is no README.md."""
    if not _README.is_file():
        return ""
    said = _CLAIM.search(_README.read_text())
    if said is not None and said.groups() == (str(killed), str(judged)):
        return ""
    return f"README.md says {said[0] if said else 'nothing'}, but it is {killed} of {judged} mutants"


def _wanted(mutant: Mutant, patterns: list[str]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(name, p) for p in patterns for name in (mutant.name, mutant.id))


def _line(mutant: Mutant, found: Killed) -> str:
    if found:
        note = " (SHOULD)" if found.should else ""
        return f"  killed    {mutant.name:44} {mutant.requirement:7} by {found.scenario.partition('/')[2]}{note}"
    if mutant.equivalent:
        return f"  equal     {mutant.name:44} {mutant.requirement:7} {mutant.equivalent}"
    return f"  SURVIVED  {mutant.name:44} {mutant.requirement:7} {mutant.description}"


if __name__ == "__main__":
    sys.exit(main())
