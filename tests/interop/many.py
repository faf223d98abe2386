"""Thousands of tasks through one combination: nothing is lost, nothing is left."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.interop import matrix
from tests.interop.cluster import ClientProcess, Cluster
from tests.interop.combinations import Combination


@dataclass
class Many:
    """One such run."""

    combination: Combination
    tasks: int
    seconds: float = 0.0
    rate: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        return matrix.FAILED if self.problems else matrix.COMPLETE


def run_many(combination: Combination, directory: Path, tasks: int, *, seconds: float = 300.0) -> Many:
    """Runs that many tasks; then no task, object or process may be left."""
    outcome = Many(combination, tasks)
    start = time.monotonic()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with Cluster(combination, directory, queue_size=100) as cluster:
            client = ClientProcess(cluster, "client", "many", tasks=tasks)
            watchdog = threading.Timer(seconds, client.process.kill)
            watchdog.start()
            try:
                report = next(client.lines(), None)
                code = client.process.wait()
            finally:
                watchdog.cancel()
            if report is None or code:
                raise RuntimeError(f"the client ended with code {code}: {cluster.log_tail('client')}")
            outcome.rate = tasks / report["seconds"]
            if report["wrong"]:
                outcome.problems.append(f"{report['wrong']} of {tasks} results are wrong")
            complaints, _, text = matrix.nothing_left(cluster)
            outcome.problems += [*complaints, *([text] if text else [])]
    except Exception as error:
        outcome.problems.append(f"{type(error).__name__}: {error}")
    outcome.problems = [f"{combination.name} {tasks} tasks: {problem}" for problem in outcome.problems]
    outcome.seconds = time.monotonic() - start
    return outcome
