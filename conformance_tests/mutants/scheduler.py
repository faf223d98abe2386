"""Mutants of the scheduler: of the lifecycle table, of the core around it, of its records."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from typing import Any

from conformance_tests.mutants import urgency
from conformance_tests.mutants.model import Mutants, Patcher
from protocol import codec
from protocol.envelope import Envelope
from protocol.identifiers import Role
from protocol.lifecycle import TABLE, Action, Event, State
from protocol.messages import (
    ClientHeartbeatEcho,
    Kind,
    Task,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskResult,
    TaskResultType,
    TaskStory,
    WorkerHeartbeatEcho,
)
from reference_impl.scheduler import core, dispatch, lifecycle, presence
from reference_impl.scheduler.core import SchedulerCore
from reference_impl.scheduler.dispatch import Dispatch
from reference_impl.scheduler.instructions import Publish, Send, Stop
from reference_impl.scheduler.lifecycle import Lifecycle
from reference_impl.scheduler.objects import ObjectRegistry
from reference_impl.scheduler.ownership import Ownership
from reference_impl.scheduler.placement import Fifo, Pool, TaskQueue
from reference_impl.scheduler.presence import Presence

mutant = MUTANTS = Mutants("scheduler")
MUTANTS.extend(urgency.MUTANTS)
_DONE = (Action.RELEASE, Action.FORGET)


# ---- table: queued and running tasks ----


@mutant("CAN-04", "the cancel of a queued task ends it, but is not answered")
def queued_cancel_not_answered(p: Patcher) -> None:
    p.without(State.INACTIVE, Event.CANCEL, Action.ANSWER_CANCELED)


@mutant("CAN-04", "the cancel of a queued task is ignored")
def queued_cancel_ignored(p: Patcher) -> None:
    p.no_row(State.INACTIVE, Event.CANCEL)


@mutant("CAN-03", "the cancel of a queued task is answered with cancelNotFound")
def queued_cancel_not_found(p: Patcher) -> None:
    p.row(State.INACTIVE, Event.CANCEL, State.CANCELED_NOT_FOUND, Action.ANSWER_NOT_FOUND, Action.FORGET)


@mutant("CAN-05", "the cancel of a running task is lost: no TaskCancel goes to the worker")
def running_cancel_lost(p: Patcher) -> None:
    p.without(State.RUNNING, Event.CANCEL, Action.SEND_CANCEL)


@mutant("CAN-05", "the cancel of a running task loses its force")
def running_cancel_unforced(p: Patcher) -> None:
    p.without(State.RUNNING, Event.CANCEL, Action.WANT_FORCE)


@mutant("CAN-02", "the cancel of a running task is answered at once, without asking the worker")
def running_cancel_answered_at_once(p: Patcher) -> None:
    p.row(
        State.RUNNING,
        Event.CANCEL,
        State.CANCELED,
        Action.WANT_FORCE,
        Action.SEND_CANCEL,
        Action.ANSWER_CANCELED,
        *_DONE,
    )


@mutant("CAN-05", "the cancel of a running task is refused with cancelFailed")
def running_cancel_refused(p: Patcher) -> None:
    p.row(State.RUNNING, Event.CANCEL, State.RUNNING, Action.PASS_CANCEL_FAILED)


@mutant("TSK-01", "a result is not passed on to the client")
def result_not_forwarded(p: Patcher) -> None:
    p.without(State.RUNNING, Event.RESULT, Action.FORWARD_RESULT)


@mutant("TSK-01", "a result is passed on twice")
def result_forwarded_twice(p: Patcher) -> None:
    p.also(State.RUNNING, Event.RESULT, Action.FORWARD_RESULT)


@mutant("TSK-06", "a task whose worker is lost is given up at once")
def lost_worker_ends_the_task(p: Patcher) -> None:
    p.row(State.RUNNING, Event.WORKER_LOST, State.FAILED_WORKER_DIED, Action.ANSWER_WORKER_DIED, Action.FORGET)


@mutant("TSK-01", "a task whose worker is lost is forgotten")
def lost_worker_forgets_the_task(p: Patcher) -> None:
    p.row(State.RUNNING, Event.WORKER_LOST, State.CANCELED, Action.FORGET)


@mutant("TSK-07", "a task that has lost too many workers is sent on for ever")
def lost_workers_without_limit(p: Patcher) -> None:
    p.row(State.RUNNING, Event.WORKER_LOST_LIMIT, State.INACTIVE, Action.REQUEUE)


@mutant("TSK-07", "a task that has lost too many workers ends without an answer")
def lost_workers_limit_not_answered(p: Patcher) -> None:
    p.without(State.RUNNING, Event.WORKER_LOST_LIMIT, Action.ANSWER_WORKER_DIED)


@mutant("TSK-07", "one lost worker more than the limit is allowed")
def lost_workers_limit_plus_one(p: Patcher) -> None:
    def raised(self: SchedulerCore) -> None:
        one_more = self.settings.lost_workers_limit + 1
        self.presence._settings = replace(self.settings, lost_workers_limit=one_more)

    _after_init(p, raised)


# ---- table: canceling ----


@mutant("CAN-09", "a second cancel is sent to the worker, too")
def second_cancel_sent(p: Patcher) -> None:
    p.row(State.CANCELING, Event.CANCEL, State.CANCELING, Action.WANT_FORCE, Action.SEND_CANCEL)


@mutant("CAN-13", "the force of a second cancel is lost")
def second_cancel_unforced(p: Patcher) -> None:
    p.without(State.CANCELING, Event.CANCEL, Action.WANT_FORCE)


@mutant("CAN-09", "a second cancel is answered at once with cancelNotFound, the first one later")
def second_cancel_refused(p: Patcher) -> None:
    p.row(State.CANCELING, Event.CANCEL, State.CANCELING, Action.WANT_FORCE, Action.REFUSE)


@mutant("CAN-07", "a result that overtakes the confirm is ignored, and so is the task's end")
def late_result_ignored(p: Patcher) -> None:
    p.no_row(State.CANCELING, Event.RESULT)


@mutant("CAN-07", "a result that overtakes the confirm ends the task without an answer")
def late_result_not_forwarded(p: Patcher) -> None:
    p.without(State.CANCELING, Event.RESULT, Action.FORWARD_RESULT)


@mutant("TSK-01", "a result that overtakes the confirm is answered twice: the result and canceled")
def late_result_answered_twice(p: Patcher) -> None:
    p.also(State.CANCELING, Event.RESULT, Action.ANSWER_CANCELED)


@mutant("TSK-05", "a result that overtakes the confirm never frees the worker's place")
def late_result_keeps_the_place(p: Patcher) -> None:
    p.without(State.CANCELING, Event.RESULT, Action.RELEASE)


@mutant("CAN-02", "the worker's canceled is not passed on")
def canceled_not_passed_on(p: Patcher) -> None:
    p.without(State.CANCELING, Event.CONFIRM_CANCELED, Action.ANSWER_CANCELED)


@mutant("CAN-02", "the worker's canceled is passed on twice")
def canceled_passed_on_twice(p: Patcher) -> None:
    p.also(State.CANCELING, Event.CONFIRM_CANCELED, Action.ANSWER_CANCELED)


@mutant("TSK-05", "a canceled task never frees the worker's place")
def canceled_keeps_the_place(p: Patcher) -> None:
    p.without(State.CANCELING, Event.CONFIRM_CANCELED, Action.RELEASE)


@mutant("CAN-03", "the worker's cancelNotFound is ignored")
def not_found_ignored(p: Patcher) -> None:
    p.no_row(State.CANCELING, Event.CONFIRM_NOT_FOUND)


@mutant("CAN-03", "the worker's cancelNotFound is passed on as canceled")
def not_found_as_canceled(p: Patcher) -> None:
    p.row(State.CANCELING, Event.CONFIRM_NOT_FOUND, State.CANCELED, Action.ANSWER_CANCELED, *_DONE)


@mutant("CAN-03", "after the worker's cancelNotFound the task is queued again")
def not_found_requeues(p: Patcher) -> None:
    p.row(State.CANCELING, Event.CONFIRM_NOT_FOUND, State.INACTIVE, Action.RELEASE, Action.REQUEUE)


@mutant("CAN-06", "the worker's cancelFailed is not passed on")
def failed_not_passed_on(p: Patcher) -> None:
    p.without(State.CANCELING, Event.CONFIRM_FAILED, Action.PASS_CANCEL_FAILED)


@mutant("CAN-14", "after a cancelFailed the task stays canceling, and the next cancel is not sent")
def failed_stays_canceling(p: Patcher) -> None:
    p.row(State.CANCELING, Event.CONFIRM_FAILED, State.CANCELING, Action.PASS_CANCEL_FAILED)


@mutant("CAN-06", "a cancelFailed ends the task")
def failed_ends_the_task(p: Patcher) -> None:
    p.row(State.CANCELING, Event.CONFIRM_FAILED, State.CANCELED_NOT_FOUND, Action.PASS_CANCEL_FAILED, *_DONE)


@mutant("CAN-12", "an unforced refusal is passed on although force is wanted by now")
def refusal_not_escalated(p: Patcher) -> None:
    p.row(State.CANCELING, Event.CONFIRM_FAILED_UNFORCED, State.RUNNING, Action.PASS_CANCEL_FAILED)


@mutant("CAN-12", "an unforced refusal is both passed on and escalated")
def refusal_escalated_and_passed_on(p: Patcher) -> None:
    p.also(State.CANCELING, Event.CONFIRM_FAILED_UNFORCED, Action.PASS_CANCEL_FAILED)


@mutant("CAN-08", "a task that is being canceled goes elsewhere when its worker is lost")
def canceling_worker_lost_requeues(p: Patcher) -> None:
    p.row(State.CANCELING, Event.WORKER_LOST, State.INACTIVE, Action.REQUEUE)


@mutant("CAN-08", "a task that is being canceled ends without an answer when its worker is lost")
def canceling_worker_lost_not_answered(p: Patcher) -> None:
    p.without(State.CANCELING, Event.WORKER_LOST, Action.ANSWER_CANCELED)


@mutant("CAN-08", "the last lost worker of a task that is being canceled gives failedWorkerDied")
def canceling_worker_lost_limit_died(p: Patcher) -> None:
    p.row(State.CANCELING, Event.WORKER_LOST_LIMIT, State.FAILED_WORKER_DIED, Action.ANSWER_WORKER_DIED, Action.FORGET)


# ---- table: who is not the client, and who is gone ----


@mutant("CAN-11", "any client may cancel a running task")
def foreign_cancel_carried_out(p: Patcher) -> None:
    p.entry(TABLE[State.RUNNING], Event.FOREIGN_CANCEL, TABLE[State.RUNNING][Event.CANCEL])


@mutant("CAN-11", "any client may cancel a queued task")
def foreign_cancel_of_queued(p: Patcher) -> None:
    p.entry(TABLE[State.INACTIVE], Event.FOREIGN_CANCEL, TABLE[State.INACTIVE][Event.CANCEL])


@mutant("CAN-11", "the cancel of somebody else's running task is not answered")
def foreign_cancel_silent(p: Patcher) -> None:
    p.without(State.RUNNING, Event.FOREIGN_CANCEL, Action.REFUSE)


@mutant("CAN-11", "the cancel of somebody else's task that is being canceled is not answered")
def foreign_cancel_of_canceling_silent(p: Patcher) -> None:
    p.without(State.CANCELING, Event.FOREIGN_CANCEL, Action.REFUSE)


@mutant("CAN-11", "the cancel of somebody else's task gives its cancel force")
def foreign_cancel_forces(p: Patcher) -> None:
    p.also(State.CANCELING, Event.FOREIGN_CANCEL, Action.WANT_FORCE)


@mutant("LIV-06", "the running tasks of a client that leaves run on")
def client_lost_tasks_run_on(p: Patcher) -> None:
    p.no_row(State.RUNNING, Event.CLIENT_LOST)


@mutant("LIV-06", "the running tasks of a client that leaves are cancelled without force")
def client_lost_unforced(p: Patcher) -> None:
    p.without(State.RUNNING, Event.CLIENT_LOST, Action.WANT_FORCE)


@mutant("LIV-06", "the queued tasks of a client that leaves stay in the queue")
def client_lost_queue_stays(p: Patcher) -> None:
    p.no_row(State.INACTIVE, Event.CLIENT_LOST)


@mutant("LIV-06", "when a client leaves during an unforced cancel, force is not asked for")
def client_lost_while_canceling_unforced(p: Patcher) -> None:
    p.without(State.CANCELING, Event.CLIENT_LOST, Action.WANT_FORCE)


@mutant("LIV-06", "when a client leaves during a cancel, the TaskCancel is sent once more")
def client_lost_while_canceling_sends_again(p: Patcher) -> None:
    p.row(State.CANCELING, Event.CLIENT_LOST, State.ABANDONED, Action.WANT_FORCE, Action.SEND_CANCEL)


@mutant("LIV-06", "the result of a task whose client is lost is sent to it")
def abandoned_result_forwarded(p: Patcher) -> None:
    p.also(State.ABANDONED, Event.RESULT, Action.FORWARD_RESULT)


@mutant("LIV-06", "canceled is sent to a client that is lost")
def abandoned_canceled_answered(p: Patcher) -> None:
    p.also(State.ABANDONED, Event.CONFIRM_CANCELED, Action.ANSWER_CANCELED)


@mutant("LIV-07", "a cancelled task of a lost client keeps its place in the worker")
def abandoned_keeps_the_place(p: Patcher) -> None:
    p.without(State.ABANDONED, Event.CONFIRM_CANCELED, Action.RELEASE)


@mutant("LIV-07", "the result of a task whose client is lost is ignored: the task stays for ever")
def abandoned_result_ignored(p: Patcher) -> None:
    p.no_row(State.ABANDONED, Event.RESULT)


@mutant("LIV-07", "cancelNotFound for a task whose client is lost is ignored")
def abandoned_not_found_ignored(p: Patcher) -> None:
    p.no_row(State.ABANDONED, Event.CONFIRM_NOT_FOUND)


@mutant("LIV-06", "an unforced refusal for a task whose client is lost is not escalated")
def abandoned_refusal_not_escalated(p: Patcher) -> None:
    p.no_row(State.ABANDONED, Event.CONFIRM_FAILED_UNFORCED)


@mutant("LIV-06", "a task whose client is lost is queued again when its worker is lost")
def abandoned_worker_lost_requeues(p: Patcher) -> None:
    p.row(State.ABANDONED, Event.WORKER_LOST, State.INACTIVE, Action.REQUEUE)


@mutant("CAN-10", "the cancel of a task whose client is lost is not answered")
def abandoned_cancel_silent(p: Patcher) -> None:
    p.without(State.ABANDONED, Event.CANCEL, Action.REFUSE)


# ---- table: balancing ----


@mutant("BAL-02", "a task that balancing took back is answered with canceled")
def balance_canceled_answered(p: Patcher) -> None:
    p.row(State.BALANCE_CANCELING, Event.CONFIRM_CANCELED, State.CANCELED, Action.ANSWER_CANCELED, *_DONE)


@mutant("BAL-02", "a task that balancing took back is forgotten")
def balance_canceled_forgotten(p: Patcher) -> None:
    p.row(State.BALANCE_CANCELING, Event.CONFIRM_CANCELED, State.CANCELED, *_DONE)


@mutant("BAL-02", "cancelNotFound to a balancing cancel is ignored: the task is lost")
def balance_not_found_ignored(p: Patcher) -> None:
    p.no_row(State.BALANCE_CANCELING, Event.CONFIRM_NOT_FOUND)


@mutant("BAL-03", "cancelFailed to a balancing cancel is passed on to the client")
def balance_failed_passed_on(p: Patcher) -> None:
    p.row(State.BALANCE_CANCELING, Event.CONFIRM_FAILED, State.RUNNING, Action.PASS_CANCEL_FAILED)


@mutant("BAL-03", "cancelFailed to a balancing cancel is ignored: a later cancel of the client is not sent")
def balance_failed_ignored(p: Patcher) -> None:
    p.no_row(State.BALANCE_CANCELING, Event.CONFIRM_FAILED)


@mutant("BAL-03", "cancelFailed to a balancing cancel queues the task again: it runs twice")
def balance_failed_requeues(p: Patcher) -> None:
    p.row(State.BALANCE_CANCELING, Event.CONFIRM_FAILED, State.INACTIVE, Action.RELEASE, Action.REQUEUE)


@mutant("BAL-04", "a task that is being taken back is canceled when its worker is lost")
def balance_worker_lost_cancels(p: Patcher) -> None:
    p.row(State.BALANCE_CANCELING, Event.WORKER_LOST, State.CANCELED, Action.ANSWER_CANCELED, Action.FORGET)


@mutant("BAL-05", "a client's cancel during balancing sends a second TaskCancel")
def balance_client_cancel_sent(p: Patcher) -> None:
    p.row(State.BALANCE_CANCELING, Event.CANCEL, State.CANCELING, Action.WANT_FORCE, Action.SEND_CANCEL)


@mutant("BAL-05", "a client's cancel during balancing loses its force")
def balance_client_cancel_unforced(p: Patcher) -> None:
    p.without(State.BALANCE_CANCELING, Event.CANCEL, Action.WANT_FORCE)


@mutant("BAL-05", "a client's cancel during balancing is ignored")
def balance_client_cancel_ignored(p: Patcher) -> None:
    p.no_row(State.BALANCE_CANCELING, Event.CANCEL)


@mutant("LIV-06", "when a client leaves during balancing, force is not asked for")
def balance_client_lost_unforced(p: Patcher) -> None:
    p.without(State.BALANCE_CANCELING, Event.CLIENT_LOST, Action.WANT_FORCE)


@mutant("TSK-01", "the result of a task that is being taken back is ignored")
def balance_result_ignored(p: Patcher) -> None:
    p.no_row(State.BALANCE_CANCELING, Event.RESULT)


@mutant("BAL-01", "balancing takes tasks back with force")
def balance_forced(p: Patcher) -> None:
    p.also(State.RUNNING, Event.BALANCE, Action.WANT_FORCE)


@mutant("BAL-06", "balancing takes the oldest task of a worker instead of the newest")
def balance_takes_the_oldest(p: Patcher) -> None:
    def oldest(idle: Any, workers: Any) -> Any:
        found = before(idle, workers)
        return [next(iter(t.worker.held.values())) for t in found]

    before: Any = dispatch.__dict__["balance"]
    p.set(dispatch, "balance", oldest)


# ---- the core: who may say what ----


@mutant("TSK-04", "answers count from any worker, not only from the holder")
def holder_not_checked(p: Patcher) -> None:
    def held_by(self: SchedulerCore, sender: Any, envelope: Envelope) -> Any:
        record = self.tasks.get(envelope.task_id)
        return before(self, sender, envelope) if record is None or record.worker is None else record

    before = SchedulerCore._held_by
    p.set(SchedulerCore, "_held_by", held_by)


@mutant("TSK-04", "a canceled that nobody asked for ends a running task")
def unasked_canceled_counts(p: Patcher) -> None:
    p.row(State.RUNNING, Event.CONFIRM_CANCELED, State.CANCELED, Action.ANSWER_CANCELED, *_DONE)


@mutant("TSK-04", "a cancelNotFound that nobody asked for queues a running task again")
def unasked_not_found_requeues(p: Patcher) -> None:
    p.row(State.RUNNING, Event.CONFIRM_NOT_FOUND, State.INACTIVE, Action.RELEASE, Action.REQUEUE)


@mutant("TSK-04", "a cancelFailed that nobody asked for is passed on")
def unasked_failed_passed_on(p: Patcher) -> None:
    p.row(State.RUNNING, Event.CONFIRM_FAILED, State.RUNNING, Action.PASS_CANCEL_FAILED)


@mutant("TSK-03", "a Task with the id of a living one replaces it")
def duplicate_replaces(p: Patcher) -> None:
    def on_task(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        record = self.tasks.get(envelope.task_id)
        if record is not None and record.state is State.RUNNING and record.client_id == sender:
            del self.tasks[envelope.task_id]
        before(self, sender, envelope)

    before = core._HANDLERS[Kind.TASK]
    p.entry(core._HANDLERS, Kind.TASK, on_task)


@mutant("TSK-03", "a Task with the id of a living one is answered with failed")
def duplicate_answered(p: Patcher) -> None:
    def on_task(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        if envelope.task_id in self.tasks:
            self.turn.out.append(Send(sender, Envelope.of(TaskResult(envelope.task_id, TaskResultType.FAILED))))
        before(self, sender, envelope)

    before = core._HANDLERS[Kind.TASK]
    p.entry(core._HANDLERS, Kind.TASK, on_task)


@mutant("SEC-01", "the source of a Task is not compared with its sender")
def source_not_checked(p: Patcher) -> None:
    def on_task(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        envelope.source = sender
        before(self, sender, envelope)

    before = core._HANDLERS[Kind.TASK]
    p.entry(core._HANDLERS, Kind.TASK, on_task)


@mutant("SEC-01", "a Task is taken in the name of the client that it names, whoever sends it")
def source_believed(p: Patcher) -> None:
    def on_task(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        before(self, envelope.source, envelope)

    before = core._HANDLERS[Kind.TASK]
    p.entry(core._HANDLERS, Kind.TASK, on_task)


@mutant("CAN-10", "the cancel of an unknown id is not answered")
def unknown_cancel_silent(p: Patcher) -> None:
    def on_cancel(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        if envelope.task_id in self.tasks:
            before(self, sender, envelope)

    before = core._HANDLERS[Kind.TASK_CANCEL]
    p.entry(core._HANDLERS, Kind.TASK_CANCEL, on_cancel)


@mutant("CAN-10", "the cancel of an unknown id is answered with canceled")
def unknown_cancel_canceled(p: Patcher) -> None:
    def refuse(self: Lifecycle, to: Any, task_id: Any) -> None:
        self._turn.answer(to, TaskCancelConfirm(task_id, TaskCancelConfirmType.CANCELED))

    p.set(Lifecycle, "refuse", refuse)


@mutant("TSK-11", "a TaskLog is passed on from anybody")
def log_from_anybody(p: Patcher) -> None:
    def on_log(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        record = self.tasks.get(envelope.task_id)
        if record is not None:
            self.turn.out.append(Send(record.client_id, envelope))

    p.entry(core._HANDLERS, Kind.TASK_LOG, on_log)


@mutant("TSK-11", "a TaskLog is not passed on")
def log_dropped(p: Patcher) -> None:
    p.drop(core._HANDLERS, Kind.TASK_LOG)


@mutant("TSK-10", "a Task loses its metadata on the way to the worker")
def task_metadata_lost(p: Patcher) -> None:
    def send(self: Lifecycle, task: Any, sender: Any, envelope: Any) -> None:
        message = task.envelope.check()
        assert isinstance(message, Task)
        stripped = Task(message.task_id, message.source, b"", message.func_object_id, message.function_args)
        task.frame = codec.encode(stripped)
        before(self, task, sender, envelope)

    before = lifecycle._ACTIONS[Action.SEND_TASK]
    p.entry(lifecycle._ACTIONS, Action.SEND_TASK, send)


@mutant("TSK-10", "a result loses its metadata on the way to the client")
def result_metadata_lost(p: Patcher) -> None:
    def forward(self: Lifecycle, task: Any, sender: Any, envelope: Any) -> None:
        message = envelope.check()
        before(self, task, sender, Envelope.of(TaskResult(message.task_id, message.result_type, b"", message.results)))

    before = lifecycle._ACTIONS[Action.FORWARD_RESULT]
    p.entry(lifecycle._ACTIONS, Action.FORWARD_RESULT, forward)


@mutant("TSK-10", "a failed task is reported as a success")
def failed_as_success(p: Patcher) -> None:
    def forward(self: Lifecycle, task: Any, sender: Any, envelope: Any) -> None:
        message = envelope.check()
        success = TaskResult(message.task_id, TaskResultType.SUCCESS, message.metadata, message.results)
        before(self, task, sender, Envelope.of(success))

    before = lifecycle._ACTIONS[Action.FORWARD_RESULT]
    p.entry(lifecycle._ACTIONS, Action.FORWARD_RESULT, forward)


@mutant("TSK-01", "the client of a canceled task gets its answer at the moment when the next message comes")
def answers_late(p: Patcher) -> None:
    def receive(self: SchedulerCore, sender: Any, envelope: Envelope, now: float) -> Any:
        late: list[Any] = getattr(self, "_late", [])
        out = before(self, sender, envelope, now)
        self._late = [i for i in out if isinstance(i, Send) and i.envelope.kind is Kind.TASK_CANCEL_CONFIRM]  # type: ignore[attr-defined]
        return [*(i for i in out if i not in self._late), *late]  # type: ignore[attr-defined]

    before = SchedulerCore.receive
    p.set(SchedulerCore, "receive", receive)


# ---- the core: placement ----


@mutant("TSK-05", "a worker is given one task more than its queueSize")
def queue_size_plus_one(p: Patcher) -> None:
    def heartbeat(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        new = sender not in self.workers
        before(self, sender, envelope)
        if new and sender in self.workers:
            worker = self.workers[sender]
            worker.queue_size += 1
            self.peers.placement.update(worker, len(worker.held))

    before = core._HANDLERS[Kind.WORKER_HEARTBEAT]
    p.entry(core._HANDLERS, Kind.WORKER_HEARTBEAT, heartbeat)


@mutant("LIV-03", "queueSize is taken from each heartbeat")
def queue_size_follows_heartbeats(p: Patcher) -> None:
    def heartbeat(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        before(self, sender, envelope)
        worker = self.workers.get(sender)
        if worker is not None:
            worker.queue_size = worker.heartbeat.queue_size
            self.peers.placement.update(worker, len(worker.held))

    before = core._HANDLERS[Kind.WORKER_HEARTBEAT]
    p.entry(core._HANDLERS, Kind.WORKER_HEARTBEAT, heartbeat)


@mutant("TSK-05", "the task that was accepted last is sent first")
def last_in_first_out(p: Patcher) -> None:
    p.set(Fifo, "append", lambda self, task: self._tasks.appendleft(task))


@mutant("TSK-08", "a task that comes back goes to the end of the queue")
def requeued_at_the_end(p: Patcher) -> None:
    p.set(TaskQueue, "put_back", TaskQueue.append)


@mutant("TSK-06", "the tasks of a lost worker come back in reverse order")
def lost_tasks_reversed(p: Patcher) -> None:
    def lost(self: Presence, worker: Any) -> None:
        worker.held = dict(reversed(worker.held.items()))
        before(self, worker)

    before = Presence._worker_lost
    p.set(Presence, "_worker_lost", lost)


@mutant("TSK-09", "the worker with the most tasks that has room gets the next one")
def most_loaded_first(p: Patcher) -> None:
    def most_loaded(self: Pool) -> Any:
        return next((next(iter(b.values())) for b in reversed(self._by_load) if b), None)

    p.set(Pool, "least_loaded", most_loaded)


@mutant("TSK-05", "a place that becomes free is filled only when the next Task comes")
def freed_place_waits(p: Patcher) -> None:
    def receive(self: SchedulerCore, sender: Any, envelope: Envelope, now: float) -> Any:
        self.dispatch._may_fill = envelope.kind in (Kind.TASK, Kind.WORKER_HEARTBEAT)  # type: ignore[attr-defined]
        return receive_before(self, sender, envelope, now)

    def fill(self: Dispatch) -> None:
        if getattr(self, "_may_fill", True):
            fill_before(self)

    receive_before, fill_before = SchedulerCore.receive, Dispatch.fill
    p.set(SchedulerCore, "receive", receive)
    p.set(Dispatch, "fill", fill)


@mutant("TSK-05", "a canceled task in the middle of the queue stops the queue")
def canceled_task_blocks_the_queue(p: Patcher) -> None:
    def length(self: Fifo) -> int:
        return 0 if self._tasks and self._tasks[0].state is not State.INACTIVE else len(self._tasks)

    p.set(Fifo, "__len__", length)


# ---- the core: coming and going ----


@mutant("LIV-02", "heartbeats of clients are not echoed")
def client_not_echoed(p: Patcher) -> None:
    def heartbeat(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        before(self, sender, envelope)
        if self.turn.out and isinstance(self.turn.out[-1], Send):
            self.turn.out.pop()

    before = core._HANDLERS[Kind.CLIENT_HEARTBEAT]
    p.entry(core._HANDLERS, Kind.CLIENT_HEARTBEAT, heartbeat)


@mutant("LIV-02", "the echo to a client does not name the object storage")
def client_echo_empty(p: Patcher) -> None:
    _after_init(p, lambda self: setattr(self.presence, "_client_echo", Envelope.of(ClientHeartbeatEcho())))


@mutant("LIV-04", "the echo to a worker does not name the object storage")
def worker_echo_empty(p: Patcher) -> None:
    _after_init(p, lambda self: setattr(self.presence, "_worker_echo", Envelope.of(WorkerHeartbeatEcho())))


@mutant("LIV-04", "only the first heartbeat of a worker is echoed")
def worker_echoed_once(p: Patcher) -> None:
    def heartbeat(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        known = sender in self.workers
        before(self, sender, envelope)
        if known:
            echo = self.presence._worker_echo
            self.turn.out = [i for i in self.turn.out if not (isinstance(i, Send) and i.envelope is echo)]

    before = core._HANDLERS[Kind.WORKER_HEARTBEAT]
    p.entry(core._HANDLERS, Kind.WORKER_HEARTBEAT, heartbeat)


@mutant("LIV-05", "silent workers are never lost")
def workers_never_time_out(p: Patcher) -> None:
    _keep_fresh(p, lambda self: self.workers)


@mutant("LIV-05", "silent clients are never lost")
def clients_never_time_out(p: Patcher) -> None:
    _keep_fresh(p, lambda self: self.clients)


@mutant("LIV-05", "any message keeps a worker, not only heartbeats")
def any_message_keeps_a_worker(p: Patcher) -> None:
    def receive(self: SchedulerCore, sender: Any, envelope: Envelope, now: float) -> Any:
        if sender in self.workers:
            self.workers[sender].last_seen = now
        return before(self, sender, envelope, now)

    before = SchedulerCore.receive
    p.set(SchedulerCore, "receive", receive)


@mutant("LIV-05", "only heartbeats keep a client, not its other messages")
def only_heartbeats_keep_a_client(p: Patcher) -> None:
    def receive(self: SchedulerCore, sender: Any, envelope: Envelope, now: float) -> Any:
        client = self.clients.get(sender)
        seen = client.last_seen if client is not None else now
        out = before(self, sender, envelope, now)
        if client is not None and envelope.kind is not Kind.CLIENT_HEARTBEAT:
            client.last_seen = seen
        return out

    before = SchedulerCore.receive
    p.set(SchedulerCore, "receive", receive)


@mutant("LIV-05", "peers are lost after half their timeout")
def timeouts_halved(p: Patcher) -> None:
    def tick(self: SchedulerCore, now: float) -> Any:
        for worker in self.workers.values():
            if now - worker.last_seen > self.settings.worker_timeout / 2:
                worker.last_seen = now - 2 * self.settings.worker_timeout
        return before(self, now)

    before = SchedulerCore.tick
    p.set(SchedulerCore, "tick", tick)


@mutant("LIV-08", "a WorkerDisconnectNotification is ignored")
def worker_disconnect_ignored(p: Patcher) -> None:
    p.drop(core._HANDLERS, Kind.WORKER_DISCONNECT_NOTIFICATION)


@mutant("LIV-08", "a worker that was lost and registers again still counts as holding its tasks")
def returning_worker_keeps_its_load(p: Patcher) -> None:
    def lost(self: Presence, worker: Any) -> None:
        self._gone = {**getattr(self, "_gone", {}), worker.worker_id: len(worker.held)}  # type: ignore[attr-defined]
        lost_before(self, worker)

    def heartbeat(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        new = sender not in self.workers
        heartbeat_before(self, sender, envelope)
        if new and sender in self.workers:
            worker = self.workers[sender]
            worker.queue_size -= getattr(self.presence, "_gone", {}).get(sender, 0)
            self.peers.placement.remove(worker)
            self.peers.placement.update(worker, None)

    lost_before, heartbeat_before = Presence._worker_lost, core._HANDLERS[Kind.WORKER_HEARTBEAT]
    p.set(Presence, "_worker_lost", lost)
    p.entry(core._HANDLERS, Kind.WORKER_HEARTBEAT, heartbeat)


@mutant("LIV-10", "a protected scheduler ends when a client asks for it")
def protection_ignored(p: Patcher) -> None:
    def on_disconnect(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        before(self, sender, envelope)
        if any(isinstance(i, Send) and i.envelope.kind is Kind.CLIENT_SHUTDOWN_RESPONSE for i in self.turn.out):
            self.turn.out.append(Stop())

    before = core._HANDLERS[Kind.CLIENT_DISCONNECT]
    p.entry(core._HANDLERS, Kind.CLIENT_DISCONNECT, on_disconnect)


@mutant("LIV-10", "a request to shut down is not answered")
def shutdown_not_answered(p: Patcher) -> None:
    _not_sent(p, Kind.CLIENT_DISCONNECT, Kind.CLIENT_SHUTDOWN_RESPONSE)


@mutant("LIV-11", "workers are not told of the shutdown")
def shutdown_not_told_to_workers(p: Patcher) -> None:
    _not_sent(p, Kind.CLIENT_DISCONNECT, Kind.CLIENT_DISCONNECT)


@mutant("LIV-07", "a client that leaves stays in the scheduler's records")
def client_record_leaks(p: Patcher) -> None:
    def lost(self: Presence, client: Any, **how: Any) -> None:
        before(self, client, **how)
        self._peers.clients[client.client_id] = copy.copy(client)

    before = Presence._client_lost
    p.set(Presence, "_client_lost", lost)


@mutant("LIV-07", "the records of a client's objects stay when it leaves")
def object_records_leak(p: Patcher) -> None:
    p.set(ObjectRegistry, "forget", lambda self, object_ids: None)


# ---- objects, questions, the monitor stream, malformed messages ----


@mutant("LIV-06", "the objects of a client that leaves are not deleted")
def objects_outlive_their_client(p: Patcher) -> None:
    def lost(self: Presence, client: Any, **how: Any) -> None:
        client.objects = set()
        before(self, client, **how)

    before = Presence._client_lost
    p.set(Presence, "_client_lost", lost)


@mutant("OBJ-05", "workers are not told that objects are deleted")
def workers_keep_objects(p: Patcher) -> None:
    def delete(self: Ownership, ids: Any) -> None:
        start = len(self._turn.out)
        before(self, ids)
        self._turn.out[start:] = [i for i in self._turn.out[start:] if not isinstance(i, Send)]

    before = Ownership.delete
    p.set(Ownership, "delete", delete)


@mutant("SEC-02", "a client may delete the objects of others")
def anybody_deletes_objects(p: Patcher) -> None:
    p.set(ObjectRegistry, "owned_by", staticmethod(lambda owner, object_ids: list(object_ids)))


@mutant("OBJ-06", "clear deletes nothing")
def clear_ignored(p: Patcher) -> None:
    def instruction(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        message: Any = envelope.message
        if message.instruction_type.name != "CLEAR":
            before(self, sender, envelope)

    before = core._HANDLERS[Kind.OBJECT_INSTRUCTION]
    p.entry(core._HANDLERS, Kind.OBJECT_INSTRUCTION, instruction)


@mutant("OBJ-08", "result objects of a lost client are not deleted")
def results_of_lost_clients_stay(p: Patcher) -> None:
    def on_result(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        record = self.tasks.get(envelope.task_id)
        if record is not None and record.state is State.ABANDONED:
            envelope = Envelope.of(TaskResult(envelope.task_id, TaskResultType(envelope.detail)))
        before(self, sender, envelope)

    before = core._HANDLERS[Kind.TASK_RESULT]
    p.entry(core._HANDLERS, Kind.TASK_RESULT, on_result)


@mutant("SEC-03", "a worker may create objects for any client")
def worker_creates_for_anybody(p: Patcher) -> None:
    def create(self: Ownership, sender: Any, owner: Any, message: Any) -> None:
        self.track(owner, message.object_metadata)

    p.set(Ownership, "_create_result", create)


@mutant("GRA-03", "a GraphTask is dropped without an answer")
def graph_dropped(p: Patcher) -> None:
    p.drop(core._HANDLERS, Kind.GRAPH_TASK)


@mutant("LIV-17", "a shutdown leaves the tasks of clients without an answer")
def shutdown_answers_nobody(p: Patcher) -> None:
    def shut_down(self: Presence) -> None:
        self._lifecycle.tasks.clear()
        before(self)

    before = Presence._shut_down
    p.set(Presence, "_shut_down", shut_down)


@mutant("OBJ-17", "the results of a worker that lost its task are forgotten")
def stray_results_forgotten(p: Patcher) -> None:
    p.set(Ownership, "stray_result", lambda self, sender, envelope: None)


@mutant("INF-08", "the story of a task leaves out what its worker answered")
def story_without_answers(p: Patcher) -> None:
    def add(story: Any, happened: Any) -> None:
        if happened[0] is not Event.CONFIRM_FAILED:
            story.append(happened)

    p.set(lifecycle, "add_to_story", add)


@mutant("INF-09", "the stories of a client that is lost are still told")
def stories_survive(p: Patcher) -> None:
    from reference_impl.scheduler import information, story

    def told(*args: Any) -> Any:
        known[args[0]] = answer = before(*args)
        return answer

    known: dict[Any, Any] = {}
    before = story.told
    p.set(information, "told", told)
    p.set(information, "TaskStory", lambda task_id: known.get(task_id) or TaskStory(task_id))


@mutant("MON-09", "the announced sizes are not added up")
def no_object_bytes(p: Patcher) -> None:
    p.set(ObjectRegistry, "size", lambda self, object_ids: sum(1 for _ in object_ids))


@mutant("MON-09", "names of functions are not published")
def no_function_names(p: Patcher) -> None:
    p.set(ObjectRegistry, "name", lambda self, object_id: b"")


@mutant("INF-01", "questions are not answered")
def information_silent(p: Patcher) -> None:
    p.drop(core._HANDLERS, Kind.INFORMATION_REQUEST)


@mutant("LIV-04", "the heartbeat of a worker manager is not answered")
def manager_silent(p: Patcher) -> None:
    p.drop(core._HANDLERS, Kind.WORKER_MANAGER_HEARTBEAT)


@mutant("MON-03", "transitions are not published")
def tasks_not_published(p: Patcher) -> None:
    p.set(Lifecycle, "_publish", lambda self, task, worker, event, envelope: None)


@mutant("MON-02", "workers are not published")
def workers_not_published(p: Patcher) -> None:
    p.set(Presence, "_publish", lambda self, worker, state: None)


@mutant("MON-05", "what balancing takes back is not published")
def advice_not_published(p: Patcher) -> None:
    def take(self: SchedulerCore, now: float) -> Any:
        return [i for i in before(self, now) if not (isinstance(i, Publish) and hasattr(i.message, "task_ids"))]

    before = SchedulerCore.tick
    p.set(SchedulerCore, "tick", take)


@mutant("MAL-08", "a client that sends a malformed message is dropped with its tasks")
def malformed_client_dropped(p: Patcher) -> None:
    def malformed(self: SchedulerCore, sender: Any, reason: str) -> Any:
        self.turn.out = []
        client = self.clients.get(sender)
        if client is not None:
            self.presence._client_lost(client)
        self.turn.note(sender, reason, logging.WARNING)
        return self.turn.out

    p.set(SchedulerCore, "receive_malformed", malformed)


@mutant("MAL-07", "a malformed Task is sent to a worker all the same")
def malformed_task_accepted(p: Patcher) -> None:
    p.set(Envelope, "check", lambda self: self._message or TaskResult(self.task_id, TaskResultType.SUCCESS))


@mutant("SEC-04", "a worker's heartbeat is taken from any identity")
def anybody_registers_as_a_worker(p: Patcher) -> None:
    def heartbeat(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        undo = Patcher()
        undo.set(presence, "role_of", lambda identity: Role.WORKER)
        try:
            before(self, sender, envelope)
        finally:
            undo.undo()

    before = core._HANDLERS[Kind.WORKER_HEARTBEAT]
    p.entry(core._HANDLERS, Kind.WORKER_HEARTBEAT, heartbeat)


def _after_init(p: Patcher, change: Any) -> None:
    def init(self: SchedulerCore, *args: Any) -> None:
        before(self, *args)
        change(self)

    before = SchedulerCore.__init__
    p.set(SchedulerCore, "__init__", init)


def _keep_fresh(p: Patcher, records: Any) -> None:
    """These peers always look as if they had just been heard."""

    def tick(self: SchedulerCore, now: float) -> Any:
        for record in records(self).values():
            record.last_seen = now
        return before(self, now)

    before = SchedulerCore.tick
    p.set(SchedulerCore, "tick", tick)


def _not_sent(p: Patcher, on: Kind, kind: Kind) -> None:
    """The handler of ``on`` does not send messages of this kind."""

    def handler(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        before(self, sender, envelope)
        self.turn.out = [i for i in self.turn.out if not (isinstance(i, Send) and i.envelope.kind is kind)]

    before = core._HANDLERS[on]
    p.entry(core._HANDLERS, on, handler)
