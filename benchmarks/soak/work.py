"""The mix: every kind of work that users have, each with its own check.

An operation runs in a thread of its own, waits for what it has started, and raises Wrong if something is not as it must
be. What it does follows from the Random that it is given.
"""

from __future__ import annotations

import concurrent.futures
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from random import Random
from typing import Any, NamedTuple

from protocol.control import Cancel, CancelOutcome, Selection, ShownState, TaskRow
from reference_impl.client import Client
from reference_impl.client.future import ScalerFuture
from reference_impl.client.instructions import CancelAnswer
from scalercli import forms, link, values
from scalercli.places import EMBEDDED, Places

SECONDS = 300.0
"""An operation that takes longer has lost a task."""
MIB = 1 << 20
_MAKING = threading.Lock()
_NOBODY = "soak-offered-by-nobody"


LATE = (TimeoutError, concurrent.futures.TimeoutError, subprocess.TimeoutExpired, link.TimedOut)
"""What it raises then."""


class Wrong(Exception):
    """An outcome that is not what it must be; the text is one line for people."""


def check(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise Wrong(f"{what}: {str(got)[:200]!r} instead of {str(expected)[:200]!r}")


# ---- what runs on the workers ----


def add(one: int, other: int) -> int:
    return one + other


def fail(number: int) -> None:
    raise ValueError(f"as it should {number}")


def turn(content: bytes) -> bytes:
    return content[::-1]


def say(number: int) -> int:
    print(f"line {number}")
    print(f"error {number}", file=sys.stderr)
    return number


def linger(seconds: float) -> None:
    print("started", flush=True)
    time.sleep(seconds)


# ---- operations ----


class Work:
    """What operations share: a client for all, and a link to the session agent for each thread."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.client = Client(address)
        self._of_thread = threading.local()
        self._links: list[link.AgentLink] = []

    def link(self) -> link.AgentLink:
        mine: link.AgentLink | None = getattr(self._of_thread, "link", None)
        if mine is None:
            mine = link.find_agent(Places(EMBEDDED))
            if mine is None:
                raise Wrong("the session agent is gone")
            self._of_thread.link = mine
            self._links.append(mine)
        return mine

    def close(self) -> None:
        for one in self._links:
            one.close()
        self.client.close()


def small(work: Work, random: Random) -> None:
    one, other = random.getrandbits(64), random.getrandbits(64)
    check("a sum", work.client.submit(add, one, other).result(SECONDS), one + other)


def failing(work: Work, random: Random) -> None:
    number = random.getrandbits(32)
    error = work.client.submit(fail, number).exception(SECONDS)
    check("the exception", f"{type(error).__name__}: {error}", f"ValueError: as it should {number}")


def batch(work: Work, random: Random) -> None:
    start, chunk = random.getrandbits(32), random.choice([1, 1, 5])
    row = range(start, start + 40)
    got = list(work.client.map(add, row, row, timeout=SECONDS, chunksize=chunk))
    check("a map", got, [2 * number for number in row])


def chain(work: Work, random: Random) -> None:
    """Futures as arguments, the last of one whose own argument has failed."""
    start = random.getrandbits(32)
    future = work.client.submit(add, start, 1)
    for _ in range(4):
        future = work.client.submit(add, future, future)
    check("a chain", future.result(SECONDS), (start + 1) * 16)
    broken = work.client.submit(add, work.client.submit(fail, start), 1)
    check("what needs a failure", type(broken.exception(SECONDS)).__name__, "DependencyFailed")


def graph(work: Work, random: Random) -> None:
    base = random.getrandbits(32)
    nodes: dict[Hashable, Any] = {"n0": base}
    for i in range(8):
        nodes[f"n{i + 1}"] = (add, f"n{i}", "n0")
    nodes["not needed"] = (fail, "n0")
    check("a graph", work.client.get(nodes, ["n8", "n4"]), {"n8": 9 * base, "n4": 5 * base})


def large(work: Work, random: Random) -> None:
    content = random.randbytes(MIB)
    check("1 MiB there and back", work.client.submit(turn, content).result(SECONDS) == content[::-1], True)


def printing(work: Work, random: Random) -> None:
    number, said = random.getrandbits(32), []
    future = work.client.submit_verbose(
        say, (number,), stream_output=True, on_log=lambda task_id, kind, text: said.append(text)
    )
    check("what it returns", future.result(SECONDS), number)
    check("what it prints", sorted("".join(said).split("\n")), sorted([f"line {number}", f"error {number}", ""]))


def cancel_running(work: Work, random: Random) -> None:
    started = threading.Event()
    future = work.client.submit_verbose(
        linger, (SECONDS,), stream_output=True, on_log=lambda task_id, kind, text: started.set()
    )
    if not started.wait(SECONDS):
        raise TimeoutError("a task to be canceled did not start")
    _cancel(future, CancelAnswer.CANCELED)


def cancel_queued(work: Work, random: Random) -> None:
    """One that no worker may have."""
    _cancel(work.client.submit_verbose(linger, (SECONDS,), capabilities={_NOBODY: 1}), CancelAnswer.CANCELED)


def cancel_race(work: Work, random: Random) -> None:
    """Somewhere between submission and result: canceled it is, whoever was first (R4, R5)."""
    future = work.client.submit(add, random.getrandbits(32), 1)
    time.sleep(random.random() * 0.005)
    _cancel(future)


def _cancel(future: ScalerFuture, answer: CancelAnswer | None = None) -> None:
    check("a cancel", future.cancel(SECONDS), True)
    check("the future after it", future.cancelled(), True)
    if answer is not None:
        check("the answer to the cancel", future.cancel_answer, answer)


def visit(work: Work, random: Random) -> None:
    """A client that comes, works, and goes: sometimes in the middle of it."""
    numbers = range(random.getrandbits(16), 1 << 17)[:10]
    client, left, started = Client(work.address), None, threading.Event()
    try:
        futures = client.submit_many(add, ((number, 1) for number in numbers))
        check("tasks of a visitor", [future.result(SECONDS) for future in futures], [number + 1 for number in numbers])
        if random.random() < 0.3:  # only now: two of these before would wait for each other's slots
            left = client.submit_verbose(
                linger, (SECONDS,), stream_output=True, on_log=lambda task_id, kind, text: started.set()
            )
            if random.random() < 0.5 and not started.wait(SECONDS):
                raise TimeoutError("a task of a visitor did not start")
    finally:
        client.close()
    if left is not None:
        check("a task of a client that left", left.cancelled(), True)


# ---- by the session agent ----


def agent_call(work: Work, random: Random) -> None:
    number = random.randrange(100)
    row, _ = _through_agent(work, "math:factorial", str(number))
    check("the state", row.state, ShownState.SUCCESS)
    check("a result from the agent", values.load(row), math.factorial(number))


def agent_command(work: Work, random: Random) -> None:
    number, code = random.getrandbits(32), random.randrange(3)
    row, output = _through_agent(work, "sh", "-c", f"echo out {number}; echo err {number} >&2; exit {code}")
    check("the state", row.state, ShownState.FAILED if code else ShownState.SUCCESS)
    check("the exit code", row.exit_code, code)
    check("the output", sorted(output.split("\n")), sorted([f"out {number}", f"err {number}", ""]))


def agent_cancel(work: Work, random: Random) -> None:
    row, _ = _through_agent(work, "sh", "-c", f"echo started; exec sleep {SECONDS}", cancel=True)
    check("the state", row.state, ShownState.CANCELED)


def _through_agent(work: Work, *words: str, cancel: bool = False) -> tuple[TaskRow, str]:
    """The end of a task that was submitted to the agent, and its output; ``cancel``: at the first output."""
    agent, task_id, deadline = work.link(), os.urandom(16), time.monotonic() + SECONDS
    with _MAKING:  # the command line has one thread
        job = forms.job(words, command=":" not in words[0], cluster=EMBEDDED)
    number = agent.send("submit", job.request(task_id, follow=True, output=True, result=True))
    canceling, row, output = 0, None, ""
    outcomes: list[CancelOutcome] = []
    open_requests = {number}
    while open_requests:
        reply = agent.receive(deadline)
        output += "".join(chunk.text for chunk in reply.chunks)
        if cancel and output and not canceling:
            canceling = agent.send("cancel", Cancel(Selection((task_id.hex(),)), True, True))
            open_requests.add(canceling)
        if reply.number == canceling:
            outcomes += [result.outcome for result in reply.outcomes]
        elif reply.rows:
            row = reply.rows[-1]
        if reply.variant == "done":
            open_requests.discard(reply.number)
    if row is None:
        raise Wrong("the agent did not tell how a task ended")
    if cancel:
        check("the outcome of the cancel", outcomes, [CancelOutcome.CANCELED])
    return row, output


def commands(environ: Mapping[str, str], random: Random) -> None:
    """What a user types: submit, wait, logs, result; or submit and cancel."""

    def scalercli(*words: str) -> str:
        command = [sys.executable, "-m", "scalercli", *words]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=SECONDS)
        check(f"scalercli {words[0]}", (done.returncode, done.stderr), (0, ""))
        return done.stdout.strip()

    number = random.getrandbits(32)
    if random.random() < 0.5:
        task = scalercli("submit", "--", "sleep", str(SECONDS))
        check("scalercli cancel", scalercli("cancel", task), f"{task}\tcanceled")
    else:
        task = scalercli("submit", "--", "sh", "-c", f"echo said {number}")
        check("scalercli wait", scalercli("wait", task), f"{task}\tsuccess")
        check("scalercli logs", scalercli("logs", task), f"said {number}")


Operation = Callable[[Work, Random], None]


class Kind(NamedTuple):
    run: Operation
    weight: int
    tasks: int
    """How many tasks one has, about."""


KINDS: dict[str, Kind] = {
    "small": Kind(small, 500, 1),
    "failing": Kind(failing, 60, 1),
    "map": Kind(batch, 20, 40),
    "chain": Kind(chain, 40, 7),
    "graph": Kind(graph, 30, 8),
    "1 MiB": Kind(large, 40, 1),
    "printing": Kind(printing, 40, 1),
    "cancel running": Kind(cancel_running, 20, 1),
    "cancel queued": Kind(cancel_queued, 30, 1),
    "cancel race": Kind(cancel_race, 30, 1),
    "visitor": Kind(visit, 8, 10),
    "agent call": Kind(agent_call, 15, 1),
    "agent command": Kind(agent_command, 10, 1),
    "agent cancel": Kind(agent_cancel, 4, 1),
}
