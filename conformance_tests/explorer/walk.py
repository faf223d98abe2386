"""One step after the other: a peer acts, and what the core sends must be what SPEC.md says, no more and no less.

The rules here are written from SPEC.md sections 5, 6 and 8, not from ``protocol.lifecycle``; each transition is then
compared with the published table (``protocol/lifecycle.json``) and, where the core shows its tasks' states, with
these. The freedom of CAN-07 (to drop a result that overtakes the confirm, and to answer with the confirm) is accepted
where ``Walk.drops_results`` says so: in random walks, but not by the explorer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any, NamedTuple

from conformance_tests.explorer.cores import START, Explorable, Sent
from conformance_tests.explorer.world import (
    AGAIN,
    CLIENT_IDS,
    HERE,
    LEFT,
    LOST,
    LOST_WORKERS_LIMIT,
    NAMES,
    NOBODY,
    OWNERS,
    QUEUE_SIZES,
    TASK_IDS,
    TIMEOUT,
    WORKER_IDS,
    Action,
    Task,
    Worker,
    World,
)
from protocol import lifecycle, messages
from protocol.envelope import NO_TASK
from protocol.messages import Message, TaskCancelConfirmType, TaskResultType

_CANCELED = TaskCancelConfirmType.CANCELED
_FAILED = TaskCancelConfirmType.CANCEL_FAILED
_NOT_FOUND = TaskCancelConfirmType.CANCEL_NOT_FOUND

# Made once: a core may keep what it knows of a message object.
TASKS = tuple(messages.Task(t, CLIENT_IDS[o], b"", b"\1" * 32) for t, o in zip(TASK_IDS, OWNERS, strict=True))
CANCELS = tuple(tuple(messages.TaskCancel(t, messages.TaskCancelFlags(f)) for f in (False, True)) for t in TASK_IDS)
RESULTS = tuple(
    messages.TaskResult(t, kind)
    for t, kind in zip(TASK_IDS, cycle((TaskResultType.SUCCESS, TaskResultType.FAILED, TaskResultType.SUCCESS)))
)
DIED = tuple(messages.TaskResult(t, TaskResultType.FAILED_WORKER_DIED) for t in TASK_IDS)
CONFIRMS = tuple({k: messages.TaskCancelConfirm(t, k) for k in TaskCancelConfirmType} for t in TASK_IDS)
CLIENT_BEAT = messages.ClientHeartbeat()
WORKER_BEATS = tuple(messages.WorkerHeartbeat(queue_size=size) for size in QUEUE_SIZES)
WORKER_BYE, CLIENT_BYE = messages.WorkerDisconnectNotification(), messages.ClientDisconnect()
_NUMBER = {task_id: t for t, task_id in enumerate(TASK_IDS)}
_ECHOES = (messages.ClientHeartbeatEcho, messages.WorkerHeartbeatEcho)
_RESULT_NAME = {TaskResultType.SUCCESS: "success", TaskResultType.FAILED: "failed"}
_CONFIRM_NAME = {_CANCELED: "canceled", _NOT_FOUND: "cancelNotFound", _FAILED: "cancelFailed"}
_ENDS = {_CANCELED: "canceled", _NOT_FOUND: "canceledNotFound"}

Pair = tuple[str, str]


class Expected(NamedTuple):
    """A message that the core must send now, and the requirement that says so."""

    to: bytes
    message: Message
    rule: str
    instead: tuple[Message, ...] = ()
    """What may come in its place."""
    late: int = NOBODY
    """The worker whose confirm it may wait for."""


class Violation(Exception):
    """The core did something else than SPEC.md says."""

    def __init__(self, rule: str, text: str, unanswered: tuple[int, ...] = ()) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule
        self.text = text
        self.unanswered = unanswered
        """The tasks that never get a terminal answer."""


class Step(NamedTuple):
    """For a counterexample: an action, what was said, and what should have come."""

    action: Action
    said: tuple[tuple[str, bytes, Any], ...]
    """(``sent`` by | ``came`` to | ``note``, peer, message)."""
    expected: tuple[Expected, ...]
    explained: tuple[tuple[bytes, Message], ...]
    """Of what came, what had to or could come."""


def _published_rows() -> tuple[dict[Pair, frozenset[str]], frozenset[Pair]]:
    data = json.loads(lifecycle.PATH.read_text())
    rows = {(r["state"], r["event"]): frozenset(r["next"]) for r in data["rows"]}
    return rows, frozenset((i["state"], i["event"]) for i in data["ignored"] if i["possible"])


ROWS, IGNORED = _published_rows()


class Walk:
    """A core and the world around it. ``world`` and the core may be set back between actions."""

    def __init__(self, core: Explorable) -> None:
        self.core = core
        self.world = World()
        self.now = START
        self.lost_workers_limit = LOST_WORKERS_LIMIT
        self.drops_results = False
        """Whether the core may drop a result that overtakes the confirm of a cancel (CAN-07)."""
        self.excused: frozenset[str] = frozenset()
        """Requirements whose missing ``cancelFailed`` is counted in ``missing``, and the walk goes on."""
        self.missing: Counter[str] = Counter()
        self.rows: Counter[Pair] = Counter()
        self.ignored: Counter[Pair] = Counter()
        self.story: list[Step] | None = None
        """Filled while it is a list."""
        self._said: list[tuple[str, bytes, Any]] = []
        self._expected: list[Expected] = []
        self._owed: tuple[Expected, ...] = ()
        self._explained: list[tuple[bytes, Message]] = []

    def begin(self) -> None:
        """Both clients and the first worker register."""
        for identity in CLIENT_IDS:
            self._beat(identity, CLIENT_BEAT)
        self._beat(WORKER_IDS[0], WORKER_BEATS[0])
        self._check_states()

    def do(self, action: Action) -> None:
        """One action; raises Violation."""
        self._said, self._expected, self._owed, self._explained = [], [], (), []
        try:
            getattr(self, f"_{action[0]}")(*action[1:])
            self._check_states()
        finally:
            if self.story is not None:
                self.story.append(Step(action, tuple(self._said), self._owed, tuple(self._explained)))

    # ---- actions ----

    def _submit(self, t: int) -> None:
        self._move(t, "Task", "inactive", submitted=True)
        self.world = self.world._replace(fresh=(*self.world.fresh, t))
        self._send(CLIENT_IDS[OWNERS[t]], TASKS[t])

    def _cancel(self, t: int, force: int) -> None:
        task, client = self.world.tasks[t], CLIENT_IDS[OWNERS[t]]
        task = self._set(t, task._replace(cancels=task.cancels | (2 if force else 1)))
        if task.late != NOBODY:
            pass  # for this scheduler it is still being canceled (CAN-09)
        elif task.state == "unknown":
            self._saw("unknown", "TaskCancel", "unknown")
            self._expect(client, CONFIRMS[t][_NOT_FOUND], "CAN-10")
        elif task.state == "abandoned":
            self._saw("abandoned", "TaskCancel", "abandoned")
            self._expect(client, CONFIRMS[t][_NOT_FOUND], "CAN-10")
        elif task.state == "inactive":
            self._end(t, "TaskCancel", "canceled", CONFIRMS[t][_CANCELED], "CAN-04")
        elif task.state == "running":
            self._move(t, "TaskCancel", "canceling", in_flight=2 if force else 1, forced=bool(force))
            self._expect(WORKER_IDS[task.holder], CANCELS[t][force], "CAN-05")
        else:
            self._move(t, "TaskCancel", "canceling", forced=task.forced or bool(force))
        self._send(client, CANCELS[t][force])

    def _foreignCancel(self, t: int) -> None:  # noqa: N802
        self._strange()
        stranger, state = CLIENT_IDS[1 - OWNERS[t]], self.world.tasks[t].state
        self._saw(state, "TaskCancel" if state == "unknown" else "foreignTaskCancel", state)
        self._expect(stranger, CONFIRMS[t][_NOT_FOUND], "CAN-10" if state == "unknown" else "CAN-11")
        self._send(stranger, CANCELS[t][1])

    def _again(self, t: int) -> None:
        self._strange()
        self._saw(self.world.tasks[t].state, "Task", "")
        self._send(CLIENT_IDS[OWNERS[t]], TASKS[t])

    def _impostor(self, w: int, t: int) -> None:
        self._strange()
        self._saw(self.world.tasks[t].state, "foreignAnswer", "")
        self._send(WORKER_IDS[w], RESULTS[t])

    def _impostorConfirm(self, w: int, t: int, kind: int) -> None:  # noqa: N802
        self._strange()
        self._saw(self.world.tasks[t].state, "foreignAnswer", "")
        self._send(WORKER_IDS[w], CONFIRMS[t][TaskCancelConfirmType(kind)])

    def _unasked(self, w: int, t: int) -> None:
        self._strange()
        self._saw("running", "canceled", "")
        self._send(WORKER_IDS[w], CONFIRMS[t][_CANCELED])

    def _strange(self) -> None:
        self.world = self.world._replace(strange=self.world.strange - 1)

    def _finish(self, w: int) -> None:
        worker = self.world.workers[w]
        t = worker.held[0]
        self._set_worker(w, worker._replace(held=worker.held[1:]))
        task, name = self.world.tasks[t], _RESULT_NAME[RESULTS[t].result_type]
        if task.holder != w:
            self._saw(task.state, "foreignAnswer", "")
        else:
            self._end(t, "TaskResult", name, RESULTS[t], "CAN-07" if task.state == "canceling" else "TSK-01")
        self._send(WORKER_IDS[w], RESULTS[t])

    def _answer(self, w: int, t: int, forced: int) -> None:
        held = self.world.workers[w].held
        if t not in held:
            self._confirm(w, t, forced, _NOT_FOUND)
        elif held[0] == t and not forced:
            self._confirm(w, t, forced, _FAILED)
        else:
            worker = self.world.workers[w]
            self._set_worker(w, worker._replace(held=tuple(h for h in held if h != t)))
            self._confirm(w, t, forced, _CANCELED)

    def _refuse(self, w: int, t: int, forced: int) -> None:
        self._confirm(w, t, forced, _FAILED)

    def _confirm(self, w: int, t: int, forced: int, kind: TaskCancelConfirmType) -> None:
        worker, task = self.world.workers[w], self.world.tasks[t]
        cancels = list(worker.cancels)
        cancels.remove((t, forced))
        held = worker.held
        if next((what for of, what in cancels if of == t), 0) == AGAIN:
            cancels.remove((t, AGAIN))  # its turn has come; after a refusal it is a duplicate (WRK-20)
            held = held if t in held else (*held, t)
        self._set_worker(w, worker._replace(cancels=tuple(cancels), held=held))
        event = _CONFIRM_NAME[kind]
        if task.late == w:
            self._expect_late(t, CONFIRMS[t][kind])
        elif task.holder != w:
            self._saw(task.state, "foreignAnswer", "")
        elif not task.in_flight:
            self._saw(task.state, event, "")
        elif kind is _FAILED:
            self._refused(t, task)
        elif task.state == "balanceCanceling":
            self._move(t, event, "inactive", holder=NOBODY, in_flight=0)
        else:
            rule = "CAN-02" if kind is _CANCELED else "CAN-03"
            self._end(t, event, _ENDS[kind], CONFIRMS[t][kind], rule)
        self._send(WORKER_IDS[w], CONFIRMS[t][kind])

    def _refused(self, t: int, task: Task) -> None:
        if task.state == "balanceCanceling":
            self._move(t, "cancelFailed", "running", in_flight=0)
        elif task.in_flight == 1 and task.forced:
            self._move(t, "cancelFailedUnforced", task.state, in_flight=2)
            self._expect(WORKER_IDS[task.holder], CANCELS[t][1], "CAN-12")
        elif task.state == "abandoned":
            self._set(t, task._replace(in_flight=0))
            self._saw("abandoned", "cancelFailed", "")
        else:
            self._move(t, "cancelFailed", "running", in_flight=0, forced=False)
            self._expect(CLIENT_IDS[OWNERS[t]], CONFIRMS[t][_FAILED], "CAN-06")

    def _register(self, w: int) -> None:
        self._set_worker(w, self.world.workers[w]._replace(presence=HERE))
        self._beat(WORKER_IDS[w], WORKER_BEATS[w])

    def _quit(self, w: int) -> None:
        self._set_worker(w, Worker(LEFT))
        self._worker_lost(w)
        self._send(WORKER_IDS[w], WORKER_BYE)

    def _workerTimeout(self, w: int) -> None:  # noqa: N802
        self._set_worker(w, self.world.workers[w]._replace(presence=LOST))
        self._pass_time()
        self._worker_lost(w)
        self._tick()

    def _worker_lost(self, w: int) -> None:
        for t, task in enumerate(self.world.tasks):
            if task.late == w:
                self._expect_late(t, CONFIRMS[t][_CANCELED])
            if task.holder != w:
                continue
            lost = task.lost + 1
            event = "workerLostLimit" if lost >= self.lost_workers_limit else "workerLost"
            task = self._set(t, task._replace(lost=lost))
            if task.state == "canceling":
                self._end(t, event, "canceled", CONFIRMS[t][_CANCELED], "CAN-08")
            elif task.state == "abandoned":
                self._end(t, event, "canceled", None, "LIV-06")
            elif lost >= self.lost_workers_limit:
                self._end(t, event, "failedWorkerDied", DIED[t], "TSK-07")
            else:
                self._move(t, event, "inactive", holder=NOBODY, in_flight=0)

    def _leave(self, c: int) -> None:
        self._client_lost(c, LEFT)
        self._send(CLIENT_IDS[c], CLIENT_BYE)

    def _clientTimeout(self, c: int) -> None:  # noqa: N802
        clients = list(self.world.clients)
        clients[c] = LOST
        self.world = self.world._replace(clients=tuple(clients))
        self._pass_time()
        self._client_lost(c, LOST)
        self._tick()

    def _client_lost(self, c: int, presence: str) -> None:
        clients = list(self.world.clients)
        clients[c] = presence
        self.world = self.world._replace(clients=tuple(clients))
        for t, task in enumerate(self.world.tasks):
            if OWNERS[t] == c and task.late != NOBODY:
                self._set(t, task._replace(late=NOBODY))
            if OWNERS[t] != c or task.state == "unknown":
                continue
            if task.state == "inactive":
                self._end(t, "clientLost", "canceled", None, "LIV-06")
            elif task.state == "running":
                self._move(t, "clientLost", "abandoned", in_flight=2, forced=True)
                self._expect(WORKER_IDS[task.holder], CANCELS[t][1], "LIV-06")
            else:
                self._move(t, "clientLost", "abandoned", forced=True)

    def _balance(self) -> None:
        self._tick()

    def _pass_time(self) -> None:
        """Everybody who is here heartbeats just before the others have been silent for too long."""
        self.now += TIMEOUT + 1
        for c, presence in enumerate(self.world.clients):
            if presence == HERE:
                self._beat(CLIENT_IDS[c], CLIENT_BEAT)
        for w, worker in enumerate(self.world.workers):
            if worker.presence == HERE:
                self._beat(WORKER_IDS[w], WORKER_BEATS[w])

    # ---- the rules at work ----

    def _set(self, t: int, task: Task) -> Task:
        tasks = list(self.world.tasks)
        tasks[t] = task
        self.world = self.world._replace(tasks=tuple(tasks))
        return task

    def _set_worker(self, w: int, worker: Worker) -> None:
        workers = list(self.world.workers)
        workers[w] = worker
        self.world = self.world._replace(workers=tuple(workers))

    def _move(self, t: int, event: str, state: str, **changes: Any) -> None:
        task = self.world.tasks[t]
        self._saw(task.state, event, state)
        self._set(t, task._replace(state=state, **changes))

    def _end(self, t: int, event: str, end: str, answer: Message | None, rule: str) -> None:
        """The task is over; its client gets the answer, unless it is lost."""
        task = self.world.tasks[t]
        self._saw(task.state, event, end)
        told = answer is not None and task.state != "abandoned"
        ended = task._replace(state="unknown", holder=NOBODY, in_flight=0, forced=False)
        self._set(t, ended._replace(answered=True) if told else ended)
        if t in self.world.fresh:
            self.world = self.world._replace(fresh=tuple(f for f in self.world.fresh if f != t))
        if told:
            assert answer is not None
            client = CLIENT_IDS[OWNERS[t]]
            if self.drops_results and rule == "CAN-07":
                self._expected.append(Expected(client, answer, rule, _answers(t), task.holder))
            else:
                self._expect(client, answer, rule)

    def _expect_late(self, t: int, answer: Message) -> None:
        """Now at the latest the client must be answered whose task's result was dropped."""
        self._set(t, self.world.tasks[t]._replace(answered=True, late=NOBODY))
        self._expected.append(Expected(CLIENT_IDS[OWNERS[t]], answer, "CAN-07", _answers(t)))

    def _saw(self, state: str, event: str, after: str) -> None:
        """A pair of the table; ``after`` is empty where it must be ignored."""
        pair = (state, event)
        if not after and pair in IGNORED:
            self.ignored[pair] += 1
        elif after and after in ROWS.get(pair, ()):
            self.rows[pair] += 1
        else:
            raise Violation("TSK-01", f"the published table has no row {state} + {event} -> {after or 'ignored'}")

    def _expect(self, to: bytes, message: Message, rule: str) -> None:
        self._expected.append(Expected(to, message, rule))

    # ---- the core at work ----

    def _beat(self, identity: bytes, beat: Message) -> None:
        sent = self.core.send(identity, beat, self.now)
        self._note_sent(identity, beat, sent)
        echoes = [to for to, message in sent if isinstance(message, _ECHOES)]
        if echoes != [identity]:
            raise Violation("LIV-02", f"a heartbeat of {NAMES[identity]} must be echoed once, to it")
        self._judge([s for s in sent if not isinstance(s[1], _ECHOES)], False)

    def _send(self, identity: bytes, message: Message) -> None:
        sent = self.core.send(identity, message, self.now)
        self._note_sent(identity, message, sent)
        self._judge(sent, False)

    def _tick(self) -> None:
        sent = self.core.tick(self.now)
        if self.story is not None:
            self._said.append(("note", b"", "time passes"))
            self._said += [("came", to, message) for to, message in sent]
        self._judge(sent, True)

    def _note_sent(self, identity: bytes, message: Message, sent: Sent) -> None:
        if self.story is not None:
            self._said.append(("sent", identity, message))
            self._said += [("came", to, answer) for to, answer in sent]

    def _judge(self, sent: Sent, balancing: bool) -> None:
        expected, self._expected = self._expected, []
        self._owed += tuple(expected)
        for to, message in self._until(sent, lambda: _owed(expected) or self._kept_waiting() is not None):
            found = next(
                (i for i, e in enumerate(expected) if e.to == to and (e.message == message or message in e.instead)),
                None,
            )
            if found is not None:
                del expected[found]
                self._arrives(to, message)
            elif self._is_late(to, message):
                pass
            elif isinstance(message, messages.Task):
                self._dispatched(to, message)
            elif balancing and isinstance(message, messages.TaskCancel):
                self._taken_back(to, message)
            elif expected:
                raise self._unexplained(to, message, expected[0].rule)
            else:
                raise self._unexplained(to, message)
            self._explained.append((to, message))
        for to, message, rule, _, late in expected:
            if late != NOBODY:
                t = _NUMBER[getattr(message, "task_id", NO_TASK)]
                self._set(t, self.world.tasks[t]._replace(answered=False, late=late))
            elif rule in self.excused and _is_refusal(message):
                self.missing[rule] += 1
            else:
                raise Violation(rule, f"{NAMES[to]} must get {show(message)}, and does not")
        if (kept := self._kept_waiting()) is not None:
            t, w = kept
            raise Violation("TSK-05", f"t{t + 1} waits although {NAMES[WORKER_IDS[w]]} has room")

    def _until(self, sent: Sent, owing: Callable[[], bool]) -> Iterator[tuple[bytes, Message]]:
        """What came, and as long as the core owes something and may take its time, what comes later."""
        yield from sent
        later = getattr(self.core, "later", None)
        while later is not None and owing() and (more := later()):
            if self.story is not None:
                self._said += [("came", to, message) for to, message in more]
            yield from more

    def _kept_waiting(self) -> tuple[int, int] | None:
        """A task that waits, and a worker that has room for it."""
        waiting = [t for t, task in enumerate(self.world.tasks) if task.state == "inactive"]
        if waiting:
            for w, worker in enumerate(self.world.workers):
                late = sum(task.late == w for task in self.world.tasks)  # may still take a place
                if worker.presence == HERE and self._load(w) + late < QUEUE_SIZES[w]:
                    return waiting[0], w
        return None

    def _load(self, w: int) -> int:
        return sum(task.holder == w for task in self.world.tasks)

    def _is_late(self, to: bytes, message: Message) -> bool:
        """Whether this is the answer that the result of a canceled task was dropped for."""
        t = _NUMBER.get(getattr(message, "task_id", NO_TASK))
        if t is None or self.world.tasks[t].late == NOBODY or to != CLIENT_IDS[OWNERS[t]] or message not in _answers(t):
            return False
        self._set(t, self.world.tasks[t]._replace(answered=True, late=NOBODY))
        return True

    def _arrives(self, to: bytes, message: Message) -> None:
        if isinstance(message, messages.TaskCancel):
            w = WORKER_IDS.index(to)
            worker = self.world.workers[w]
            entry = (_NUMBER[message.task_id], int(message.flags.force))
            self._set_worker(w, worker._replace(cancels=(*worker.cancels, entry)))

    def _dispatched(self, to: bytes, message: messages.Task) -> None:
        t = _NUMBER.get(message.task_id)
        if t is None or message != TASKS[t]:
            raise Violation("TSK-10", f"{NAMES.get(to, to)} gets {show(message)}, which nobody has sent like this")
        task = self.world.tasks[t]
        w = WORKER_IDS.index(to) if to in WORKER_IDS else NOBODY
        if w == NOBODY or self.world.workers[w].presence != HERE:
            raise Violation("TSK-06", f"t{t + 1} goes to {NAMES.get(to, to)}, who is not registered")
        if task.state != "inactive":
            where = f"is {task.state}" if task.state != "unknown" else "is over"
            raise Violation("TSK-01", f"t{t + 1} goes to {NAMES[to]}, but it {where}")
        if self._load(w) >= QUEUE_SIZES[w]:
            raise Violation("TSK-05", f"t{t + 1} goes to {NAMES[to]}, who is full")
        fresh = self.world.fresh
        if t in fresh:
            if fresh[0] != t:
                raise Violation("TSK-05", f"t{t + 1} goes to {NAMES[to]} before t{fresh[0] + 1}")
            self.world = self.world._replace(fresh=fresh[1:])
        self._move(t, "hasCapacity", "running", holder=w)
        worker = self.world.workers[w]
        unanswered = [what for of, what in worker.cancels if of == t]
        if unanswered:
            if unanswered[-1] != AGAIN:
                self._set_worker(w, worker._replace(cancels=(*worker.cancels, (t, AGAIN))))
        elif t not in worker.held:  # else it is still there from before the worker was lost (WRK-06)
            self._set_worker(w, worker._replace(held=(*worker.held, t)))

    def _taken_back(self, to: bytes, message: messages.TaskCancel) -> None:
        t = _NUMBER.get(message.task_id)
        task = self.world.tasks[t] if t is not None else Task()
        holds = t is not None and task.holder != NOBODY and WORKER_IDS[task.holder] == to
        if t is None or message.flags.force or not holds or task.state != "running":
            raise self._unexplained(to, message, "BAL-01")
        self._move(t, "balance", "balanceCanceling", in_flight=1)
        self._arrives(to, message)

    def _unexplained(self, to: bytes, message: Message, rule: str = "") -> Violation:
        why = "which nothing explains"
        if isinstance(message, (messages.TaskResult, messages.TaskCancelConfirm)):
            t = _NUMBER.get(message.task_id)
            if t is not None and self.world.tasks[t].answered:
                why = "after its terminal answer"
        elif isinstance(message, messages.TaskCancel):
            rule = rule or "CAN-09"
        return Violation(rule or "TSK-01", f"{NAMES.get(to, to)!s} gets {show(message)}, {why}")

    def _check_states(self) -> None:
        states = self.core.states()
        if states is None:
            return
        for t, task in enumerate(self.world.tasks):
            shown = states.get(TASK_IDS[t], "unknown")
            if shown != task.state:
                raise Violation("TSK-01", f"t{t + 1} must be {task.state}, and the core says {shown}")

    # ---- the end ----

    def drain(self) -> None:
        """Workers answer everything, then the clients leave: each task has its answer, and nothing is left."""
        self._let_workers_answer()
        if any(worker.presence == HERE for worker in self.world.workers):
            for t, task in enumerate(self.world.tasks):
                if task.submitted and not task.answered and self.world.clients[OWNERS[t]] == HERE:
                    raise Violation("TSK-01", f"t{t + 1} never gets a terminal answer", (t,))
        for c, presence in enumerate(self.world.clients):
            if presence == HERE:
                self.do(("leave", c))
        self._let_workers_answer()
        left = {what: count for what, count in (self.core.residue() or {}).items() if count}
        if left or any(task.state != "unknown" for task in self.world.tasks):
            what = ", ".join(f"{count} {what}" for what, count in left.items()) or "a task"
            raise Violation("LIV-07", f"all clients have left and all workers have answered, and it holds {what}")

    def _let_workers_answer(self) -> None:
        busy = True
        while busy:
            busy = False
            for w in range(len(WORKER_IDS)):
                while self.world.workers[w].cancels:
                    t, forced = self.world.workers[w].cancels[0]
                    self.do(("answer", w, t, int(forced)))
                    busy = True
                if self.world.workers[w].held:
                    self.do(("finish", w))
                    busy = True


def _answers(t: int) -> tuple[Message, ...]:
    """The terminal answers of which one may come for a task whose result overtook the confirm of its cancel."""
    return RESULTS[t], CONFIRMS[t][_CANCELED], CONFIRMS[t][_NOT_FOUND]


def _owed(expected: list[Expected]) -> bool:
    return any(e.late == NOBODY for e in expected)


def _is_refusal(message: Message) -> bool:
    return isinstance(message, messages.TaskCancelConfirm) and message.cancel_confirm_type is _FAILED


def show(message: Message) -> str:
    """A message in a few words."""
    t = _NUMBER.get(getattr(message, "task_id", NO_TASK))
    name = type(message).__name__
    task = f"t{t + 1}" if t is not None else ""
    if isinstance(message, messages.TaskCancel):
        return f"{name}({task}, {'forced' if message.flags.force else 'unforced'})"
    if isinstance(message, messages.TaskCancelConfirm):
        return f"{name}({task}, {_CONFIRM_NAME[message.cancel_confirm_type]})"
    if isinstance(message, messages.TaskResult):
        return f"{name}({task}, {_RESULT_NAME.get(message.result_type, 'failedWorkerDied')})"
    return f"{name}({task})"
