"""Mutants of the scheduler: of its limits (SPEC section 14), and of how it takes a peer that comes back (SPEC 8.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import zmq

from conformance_tests.mutants.model import Mutants, Patcher
from protocol.envelope import Envelope
from protocol.messages import TaskResult, TaskResultType
from reference_impl.scheduler.limits import Admission
from reference_impl.scheduler.presence import Presence
from reference_impl.scheduler.server import SchedulerServer

mutant = MUTANTS = Mutants("scheduler")


@mutant("LIM-02", "tasks are taken without a limit")
def no_limit(p: Patcher) -> None:
    p.set(Admission, "check", lambda self, client_id, count, size: None)


@mutant("LIM-02", "one task more than the limit is taken")
def one_above_the_limit(p: Patcher) -> None:
    _counted(p, lambda count: count - 1)


@mutant("LIM-02", "a task for which there is no room is not answered")
def refused_without_a_word(p: Patcher) -> None:
    p.set(Admission, "refuse", lambda self, client_id, task_id, reason: None)


@mutant("LIM-03", "the answer to a task for which there is no room does not say why")
def refused_without_a_reason(p: Patcher) -> None:
    def refuse(self: Admission, client_id: Any, task_id: Any, reason: str) -> None:
        self._turn.send(client_id, Envelope.of(TaskResult(task_id, TaskResultType.FAILED)))

    p.set(Admission, "refuse", refuse)


@mutant("LIM-04", "a graph counts as one task, however many nodes it has")
def graph_is_one_task(p: Patcher) -> None:
    _counted(p, lambda count: min(count, 1))


@mutant("LIM-05", "a client with too many objects may go on")
def objects_without_a_limit(p: Patcher) -> None:
    def check(self: Admission, client_id: Any, count: int, size: int) -> None:
        client = self._clients.get(client_id)
        if client is not None:
            client.room = self._limits.tasks_per_client
        before(self, client_id, count, size)

    before = Admission.check
    p.set(Admission, "check", check)


@mutant("LIM-06", "any number of peers is registered")
def peers_without_a_limit(p: Patcher) -> None:
    p.set(Presence, "_admits", lambda self, peer, there, what: True)


@mutant("TRN-12", "who comes back is not heard before the end of its old connection is seen")
def no_handover(p: Patcher) -> None:
    def set_options(self: SchedulerServer) -> None:
        before(self)
        self._router.socket.setsockopt(zmq.ROUTER_HANDOVER, 0)

    before = SchedulerServer._set_options
    p.set(SchedulerServer, "_set_options", set_options)


def _counted(p: Patcher, change: Callable[[int], int]) -> None:
    """Where tasks are counted, ``count`` more of them are taken for another number."""

    def check(self: Admission, client_id: Any, count: int, size: int) -> None:
        before(self, client_id, change(count), size)

    before = Admission.check
    p.set(Admission, "check", check)
