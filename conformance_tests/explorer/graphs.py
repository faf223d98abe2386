"""Every interleaving around one graph: a and b run, c needs both and is the target; one client, two workers.

``python -m conformance_tests.explorer --graph``. Peers are as in ``world``: they conform to the protocol and take their
time. What must hold at each step is said in terms of messages alone (SPEC section 5.6): every id gets one terminal
answer, the graph the last one; c is sent only after a and b have succeeded, with their results; nothing is sent that
has been answered; once all workers have answered, every id of a client that is still there has its answer, and when
that has left, too, nothing is left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from conformance_tests.explorer.cores import START, Explorable, Sent, load
from conformance_tests.explorer.walk import Violation
from conformance_tests.explorer.world import CLIENT_IDS, WORKER_IDS
from protocol.identifiers import TaskId, content_object_id
from protocol.messages import (
    Argument,
    ArgumentType,
    ClientDisconnect,
    ClientHeartbeat,
    ClientHeartbeatEcho,
    GraphTask,
    Message,
    ObjectInstruction,
    Task,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskCancelFlags,
    TaskResult,
    TaskResultType,
    WorkerDisconnectNotification,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
)

ALICE = CLIENT_IDS[0]
GRAPH, A, B, C = IDS = tuple([TaskId(name.encode() * 16) for name in "GABC"])
INPUTS = {A: (), B: (), C: (A, B)}
QUEUE_SIZES = (2, 1)
SETTINGS = {"loadBalanceSeconds": 0, "lostWorkersLimit": 2}
CANCELED, REFUSED, NOT_FOUND = TaskCancelConfirmType
_FUNCTION = content_object_id(ALICE, b"f")

Action = tuple[Any, ...]


class World(NamedTuple):
    """What the peers have and know."""

    sent: bool = False  # the graph
    here: bool = True  # the client
    answered: tuple[TaskId, ...] = ()  # in this order
    succeeded: frozenset[TaskId] = frozenset()
    canceled: frozenset[tuple[TaskId, bool]] = frozenset()  # what the client has asked for, and whether with force
    held: tuple[tuple[TaskId, ...] | None, ...] = ((), None)  # by worker, the first one runs; None: it is not there
    cancels: tuple[tuple[tuple[TaskId, bool], ...], ...] = ((), ())  # by worker, not answered


@dataclass
class Report:
    """What was explored; ``broken`` is the first rule that was, with the actions that led there."""

    depth: int = 0
    states: int = 0
    transitions: int = 0
    seconds: float = 0.0
    broken: Violation | None = None
    path: tuple[Action, ...] = field(default=())


def actions(world: World) -> Iterator[Action]:
    """Everything that a peer may do next."""
    if not world.sent:
        yield ("submit",)
    elif world.here:
        for task in IDS:
            for force in (False, True):
                if (task, force) not in world.canceled:
                    yield "cancel", task, force
        yield ("leave",)
    for w, held in enumerate(world.held):
        if held is None:
            if w == 1 and not any(h is None for h in world.held[:1]):
                yield "register", w
            continue
        for task in held:
            yield "succeed", w, task
        if held:
            yield "fail", w, held[0]
        for task, force in dict.fromkeys(world.cancels[w]):
            yield "answer", w, task, force
            if force and held[:1] == (task,):
                yield "refuse", w, task, force
        yield "quit", w
    yield ("balance",)


class Walk:
    """One core and its world, step by step."""

    def __init__(self, core: Explorable) -> None:
        self.core = core
        self.now = START
        self.world = World()

    def begin(self) -> None:
        self._take(self.core.send(ALICE, ClientHeartbeat(), self.now))
        self._take(self.core.send(WORKER_IDS[0], WorkerHeartbeat(queue_size=QUEUE_SIZES[0]), self.now))

    def do(self, action: Action) -> None:
        """Raises Violation."""
        verb, *rest = action
        world = self.world
        if verb == "submit":
            self.world = world._replace(sent=True)
            nodes = tuple(
                [
                    Task(t, ALICE, b"", _FUNCTION, tuple([Argument(ArgumentType.TASK, i) for i in INPUTS[t]]))
                    for t in (A, B, C)
                ]
            )
            self._send(ALICE, GraphTask(GRAPH, ALICE, (C,), nodes))
        elif verb == "cancel":
            task, force = rest
            self.world = world._replace(canceled=world.canceled | {(task, force)})
            self._send(ALICE, TaskCancel(task, TaskCancelFlags(force)), over=task in world.answered)
        elif verb == "leave":
            self.world = world._replace(here=False)
            self._send(ALICE, ClientDisconnect())
        elif verb == "register":
            self._set(rest[0], held=())
            self._send(WORKER_IDS[rest[0]], WorkerHeartbeat(queue_size=QUEUE_SIZES[rest[0]]))
        elif verb == "quit":
            self._set(rest[0], held=None, cancels=())
            self._send(WORKER_IDS[rest[0]], WorkerDisconnectNotification())
        elif verb == "balance":
            self._take(self.core.tick(self.now))
        elif verb in ("succeed", "fail"):
            w, task = rest
            self._set(w, held=tuple([t for t in world.held[w] or () if t != task]))
            kind = TaskResultType.SUCCESS if verb == "succeed" else TaskResultType.FAILED
            if verb == "succeed":
                self.world = self.world._replace(succeeded=world.succeeded | {task})
            self._send(WORKER_IDS[w], TaskResult(task, kind, b"", (content_object_id(ALICE, task),)))
        else:
            self._answer(verb, *rest)

    def _answer(self, verb: str, w: int, task: TaskId, force: bool) -> None:
        held = self.world.held[w] or ()
        left = list(self.world.cancels[w])
        left.remove((task, force))
        if task not in held:
            kind = NOT_FOUND
        elif verb == "refuse" or (held[0] == task and not force):
            kind = REFUSED
        else:
            kind, held = CANCELED, tuple([t for t in held if t != task])
        self._set(w, held=held, cancels=tuple(left))
        self._send(WORKER_IDS[w], TaskCancelConfirm(task, kind))

    def _set(self, w: int, **changes: Any) -> None:
        for name, value in changes.items():
            values = list(getattr(self.world, name))
            values[w] = value
            kept: dict[str, Any] = {name: tuple(values)}
            self.world = self.world._replace(**kept)

    def _send(self, identity: bytes, message: Message, over: bool = False) -> None:
        self._take(self.core.send(identity, message, self.now), message if over else None)

    # ---- what must hold ----

    def _take(self, sent: Sent, late_cancel: Message | None = None) -> None:
        """``late_cancel`` is of an id that was answered: cancelNotFound, and nothing else."""
        if isinstance(late_cancel, TaskCancel):
            expected = (ALICE, TaskCancelConfirm(late_cancel.task_id, NOT_FOUND))
            if sent[:1] != [expected]:
                raise Violation(
                    "CAN-10", f"a cancel of {_name(late_cancel.task_id)}, which was answered, is not refused"
                )
            sent = sent[1:]
        for to, message in sent:
            if isinstance(message, (ClientHeartbeatEcho, WorkerHeartbeatEcho, ObjectInstruction)):
                continue
            if to == ALICE:
                self._answered(message)
            else:
                self._got(WORKER_IDS.index(to), message)

    def _answered(self, message: Message) -> None:
        if not self.world.here:
            raise Violation("LIV-06", "the client has left, and is sent something")
        if not isinstance(message, (TaskResult, TaskCancelConfirm)):
            raise Violation("TSK-01", f"the client gets a {type(message).__name__}")
        if isinstance(message, TaskCancelConfirm) and message.cancel_confirm_type is REFUSED:
            return
        task, answered = message.task_id, self.world.answered
        if task in answered:
            raise Violation("TSK-01", f"{_name(task)} is answered twice")
        if GRAPH in answered or (task == GRAPH and len(answered) < len(IDS) - 1):
            raise Violation("GRA-03", f"{_name(task)} is answered after the graph, or the graph before a node")
        self.world = self.world._replace(answered=(*answered, task))

    def _got(self, w: int, message: Message) -> None:
        held = self.world.held[w]
        if held is None:
            raise Violation("TSK-06", "a worker that has left is sent something")
        if isinstance(message, TaskCancel):
            if not message.flags.force and self._over():
                raise Violation("GRA-04", f"{_name(message.task_id)} is canceled without force, and its graph is over")
            self._set(w, cancels=(*self.world.cancels[w], (message.task_id, message.flags.force)))
            return
        if not isinstance(message, Task):
            raise Violation("TSK-01", f"a worker gets a {type(message).__name__}")
        task = message.task_id
        if task in self.world.answered or not self.world.here:
            raise Violation("TSK-01", f"{_name(task)} is sent to a worker, and is over")
        if len(held) >= QUEUE_SIZES[w]:
            raise Violation("TSK-05", f"{_name(task)} goes to a worker that is full")
        expected = tuple([Argument(ArgumentType.OBJECT_ID, content_object_id(ALICE, i)) for i in INPUTS[task]])
        if not self.world.succeeded.issuperset(INPUTS[task]) or message.function_args != expected:
            raise Violation("GRA-02", f"{_name(task)} is sent before its inputs are there, or not with them")
        self._set(w, held=(*held, task))

    def _over(self) -> bool:
        return GRAPH in self.world.answered

    def drain(self) -> None:
        """Workers answer everything; then each id has its answer, and after the client has left nothing is left."""
        self._let_workers_answer()
        if self.world.sent and self.world.here and any(held is not None for held in self.world.held):
            missing = [_name(task) for task in IDS if task not in self.world.answered]
            if missing:
                raise Violation("GRA-03", f"{', '.join(missing)} never get a terminal answer")
        if self.world.here:
            self.do(("leave",))
        self._let_workers_answer()
        left = {what: count for what, count in (self.core.residue() or {}).items() if count}
        if left:
            raise Violation("LIV-07", f"everybody has answered, the client has left, and the core holds {left}")

    def _let_workers_answer(self) -> None:
        busy = True
        while busy:
            busy = False
            for w, held in enumerate(self.world.held):
                if self.world.cancels[w]:
                    self.do(("answer", w, *self.world.cancels[w][0]))
                    busy = True
                elif held:
                    self.do(("succeed", w, held[0]))
                    busy = True


def explore(entry: str, depth: int) -> Report:
    """Breadth first; the first broken rule has a shortest way to it. Raises SetupFailed."""
    core = load(entry, SETTINGS)
    walk, report = Walk(core), Report()
    started = time.perf_counter()
    level: list[tuple[World, Any, tuple[Action, ...]]] = []
    path: tuple[Action, ...] = ()
    try:
        walk.begin()
        level = [(walk.world, core.snapshot(), ())]
        known = {(core.fingerprint(), walk.world)}
        while level and report.depth < depth:
            found: list[tuple[World, Any, tuple[Action, ...]]] = []
            for world, snapshot, before in level:
                for action in actions(world):
                    path = (*before, action)
                    core.restore(snapshot)
                    walk.world = world
                    walk.do(action)
                    report.transitions += 1
                    key = (core.fingerprint(), walk.world)
                    if key not in known:
                        known.add(key)
                        found.append((walk.world, core.snapshot(), path))
                        walk.drain()
            level = found
            report.depth += 1
            report.states = len(known)
    except Violation as violation:
        report.broken, report.path = violation, path
    report.seconds = time.perf_counter() - started
    return report


def summary(entry: str, report: Report) -> str:
    """What was explored, in lines for people."""
    lines = [
        f"core                  {entry}",
        "world                 one graph (a, b, and c that needs both), one client, two workers",
        f"depth                 {report.depth}",
        f"distinct states       {report.states:,}",
        f"transitions           {report.transitions:,} in {report.seconds:.1f} s",
        f"broken rules          {report.broken or 'none'}",
    ]
    return "\n".join([*lines, *[f"  {number}. {describe(a)}" for number, a in enumerate(report.path, 1)]])


def describe(action: Action) -> str:
    """One line for people."""
    words = [_name(part) if isinstance(part, bytes) else str(part) for part in action]
    return " ".join(words)


def _name(task: bytes) -> str:
    return "the graph" if task == GRAPH else task[:1].decode().lower()
