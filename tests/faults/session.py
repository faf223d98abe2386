"""A user of the command line in the campaign, whose session agent can be killed.

    python -m tests.faults.session SCHEDULER DIRECTORY FIRST COUNT RETRIES

maps the numbers FIRST, … FIRST + COUNT - 1 over ``work.quick`` with ``--key`` and ``--retries``, repeats the command
until it has gone through, as a user would, waits for the tasks, and fetches the results, some at a time. It says on
stdout what a ``driver`` says; the outcomes are the states that ``scalercli`` shows, after the option. Last the
session ends; what its ledger shows as not over by then is reported as wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalercli.exits import ExitCode
from tests.faults.work import quick

PREFIX = "--retries "
_BATCH = 25
_OVER = frozenset({"success", "failed", "canceled", "worker-died", "lost", "timed-out"})
_REPEATS = 30
_SECONDS = 120
_AGAIN = {ExitCode.UNREACHABLE}


def environment(directory: Path) -> dict[str, str]:
    """Of the commands of a session whose files are in this directory."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("SCALERCLI_")},
        "SCALERCLI_RUNTIME_DIR": str(directory / "r"),
        "SCALERCLI_STATE_DIR": str(directory / "s"),
        "XDG_CONFIG_HOME": str(directory / "c"),
    }


def agent(directory: Path) -> int | None:
    """The process id of the session's agent, if there is one or it was killed."""
    for lock in (directory / "s").glob("*/agent.lock"):
        first = lock.read_text().split("\n")[0]
        if first.isdigit():
            return int(first)
    return None


class _Session:
    def __init__(self, scheduler: str, directory: Path) -> None:
        self._scheduler = scheduler
        self._environment = environment(directory)

    def __call__(self, *words: str, lines: Sequence[str] = ()) -> list[str]:
        """What a command prints, repeated as long as it says that the session or the cluster can't be reached."""
        for _ in range(_REPEATS):
            done = subprocess.run(
                [sys.executable, "-m", "scalercli", *words, "--cluster", self._scheduler],
                input="".join(f"{line}\n" for line in lines),
                stdout=subprocess.PIPE,
                text=True,
                timeout=_SECONDS,
                env=self._environment,
                check=False,
            )
            if done.returncode not in _AGAIN:
                return done.stdout.splitlines()
        raise RuntimeError(f"scalercli {' '.join(words)}: exit code {done.returncode} for {_REPEATS} times")


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def _ended(number: int, retries: str, ended: dict[str, Any], result: dict[str, Any]) -> None:
    state = ended["state"]
    right = result.get("result") == quick(number) if state == "success" else state in ("lost", "worker-died")
    why = "" if right else f"{ended}, {result}"[:500]
    _say(ended=number, **{"as": f"{PREFIX}{retries}: {state}"}, right=right, why=why)


def _batch(session: _Session, numbers: range, retries: str) -> None:
    for number in numbers:
        _say(submitted=number)
    ids = session(
        *("map", "tests.faults.work:quick", "--key", f"from-{numbers[0]}", "--retries", retries, "-o", "ids"),
        lines=[str(number) for number in numbers],
    )
    ended = {each["id"]: each for each in map(json.loads, session("wait", "-", "-o", "jsonl", lines=ids))}
    results = {each["id"]: each for each in map(json.loads, session("result", "-", "-o", "jsonl", lines=ids))}
    for number, task_id in zip(numbers, ids, strict=True):
        _ended(number, retries, ended[task_id], results.get(task_id, {}))


def main(arguments: list[str]) -> int:
    scheduler, directory, (first, count), retries = (
        arguments[0],
        Path(arguments[1]),
        map(int, arguments[2:4]),
        arguments[4],
    )
    session = _Session(scheduler, directory)
    for start in range(first, first + count, _BATCH):
        _batch(session, range(start, min(start + _BATCH, first + count)), retries)
    rows = map(json.loads, session("status", "-o", "jsonl"))
    _say(wrong=[f"the ledger has {row}" for row in rows if row["state"] not in _OVER])
    session("cluster", "down")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
