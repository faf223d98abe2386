"""The small world: two clients, two workers, three tasks, and what each of them may do next.

Theory of operation. Peers conform to the protocol, but take their time. A message that is under way to a peer is, for
the core, the same as a peer that has it and has not acted yet; so messages to a worker wait in ``held`` and
``cancels`` until it acts, and messages to the core need no transit of their own (a late one is one that is sent late).
That is the only reduction; no order in which the core can see messages is lost by it. A worker runs its oldest task
and answers each ``TaskCancel`` when it likes, by what it holds then (WRK-07 to WRK-12). What is said of one task takes
effect in its order: a Task that comes after a cancel waits until that is answered (WRK-20). A worker or client that has
timed out is still there: a worker goes on sending answers, a client goes on sending cancels. Once in a history some
peer does what it must not: it cancels another client's task, sends a Task again, answers for a task that it does not
hold, or confirms what nobody asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Union

from protocol.identifiers import ClientId, TaskId, WorkerId

CLIENTS = ("alice", "bob")
WORKERS = ("wanda", "willy")
OWNERS = (0, 0, 1, 1, 0, 1, 0, 1)  # of the tasks; a world has the first so many of them
QUEUE_SIZES = (2, 1)
LOST_WORKERS_LIMIT = 2
TIMEOUT = 60.0
CLIENT_IDS = tuple(ClientId(f"Client|{i:032x}".encode()) for i in (1, 2))
WORKER_IDS = tuple(WorkerId(f"Worker|{name}|{i:032x}".encode()) for i, name in enumerate(WORKERS, 1))
TASK_IDS = tuple(TaskId(i.to_bytes(16, "big")) for i in range(1, len(OWNERS) + 1))
NAMES: dict[bytes, str] = dict(zip((*CLIENT_IDS, *WORKER_IDS), (*CLIENTS, *WORKERS), strict=True))

HERE, LEFT, LOST, AWAY = "here", "left", "lost", "away"
NOBODY = -1
AGAIN = 2
"""In a worker's ``cancels``: the Task came again after the cancels before it (WRK-20)."""
CONFIRM_NAMES = ("canceled", "cancelFailed", "cancelNotFound")
"""By the numbers of TaskCancelConfirmType."""

Action = tuple[Union[str, int], ...]
"""What one peer does: a verb and its arguments, as ``describe`` puts it."""


class Task(NamedTuple):
    """What SPEC.md says of a task after the messages so far, whatever the core thinks."""

    state: str = "unknown"
    holder: int = NOBODY
    in_flight: int = 0  # a TaskCancel that its holder has not answered: 0 none, 1 unforced, 2 forced
    forced: bool = False  # force is wanted
    lost: int = 0  # workers
    submitted: bool = False
    answered: bool = False
    cancels: int = 0  # that its client has sent: bit 0 unforced, bit 1 forced
    late: int = NOBODY  # the worker whose result was dropped, which CAN-07 allows: the client's answer may come later


class Worker(NamedTuple):
    """A worker's own view."""

    presence: str
    held: tuple[int, ...] = ()  # oldest first; the first one runs
    cancels: tuple[tuple[int, int], ...] = ()  # (task, 0 or 1: forced), not answered; (task, AGAIN) behind them


class World(NamedTuple):
    """One state of everything but the core."""

    tasks: tuple[Task, ...] = (Task(), Task(), Task())
    clients: tuple[str, ...] = (HERE, HERE)
    workers: tuple[Worker, ...] = (Worker(HERE), Worker(AWAY))
    fresh: tuple[int, ...] = ()  # accepted and never sent to a worker, in this order
    strange: int = 1  # things that no conforming peer does and that may still happen


def actions(world: World, balancing: bool, returning: bool) -> Iterator[Action]:
    """Everything that a peer may do next. ``returning``: a worker that has timed out may register again."""
    for client, presence in enumerate(world.clients):
        if presence == HERE:
            unsent = [t for t, task in enumerate(world.tasks) if OWNERS[t] == client and not task.submitted]
            if unsent:
                yield "submit", unsent[0]
            yield "leave", client
            yield "clientTimeout", client
    for t, task in enumerate(world.tasks):
        if task.submitted:
            if world.clients[OWNERS[t]] != LEFT:
                if not task.cancels & 1:
                    yield "cancel", t, 0
                if not task.cancels & 2:
                    yield "cancel", t, 1
            if world.strange and world.clients[1 - OWNERS[t]] == HERE:
                yield "foreignCancel", t
            if world.strange and task.state != "unknown":
                if world.clients[OWNERS[t]] == HERE:
                    yield "again", t
                for w, worker in enumerate(world.workers):
                    if worker.presence == HERE and task.holder != w:
                        yield "impostor", w, t
                    elif worker.presence == HERE and task.state == "running":
                        yield "unasked", w, t
    for w, worker in enumerate(world.workers):
        if worker.presence == AWAY or (returning and worker.presence == LOST):
            yield "register", w
        if worker.presence in (HERE, LOST):
            if worker.held:
                yield "finish", w
            for t, forced in answerable(worker):
                yield "answer", w, t, forced
                if forced and worker.held[:1] == (t,):
                    yield "refuse", w, t, 1
        if worker.presence == HERE:
            yield "quit", w
            yield "workerTimeout", w
    if balancing and any(task.state == "running" for task in world.tasks):
        yield ("balance",)


def answerable(worker: Worker) -> Iterator[tuple[int, int]]:
    """The cancels (task, forced) that it may answer next: those before the same Task came again."""
    waits: set[int] = set()
    for t, what in dict.fromkeys(worker.cancels):
        if what == AGAIN:
            waits.add(t)
        elif t not in waits:
            yield t, what


def describe(action: Action) -> str:
    """One line for people."""
    verb = action[0]
    first = int(action[1]) if len(action) > 1 else 0
    if verb == "submit":
        return f"{CLIENTS[OWNERS[first]]} submits t{first + 1}"
    if verb == "again":
        return f"{CLIENTS[OWNERS[first]]} submits t{first + 1} again, which is alive"
    if verb == "impostor":
        return f"{WORKERS[first]} sends a result for t{int(action[2]) + 1}, which it does not hold"
    if verb == "impostorConfirm":
        return (
            f"{WORKERS[first]} confirms t{int(action[2]) + 1} {CONFIRM_NAMES[int(action[3])]}, which it does not hold"
        )
    if verb == "unasked":
        return f"{WORKERS[first]} confirms t{int(action[2]) + 1} canceled, which nobody asked for"
    if verb in ("cancel", "foreignCancel"):
        client = OWNERS[first] if verb == "cancel" else 1 - OWNERS[first]
        return f"{CLIENTS[client]} cancels t{first + 1}{' with force' if verb != 'cancel' or action[2] else ''}"
    if verb in ("leave", "clientTimeout"):
        return f"{CLIENTS[first]} {'leaves' if verb == 'leave' else 'times out'}"
    if verb in ("answer", "refuse"):
        return f"{WORKERS[first]} {'answers' if verb == 'answer' else 'refuses'} the cancel of t{int(action[2]) + 1}"
    if verb == "balance":
        return "the scheduler balances"
    words = {
        "register": "registers",
        "finish": "finishes its oldest task",
        "quit": "leaves",
        "workerTimeout": "times out",
    }
    return f"{WORKERS[first]} {words[str(verb)]}"
