"""How long the commands of a warm session take, as a person at a terminal has it: medians of wall time.

``python benchmarks/command_line.py [--repeat N] [--cpu]``; ``--cpu`` adds what each process spent on the map of 10,000
tasks, which says more than wall time on a machine that does other things as well.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

TASKS = 10_000
SOURCE = Path(__file__).parents[1]


class Commands:
    """Runs command lines with a private session, whose cluster has two workers."""

    def __init__(self, home: Path) -> None:
        self._environ = os.environ | {
            "SCALERCLI_STATE_DIR": str(home / "s"),
            "SCALERCLI_RUNTIME_DIR": str(home / "r"),
            "SCALERCLI_WORKERS": "2",
            "SCALERCLI_CLUSTER": "embedded",
            "PYTHONPATH": str(SOURCE),
            "SC": f"{shlex.quote(sys.executable)} -m scalercli",
        }

    def run(self, line: str) -> tuple[float, str]:
        """(seconds, stdout) of a line of shell in which $SC is the command; raises CalledProcessError."""
        started = time.perf_counter()
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"], env=self._environ, check=True, stdout=subprocess.PIPE, text=True
        )
        return time.perf_counter() - started, done.stdout

    def processes(self) -> dict[str, psutil.Process]:
        """The processes of the session and its cluster."""
        facts = json.loads(self.run("$SC cluster status --json")[1])
        found = {"agent": psutil.Process(facts["agent_pid"])}
        found |= {role: psutil.Process(pid) for role, pid in facts["processes"].items()}
        for i, child in enumerate(found["worker"].children(recursive=True)):
            found[f"processor {i + 1}"] = child
        return found


def median(commands: Commands, name: str, line: str, repeat: int) -> None:
    seconds = [commands.run(line)[0] for _ in range(repeat)]
    print(
        f"{name:<34} {1000 * statistics.median(seconds):8.0f} ms   (fastest {1000 * min(seconds):.0f} ms)", flush=True
    )


def cpu(commands: Commands) -> None:
    before = {name: _seconds(process) for name, process in commands.processes().items()}
    start = os.times()
    commands.run(MAP)
    end = os.times()
    spent = {name: _seconds(process) - before.get(name, 0.0) for name, process in commands.processes().items()}
    spent["map"] = end.children_user + end.children_system - start.children_user - start.children_system
    print("cpu seconds: " + ", ".join(f"{name} {value:.2f}" for name, value in spent.items() if value >= 0.01))


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


MAP = f"seq {TASKS} | $SC map math:sqrt --results | tail -1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=7, help="how often each line runs")
    parser.add_argument("--cpu", action="store_true", help="what each process spends on the map")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scb-") as home:
        commands = Commands(Path(home))
        commands.run("$SC cluster up && $SC run math:sqrt 4 && $SC run math:sqrt 9")
        try:
            print(f"load of this machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
            for name, line in (
                ("python -c pass", f"{shlex.quote(sys.executable)} -c pass"),
                ("status @last", "$SC status @last"),
                ("submit math:sqrt 4", "$SC submit math:sqrt 4"),
                ("run math:sqrt 4", "$SC run math:sqrt 4"),
                ("run -- true", "$SC run -- true"),
                ("status --help", "$SC status --help"),
            ):
                median(commands, name, line, options.repeat)
            median(commands, f"map of {TASKS} tasks, results", MAP, max(1, options.repeat // 2))
            median(commands, f"status of {TASKS} tasks and more", "$SC status -o jsonl | tail -1", 3)
            if options.cpu:
                cpu(commands)
        finally:
            commands.run("$SC cluster down")


if __name__ == "__main__":
    main()
