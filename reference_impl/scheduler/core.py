"""The scheduler's decisions, without sockets or clocks (SPEC sections 5, 6, 7.1, 8, 13).

Theory of operation. ``receive`` takes one message from one peer, ``tick`` lets time pass; both return instructions
for the shell, in the order in which they must be carried out. A message about a task is classified into a lifecycle
event (is the sender its client? the worker that holds it?), and ``_happen`` looks the event up in
``protocol.lifecycle.TABLE`` and carries out the row. Nothing else changes a task's state. After each message the
queue is emptied into the workers that have room.

A peer speaks only for itself (SEC-01 to SEC-04): what it says about other peers' tasks and objects is ignored, and
noted. Whatever a client caused here is gone when the client is gone and the workers have let go of its tasks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.identifiers import ClientId, Identity, ObjectId, Role, TaskId, WorkerId, owner_digest, role_of
from protocol.lifecycle import IGNORED, TABLE, Action, Event, State
from protocol.messages import (
    ClientDisconnect,
    ClientHeartbeat,
    ClientHeartbeatEcho,
    ClientShutdownResponse,
    DisconnectType,
    InformationRequest,
    Kind,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectMetadata,
    ObjectStorageAddress,
    StateBalanceAdvice,
    StateTask,
    StateWorker,
    Task,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskCancelFlags,
    TaskResult,
    TaskResultType,
    TaskState,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
    WorkerManagerHeartbeat,
    WorkerManagerHeartbeatEcho,
    WorkerState,
)
from protocol.payloads import TaskMetadata
from reference_impl.scheduler import information
from reference_impl.scheduler.balancing import balance, make_room
from reference_impl.scheduler.graphs import Graphs
from reference_impl.scheduler.instructions import DeleteObjects, Instruction, Note, Publish, Send, Stop
from reference_impl.scheduler.managers import Managers
from reference_impl.scheduler.objects import ObjectRegistry
from reference_impl.scheduler.placement import Placement, TaskQueue
from reference_impl.scheduler.records import ClientRecord, DemandingTask, TaskRecord, WorkerRecord, names_of
from reference_impl.scheduler.story import add as add_to_story

_OLDER_NAMES = {Kind.STATE_CLIENT: "disconnectRequest", Kind.PROCESSOR_INITIALIZED: "clientDisconnect"}
"""What peers before 2.7 send under the number of a message that nobody sends to a scheduler."""
_CONFIRM_EVENTS: dict[int, Event] = {
    TaskCancelConfirmType.CANCELED: Event.CONFIRM_CANCELED,
    TaskCancelConfirmType.CANCEL_NOT_FOUND: Event.CONFIRM_NOT_FOUND,
    TaskCancelConfirmType.CANCEL_FAILED: Event.CONFIRM_FAILED,
}
_RESULT_STATES: dict[int, State] = {
    TaskResultType.SUCCESS: State.SUCCESS,
    TaskResultType.FAILED: State.FAILED,
    TaskResultType.FAILED_WORKER_DIED: State.FAILED_WORKER_DIED,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How the scheduler is set. Times are in seconds."""

    storage_address: ObjectStorageAddress
    client_timeout: float = 60.0
    worker_timeout: float = 60.0
    load_balance: float = 1.0  # between balancing rounds; negative: never
    lost_workers_limit: int = 3  # after as many lost workers a task is failedWorkerDied (TSK-07)
    protected: bool = False  # refuses to be shut down by a client
    version: str = ""  # of the implementation, for InformationResponse
    ended_stories: int = 1000  # of each client, kept until it leaves; 0: no stories at all


class SchedulerCore:
    """One scheduler. ``now`` is in seconds on any clock that never goes back."""

    def __init__(self, settings: Settings, now: float) -> None:
        self.settings = settings
        self.started_at = now
        self.monitored = False
        """Whether anybody listens to the monitor stream; the shell sets it."""
        self.tasks: dict[TaskId, TaskRecord] = {}
        self.clients: dict[Identity, ClientRecord] = {}
        self._owners: dict[bytes, ClientRecord] = {}  # the same, by what the ids of their objects begin with
        self.workers: dict[Identity, WorkerRecord] = {}
        self.queue = TaskQueue()
        self.managers = Managers()
        self.objects = ObjectRegistry()
        self.graphs = Graphs(self)
        self.ended: dict[TaskState, int] = {}
        """How many tasks have ended in each terminal state since the start."""
        self.malformed = 0
        """How many messages were dropped because they could not be understood."""
        self._placement = Placement()
        self._accepted_at = now
        self._room_wanted = False
        self._next_balance = now + settings.load_balance
        self._out: list[Instruction] = []
        self._now = now
        self._stories = settings.ended_stories > 0
        self._client_echo = Envelope.of(ClientHeartbeatEcho(settings.storage_address))
        self._worker_echo = Envelope.of(WorkerHeartbeatEcho(settings.storage_address))

    # ---- entry points ----

    def receive(self, sender: Identity, envelope: Envelope, now: float) -> list[Instruction]:
        """One message of one peer."""
        self._out = []
        self._now = now
        client = self.clients.get(sender)
        if client is not None:
            client.last_seen = now
        try:
            handler = _HANDLERS.get(envelope.kind)
            if handler is None:
                self._note(sender, f"{envelope.kind.name} is not for a scheduler{_of_older_peer(envelope.kind)}")
            else:
                handler(self, sender, envelope, now)
        except MalformedMessage as error:
            self._note_malformed(sender, str(error))
        self._fill()
        return self._out

    def receive_malformed(self, sender: Identity, reason: str) -> list[Instruction]:
        """Bytes of a peer that are no message (MAL-01)."""
        self._out = []
        self._note_malformed(sender, reason)
        return self._out

    def tick(self, now: float) -> list[Instruction]:
        """Time has passed: peers that are silent for too long are lost, and work is balanced. Call it each second
        or more often."""
        self._out = []
        self._now = now
        for worker in [w for w in self.workers.values() if now - w.last_seen > self.settings.worker_timeout]:
            self._note(worker.worker_id, f"no heartbeat for {self.settings.worker_timeout} s: lost")
            self._worker_lost(worker)
        for client in [c for c in self.clients.values() if now - c.last_seen > self.settings.client_timeout]:
            self._note(client.client_id, f"silent for {self.settings.client_timeout} s: lost")
            self._client_lost(client)
        for manager in self.managers.forget_silent(now, self.settings.worker_timeout):
            self._note(manager, f"no heartbeat for {self.settings.worker_timeout} s: this worker manager is lost")
        self._fill()
        if self.settings.load_balance >= 0 and now >= self._next_balance:
            self._next_balance = now + self.settings.load_balance
            self._balance()
        return self._out

    # ---- tasks ----

    def _on_task(self, sender: Identity, envelope: Envelope, now: float) -> None:
        if role_of(sender) is not Role.CLIENT or envelope.source != sender:
            self._note(sender, f"a Task in the name of {envelope.source!r}")
            return
        record = self.tasks.get(envelope.task_id)
        if record is not None:
            self._happen(record, Event.TASK, sender)
            return
        if self.graphs.get(envelope.task_id) is not None:
            self._note(sender, f"a Task with the id of the living graph {envelope.task_id.hex()}")
            return
        self._happen(self._new_record(sender, envelope, now), Event.TASK, sender)

    def _new_record(self, client_id: Identity, envelope: Envelope, now: float) -> TaskRecord:
        """Of a Task that a worker must be able to read; raises MalformedMessage if it is not."""
        message = envelope.check()
        assert isinstance(message, Task)
        if now > self._accepted_at:
            self._accepted_at = now
        priority = _priority(message.metadata)
        client = self._client(client_id, now)
        client_id = client.client_id  # equal, but one for all of its tasks
        if message.capabilities or priority:
            needs = names_of(message.capabilities)
            record: TaskRecord = DemandingTask(envelope.task_id, client_id, envelope, 0.0, needs, priority)
        else:
            record = TaskRecord(envelope.task_id, client_id, envelope, 0.0)
        self._stand_behind(record)
        self.tasks[record.task_id] = client.tasks[record.task_id] = record
        return record

    def _stand_behind(self, task: TaskRecord) -> None:
        """Its place in the queue will be behind all that have one."""
        task.accepted_at = self._accepted_at
        if isinstance(task, DemandingTask):
            # Before and after all others, also where the clock stands still: it is compared across queues.
            task.accepted_at = math.nextafter(self._accepted_at, math.inf)
            self._accepted_at = math.nextafter(task.accepted_at, math.inf)

    def _on_cancel(self, sender: Identity, envelope: Envelope, now: float) -> None:
        record = self.tasks.get(envelope.task_id)
        graph = self.graphs.get(envelope.task_id) if record is None else record.graph
        owner = record.client_id if record is not None else graph.client_id if graph is not None else sender
        if owner != sender:
            self._note(sender, f"a TaskCancel for another client's task {envelope.task_id.hex()}")
        if graph is not None and owner == sender:
            self.graphs.cancel(graph, sender, envelope)
        elif record is None:
            self._refuse(sender, envelope.task_id)
        else:
            self._happen(record, Event.CANCEL if owner == sender else Event.FOREIGN_CANCEL, sender, envelope)

    def _on_result(self, sender: Identity, envelope: Envelope, now: float) -> None:
        record = self._held_by(sender, envelope)
        if record is None:
            self._stray_result(sender, envelope)
            return
        message = envelope.check()
        assert isinstance(message, TaskResult)
        if record.worker is not None:
            record.worker.announced.difference_update(message.results)
        if record.state is State.ABANDONED and message.results:
            self._drop_objects(record.client_id, self.objects.owned_by(record.client_id, message.results))
        self.graphs.about_to_fail(record, message)
        self._happen(record, Event.RESULT, sender, envelope)

    def _on_confirm(self, sender: Identity, envelope: Envelope, now: float) -> None:
        record = self._held_by(sender, envelope)
        if record is None:
            return
        event = _CONFIRM_EVENTS[envelope.detail]
        if event is Event.CONFIRM_FAILED and record.force_wanted and not record.force_sent:
            event = Event.CONFIRM_FAILED_UNFORCED
        self._happen(record, event, sender, envelope)

    def _on_log(self, sender: Identity, envelope: Envelope, now: float) -> None:
        record = self.tasks.get(envelope.task_id)
        if record is None or record.worker is None or record.worker.worker_id != sender:
            self._note(sender, f"a TaskLog for task {envelope.task_id.hex()}, which it does not hold", logging.DEBUG)
        elif record.state is not State.ABANDONED:
            envelope.check()
            self._out.append(Send(record.client_id, envelope))

    def _on_graph(self, sender: Identity, envelope: Envelope, now: float) -> None:
        if role_of(sender) is not Role.CLIENT or envelope.source != sender:
            self._note(sender, f"a GraphTask in the name of {envelope.source!r}")
            return
        if envelope.task_id in self.tasks or self.graphs.get(envelope.task_id) is not None:
            self._note(sender, f"a GraphTask with the id {envelope.task_id.hex()}, which is alive")
            return
        self.graphs.accept(sender, envelope, now)

    def _held_by(self, sender: Identity, envelope: Envelope) -> TaskRecord | None:
        """The living task that an answer is about, if its sender holds it (TSK-04)."""
        record = self.tasks.get(envelope.task_id)
        if record is None:
            # Normal after a result that overtook its cancel (CAN-07); noted all the same.
            text = f"{envelope.kind.name} for task {envelope.task_id.hex()}, which is not alive"
            self._note(sender, text, logging.DEBUG)
            return None
        if record.worker is None or record.worker.worker_id != sender:
            self._happen(record, Event.FOREIGN_ANSWER, sender, envelope)
            return None
        return record

    # ---- the lifecycle table at work ----

    def _happen(self, task: TaskRecord, event: Event, sender: Identity, envelope: Envelope | None = None) -> None:
        """Carries out one row of the table; ``sender`` and ``envelope`` are what caused the event."""
        before, holder = task.state, task.worker
        row = TABLE[before].get(event)
        if row is None:
            ignored = IGNORED[before].get(event)
            reason = ignored.because if ignored is not None else "neither in the table nor ignored"
            level = logging.INFO if ignored is not None and ignored.possible else logging.ERROR
            self._note(sender, f"{event.value[0]} for {before.value} task {task.task_id.hex()}: {reason}", level)
            if self._stories:
                self._tell(task, event, f"from {sender.decode('ascii', 'backslashreplace')}, ignored: {reason}")
            return
        after = row.next
        if after is State.AS_RESULT_SAYS or after is State.AS_NODE_ENDED:
            assert envelope is not None
            after = _RESULT_STATES[envelope.detail]
        task.state = after
        for action in row.actions:
            _ACTIONS[action](self, task, sender, envelope)
        if before is State.INACTIVE and event is not Event.HAS_CAPACITY:
            if after is not State.INACTIVE:
                self.queue.leave(task)
        elif after is State.RUNNING and before is not State.INACTIVE:
            task.force_wanted = task.force_sent = False  # the cancel that was refused is over
            if before is State.BALANCE_CANCELING and holder is not None:
                holder.refused.add(task.task_id)  # it has started: no use asking again
                self._room_wanted = True
        if self._stories and event is not Event.TASK:
            # As _tell does it, without the call: this is the busiest place of the scheduler.
            worker = task.worker or holder
            more = "with force" if event is Event.CANCEL and envelope is not None and envelope.detail else ""
            happened = (event, after, b"" if worker is None else worker.worker_id, self._now, more)
            if task.story is None:
                task.story = [happened]
            else:
                add_to_story(task.story, happened)
        if self.monitored:
            self._publish_task(task, task.worker or holder, event, envelope)
        if task.graph is not None and row.actions[-1:] == (Action.FORGET,):
            self.graphs.ended(task, sender, envelope)

    def _tell(self, task: TaskRecord, event: Event, detail: str) -> None:
        """Adds an event that has changed nothing to the story of a task."""
        worker = task.worker
        happened = (event, task.state, b"" if worker is None else worker.worker_id, self._now, detail)
        if task.story is None:
            task.story = [happened]
        else:
            add_to_story(task.story, happened)

    def _enqueue(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        self.queue.append(task)
        self._room_wanted = self._room_wanted or task.priority > 0

    def _requeue(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        task.worker = None
        task.force_wanted = task.force_sent = False
        self.queue.put_back(task)
        self._room_wanted = self._room_wanted or task.priority > 0

    def _send_task(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        worker = self.workers[sender]
        before = len(worker.held)
        worker.held[task.task_id] = task
        task.worker = worker
        self._placement.update(worker, before)
        self._out.append(Send(sender, task.envelope))

    def _send_cancel(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        assert task.worker is not None
        if task.worker.worker_id not in self.workers:
            return  # it is being lost just now: with another node, whose loss was one too many for their graph
        task.force_sent = task.force_wanted
        cancel = TaskCancel(task.task_id, TaskCancelFlags(task.force_wanted))
        self._out.append(Send(task.worker.worker_id, Envelope.of(cancel)))

    def _want_force(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        # What is no client's request is the loss of the client, or the failure of another node: always with force.
        if envelope is None or envelope.kind is not Kind.TASK_CANCEL or envelope.detail:
            task.force_wanted = True

    def _forward_result(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        assert envelope is not None
        self._out.append(Send(task.client_id, envelope))

    def _answer_canceled(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        self._answer(task.client_id, TaskCancelConfirm(task.task_id, TaskCancelConfirmType.CANCELED))

    def _answer_not_found(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        self._answer(task.client_id, TaskCancelConfirm(task.task_id, TaskCancelConfirmType.CANCEL_NOT_FOUND))

    def _pass_cancel_failed(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        self._answer(task.client_id, TaskCancelConfirm(task.task_id, TaskCancelConfirmType.CANCEL_FAILED))

    def _answer_worker_died(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        self._answer(task.client_id, TaskResult(task.task_id, TaskResultType.FAILED_WORKER_DIED))

    def _answer_node_failed(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        assert envelope is not None
        self.graphs.answer_failed(task, envelope)

    def _refuse_sender(self, task: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        self._refuse(sender, task.task_id)

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
        client = self.clients.get(task.client_id)
        if client is not None:
            client.tasks.pop(task.task_id, None)
            if self._stories:
                if task.story is None:
                    task.story = []
                client.ended.append((task.task_id, task.accepted_at, task.story))
        state = task.state.wire
        self.ended[state] = self.ended.get(state, 0) + 1

    def _fill(self) -> None:
        """Gives queued tasks to workers until no worker with room can take one (TSK-05, TSK-12)."""
        following = self.queue.next
        while (pair := following(self._placement)) is not None:
            self._happen(pair[0], Event.HAS_CAPACITY, pair[1].worker_id)
        if self._room_wanted:
            self._make_room()

    def _make_room(self) -> None:
        """Takes back tasks that wait in workers, for tasks of a higher priority that wait here (PRI-11)."""
        self._room_wanted = False
        if self.settings.load_balance >= 0:
            self._take_back(make_room(self.queue.above(), self.workers.values()))

    def _balance(self) -> None:
        self._make_room()  # what has started meanwhile, or is taken back by now, changes what can be done
        self._take_back(balance(self._placement.idle(), list(self.workers.values())))

    def _take_back(self, tasks: list[TaskRecord]) -> None:
        for task in tasks:
            assert task.worker is not None
            if self.monitored:
                self._out.append(Publish(StateBalanceAdvice(task.worker.worker_id, (task.task_id,))))
            self._happen(task, Event.BALANCE, task.worker.worker_id)

    def _answer(self, to: Identity, message: TaskCancelConfirm | TaskResult) -> None:
        self._out.append(Send(to, Envelope.of(message)))

    def _refuse(self, to: Identity, task_id: TaskId) -> None:
        self._answer(to, TaskCancelConfirm(task_id, TaskCancelConfirmType.CANCEL_NOT_FOUND))

    # ---- clients and workers come and go ----

    def _client(self, identity: Identity, now: float) -> ClientRecord:
        client = self.clients.get(identity)
        if client is None:
            client = self.clients[identity] = self._owners[owner_digest(identity)] = ClientRecord(
                identity, now, self.settings.ended_stories
            )
        return client

    def _on_client_heartbeat(self, sender: Identity, envelope: Envelope, now: float) -> None:
        if role_of(sender) is not Role.CLIENT:
            self._note(sender, "a ClientHeartbeat from an identity that is not a client's")
            return
        message = envelope.message
        assert isinstance(message, ClientHeartbeat)
        self._client(sender, now).heartbeat = message
        self._out.append(Send(sender, self._client_echo))

    def _on_worker_heartbeat(self, sender: Identity, envelope: Envelope, now: float) -> None:
        if role_of(sender) is not Role.WORKER:
            self._note(sender, "a WorkerHeartbeat from an identity that is not a worker's")
            return
        message = envelope.message
        assert isinstance(message, WorkerHeartbeat)
        worker = self.workers.get(sender)
        if worker is None:
            worker = self.workers[sender] = WorkerRecord(WorkerId(sender), message, now)
            self._placement.update(worker, None)
            self._publish_worker(worker, WorkerState.CONNECTED)
        worker.heartbeat = message
        worker.last_seen = now
        self._out.append(Send(sender, self._worker_echo))

    def _on_worker_disconnect(self, sender: Identity, envelope: Envelope, now: float) -> None:
        worker = self.workers.get(sender)
        if worker is None:
            self._note(sender, "WorkerDisconnectNotification of a worker that is not registered")
            return
        self._worker_lost(worker)

    def _on_client_disconnect(self, sender: Identity, envelope: Envelope, now: float) -> None:
        message = envelope.message
        assert isinstance(message, ClientDisconnect)
        if role_of(sender) is not Role.CLIENT:
            self._note(sender, "a ClientDisconnect from an identity that is not a client's")
        elif message.disconnect_type is DisconnectType.SHUTDOWN:
            accepted = not self.settings.protected
            self._out.append(Send(sender, Envelope.of(ClientShutdownResponse(accepted))))
            if accepted:
                self._shut_down()
        else:
            client = self.clients.get(sender)
            if client is not None:
                self._client_lost(client)

    def _shut_down(self) -> None:
        """Everything ends: nobody waits for ever for a task, and nothing is left in the object storage (LIV-17)."""
        for task in self.tasks.values():
            if task.state is not State.ABANDONED:
                self._answer(task.client_id, TaskCancelConfirm(task.task_id, TaskCancelConfirmType.CANCELED))
        objects = tuple(object_id for client in self.clients.values() for object_id in client.objects)
        if objects:
            self._out.append(DeleteObjects(objects))
        shutdown = Envelope.of(ClientDisconnect(DisconnectType.SHUTDOWN))
        self._out.extend(Send(worker, shutdown) for worker in self.workers)
        self._out.extend(Send(manager, shutdown) for manager in self.managers.identities())
        self._out.append(Stop())

    def _on_manager_heartbeat(self, sender: Identity, envelope: Envelope, now: float) -> None:
        if role_of(sender) is not Role.OTHER:
            self._note(sender, "a WorkerManagerHeartbeat from an identity that is a client's or a worker's")
            return
        message = envelope.message
        assert isinstance(message, WorkerManagerHeartbeat)
        self._out.append(Send(sender, Envelope.of(WorkerManagerHeartbeatEcho())))
        name = message.worker_manager_id
        if not name:
            return  # no worker can name it as its manager
        before = self.managers.seen(sender, message, now)
        if before is not None:
            self._note(sender, f"it is the worker manager {name!r} from now on, which was {before!r}", logging.WARNING)
        command = self.managers.command(name, self.workers.values(), self.queue.waiting(), now)
        self._out.append(Send(sender, Envelope.of(command)))

    def _worker_lost(self, worker: WorkerRecord) -> None:
        """Each task that it held is lost with it; they go back to the front of the queue in their old order."""
        del self.workers[worker.worker_id]
        self._placement.remove(worker)
        self._publish_worker(worker, WorkerState.DISCONNECTED)
        for task in reversed(worker.held.values()):
            task.lost_workers += 1
            too_often = task.lost_workers >= self.settings.lost_workers_limit
            self._happen(task, Event.WORKER_LOST_LIMIT if too_often else Event.WORKER_LOST, worker.worker_id)
        worker.held, worker.refused = {}, set()
        # What it has stored for clients that left before, and told nobody: it may lie there since the last deletion.
        nobodys = tuple(result for result in worker.announced if result[:16] not in self._owners)
        if nobodys:
            self._out.append(DeleteObjects(nobodys))

    def _client_lost(self, client: ClientRecord) -> None:
        del self.clients[client.client_id], self._owners[owner_digest(client.client_id)]
        self.graphs.client_lost(client.client_id)
        for task in list(client.tasks.values()):
            self._happen(task, Event.CLIENT_LOST, client.client_id)
        self._delete_objects(list(client.objects))

    # ---- objects ----

    def _on_object_instruction(self, sender: Identity, envelope: Envelope, now: float) -> None:
        message = envelope.message
        assert isinstance(message, ObjectInstruction)
        role, owner = role_of(sender), message.object_user or sender
        if role is Role.WORKER:
            self._create_result(sender, owner, message)
            return
        if role is not Role.CLIENT or owner != sender:
            self._note(sender, f"an ObjectInstruction for the objects of {owner!r}")
            return
        client = self.clients.get(sender)
        ids = message.object_metadata.object_ids
        if message.instruction_type is ObjectInstructionType.CREATE:
            created, refused = self.objects.create(sender, message.object_metadata)
            self._client(sender, now).objects.update(created)
            if refused:
                self._note(sender, f"an ObjectInstruction(create) with {refused} ids that are not its own")
            return
        if message.instruction_type is ObjectInstructionType.CLEAR:
            ids = tuple(client.objects) if client is not None else ()
        mine = self.objects.owned_by(sender, ids)
        if len(mine) < len(ids):
            self._note(sender, f"an ObjectInstruction(delete) with {len(ids) - len(mine)} ids that are not its own")
        if client is not None:
            client.objects.difference_update(mine)
        self._delete_objects(mine)

    def _create_result(self, sender: Identity, owner: Identity, message: ObjectInstruction) -> None:
        """A worker may create objects for the client of a task that it holds, nothing else (SEC-03)."""
        worker = self.workers.get(sender)
        holds = worker is not None and any(task.client_id == owner for task in worker.held.values())
        if not holds or message.instruction_type is not ObjectInstructionType.CREATE:
            self._note(sender, f"an ObjectInstruction({message.instruction_type.name}) for {owner!r}")
            return
        assert worker is not None
        worker.announced.update(self.objects.owned_by(owner, message.object_metadata.object_ids))
        client = self.clients.get(owner)
        if client is None:  # it left meanwhile: nobody will fetch this
            self._delete_objects(self.objects.owned_by(owner, message.object_metadata.object_ids))
            return
        client.objects.update(self.objects.create(owner, message.object_metadata)[0])

    def _stray_result(self, sender: Identity, envelope: Envelope) -> None:
        """The results of a worker that was lost meanwhile, or answers twice: they go with their client (OBJ-17)."""
        message = envelope.check()
        if sender not in self.workers or not isinstance(message, TaskResult):
            return
        nobodys: list[ObjectId] = []
        for result in message.results:
            owner = self._owners.get(result[:16])
            if owner is not None:
                owner.objects.add(result)
            else:
                nobodys.append(result)
        if nobodys:
            self._out.append(DeleteObjects(tuple(nobodys)))

    def _track(self, owner: Identity, metadata: ObjectMetadata) -> None:
        """Objects that the scheduler itself makes for a client."""
        client = self.clients.get(owner)
        if client is not None:
            client.objects.update(self.objects.create(owner, metadata)[0])

    def _drop_objects(self, owner: Identity, ids: list[ObjectId]) -> None:
        """Objects of a client that nobody needs any more."""
        client = self.clients.get(owner)
        if client is not None:
            client.objects.difference_update(ids)
        self._delete_objects(ids)

    def _delete_objects(self, ids: list[ObjectId]) -> None:
        if not ids:
            return
        self.objects.forget(ids)
        self._out.append(DeleteObjects(tuple(ids)))
        metadata = ObjectMetadata(object_ids=tuple(ids))
        delete = Envelope.of(ObjectInstruction(ObjectInstructionType.DELETE, b"", metadata))
        self._out.extend(Send(worker, delete) for worker in self.workers)

    # ---- questions and the monitor stream ----

    def _on_information(self, sender: Identity, envelope: Envelope, now: float) -> None:
        message = envelope.message
        assert isinstance(message, InformationRequest)
        self._out.append(Send(sender, Envelope.of(information.answer(self, sender, message, now))))

    def _publish_worker(self, worker: WorkerRecord, state: WorkerState) -> None:
        if self.monitored:
            self._out.append(Publish(StateWorker(worker.worker_id, state, worker.heartbeat.capabilities)))

    def _publish_task(
        self, task: TaskRecord, worker: WorkerRecord | None, event: Event, envelope: Envelope | None
    ) -> None:
        message = task.envelope.check()
        assert isinstance(message, Task)
        used = [ObjectId(message.func_object_id), *(ObjectId(argument.data) for argument in message.function_args)]
        result = envelope.check() if event is Event.RESULT and envelope is not None else None
        self._out.append(
            Publish(
                StateTask(
                    task.task_id,
                    self.objects.name(ObjectId(message.func_object_id)),
                    task.state.wire,
                    worker.worker_id if worker is not None and task.state is not State.INACTIVE else b"",
                    message.capabilities,
                    result.metadata if isinstance(result, TaskResult) else b"",
                    self.objects.size(used),
                    ClientId(task.client_id),
                    event.monitor_name,
                )
            )
        )

    def _note(self, peer: Identity, text: str, level: int = logging.INFO) -> None:
        self._out.append(Note(level, peer, text))

    def _note_malformed(self, peer: Identity, reason: str) -> None:
        self.malformed += 1
        self._note(peer, f"a message that can't be understood: {reason}", logging.WARNING)


_Handler = Callable[[SchedulerCore, Identity, Envelope, float], None]
_Act = Callable[[SchedulerCore, TaskRecord, Identity, "Envelope | None"], None]


def _priority(metadata: bytes) -> int:
    """What cannot be read is for the worker to complain about."""
    if not metadata or metadata[1:5] == bytes(4):
        return 0
    try:
        return TaskMetadata.from_bytes(metadata).priority
    except MalformedMessage:
        return 0


def _of_older_peer(kind: Kind) -> str:
    name = _OLDER_NAMES.get(kind)
    if name is None:
        return ""
    return f"; number {kind.value} is {name} in opengris-scaler before 2.7, this scheduler speaks 2.7.0 to 2.9.0"


_HANDLERS: dict[Kind, _Handler] = {
    Kind.TASK: SchedulerCore._on_task,
    Kind.TASK_CANCEL: SchedulerCore._on_cancel,
    Kind.TASK_RESULT: SchedulerCore._on_result,
    Kind.TASK_CANCEL_CONFIRM: SchedulerCore._on_confirm,
    Kind.TASK_LOG: SchedulerCore._on_log,
    Kind.GRAPH_TASK: SchedulerCore._on_graph,
    Kind.OBJECT_INSTRUCTION: SchedulerCore._on_object_instruction,
    Kind.CLIENT_HEARTBEAT: SchedulerCore._on_client_heartbeat,
    Kind.WORKER_HEARTBEAT: SchedulerCore._on_worker_heartbeat,
    Kind.WORKER_DISCONNECT_NOTIFICATION: SchedulerCore._on_worker_disconnect,
    Kind.CLIENT_DISCONNECT: SchedulerCore._on_client_disconnect,
    Kind.WORKER_MANAGER_HEARTBEAT: SchedulerCore._on_manager_heartbeat,
    Kind.INFORMATION_REQUEST: SchedulerCore._on_information,
}

_ACTIONS: dict[Action, _Act] = {
    Action.ENQUEUE: SchedulerCore._enqueue,
    Action.REQUEUE: SchedulerCore._requeue,
    Action.SEND_TASK: SchedulerCore._send_task,
    Action.SEND_CANCEL: SchedulerCore._send_cancel,
    Action.SEND_CANCEL_UNFORCED: SchedulerCore._send_cancel,
    Action.WANT_FORCE: SchedulerCore._want_force,
    Action.FORWARD_RESULT: SchedulerCore._forward_result,
    Action.ANSWER_CANCELED: SchedulerCore._answer_canceled,
    Action.ANSWER_NOT_FOUND: SchedulerCore._answer_not_found,
    Action.ANSWER_WORKER_DIED: SchedulerCore._answer_worker_died,
    Action.PASS_CANCEL_FAILED: SchedulerCore._pass_cancel_failed,
    Action.ANSWER_NODE_FAILED: SchedulerCore._answer_node_failed,
    Action.REFUSE: SchedulerCore._refuse_sender,
    Action.RELEASE: SchedulerCore._release,
    Action.FORGET: SchedulerCore._forget,
}
