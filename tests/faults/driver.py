"""A client of the campaign, in a process of its own: it can be killed and stopped.

    python -m tests.faults.driver SCHEDULER SEED FIRST STEP COUNT

submits the tasks FIRST, FIRST + STEP, … up to COUNT, a window of them at a time, and says on stdout, a JSON line each:
``{"submitted": n}`` before a task is submitted, ``{"ended": n, "as": OUTCOME, "right": bool}`` when its future is done,
and last ``{"doubled": …}`` when all are over and the client has left.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import Counter, deque
from concurrent.futures import CancelledError
from typing import Any

from protocol.messages import Message, TaskResult
from reference_impl.client import Client
from reference_impl.client.core import ClientCore
from reference_impl.client.future import ScalerFuture
from reference_impl.errors import ProcessorDiedError, SchedulerLost, WorkerDiedError
from reference_impl.storage_connection import StorageLost
from tests.faults import work
from tests.faults.work import Job, Sort

WINDOW = 16
TIMEOUT_SECONDS = 3.0
BEAT_SECONDS = 0.3
_PAUSE_SECONDS = 0.3
_OUTCOMES: tuple[tuple[type[BaseException], str], ...] = (
    (CancelledError, "canceled"),
    (WorkerDiedError, "worker died"),
    (ProcessorDiedError, "processor died"),
    (SchedulerLost, "scheduler lost"),
    (StorageLost, "storage lost"),
)


class _Answers:
    """Counts the results that the scheduler sends for each task."""

    def __init__(self) -> None:
        self.results: Counter[bytes] = Counter()
        heard = ClientCore.message

        def message(core: ClientCore, message: Message, now: float) -> Any:
            if isinstance(message, TaskResult):
                self.results[message.task_id] += 1
            return heard(core, message, now)

        ClientCore.message = message  # type: ignore[method-assign]


class Driver:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._room = threading.Semaphore(WINDOW)
        self._say = threading.Lock()
        self._pause = False  # something is away: who goes on at once gets the same error
        self._to_cancel: deque[tuple[float, ScalerFuture]] = deque()

    def say(self, **facts: Any) -> None:
        with self._say:
            sys.stdout.write(json.dumps(facts) + "\n")
            sys.stdout.flush()

    def run(self, jobs: list[Job]) -> None:
        for each in jobs:
            while not self._room.acquire(timeout=0.05):
                self._cancel_due()
            self._cancel_due()
            if self._pause:
                self._pause = False
                time.sleep(_PAUSE_SECONDS)
            self.say(submitted=each.number)
            future = self._submit(each)
            future.add_done_callback(lambda future, each=each: self._ended(each, future))
            if each.sort is Sort.CANCELED:
                self._to_cancel.append((time.monotonic() + each.number % 10 / 20, future))
            elif each.sort is Sort.CANCELED_QUICK:
                future.request_cancel()
        for _ in range(WINDOW):  # until every one is over
            while not self._room.acquire(timeout=0.05):
                self._cancel_due()

    def _cancel_due(self) -> None:
        while self._to_cancel and self._to_cancel[0][0] <= time.monotonic():
            self._to_cancel.popleft()[1].request_cancel()

    def _submit(self, job: Job) -> ScalerFuture:
        client, number = self._client, job.number
        if job.sort is Sort.PAYLOAD:
            return client.submit(work.turn, work.payload(job.seed, number))
        if job.sort is Sort.RAISES:
            return client.submit(work.fail, number)
        if job.sort is Sort.NEEDS:
            return client.submit(work.plus, client.submit(work.quick, number), number)
        if job.sort in (Sort.NAP, Sort.CANCELED):
            return client.submit(work.nap, number, job.seconds)
        return client.submit(work.quick, number)

    def _ended(self, job: Job, future: ScalerFuture) -> None:
        outcome, right, why = "success", True, ""
        try:
            value: Any = future.result(0)
        except BaseException as error:
            value = error
            while isinstance(value.__cause__, Exception) and type(value).__name__ == "DependencyFailed":
                value = value.__cause__
            outcome = next((name for kind, name in _OUTCOMES if isinstance(value, kind)), "")
            if not outcome:
                outcome, right = "failed", work.right(job, value)
                why = "" if right else f"{type(value).__name__}: {value}"[:500]
        else:
            right = work.right(job, value)
            why = "" if right else repr(value)[:200]
        if outcome == "canceled" and job.sort not in (Sort.CANCELED, Sort.CANCELED_QUICK):
            right, why = False, "canceled, and nobody asked for it"
        self._pause |= outcome in ("scheduler lost", "storage lost")
        self.say(ended=job.number, **{"as": outcome}, right=right, why=why)
        self._room.release()


def _tell(client: Client) -> None:
    """Says on stderr what the client waits for."""
    core, link = client._thread._core, client._thread._storage
    for task_id, life in core._tasks.items():
        about = (life.phase.name, life.missing, life.force, life.result, [obj.stored for obj in life.objects])
        print("waits", client.identity, task_id.hex(), *about, file=sys.stderr)
    print("core", vars(core._reunion), vars(core._liveness), core._broken, file=sys.stderr)
    print(
        "storage", {name: value for name, value in vars(link).items() if name != "_core"}, file=sys.stderr, flush=True
    )


def main(arguments: list[str]) -> int:
    scheduler, (seed, first, step, count) = arguments[0], map(int, arguments[1:])
    answers = _Answers()
    client = Client(scheduler, timeout_seconds=TIMEOUT_SECONDS, heartbeat_interval_seconds=BEAT_SECONDS)
    signal.signal(signal.SIGUSR1, lambda number, frame: _tell(client))
    driver = Driver(client)
    driver.say(client=client.identity.decode())
    driver.run([work.job(seed, number) for number in range(first, count, step)])
    client.close()
    driver.say(doubled=sum(times - 1 for times in answers.results.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
