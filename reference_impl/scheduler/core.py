"""The scheduler's decisions, without sockets or clocks (SPEC sections 5, 6, 7.1, 8, 13).

Theory of operation. ``receive`` takes one message from one peer, ``tick`` lets time pass; both return instructions
for the shell, in the order in which they must be carried out. A message about a task is classified here into a
lifecycle event (is the sender its client? the worker that holds it?), which ``lifecycle`` carries out. For the rest
there are ``presence`` (peers that come and go), ``ownership`` (objects) and ``information`` (questions). After each
message ``dispatch`` empties the queue into the workers that have room. ``turn`` is what all of them write to.

A peer speaks only for itself (SEC-01 to SEC-04): what it says about other peers' tasks and objects is ignored, and
noted. Whatever a client caused here is gone when the client is gone and the workers have let go of its tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.identifiers import Identity, Role, role_of
from protocol.lifecycle import Event, State
from protocol.messages import InformationRequest, Kind, TaskCancelConfirmType, TaskResult
from reference_impl.scheduler import information
from reference_impl.scheduler.dispatch import Dispatch
from reference_impl.scheduler.instructions import Instruction
from reference_impl.scheduler.lifecycle import Lifecycle
from reference_impl.scheduler.limits import Budget, Refused
from reference_impl.scheduler.ownership import Ownership
from reference_impl.scheduler.peers import Peers
from reference_impl.scheduler.presence import Presence
from reference_impl.scheduler.records import TaskRecord
from reference_impl.scheduler.settings import Settings
from reference_impl.scheduler.turn import Turn, shown

_OLDER_NAMES = {Kind.STATE_CLIENT: "disconnectRequest", Kind.PROCESSOR_INITIALIZED: "clientDisconnect"}
"""What peers before 2.7 send under the number of a message that nobody sends to a scheduler."""
_CLIENT, _TASK, _RESULT, _ABANDONED = Role.CLIENT, Event.TASK, Event.RESULT, State.ABANDONED  # faster to look up
_CONFIRM_EVENTS: dict[int, Event] = {
    TaskCancelConfirmType.CANCELED: Event.CONFIRM_CANCELED,
    TaskCancelConfirmType.CANCEL_NOT_FOUND: Event.CONFIRM_NOT_FOUND,
    TaskCancelConfirmType.CANCEL_FAILED: Event.CONFIRM_FAILED,
}


class SchedulerCore:
    """One scheduler. ``now`` is in seconds on any clock that never goes back."""

    def __init__(self, settings: Settings, now: float) -> None:
        self.settings = settings
        self.started_at = now
        self.turn = Turn(now)
        self.questions: Budget | None = None
        """What those may ask who are no registered clients, once one has asked something."""
        self.peers = Peers(settings.ended_stories, settings.limits.tasks_per_client)
        self.ownership = Ownership(self.turn, self.peers, settings.limits)
        self.lifecycle = Lifecycle(self.turn, self.peers, self.ownership, settings.ended_stories > 0, settings.limits)
        self.dispatch = Dispatch(self.turn, self.peers, self.lifecycle, settings.load_balance)
        self.presence = Presence(self.turn, settings, self.peers, self.ownership, self.lifecycle)
        self.tasks = self.lifecycle.tasks
        self.queue = self.lifecycle.queue
        self.graphs = self.lifecycle.graphs
        self.clients = self.peers.clients
        self.workers = self.peers.workers
        self.managers = self.presence.managers
        self.objects = self.ownership.objects

    @property
    def monitored(self) -> bool:
        """Whether anybody listens to the monitor stream; the shell sets it."""
        return self.turn.monitored

    @monitored.setter
    def monitored(self, monitored: bool) -> None:
        self.turn.monitored = monitored

    # ---- entry points ----

    def receive(self, sender: Identity, envelope: Envelope, now: float) -> list[Instruction]:
        """One message of one peer."""
        turn = self.turn
        turn.now, turn.out = now, []
        client = self.clients.get(sender)
        if client is not None:
            client.last_seen = now
        try:
            handler = _HANDLERS.get(envelope.kind)
            if handler is None:
                turn.note(sender, f"{envelope.kind.name} is not for a scheduler{_of_older_peer(envelope.kind)}")
            else:
                handler(self, sender, envelope)
        except MalformedMessage as error:
            turn.note_malformed(sender, str(error))
        self.dispatch.fill()
        return turn.out

    def receive_malformed(self, sender: Identity, reason: str) -> list[Instruction]:
        """Bytes of a peer that are no message (MAL-01)."""
        self.turn.begin(self.turn.now)
        self.turn.note_malformed(sender, reason)
        return self.turn.out

    @property
    def unfinished(self) -> bool:
        """Whether ``proceed`` is wanted, as soon as there is nothing more urgent."""
        return self.presence.unfinished

    def proceed(self, now: float) -> list[Instruction]:
        """A piece of what takes long."""
        self.turn.begin(now)
        self.presence.proceed()
        self.dispatch.fill()
        return self.turn.out

    def overflowed(self, peer: Identity) -> list[Instruction]:
        """A peer that can't take what is sent to it: more waits for it than may wait for one."""
        self.turn.begin(self.turn.now)
        self.presence.overflowed(peer)
        self.dispatch.fill()
        return self.turn.out

    def tick(self, now: float) -> list[Instruction]:
        """Time has passed: peers that are silent for too long are lost, and work is balanced. Call it each second
        or more often."""
        self.turn.begin(now)
        self.presence.tick()
        self.dispatch.fill()
        self.dispatch.tick()
        return self.turn.out

    def revoke(self, identities: Iterable[Identity], now: float) -> list[Instruction]:
        """These peers may not take part any more: they are lost (SEC-11)."""
        self.turn.begin(now)
        for identity in identities:
            self.presence.revoked(identity)
        self.dispatch.fill()
        return self.turn.out

    # ---- messages about tasks: which event is it, and may this peer cause it? ----

    def _on_task(self, sender: Identity, envelope: Envelope) -> None:
        if envelope.source != sender or role_of(sender) is not _CLIENT:
            self.turn.note(sender, f"a Task in the name of {shown(envelope.source)}")
            return
        record = self.tasks.get(envelope.task_id)
        if record is None:
            if envelope.task_id in self.graphs.living:
                self.turn.note(sender, f"a Task with the id of the living graph {envelope.task_id.hex()}")
                return
            try:
                record = self.lifecycle.accept(sender, envelope)
            except Refused as refusal:
                self.lifecycle.admission.refuse(sender, envelope.task_id, str(refusal))
                return
        self.lifecycle.happen(record, _TASK, sender)

    def _on_graph(self, sender: Identity, envelope: Envelope) -> None:
        if role_of(sender) is not Role.CLIENT or envelope.source != sender:
            self.turn.note(sender, f"a GraphTask in the name of {shown(envelope.source)}")
            return
        if envelope.task_id in self.tasks or envelope.task_id in self.graphs.living:
            self.turn.note(sender, f"a GraphTask with the id {envelope.task_id.hex()}, which is alive")
            return
        self.graphs.accept(sender, envelope)

    def _on_cancel(self, sender: Identity, envelope: Envelope) -> None:
        record = self.tasks.get(envelope.task_id)
        graph = self.graphs.living.get(envelope.task_id) if record is None else record.graph
        owner = record.client_id if record is not None else graph.client_id if graph is not None else sender
        if owner != sender:
            self.turn.note(sender, f"a TaskCancel for another client's task {envelope.task_id.hex()}")
        if graph is not None and owner == sender:
            self.graphs.cancel(graph, sender, envelope)
        elif record is None:
            self.lifecycle.refuse(sender, envelope.task_id)
        else:
            event = Event.CANCEL if owner == sender else Event.FOREIGN_CANCEL
            self.lifecycle.happen(record, event, sender, envelope)

    def _on_result(self, sender: Identity, envelope: Envelope) -> None:
        record = self._held_by(sender, envelope)
        if record is None:
            self.ownership.stray_result(sender, envelope)
            return
        results = envelope.check_result()
        if record.worker is not None and record.worker.announced:
            record.worker.announced.difference_update(results)
        self.ownership.named(results)
        if record.state is _ABANDONED and results:
            self.ownership.drop(record.client_id, self.ownership.owned_by(record.client_id, results))
        if record.graph is not None:
            message = envelope.check()
            assert isinstance(message, TaskResult)
            self.graphs.about_to_end(record.graph, record, message)
        self.lifecycle.happen(record, _RESULT, sender, envelope)

    def _on_confirm(self, sender: Identity, envelope: Envelope) -> None:
        record = self._held_by(sender, envelope)
        if record is None:
            return
        event = _CONFIRM_EVENTS[envelope.detail]
        if event is Event.CONFIRM_FAILED and record.force_wanted and not record.force_sent:
            event = Event.CONFIRM_FAILED_UNFORCED
        self.lifecycle.happen(record, event, sender, envelope)

    def _on_log(self, sender: Identity, envelope: Envelope) -> None:
        record = self.tasks.get(envelope.task_id)
        if record is None or record.worker is None or record.worker.worker_id != sender:
            text = f"a TaskLog for task {envelope.task_id.hex()}, which it does not hold"
            self.turn.note(sender, text, logging.DEBUG)
        elif record.state is not State.ABANDONED:
            envelope.check()
            self.turn.send(record.client_id, envelope)

    def _held_by(self, sender: Identity, envelope: Envelope) -> TaskRecord | None:
        """The living task that an answer is about, if its sender holds it (TSK-04)."""
        record = self.tasks.get(envelope.task_id)
        if record is None:
            # Normal after a result that overtook its cancel (CAN-07); noted all the same.
            text = f"{envelope.kind.name} for task {envelope.task_id.hex()}, which is not alive"
            self.turn.note(sender, text, logging.DEBUG)
            return None
        if record.worker is None or record.worker.worker_id != sender:
            self.lifecycle.happen(record, Event.FOREIGN_ANSWER, sender, envelope)
            return None
        return record

    # ---- questions ----

    def _on_information(self, sender: Identity, envelope: Envelope) -> None:
        message = envelope.message
        assert isinstance(message, InformationRequest)
        self.turn.send(sender, Envelope.of(information.answer(self, sender, message, self.turn.now)))


def _of_older_peer(kind: Kind) -> str:
    name = _OLDER_NAMES.get(kind)
    if name is None:
        return ""
    return f"; number {kind.value} is {name} in opengris-scaler before 2.7, this scheduler speaks 2.7.0 to 2.9.0"


_Handler = Callable[[SchedulerCore, Identity, Envelope], None]

_HANDLERS: dict[Kind, _Handler] = {
    Kind.TASK: SchedulerCore._on_task,
    Kind.TASK_CANCEL: SchedulerCore._on_cancel,
    Kind.TASK_RESULT: SchedulerCore._on_result,
    Kind.TASK_CANCEL_CONFIRM: SchedulerCore._on_confirm,
    Kind.TASK_LOG: SchedulerCore._on_log,
    Kind.GRAPH_TASK: SchedulerCore._on_graph,
    Kind.INFORMATION_REQUEST: SchedulerCore._on_information,
    Kind.OBJECT_INSTRUCTION: lambda core, *message: core.ownership.instruction(*message),
    Kind.CLIENT_HEARTBEAT: lambda core, *message: core.presence.client_heartbeat(*message),
    Kind.WORKER_HEARTBEAT: lambda core, *message: core.presence.worker_heartbeat(*message),
    Kind.WORKER_MANAGER_HEARTBEAT: lambda core, *message: core.presence.manager_heartbeat(*message),
    Kind.WORKER_DISCONNECT_NOTIFICATION: lambda core, *message: core.presence.worker_disconnect(*message),
    Kind.CLIENT_DISCONNECT: lambda core, *message: core.presence.client_disconnect(*message),
}
