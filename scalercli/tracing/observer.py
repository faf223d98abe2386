"""The life of every task as somebody sees it who only listens, and what breaks SPEC.md on the way.

Theory of operation. The observer moves each task through ``protocol.lifecycle`` by what passes: its owner and its
holder are known, as all their messages pass here. Messages to the scheduler are seen before it handles them, and
messages from it after it sent them, so two that cross look as if they came in the other order. What is called a finding
is therefore only what no crossing explains: it rests on the order on one connection, on messages that cannot be caused
by something that has not passed here yet, or on an echo that proves what had been handled before (TRN-04, TRN-05).

Workers that do not connect through the proxy are not seen; rules that need them are then not judged.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from protocol import messages
from protocol.identifiers import CLIENT_PREFIX, WORKER_PREFIX, Identity
from protocol.lifecycle import TABLE, Event, State
from protocol.messages import DisconnectType, Task, TaskCancelConfirmType, TaskResult, TaskResultType
from protocol.wire import snake
from scalercli.tracing.decode import MALFORMED, Seen

_CANCELED = TaskCancelConfirmType.CANCELED
_FAILED = TaskCancelConfirmType.CANCEL_FAILED
_NOT_FOUND = TaskCancelConfirmType.CANCEL_NOT_FOUND
_RESULT_STATES = {
    TaskResultType.SUCCESS: State.SUCCESS,
    TaskResultType.FAILED: State.FAILED,
    TaskResultType.FAILED_WORKER_DIED: State.FAILED_WORKER_DIED,
}
_CONFIRM_EVENTS = {
    _CANCELED: Event.CONFIRM_CANCELED,
    _NOT_FOUND: Event.CONFIRM_NOT_FOUND,
    _FAILED: Event.CONFIRM_FAILED,
}
_CONFIRM_NAMES = {_CANCELED: "canceled", _NOT_FOUND: "cancelNotFound", _FAILED: "cancelFailed"}
_ENDED_KEPT = 100_000
"""Tasks that have ended and are remembered, so that what comes for them too late is noticed."""
_LOST_SECONDS = 2.0
"""A peer that has been silent for longer may count as lost: what the scheduler then does is not judged."""


class Finding(NamedTuple):
    """Something that SPEC.md forbids. ``number`` is that of the message that shows it, 0: the end of the trace."""

    rule: str
    text: str
    number: int
    task_id: bytes

    def __str__(self) -> str:
        task = f"task {self.task_id.hex()[:8]}: " if self.task_id else ""
        return f"{self.rule}: {task}{self.text}"


@dataclass(slots=True)
class Life:
    """A task, from its Task to its terminal answer. ``owner`` is empty where the client is not seen."""

    task_id: bytes
    owner: Identity
    born: float
    state: State = State.INACTIVE
    since: float = 0.0
    task: Task | None = None
    holder: Identity = b""
    given: set[Identity] = field(default_factory=set)
    """The workers that it was ever sent to."""
    said: dict[Identity, str] = field(default_factory=dict)
    """How a worker has answered: ``result`` or ``canceled``."""
    results: list[tuple[bool, TaskResult]] = field(default_factory=list)
    """What workers sent, and whether the sender was the holder."""
    asked: Counter[Identity] = field(default_factory=Counter)
    """TaskCancels of each client that are not answered yet."""
    cancel_waits: bool = False
    """The owner's TaskCancel passed, and nothing has shown yet in which state it found the task."""
    forced: bool = False
    in_flight: int = 0
    """TaskCancels to the holder that it has not answered."""
    last_forced: bool = False
    confirmed: TaskCancelConfirmType | None = None
    """The last word of a holder about a TaskCancel."""
    refusal_due: bool = False
    """The holder refused, and the owner has not been told."""
    lost: bool = False
    """A holder was lost, or may have been."""
    answer: str = ""
    """The terminal answer, once it has passed."""
    answered: float = 0.0
    loose: bool = False
    """A graph, one of its nodes, or a task whose client is not seen: not judged."""
    times: dict[State, float] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        return not self.answer


@dataclass(slots=True)
class _Peer:
    heard: float = 0.0
    beats: int = 0
    echoes: int = 0
    queue_size: int | None = None
    holding: set[bytes] = field(default_factory=set)
    gone: bool = False
    silence: float = 0.0
    """The longest so far."""


@dataclass(slots=True)
class _Due:
    """A finding, unless something comes before the echo of a heartbeat that ``peer`` has yet to send."""

    rule: str
    text: str
    life: Life
    peer: Identity
    after: int
    then: Identity = b""
    """Whose echo must come after that."""


class Observer:
    """Give it every message in order with ``note``; it adds what it finds to ``Seen.findings``."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.ended: Counter[str] = Counter()
        """Tasks by terminal answer."""
        self.lives: OrderedDict[bytes, Life] = OrderedDict()
        self._peers: dict[Identity, _Peer] = {}
        self._due: list[_Due] = []
        self._seen: Seen | None = None

    def note(self, seen: Seen) -> None:
        """One message that passed."""
        if seen.recorded.storage:
            return
        self._seen = seen
        peer = seen.recorded.peer
        known = self._peers.setdefault(peer, _Peer(seen.recorded.at))
        if seen.recorded.from_peer:
            known.silence = max(known.silence, seen.recorded.at - known.heard)
            known.heard = seen.recorded.at
        if seen.kind == MALFORMED:
            rule = "TRN-03" if len(seen.recorded.frames) != 1 else "MAL-01"
            self._find(rule, f"{seen.sender} sends what is no message: {seen.fields['reason']}", b"")
            return
        side = "from" if seen.recorded.from_peer else "to"
        role = "client" if peer.startswith(CLIENT_PREFIX) else "worker" if peer.startswith(WORKER_PREFIX) else ""
        handler = getattr(self, f"_{snake(seen.kind)}_{side}_{role}", None)
        if handler is not None:
            handler(peer, known, seen.message)

    def alive(self) -> Iterator[Life]:
        """The tasks that have had no terminal answer yet."""
        return (life for life in self.lives.values() if life.alive and not life.loose)

    # ---- clients ----

    def _task_from_client(self, client: Identity, peer: _Peer, task: Task) -> None:
        if task.source != client:
            self._find("SEC-01", "its source is not the client that sends it", task.task_id)
            return
        life = self.lives.get(task.task_id)
        if life is None or not life.alive:
            self._begin(task.task_id, client).task = task

    def _graph_task_from_client(self, client: Identity, peer: _Peer, graph: messages.GraphTask) -> None:
        for task_id in (graph.task_id, *(node.task_id for node in graph.graph)):
            self._begin(task_id, client).loose = True

    def _task_cancel_from_client(self, client: Identity, peer: _Peer, cancel: messages.TaskCancel) -> None:
        life = self.lives.get(cancel.task_id)
        if life is None:
            life = self._begin(cancel.task_id, b"")  # of somebody who is not seen, or of nobody
            life.loose = True
        life.asked[client] += 1
        if client != life.owner or not life.alive:
            return
        life.forced = life.forced or cancel.flags.force
        if life.state is State.INACTIVE:
            life.cancel_waits = True  # what the scheduler does next shows whether it was inactive there, too
        else:
            self._move(life, Event.CANCEL)

    def _client_disconnect_from_client(self, client: Identity, peer: _Peer, bye: messages.ClientDisconnect) -> None:
        if bye.disconnect_type is DisconnectType.DISCONNECT:
            peer.gone = True
            for life in self.lives.values():
                if life.owner == client and life.alive:
                    self._move(life, Event.CLIENT_LOST)
                    self._end(life, "client left")

    def _client_heartbeat_from_client(self, client: Identity, peer: _Peer, beat: object) -> None:
        peer.beats += 1
        peer.gone = False

    def _client_heartbeat_echo_to_client(self, client: Identity, peer: _Peer, echo: object) -> None:
        self._echo(client, peer)

    def _task_result_to_client(self, client: Identity, peer: _Peer, result: TaskResult) -> None:
        life = self.lives.get(result.task_id)
        if life is None or life.loose:
            return
        name = _RESULT_STATES[result.result_type].value
        if client != life.owner:
            self._find("TSK-01", "its result goes to a client that did not submit it", life.task_id)
            return
        if not life.alive:
            self._find("TSK-01", f"a second terminal answer ({name}, after {life.answer})", life.task_id)
            return
        self._check_origin(life, result)
        if life.refusal_due and life.asked[client]:
            text = "the holder's cancelFailed was not passed on before the result"
            self._due.append(_Due("CAN-06", text, life, client, peer.beats))
        life.state, before = State.AS_RESULT_SAYS, life.state
        self._account(life, before)
        life.state = _RESULT_STATES[result.result_type]
        self._end(life, name)

    def _check_origin(self, life: Life, result: TaskResult) -> None:
        if result.result_type is TaskResultType.FAILED_WORKER_DIED or not life.given or self._maybe_lost(life):
            return
        valid = [r for holds, r in life.results if holds]
        foreign = [r for holds, r in life.results if not holds]
        if result in valid:
            return
        if result in foreign:
            self._find("TSK-04", "a TaskResult of a worker that does not hold it was forwarded", life.task_id)
        elif valid:
            self._find("TSK-10", "the TaskResult has other fields than the holder sent", life.task_id)
        elif result.result_type is TaskResultType.SUCCESS and life.holder:
            self._find("TSK-04", "a success that its holder has not sent", life.task_id)

    def _task_cancel_confirm_to_client(
        self, client: Identity, peer: _Peer, confirm: messages.TaskCancelConfirm
    ) -> None:
        life = self.lives.get(confirm.task_id)
        if life is None:
            return
        kind = confirm.cancel_confirm_type
        name = _CONFIRM_NAMES[kind]
        if life.asked[client] == 0 and not (life.loose and not life.owner):
            self._find("CAN-02", f"{name} answers no TaskCancel of this client", life.task_id)
        life.asked[client] = max(0, life.asked[client] - 1)
        self._due = [d for d in self._due if d.life is not life or d.rule != "CAN-06"]
        if life.loose:
            return
        if client != life.owner:
            if kind is not _NOT_FOUND:
                self._find("CAN-11", f"{name} to a client that did not submit it", life.task_id)
        elif kind is _FAILED:
            self._refused(life)
        elif life.alive:
            self._canceled(life, kind, peer)
        elif kind is _CANCELED:
            self._find("TSK-01", f"a second terminal answer ({name}, after {life.answer})", life.task_id)

    def _refused(self, life: Life) -> None:
        if not life.refusal_due and life.given and not self._maybe_lost(life):
            self._find("CAN-06", "cancelFailed, which its holder has not said", life.task_id)
        life.refusal_due = life.forced = False  # the next TaskCancel is a first one (CAN-14)

    def _canceled(self, life: Life, kind: TaskCancelConfirmType, peer: _Peer) -> None:
        name = _CONFIRM_NAMES[kind]
        if life.cancel_waits and life.state is State.INACTIVE:
            self._move(life, Event.CANCEL)
        unexplained = life.confirmed is not kind and not self._maybe_lost(life) and peer.silence < _LOST_SECONDS * 5
        if unexplained and kind is _CANCELED and life.holder:
            self._find("CAN-02", "canceled, which its holder has not said", life.task_id)
        elif unexplained and kind is _NOT_FOUND and (life.holder or not life.given):
            self._find("CAN-02", "cancelNotFound, but the task is alive", life.task_id)
        elif life.confirmed is kind and life.state is State.INACTIVE:
            life.state = State.CANCELING  # it crossed with a balancing one
        self._account(life, life.state)
        life.state = State.CANCELED if kind is _CANCELED else State.CANCELED_NOT_FOUND
        self._end(life, name)

    # ---- workers ----

    def _worker_heartbeat_from_worker(self, worker: Identity, peer: _Peer, beat: messages.WorkerHeartbeat) -> None:
        peer.beats += 1
        if peer.queue_size is None or peer.gone:
            peer.queue_size = beat.queue_size
        peer.gone = False

    def _worker_heartbeat_echo_to_worker(self, worker: Identity, peer: _Peer, echo: object) -> None:
        self._echo(worker, peer)

    def _worker_disconnect_notification_from_worker(self, worker: Identity, peer: _Peer, bye: object) -> None:
        peer.gone = True
        for task_id in peer.holding:
            life = self.lives.get(task_id)
            if life is not None and life.holder == worker:
                life.holder, life.lost = b"", True
                if not life.results:
                    self._move(life, Event.WORKER_LOST)
        peer.holding.clear()

    def _task_to_worker(self, worker: Identity, peer: _Peer, task: Task) -> None:
        life = self.lives.get(task.task_id)
        if life is None:
            life = self._begin(task.task_id, b"")
            life.loose = True
        if not life.alive and not life.loose:
            if life.answer != "client left":
                rule = "CAN-04" if life.answer == "canceled" and not life.given else "TSK-01"
                self._find(rule, f"it is sent to a worker after its terminal answer ({life.answer})", life.task_id)
        elif life.holder and not life.loose and not self._maybe_lost(life):
            self._find("TSK-06", "it is sent to a worker while another one holds it", life.task_id)
        if life.task is not None and life.task != task and not life.loose:
            self._find("TSK-10", "the Task has other fields than its client sent", life.task_id)
        peer.holding.add(task.task_id)
        if peer.queue_size is not None and len(peer.holding) > peer.queue_size:
            text = f"the worker holds {len(peer.holding)} tasks, its queueSize is {peer.queue_size}"
            self._find("TSK-05", text, life.task_id)
        life.holder, life.in_flight, life.confirmed = worker, 0, None
        life.given.add(worker)
        life.said.pop(worker, None)
        self._move(life, Event.HAS_CAPACITY)
        if life.cancel_waits:  # it crossed with the Task
            life.cancel_waits = False
            self._move(life, Event.CANCEL)

    def _task_cancel_to_worker(self, worker: Identity, peer: _Peer, cancel: messages.TaskCancel) -> None:
        life = self.lives.get(cancel.task_id)
        if life is None:
            return
        if worker not in life.given:
            if not life.loose:
                self._find("CAN-05", "TaskCancel to a worker that never got it", life.task_id)
            return
        if worker != life.holder:
            return
        if life.in_flight:
            self._find("CAN-09", "a second TaskCancel to the worker while one is in flight", life.task_id)
        life.in_flight += 1
        life.last_forced = cancel.flags.force
        life.refusal_due = False
        if life.state is State.RUNNING and not cancel.flags.force:
            self._move(life, Event.BALANCE)

    def _task_result_from_worker(self, worker: Identity, peer: _Peer, result: TaskResult) -> None:
        peer.holding.discard(result.task_id)
        life = self.lives.get(result.task_id)
        if life is None:
            return
        holds = life.holder == worker
        life.results.append((holds, result))
        before, life.said[worker] = life.said.get(worker), "result"
        if worker not in life.given:
            self._find("WRK-01", "a TaskResult for a task that this worker never got", life.task_id)
        elif before == "canceled":
            self._find("WRK-12", "a TaskResult after canceled", life.task_id)
        elif before == "result":
            self._find("WRK-01", "a second TaskResult of the same worker", life.task_id)
        elif holds:
            life.holder = b""
            owner = self._peers.get(life.owner)
            if life.alive and not life.loose and not life.in_flight and owner is not None and not owner.gone:
                text = "the TaskResult of its holder is not passed on"
                self._due.append(_Due("TSK-01", text, life, worker, peer.beats, life.owner))

    def _task_cancel_confirm_from_worker(
        self, worker: Identity, peer: _Peer, confirm: messages.TaskCancelConfirm
    ) -> None:
        kind = confirm.cancel_confirm_type
        if kind is not _FAILED:
            peer.holding.discard(confirm.task_id)
        life = self.lives.get(confirm.task_id)
        if life is None:
            return
        if kind is _CANCELED and life.said.get(worker) == "result":
            self._find("CAN-03", "canceled for a task that the worker has answered with a TaskResult", life.task_id)
        if life.holder != worker:
            if kind is _NOT_FOUND and life.said.get(worker) == "result":
                life.confirmed = kind  # CAN-07: a scheduler may answer with this instead of the result
            return
        if not life.in_flight:
            self._find("WRK-07", f"{_CONFIRM_NAMES[kind]} answers no TaskCancel", life.task_id)
            return
        life.in_flight -= 1
        life.confirmed = kind
        event = _CONFIRM_EVENTS[kind]
        if kind is _FAILED:
            if life.state is State.CANCELING:
                if life.forced and not life.last_forced:
                    event = Event.CONFIRM_FAILED_UNFORCED
                else:
                    life.refusal_due = True
            self._move(life, event)
            return
        life.holder = b""
        if kind is _CANCELED:
            life.said[worker] = "canceled"
        if life.state is State.BALANCE_CANCELING:
            self._move(life, event)  # in any other state the answer to the client ends it

    # ---- what all of them need ----

    def _begin(self, task_id: bytes, owner: Identity) -> Life:
        assert self._seen is not None
        at = self._seen.recorded.at
        life = self.lives[task_id] = Life(task_id, owner, at, since=at)
        self.lives.move_to_end(task_id)
        if len(self.lives) > _ENDED_KEPT:
            oldest = next((i for i, one in self.lives.items() if not one.alive or one.loose), None)
            if oldest is not None:
                del self.lives[oldest]
        return life

    def _move(self, life: Life, event: Event) -> None:
        """The table's transition; pairs that are no row change nothing."""
        row = TABLE.get(life.state, {}).get(event)
        if row is not None and row.next is not life.state:
            before, life.state = life.state, row.next
            self._account(life, before)

    def _account(self, life: Life, state: State) -> None:
        assert self._seen is not None
        at = self._seen.recorded.at
        life.times[state] = life.times.get(state, 0.0) + at - life.since
        life.since = at

    def _end(self, life: Life, answer: str) -> None:
        assert self._seen is not None
        life.answer, life.answered = answer, self._seen.recorded.at
        life.task = None  # not needed any more, and the large part
        self.ended[answer] += 1

    def _maybe_lost(self, life: Life) -> bool:
        """Whether the scheduler may have given up the holder."""
        assert self._seen is not None
        holder = self._peers.get(life.holder)
        silent = holder is not None and self._seen.recorded.at - holder.heard > _LOST_SECONDS
        return life.lost or silent or (holder is not None and holder.gone)

    def _echo(self, identity: Identity, peer: _Peer) -> None:
        peer.echoes += 1
        if not self._due:
            return
        left = []
        for due in self._due:
            if due.peer == identity and peer.echoes > due.after:
                if due.then:
                    after = self._peers[due.then].beats
                    left.append(_Due(due.rule, due.text, due.life, due.then, after))
                elif due.rule != "TSK-01" or due.life.alive:
                    self._find(due.rule, due.text, due.life.task_id)
            elif due.rule != "TSK-01" or due.life.alive:
                left.append(due)
        self._due = left

    def _find(self, rule: str, text: str, task_id: bytes) -> None:
        assert self._seen is not None
        finding = Finding(rule, text, self._seen.number, task_id)
        self.findings.append(finding)
        self._seen.findings.append(finding)
