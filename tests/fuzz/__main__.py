"""The long mode: every target in a process of its own, guided by coverage, for as long as wanted.

libFuzzer ends a target at its first finding: an exception, an input that takes longer than a minute (on a machine that
has other work, too), more than 2 GiB of memory. The input is kept, with the command that does it again. Memory that
grows by more than 64 MiB after the first tenth of the run is a finding, too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.fuzz.targets import TARGETS

_INPUT_SECONDS = 60
_MEMORY_MIB = 2048
_LONGEST = 1500
_FOUND = re.compile(r"Test unit written to (\S+/[\w-]+-(?:crash|oom|timeout|leak)-\w+)")
_INTERRUPTED = 72
_STATUS = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/")
_MEMORY_NOW = re.compile(r"rss: (\d+)Mb")
_MOST_GROWTH_MIB = 64
_STATISTIC = re.compile(r"stat::(\w+): +(\d+)")


@dataclass
class Outcome:
    """Of one target. Times in seconds, memory in MiB."""

    target: str
    executions: int
    coverage: int
    inputs: int
    """That showed something new, and stand in the corpus."""
    wall: float
    cpu: float
    memory: int
    growth: int = 0
    """Of the memory since the first tenth of the run."""
    finding: str = ""
    again: str = ""


def run(name: str, seconds: float, seed: int, corpus: Path, findings: Path) -> Outcome:
    """Fuzzes one target."""
    inputs = corpus / name
    inputs.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    log = findings / f"{name}.log"
    command = [sys.executable, "-m", "tests.fuzz.one", name]
    arguments = [
        str(inputs),
        f"-max_total_time={max(1, round(seconds))}",
        f"-seed={seed}",
        f"-timeout={_INPUT_SECONDS}",
        f"-rss_limit_mb={_MEMORY_MIB}",
        f"-max_len={_LONGEST}",
        "-len_control=20",
        "-print_final_stats=1",
        f"-artifact_prefix={findings}/{name}-",
    ]
    started = time.monotonic()
    with log.open("wb") as out:
        child = subprocess.Popen([*command, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    text = log.read_text(errors="replace")
    statistics = {key: int(value) for key, value in _STATISTIC.findall(text)}
    coverage = [(int(covered), int(kept)) for covered, _, kept in _STATUS.findall(text)]
    found = _FOUND.search(text)
    memory = [int(size) for size in _MEMORY_NOW.findall(text)]
    outcome = Outcome(
        name,
        statistics.get("number_of_executed_units", 0),
        coverage[-1][0] if coverage else 0,
        coverage[-1][1] if coverage else 0,
        round(time.monotonic() - started, 1),
        round(usage.ru_utime + usage.ru_stime, 1),
        statistics.get("peak_rss_mb", 0),
    )
    if memory:
        outcome.growth = memory[-1] - memory[len(memory) // 10]
    if found:
        outcome.finding = found[1]
        outcome.again = f"python -m tests.fuzz.one {name} {found[1]}"
    elif child.returncode not in (0, _INTERRUPTED):
        outcome.finding = f"ended with {child.returncode}: see {log}"
    elif outcome.growth > _MOST_GROWTH_MIB:
        outcome.finding = f"its memory grew by {outcome.growth} MiB: see {log}"
    return outcome


def main() -> int:
    """0 if nothing was found, else 1."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--target", action="append", choices=[*TARGETS, "all"], metavar="NAME", help="this one; again for more")
    add("--list", action="store_true", help="names the targets, and fuzzes nothing")
    add("--minutes", type=float, default=1.0, metavar="M", help="for each target (default 1)")
    add("--seed", type=int, help="default: chosen, and printed")
    add("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="targets side by side (default: cores)")
    add("--corpus", type=Path, metavar="DIR", help="where inputs are kept, and begun with (default: nowhere)")
    add("--findings", type=Path, default=Path("fuzz-findings"), metavar="DIR", help="where findings and logs go")
    add("--report", type=Path, metavar="FILE", help="write a JSON line for each target")
    options = parser.parse_args()
    if options.list:
        for name, target in TARGETS.items():
            print(f"{name}\t{(target.__doc__ or '').splitlines()[0]}")
        return 0
    names = list(TARGETS) if not options.target or "all" in options.target else options.target
    seed = options.seed if options.seed is not None else random.randrange(1, 2**31)
    seconds = options.minutes * 60
    print(f"seed {seed}, {len(names)} targets, {seconds:g} s each, {options.jobs} side by side", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="fuzz-corpus-") as temporary, ThreadPoolExecutor(options.jobs) as pool:
        corpus = options.corpus or Path(temporary)
        found = list(pool.map(lambda name: run(name, seconds, seed, corpus, options.findings), names))
    _print(found)
    if options.report:
        options.report.write_text("".join(json.dumps({"seed": seed, **asdict(one)}) + "\n" for one in found))
    return 1 if any(one.finding for one in found) else 0


def _print(found: list[Outcome]) -> None:
    table = Table()
    for heading in ("target", "executions", "coverage", "inputs", "wall s", "CPU s", "MiB", "growth"):
        table.add_column(heading, justify="left" if heading == "target" else "right")
    table.add_column("finding", overflow="fold")
    for one in found:
        figures = (f"{one.executions:,}", str(one.coverage), str(one.inputs), f"{one.wall:.0f}", f"{one.cpu:.0f}")
        table.add_row(one.target, *figures, str(one.memory), str(one.growth), one.again or one.finding)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    print(f"{sum(one.executions for one in found):,} executions, {sum(bool(one.finding) for one in found)} findings")


if __name__ == "__main__":
    sys.exit(main())
