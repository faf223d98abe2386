"""Mutants of the client library: of its graphs, and of futures as arguments (SPEC sections 5.6 and 9)."""

from __future__ import annotations

from typing import Any

from conformance_tests.mutants.model import Mutants, Patcher
from reference_impl.client.core import ClientCore
from reference_impl.client.graphs import PendingGraph
from reference_impl.client.instructions import Broken, Canceled
from reference_impl.client.lives import Lives
from reference_impl.client.objects import ObjectTable

mutant = MUTANTS = Mutants("client")


@mutant("GRA-10", "the result of a node, and one that another task needs, is deleted as soon as it is fetched")
def needed_result_deleted(p: Patcher) -> None:
    def fetched(self: ClientCore, object_id: Any, payload: Any) -> Any:
        out = before(self, object_id, payload)
        self._objects.doomed.append(object_id)
        self._uploads.doom(out)
        return out

    before = ClientCore.fetched
    p.set(ClientCore, "fetched", fetched)


@mutant("GRA-11", "the answer for the graph itself is ignored")
def graph_answer_ignored(p: Patcher) -> None:
    p.set(Lives, "end_graph", lambda self, graph, end, answer, out: None)


@mutant("GRA-11", "when a graph is refused, its futures are cancelled")
def graph_refused_cancels(p: Patcher) -> None:
    def end_graph(self: Lives, graph: PendingGraph, end: Any, answer: Any, out: Any) -> None:
        before(self, graph, Canceled(), answer, out)

    before = Lives.end_graph
    p.set(Lives, "end_graph", end_graph)


@mutant("FUT-11", "a task that needs a future is sent at once")
def needed_not_waited_for(p: Patcher) -> None:
    p.set(Lives, "_need", lambda self, life, needed: None)


@mutant("FUT-11", "a task that needs a future names another object than its result")
def needed_wrong_result(p: Patcher) -> None:
    def give(self: Lives, life: Any, needed: Any) -> None:
        before(self, life, needed)
        life.inputs[needed.task.task_id] = life.task.func_object_id

    before = Lives._give
    p.set(Lives, "_give", give)


@mutant("FUT-11", "a result that another task needs is deleted when its own future is done")
def needed_not_kept(p: Patcher) -> None:
    def release(self: ObjectTable, obj: Any) -> None:
        if obj.result:
            obj.refs = 1
        before(self, obj)

    before = ObjectTable.release
    p.set(ObjectTable, "release", release)


@mutant("FUT-11", "a task waits for ever for one that has failed")
def needed_failure_not_passed_on(p: Patcher) -> None:
    def finish(self: Lives, life: Any, *arguments: Any) -> None:
        life.dependents = []
        before(self, life, *arguments)

    before = Lives.finish
    p.set(Lives, "finish", finish)


@mutant("FUT-11", "a task fails when one that it needs is canceled")
def needed_cancel_fails(p: Patcher) -> None:
    def finish(self: Lives, life: Any, end: Any, answer: Any, out: Any) -> None:
        dependents, life.dependents = life.dependents, []
        before(self, life, end, answer, out)
        for dependent in dependents:
            before(self, dependent, Broken(RuntimeError, "no"), None, out)

    before = Lives.finish
    p.set(Lives, "finish", finish)
