"""Random walks through the scheduler core: clients, workers and losses in any order, checked for what must always hold.

Workers here behave as the protocol wants, but answer in any order and as late as they like, and sometimes somebody
who has no say sends an answer, too.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.identifiers import ClientId, TaskId, WorkerId
from protocol.lifecycle import State
from protocol.messages import Task, TaskCancel, TaskCancelConfirm, TaskResult, TaskResultType
from tests.scheduler.world import C1, C2, CANCELED, FAILED, NOT_FOUND, W1, W2, World

CLIENTS = (C1, C2)
W3 = WorkerId(b"Worker|three|03")
WORKERS = (W1, W2, W3)
EVERYTHING = ("gpu", "linux", "tape")
NEEDS = st.sampled_from([(), (), ("gpu",), ("linux",), ("gpu", "linux"), ("tape",)])
OFFERS = st.sampled_from([(), ("gpu",), ("linux",), ("gpu", "linux")])


class SchedulerWalk(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(load_balance=0.0)
        self.answers: Counter[TaskId] = Counter()  # terminal answers seen by the client
        self.owner: dict[TaskId, ClientId] = {}  # of clients that are still there
        self.holds: dict[WorkerId, list[TaskId]] = {}  # as the worker sees it
        self.cancels: dict[WorkerId, list[TaskCancel]] = {}  # not yet answered
        self.dispatched: Counter[TaskId] = Counter()
        self.lost: Counter[TaskId] = Counter()
        self.needs: dict[TaskId, frozenset[str]] = {}
        self.offers: dict[WorkerId, frozenset[str]] = {}

    # ---- what peers do ----

    @rule(client=st.sampled_from(CLIENTS), needs=NEEDS)
    def submit(self, client: ClientId, needs: tuple[str, ...]) -> None:
        task = self.world.task(client, needs=needs)
        self.owner[task], self.needs[task] = client, frozenset(needs)
        self._look()

    @precondition(lambda self: self.owner)
    @rule(data=st.data(), sender=st.sampled_from(CLIENTS), force=st.booleans())
    def cancel(self, data: st.DataObject, sender: ClientId, force: bool) -> None:
        task = data.draw(st.sampled_from(sorted(self.owner)))
        alive = self.answers[task] == 0
        self.world.cancel(task, client=sender, force=force)
        if self.owner[task] != sender or not alive:
            # Not its task, or over: cancelNotFound to the sender, and nothing else happens.
            assert self.world.take(sender) == [TaskCancelConfirm(task, NOT_FOUND)]
        self._look()

    @rule(client=st.sampled_from(CLIENTS))
    def leave(self, client: ClientId) -> None:
        self.world.client_leaves(client)
        self.owner = {task: owner for task, owner in self.owner.items() if owner != client}
        self._look()

    @rule(worker=st.sampled_from(WORKERS[:2]), queue_size=st.integers(1, 3), offers=OFFERS)
    def join(self, worker: WorkerId, queue_size: int, offers: tuple[str, ...]) -> None:
        if worker not in self.holds:
            self.holds[worker], self.cancels[worker], self.offers[worker] = [], [], frozenset(offers)
            self.world.worker(worker, queue_size, offers)
            self._look()

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def worker_lost(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.holds)))
        self.lost.update(self.holds.pop(worker))
        del self.cancels[worker]
        self.world.worker_leaves(worker)
        self._look()

    @precondition(lambda self: any(self.holds.values()))
    @rule(data=st.data(), kind=st.sampled_from([TaskResultType.SUCCESS, TaskResultType.FAILED]))
    def finish(self, data: st.DataObject, kind: TaskResultType) -> None:
        worker = data.draw(st.sampled_from(sorted(w for w, tasks in self.holds.items() if tasks)))
        task = self.holds[worker].pop(0)
        self.world.send(worker, TaskResult(task, kind))
        self._look()

    @precondition(lambda self: any(self.cancels.values()))
    @rule(data=st.data())
    def answer_cancel(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(w for w, cancels in self.cancels.items() if cancels)))
        cancel = self.cancels[worker].pop(0)
        held = self.holds[worker]
        if cancel.task_id not in held:
            kind = NOT_FOUND
        elif held[0] == cancel.task_id and not cancel.flags.force:
            kind = FAILED  # it runs
        else:
            kind = CANCELED
            held.remove(cancel.task_id)
        self.world.confirm(cancel.task_id, kind, worker)
        self._look()

    @precondition(lambda self: self.owner)
    @rule(data=st.data(), sender=st.sampled_from((*WORKERS, *CLIENTS)), kind=st.sampled_from([CANCELED, FAILED, None]))
    def impostor(self, data: st.DataObject, sender: bytes, kind: type[CANCELED] | None) -> None:
        task = data.draw(st.sampled_from(sorted(self.owner)))
        if task in self.holds.get(sender, []):  # type: ignore[call-overload]
            return
        before = self.world.state(task)
        record = self.world.core.tasks.get(task)
        if record is not None and record.worker is not None and record.worker.worker_id == sender:
            return  # it has answered already and the confirm is on its way
        if kind is None:
            self.world.send(sender, TaskResult(task, TaskResultType.SUCCESS))
        else:
            self.world.confirm(task, kind, sender)
        assert self.world.state(task) is before
        self._look()

    @rule()
    def balance(self) -> None:
        self.world.advance(1)
        for client in CLIENTS:  # they are alive
            if client in self.world.core.clients:
                self.world.client(client)
        for worker in self.holds:
            self.world.worker(worker)
        self._look()

    # ---- what is seen ----

    def _look(self) -> None:
        for client in CLIENTS:
            for message in self.world.take(client):
                assert isinstance(message, (TaskResult, TaskCancelConfirm)), message
                if isinstance(message, TaskResult) or message.cancel_confirm_type is not FAILED:
                    self.answers[message.task_id] += 1
        for worker in WORKERS:
            for message in self.world.take(worker):
                if worker not in self.holds:
                    continue  # it is gone: nobody reads this
                if isinstance(message, Task):
                    assert message.task_id not in self.holds[worker]
                    assert self.needs[message.task_id] <= self.offers[worker]
                    self.holds[worker].append(message.task_id)
                    self.dispatched[message.task_id] += 1
                else:
                    assert isinstance(message, TaskCancel), message
                    self.cancels[worker].append(message)

    # ---- what must always hold ----

    @invariant()
    def at_most_one_terminal_answer(self) -> None:
        assert all(count <= 1 for count in self.answers.values()), self.answers

    @invariant()
    def never_neither_alive_nor_answered(self) -> None:
        for task in self.owner:
            assert (self.world.state(task) is not State.UNKNOWN) == (self.answers[task] == 0)

    @invariant()
    def the_queue_is_in_the_order_of_acceptance(self) -> None:
        queue = self.world.core.queue
        accepted = [task.accepted_at for task in queue]
        assert accepted == sorted(accepted)
        assert len(accepted) == len(queue) == sum(queue.waiting().values())

    @invariant()
    def no_worker_has_room_while_a_task_waits_that_it_could_run(self) -> None:
        core = self.world.core
        for worker in core.workers.values():
            if len(worker.held) < worker.queue_size:
                assert not [t for t in core.queue if self.needs[t.task_id] <= self.offers[worker.worker_id]]
        assert all(len(w.held) <= w.queue_size for w in core.workers.values())

    @invariant()
    def no_two_workers_hold_the_same_task(self) -> None:
        held = Counter(task for worker in self.world.core.workers.values() for task in worker.held)
        assert all(count == 1 for count in held.values())

    def teardown(self) -> None:
        """Whatever happened: when the workers have answered and the clients have left, nothing remains."""
        if self.holds:  # one that can run everything
            self.holds[W3], self.cancels[W3], self.offers[W3] = [], [], frozenset(EVERYTHING)
            self.world.worker(W3, 2, EVERYTHING)
            self._look()
        while any(self.holds.values()) or any(self.cancels.values()):
            for worker in self.holds:
                while self.holds[worker]:
                    self.world.send(worker, TaskResult(self.holds[worker].pop(0), TaskResultType.SUCCESS))
                for cancel in self.cancels[worker]:
                    self.world.confirm(cancel.task_id, NOT_FOUND, worker)
                self.cancels[worker] = []
            self._look()
        if self.holds:
            assert all(self.answers[task] == 1 for task in self.owner)
        for client in CLIENTS:
            self.world.client_leaves(client)
        self.world.assert_empty()


SchedulerWalk.TestCase.settings = settings(stateful_step_count=40)
TestSchedulerWalk = SchedulerWalk.TestCase
