"""The lifecycle table at work (SPEC section 5): all tasks that are alive, and what happens to them.

Theory of operation. ``happen`` looks an event up in ``protocol.lifecycle.TABLE``, enters the next state of the row and
carries out its actions; or it notes why ``IGNORED`` says that nothing happens. Nothing else changes a task's state.
Each action is a method below, under its name in the table. Who may cause an event is not asked here: the core knows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.identifiers import Identity, TaskId
from protocol.lifecycle import IGNORED, TABLE, TERMINAL, Action, Event, State
from protocol.messages import (
    Kind,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskCancelFlags,
    TaskResult,
    TaskResultType,
)
from protocol.payloads import TaskMetadata
from reference_impl.scheduler.graphs import Graphs
from reference_impl.scheduler.instructions import Send
from reference_impl.scheduler.limits import LONG_TASK_BYTES, Admission, Limits
from reference_impl.scheduler.monitor import state_task
from reference_impl.scheduler.ownership import Ownership
from reference_impl.scheduler.peers import Peers
from reference_impl.scheduler.placement import TaskQueue
from reference_impl.scheduler.records import ClientRecord, DemandingTask, TaskRecord, WorkerRecord, names_of
from reference_impl.scheduler.story import add as add_to_story
from reference_impl.scheduler.turn import Turn

# The attributes of an Enum are slow to look up, and ``happen`` runs three times for each task.
_INACTIVE, _RUNNING, _AS_RESULT_SAYS, _AS_NODE_ENDED = (
    State.INACTIVE, State.RUNNING, State.AS_RESULT_SAYS, State.AS_NODE_ENDED,
)  # fmt: skip
_TASK, _HAS_CAPACITY, _CANCEL = Event.TASK, Event.HAS_CAPACITY, Event.CANCEL
_RESULT_STATES: dict[int, State] = {
    TaskResultType.SUCCESS: State.SUCCESS,
    TaskResultType.FAILED: State.FAILED,
    TaskResultType.FAILED_WORKER_DIED: State.FAILED_WORKER_DIED,
}


class Lifecycle:
    """The tasks of all clients. ``stories``: whether what happens to each is kept for who asks."""

    def __init__(self, turn: Turn, peers: Peers, ownership: Ownership, stories: bool, limits: Limits) -> None:
        self.tasks: dict[TaskId, TaskRecord] = {}
        self.task_bytes = 0
        """Of the messages of these tasks, of the long ones."""
        self.admission = Admission(limits, turn, peers, self, ownership.objects)
        self.queue = TaskQueue()
        self.graphs = Graphs(self, ownership, turn)
        self.ended = dict.fromkeys(TERMINAL, 0)
        """How many tasks have ended in each terminal state since the start."""
        self.room_wanted = False
        """Whether a task has been queued for which tasks of a lower priority may have to be taken back (PRI-11)."""
        self._turn = turn
        self._peers = peers
        self._clients = peers.clients
        self._workers = peers.workers
        self._placement = peers.placement
        self._objects = ownership.objects
        self._stories = stories
        self._accepted_at = turn.now
        self._most_tasks = limits.tasks

    def accept(self, client_id: Identity, envelope: Envelope, checked: bool = False) -> TaskRecord:
        """The record of a new Task, its id not being alive; what happens to it first is the caller's to say. A worker
        must be able to read it: raises MalformedMessage if it is not. Raises Refused if there is no room for it, unless
        that has been ``checked``."""
        metadata, capabilities = envelope.check_task()
        frame, now = envelope.frame, self._turn.now
        client = self._clients.get(client_id)
        if (
            client is None
            or len(client.tasks) >= client.room
            or len(self.tasks) >= self._most_tasks
            or len(frame) > LONG_TASK_BYTES
        ):
            if not checked:
                self.admission.check(client_id, 1, len(frame))
            client = self._peers.client(client_id, now)
        if now > self._accepted_at:
            self._accepted_at = now
        priority = _priority(metadata)
        client_id = client.client_id  # equal, but one for all of its tasks
        if capabilities or priority:
            needs = names_of(capabilities)
            record: TaskRecord = DemandingTask(envelope.task_id, client_id, frame, 0.0, needs, priority)
        else:
            record = TaskRecord(envelope.task_id, client_id, frame, 0.0)
        self.stand_behind(record)
        self.tasks[record.task_id] = client.tasks[record.task_id] = record
        if len(frame) > LONG_TASK_BYTES:
            self._count_bytes(record, client, 1)
        return record

    def stand_behind(self, task: TaskRecord) -> None:
        """Its place in the queue will be behind all that have one."""
        task.accepted_at = self._accepted_at
        if isinstance(task, DemandingTask):
            # Before and after all others, also where the clock stands still: it is compared across queues.
            task.accepted_at = math.nextafter(self._accepted_at, math.inf)
            self._accepted_at = math.nextafter(task.accepted_at, math.inf)

    def rewrite(self, task: TaskRecord, frame: bytes) -> None:
        """The Task of a node, with its inputs."""
        client = self._clients.get(task.client_id)
        self._count_bytes(task, client, -1)
        task.frame = frame
        self._count_bytes(task, client, 1)

    def _count_bytes(self, task: TaskRecord, client: ClientRecord | None, times: int) -> None:
        """If its message is a long one; for the client as long as it is the client's task."""
        size = len(task.frame)
        if size > LONG_TASK_BYTES:
            self.task_bytes += times * size
            if client is not None and task.task_id in client.tasks:
                client.task_bytes += times * size

    def happen(self, task: TaskRecord, event: Event, sender: Identity, envelope: Envelope | None = None) -> None:
        """Carries out one row of the table; ``sender`` and ``envelope`` are what caused the event."""
        before, holder = task.state, task.worker
        row = TABLE[before].get(event)
        if row is None:
            self._ignore(task, event, sender)
            return
        after = row.next
        if after is _AS_RESULT_SAYS or after is _AS_NODE_ENDED:
            assert envelope is not None
            after = _RESULT_STATES[envelope.detail]
        task.state = after
        if self._stories and event is not _TASK:
            worker_id = sender if event is _HAS_CAPACITY else b"" if holder is None else holder.worker_id
            more = "with force" if event is _CANCEL and envelope is not None and envelope.detail else ""
            happened = (event, after, worker_id, self._turn.now, more)
            if task.story is None:  # without a call: this is the busiest place of the scheduler
                task.story = [happened]
            else:
                add_to_story(task.story, happened)
        for action in row.actions:
            _ACTIONS[action](self, task, sender, envelope)
        if self._turn.monitored:
            self._publish(task, task.worker or holder, event, envelope)
        if before is _INACTIVE:
            if event is not _HAS_CAPACITY and after is not _INACTIVE:
                self.queue.leave(task)
        elif after is _RUNNING:
            task.force_wanted = task.force_sent = False  # the cancel that was refused is over
            if before is State.BALANCE_CANCELING and holder is not None:
                holder.refused.add(task.task_id)  # it has started: no use asking again
                self.room_wanted = True
        if task.graph is not None and row.actions[-1:] == (Action.FORGET,):
            self.graphs.ended(task, sender, envelope)

    def refuse(self, to: Identity, task_id: TaskId) -> None:
        """The answer to a TaskCancel of who has no such task."""
        self._turn.answer(to, TaskCancelConfirm(task_id, TaskCancelConfirmType.CANCEL_NOT_FOUND))

    def _ignore(self, task: TaskRecord, event: Event, sender: Identity) -> None:
        ignored = IGNORED[task.state].get(event)
        reason = ignored.because if ignored is not None else "neither in the table nor ignored"
        level = logging.INFO if ignored is not None and ignored.possible else logging.ERROR
        text = f"{event.value[0]} for {task.state.value} task {task.task_id.hex()}: {reason}"
        self._turn.note(sender, text, level)
        if self._stories:
            worker_id = b"" if task.worker is None else task.worker.worker_id
            detail = f"from {sender.decode('ascii', 'backslashreplace')}, ignored: {reason}"
            if task.story is None:
                task.story = []
            add_to_story(task.story, (event, task.state, worker_id, self._turn.now, detail))

    def _publish(self, task: TaskRecord, worker: WorkerRecord | None, event: Event, envelope: Envelope | None) -> None:
        self._turn.publish(state_task(task, worker, event, envelope, self._objects))

    # ---- the actions of the table ----

    def _enqueue(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        self.queue.append(task)
        if task.priority > 0:
            self.room_wanted = True

    def _requeue(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        task.worker = None
        task.force_wanted = task.force_sent = False
        self.queue.put_back(task)
        if task.priority > 0:
            self.room_wanted = True

    def _send_task(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        worker = self._workers[sender]
        before = len(worker.held)
        worker.held[task.task_id] = task
        task.worker = worker
        self._placement.update(worker, before)
        self._turn.out.append(Send(sender, task.envelope))

    def _send_cancel(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        assert task.worker is not None
        if task.worker.worker_id not in self._workers:
            return  # it is being lost just now: with another node, whose loss was one too many for their graph
        task.force_sent = task.force_wanted
        cancel = TaskCancel(task.task_id, TaskCancelFlags(task.force_wanted))
        self._turn.send(task.worker.worker_id, Envelope.of(cancel))

    def _want_force(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        # What is no client's request is the loss of the client, or the failure of another node: always with force.
        if envelope is None or envelope.kind is not Kind.TASK_CANCEL or envelope.detail:
            task.force_wanted = True

    def _forward_result(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        assert envelope is not None
        self._turn.out.append(Send(task.client_id, envelope))

    def _answer_canceled(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        self._turn.answer(task.client_id, TaskCancelConfirm(task.task_id, TaskCancelConfirmType.CANCELED))

    def _answer_not_found(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        self.refuse(task.client_id, task.task_id)

    def _pass_cancel_failed(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        self._turn.answer(task.client_id, TaskCancelConfirm(task.task_id, TaskCancelConfirmType.CANCEL_FAILED))

    def _answer_worker_died(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        self._turn.answer(task.client_id, TaskResult(task.task_id, TaskResultType.FAILED_WORKER_DIED))

    def _answer_node_failed(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        assert envelope is not None
        self.graphs.answer_failed(task, envelope)

    def _refuse_sender(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        self.refuse(sender, task.task_id)

    def _release(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        worker = task.worker
        assert worker is not None
        before = len(worker.held)
        del worker.held[task.task_id]
        if worker.refused:
            worker.refused.discard(task.task_id)
        if worker.announced and not worker.held:
            worker.announced.clear()
        self._placement.update(worker, before)
        task.worker = None

    def _forget(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        del self.tasks[task.task_id]
        client = self._clients.get(task.client_id)
        if len(task.frame) > LONG_TASK_BYTES:
            self._count_bytes(task, client, -1)
        if client is not None:
            client.tasks.pop(task.task_id, None)
            if self._stories:
                client.ended.append((task.task_id, task.accepted_at, task.story or []))
        self.ended[task.state] += 1


def _priority(metadata: bytes) -> int:
    """What cannot be read is for the worker to complain about."""
    if not metadata or metadata[1:5] == bytes(4):
        return 0
    try:
        return TaskMetadata.from_bytes(metadata).priority
    except MalformedMessage:
        return 0


_Act = Callable[[Lifecycle, TaskRecord, Identity, "Envelope | None"], None]

_ACTIONS: dict[Action, _Act] = {
    Action.ENQUEUE: Lifecycle._enqueue,
    Action.REQUEUE: Lifecycle._requeue,
    Action.SEND_TASK: Lifecycle._send_task,
    Action.SEND_CANCEL: Lifecycle._send_cancel,
    Action.SEND_CANCEL_UNFORCED: Lifecycle._send_cancel,
    Action.WANT_FORCE: Lifecycle._want_force,
    Action.FORWARD_RESULT: Lifecycle._forward_result,
    Action.ANSWER_CANCELED: Lifecycle._answer_canceled,
    Action.ANSWER_NOT_FOUND: Lifecycle._answer_not_found,
    Action.ANSWER_WORKER_DIED: Lifecycle._answer_worker_died,
    Action.PASS_CANCEL_FAILED: Lifecycle._pass_cancel_failed,
    Action.ANSWER_NODE_FAILED: Lifecycle._answer_node_failed,
    Action.REFUSE: Lifecycle._refuse_sender,
    Action.RELEASE: Lifecycle._release,
    Action.FORGET: Lifecycle._forget,
}
