"""Mutants of what chooses workers: capabilities, balancing, worker managers."""

from __future__ import annotations

from typing import Any

from conformance_tests.mutants.model import Mutants, Patcher
from protocol.envelope import Envelope
from protocol.identifiers import Role
from protocol.lifecycle import State
from protocol.messages import Kind, TaskCapability, WorkerManagerHeartbeat
from reference_impl.scheduler import core, dispatch, information, lifecycle, presence, records, scaling
from reference_impl.scheduler.core import SchedulerCore
from reference_impl.scheduler.dispatch import Dispatch
from reference_impl.scheduler.instructions import Send
from reference_impl.scheduler.managers import Managers
from reference_impl.scheduler.peers import Peers
from reference_impl.scheduler.placement import Placement, TaskQueue
from reference_impl.scheduler.records import NOTHING

mutant = MUTANTS = Mutants("scheduler")


@mutant("LIV-21", "a worker that is about to leave gets further tasks")
def leaving_worker_gets_tasks(p: Patcher) -> None:
    p.set(Peers, "close_worker", lambda self, worker: None)


# ---- capabilities ----


@mutant("TSK-12", "a worker that offers one of the required names gets the task")
def one_name_is_enough(p: Patcher) -> None:
    def least_loaded(self: Placement, needs: Any = NOTHING) -> Any:
        if not needs:
            return before(self)
        able = [before(self, frozenset([name])) for name in needs]
        return next((worker for worker in able if worker is not None), None)

    before = Placement.least_loaded
    p.set(Placement, "least_loaded", least_loaded)


@mutant("TSK-12", "what a task requires is not looked at")
def requirements_ignored(p: Patcher) -> None:
    p.set(lifecycle, "names_of", lambda capabilities: NOTHING)


@mutant("TSK-12", "a task that no worker can run stops those behind it")
def waiting_task_blocks(p: Patcher) -> None:
    def following(self: TaskQueue, placement: Placement) -> Any:
        first = next(iter(self), None)
        if first is None:
            return None
        worker = placement.least_loaded(first.needs)
        if worker is None:
            return None
        lane = (-first.priority, first.needs)
        fifo = self._demanding.get(lane, self._plain)
        fifo.take()
        if lane in self._demanding:
            self._drop_if_empty(fifo)
        return first, worker

    p.set(TaskQueue, "next", following)


@mutant("TSK-12", "a task that comes back from a lost worker has no requirements any more")
def requirements_lost_with_the_worker(p: Patcher) -> None:
    def put_back(self: TaskQueue, task: Any) -> None:
        if task.needs:
            task.needs = NOTHING
        before(self, task)

    before = TaskQueue.put_back
    p.set(TaskQueue, "put_back", put_back)


@mutant("TSK-12", "a worker that comes later gets no task that waits for it")
def newcomer_not_noticed(p: Patcher) -> None:
    p.set(Placement, "take_opened", lambda self: set())


@mutant("TSK-16", "tasks without requirements are sent first")
def plain_tasks_first(p: Patcher) -> None:
    def following(self: TaskQueue, placement: Placement) -> Any:
        worker = placement.least_loaded()
        if len(self._plain) and worker is not None:
            return self._plain.take(), worker
        return before(self, placement)

    before = TaskQueue.next
    p.set(TaskQueue, "next", following)


@mutant("TSK-17", "a requirement is met only by an offer of the same value")
def values_compared(p: Patcher) -> None:
    def names_of(capabilities: tuple[TaskCapability, ...]) -> Any:
        return frozenset([f"{c.name}={c.value}" for c in capabilities])

    p.set(lifecycle, "names_of", names_of)
    p.set(records, "names_of", names_of)


@mutant("TSK-17", "what a worker offers follows its heartbeats")
def offers_follow_heartbeats(p: Patcher) -> None:
    def heartbeat(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        before(self, sender, envelope)
        worker = self.workers.get(sender)
        if worker is not None:
            self.peers.placement.remove(worker)
            worker.offers = records.names_of(worker.heartbeat.capabilities)
            self.peers.placement.update(worker, None)

    before = core._HANDLERS[Kind.WORKER_HEARTBEAT]
    p.entry(core._HANDLERS, Kind.WORKER_HEARTBEAT, heartbeat)


@mutant("INF-07", "the answer about a task does not say what is missing")
def missing_not_said(p: Patcher) -> None:
    before = information._Offers.of
    p.set(information._Offers, "of", lambda self, needs: (*before(self, needs)[:2], ()))


@mutant("INF-07", "full workers do not count as workers that offer something")
def full_workers_do_not_offer(p: Patcher) -> None:
    before = information._Offers.of
    p.set(information._Offers, "of", lambda self, needs: (before(self, needs)[1], *before(self, needs)[1:]))


@mutant("INF-07", "the answer about a task does not say what it requires")
def requirements_not_said(p: Patcher) -> None:
    p.set(information, "_requirements", lambda task: ())


# ---- balancing ----


@mutant("BAL-08", "tasks are taken back for idle workers that can not run them")
def balancing_ignores_requirements(p: Patcher) -> None:
    def balance(idle: Any, workers: Any) -> Any:
        return [t for w in workers for t in list(w.held.values())[1:] if t.state is State.RUNNING][-1:] if idle else []

    p.set(dispatch, "balance", balance)


@mutant("BAL-08", "everything but the oldest task of a worker is taken back")
def balancing_takes_everything(p: Patcher) -> None:
    def balance(idle: Any, workers: Any) -> Any:
        return [t for w in workers for t in list(w.held.values())[1:] if t.state is State.RUNNING] if idle else []

    p.set(dispatch, "balance", balance)


@mutant("BAL-07", "a task that was not given back is asked for again and again")
def refusal_forgotten(p: Patcher) -> None:
    def tick(self: SchedulerCore, now: float) -> Any:
        for worker in self.workers.values():
            worker.refused.clear()
        return before(self, now)

    before = SchedulerCore.tick
    p.set(SchedulerCore, "tick", tick)


@mutant("BAL-01", "nothing is balanced while any task waits in the queue")
def balancing_waits_for_the_queue(p: Patcher) -> None:
    def balance(self: Dispatch) -> None:
        if not len(self._queue):
            before(self)

    before = Dispatch._balance
    p.set(Dispatch, "_balance", balance)


# ---- worker managers ----


@mutant("MAN-01", "the heartbeat of a worker manager is not echoed")
def manager_not_echoed(p: Patcher) -> None:
    _manager_gets(p, lambda kind: kind is not Kind.WORKER_MANAGER_HEARTBEAT_ECHO)


@mutant("MAN-02", "worker managers get no commands")
def manager_not_commanded(p: Patcher) -> None:
    _manager_gets(p, lambda kind: kind is not Kind.WORKER_MANAGER_COMMAND)


@mutant("MAN-08", "one worker more is wanted than there is work for, or than the manager can run")
def one_too_many_wanted(p: Patcher) -> None:
    before = scaling.desired
    p.set(scaling, "desired", lambda loads, waiting: [wish + 1 for wish in before(loads, waiting)])


@mutant("MAN-08", "workers that hold tasks do not count as wanted")
def busy_workers_not_wanted(p: Patcher) -> None:
    before = scaling.desired
    p.set(scaling, "desired", lambda loads, waiting: before([load._replace(busy=0) for load in loads], waiting))


@mutant("MAN-09", "tasks that the workers of a manager can not run make it start some")
def scaling_ignores_requirements(p: Patcher) -> None:
    before = scaling.desired
    p.set(scaling, "desired", lambda loads, waiting: before(loads, {NOTHING: sum(waiting.values())}))


@mutant("MAN-09", "one worker is wanted even if there is nothing to do")
def one_worker_always_wanted(p: Patcher) -> None:
    before = scaling.desired
    p.set(scaling, "desired", lambda loads, waiting: [max(1, wish) for wish in before(loads, waiting)])


@mutant("MAN-10", "another manager with the same id is refused")
def second_manager_refused(p: Patcher) -> None:
    def heartbeat(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        message = envelope.message
        assert isinstance(message, WorkerManagerHeartbeat)
        known = self.managers._managers.get(message.worker_manager_id)
        if known is None or known.identity == sender:
            before(self, sender, envelope)

    before = core._HANDLERS[Kind.WORKER_MANAGER_HEARTBEAT]
    p.entry(core._HANDLERS, Kind.WORKER_MANAGER_HEARTBEAT, heartbeat)


@mutant("MAN-10", "a silent manager is never lost")
def silent_manager_kept(p: Patcher) -> None:
    p.set(Managers, "forget_silent", lambda self, now, timeout: [])


@mutant("MAN-11", "the reports do not show the workers of a manager")
def managed_workers_not_shown(p: Patcher) -> None:
    before = Managers.status
    p.set(Managers, "status", lambda self, workers, now: before(self, (), now))


@mutant("INF-07", "the answer about a task does not count worker managers")
def managers_not_counted(p: Patcher) -> None:
    p.set(Managers, "offering", lambda self, needs: 0)


@mutant("BAL-09", "balancing goes on when it is turned off")
def balancing_can_not_be_turned_off(p: Patcher) -> None:
    def tick(self: SchedulerCore, now: float) -> Any:
        return [*before(self, now), *balanced(self)]

    def balanced(self: SchedulerCore) -> Any:
        self.turn.out = []
        self.dispatch._balance()
        return self.turn.out

    before = SchedulerCore.tick
    p.set(SchedulerCore, "tick", tick)


@mutant("BAL-09", "the first round of balancing is two periods late")
def balancing_late(p: Patcher) -> None:
    def tick(self: SchedulerCore, now: float) -> Any:
        return before(self, now - 2 * max(self.settings.load_balance, 0.0))

    before = SchedulerCore.tick
    p.set(SchedulerCore, "tick", tick)


@mutant("SEC-04", "anybody can be a worker manager")
def anybody_is_a_manager(p: Patcher) -> None:
    def heartbeat(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        undo = Patcher()
        undo.set(presence, "role_of", lambda identity: Role.OTHER)
        try:
            before(self, sender, envelope)
        finally:
            undo.undo()

    before = core._HANDLERS[Kind.WORKER_MANAGER_HEARTBEAT]
    p.entry(core._HANDLERS, Kind.WORKER_MANAGER_HEARTBEAT, heartbeat)


def _manager_gets(p: Patcher, wanted: Any) -> None:
    """Of what is sent in answer to a manager's heartbeat, only these kinds."""

    def heartbeat(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        before(self, sender, envelope)
        self.turn.out = [i for i in self.turn.out if not isinstance(i, Send) or wanted(i.envelope.kind)]

    before = core._HANDLERS[Kind.WORKER_MANAGER_HEARTBEAT]
    p.entry(core._HANDLERS, Kind.WORKER_MANAGER_HEARTBEAT, heartbeat)
