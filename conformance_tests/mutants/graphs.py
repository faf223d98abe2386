"""Mutants of the scheduler's graphs (SPEC section 5.6)."""

from __future__ import annotations

from typing import Any

from conformance_tests.mutants.model import Mutants, Patcher
from protocol.envelope import Envelope
from protocol.lifecycle import Action, Event, State
from protocol.messages import Kind, TaskCancelConfirm, TaskCancelConfirmType, TaskResult, TaskResultType
from reference_impl.scheduler import core, graphs
from reference_impl.scheduler.core import SchedulerCore
from reference_impl.scheduler.graphs import Graph, Graphs, Node
from reference_impl.scheduler.instructions import DuplicateObject, Send

mutant = MUTANTS = Mutants("scheduler")


@mutant("GRA-02", "a node is queued when the first of the nodes that it names has succeeded")
def graph_first_input_suffices(p: Patcher) -> None:
    def succeeded(self: Graph, node: Node, result: Any) -> list[Node]:
        for dependent in node.dependents:
            dependent.missing = min(dependent.missing, 1)
        return before(self, node, result)

    before = Graph.succeeded
    p.set(Graph, "succeeded", succeeded)


@mutant("GRA-02", "a worker gets a node with its arguments of type task as they came")
def graph_arguments_not_replaced(p: Patcher) -> None:
    p.set(Graph, "with_inputs", lambda self, node: node.task)


@mutant("GRA-02", "a node that names another one twice waits for it twice, for ever")
def graph_input_counted_twice(p: Patcher) -> None:
    def plan(message: Any, *arguments: Any) -> Graph:
        graph = before(message, *arguments)
        for node in graph.nodes.values():
            node.missing = sum(a.data in graph.nodes for a in node.task.function_args)
        return graph

    before = graphs.plan
    p.set(graphs, "plan", plan)


@mutant("GRA-03", "the graph itself is not answered when its nodes have ended")
def graph_end_not_answered(p: Patcher) -> None:
    _silent_about_the_graph(p, "_end_if_empty")


@mutant("GRA-04", "the graph itself is not answered when a node has failed")
def graph_failure_not_answered(p: Patcher) -> None:
    _silent_about_the_graph(p, "_fail")


@mutant("GRA-04", "a node that runs while another fails is not canceled")
def graph_sibling_runs_on(p: Patcher) -> None:
    p.without(State.RUNNING, Event.NODE_FAILED, Action.SEND_CANCEL)


@mutant("GRA-04", "a node that runs while another fails is canceled without force")
def graph_sibling_unforced(p: Patcher) -> None:
    p.without(State.RUNNING, Event.NODE_FAILED, Action.WANT_FORCE)


@mutant("GRA-04", "a node that is being taken back while another fails is not canceled with force")
def graph_balanced_sibling_unforced(p: Patcher) -> None:
    p.without(State.BALANCE_CANCELING, Event.NODE_FAILED, Action.WANT_FORCE)


@mutant("GRA-04", "a node that waits when another fails is not answered")
def graph_waiting_not_answered(p: Patcher) -> None:
    p.without(State.WAITING, Event.NODE_FAILED, Action.ANSWER_NODE_FAILED)


@mutant("GRA-04", "a node that is queued when another fails runs all the same")
def graph_queued_sibling_runs(p: Patcher) -> None:
    p.row(State.INACTIVE, Event.NODE_FAILED, State.INACTIVE, Action.ANSWER_NODE_FAILED)


@mutant("TSK-01", "the late result of a node whose graph has failed is a second answer")
def graph_late_sibling_answered_twice(p: Patcher) -> None:
    p.row(State.RUNNING, Event.NODE_FAILED, State.CANCELING, Action.ANSWER_NODE_FAILED, *_FORCED)


@mutant("GRA-04", "the failure is the same object for every node")
def graph_failure_shared(p: Patcher) -> None:
    def answer(self: Graphs, record: Any, failure: Envelope) -> None:
        message = failure.check()
        assert isinstance(message, TaskResult)
        target = record.graph.nodes[record.task_id].target
        results = message.results if target else ()
        self._turn.answer(record.client_id, TaskResult(record.task_id, message.result_type, b"", results))

    p.set(Graphs, "answer_failed", answer)


@mutant("GRA-04", "no copies of the failure are made")
def graph_failure_not_copied(p: Patcher) -> None:
    def about_to_end(self: Graphs, graph: Graph, record: Any, message: Any) -> None:
        before(self, graph, record, message)
        self._turn.out = [i for i in self._turn.out if not isinstance(i, DuplicateObject)]

    before = Graphs.about_to_end
    p.set(Graphs, "about_to_end", about_to_end)


@mutant("GRA-04", "a node that lost too many workers lets its graph fail as failed")
def graph_died_as_failed(p: Patcher) -> None:
    def answer(self: Graphs, record: Any, failure: Envelope) -> None:
        self._turn.answer(record.client_id, TaskResult(record.task_id, TaskResultType.FAILED))

    p.set(Graphs, "answer_failed", answer)


@mutant("GRA-05", "a cancel of a node cancels only this node, and the graph waits for ever")
def graph_cancel_of_one_node(p: Patcher) -> None:
    def cancel(self: Graphs, graph: Graph, sender: Any, envelope: Envelope) -> None:
        graph.canceling = True
        record = graph.living.get(envelope.task_id)
        if record is not None:
            self._lifecycle.happen(record, Event.CANCEL, sender, envelope)

    p.set(Graphs, "cancel", cancel)


@mutant("GRA-05", "nodes that wait are not answered when their graph is canceled")
def graph_cancel_forgets_waiting(p: Patcher) -> None:
    p.without(State.WAITING, Event.CANCEL, Action.ANSWER_CANCELED)


@mutant("GRA-05", "a cancel of a graph is answered at once, and once more when its nodes have ended")
def graph_cancel_answered_twice(p: Patcher) -> None:
    def cancel(self: Graphs, graph: Graph, sender: Any, envelope: Envelope) -> None:
        answer = TaskCancelConfirm(graph.graph_id, TaskCancelConfirmType.CANCELED)
        self._turn.answer(graph.client_id, answer)
        before(self, graph, sender, envelope)

    before = Graphs.cancel
    p.set(Graphs, "cancel", cancel)


@mutant("GRA-05", "a node that fails in a graph that is being canceled fails the graph")
def graph_canceled_fails(p: Patcher) -> None:
    def ended(self: Graphs, record: Any, sender: Any, envelope: Any) -> None:
        if record.graph is not None and record.state is State.FAILED:
            record.graph.canceling = False
        before(self, record, sender, envelope)

    before = Graphs.ended
    p.set(Graphs, "ended", ended)


@mutant("GRA-06", "a graph with a cycle is accepted, and waits for ever")
def graph_cycle_accepted(p: Patcher) -> None:
    p.set(graphs, "_refuse_cycles", lambda nodes: None)


@mutant("GRA-06", "a graph that can't run is not answered")
def graph_refusal_silent(p: Patcher) -> None:
    def accept(self: Graphs, sender: Any, envelope: Envelope) -> None:
        before(self, sender, envelope)
        if envelope.task_id not in self.living:
            self._turn.out.clear()

    before = Graphs.accept
    p.set(Graphs, "accept", accept)


@mutant("GRA-07", "the nodes of a client that leaves stay, waiting for ever")
def graph_client_lost_nodes_stay(p: Patcher) -> None:
    p.no_row(State.WAITING, Event.CLIENT_LOST)


@mutant("GRA-08", "results between nodes stay until the client leaves")
def graph_results_stay(p: Patcher) -> None:
    p.set(Graphs, "_drop", lambda self, graph, object_ids: None)


@mutant("GRA-08", "the result of a node is deleted as soon as the first of its readers has ended")
def graph_results_deleted_early(p: Patcher) -> None:
    def unread(self: Graph, node: Node) -> list[Any]:
        for source in node.inputs:
            self.nodes[source].readers = min(self.nodes[source].readers, 1)
        return before(self, node)

    before = Graph.unread
    p.set(Graph, "unread", unread)


@mutant("GRA-08", "the results of targets are deleted, too")
def graph_targets_deleted(p: Patcher) -> None:
    def unread(self: Graph, node: Node) -> list[Any]:
        dropped = before(self, node)
        return dropped + [node.result] * (node.target and node.result is not None)

    before = Graph.unread
    p.set(Graph, "unread", unread)


@mutant("GRA-09", "any client may cancel a graph")
def graph_foreign_cancel(p: Patcher) -> None:
    def on_cancel(self: SchedulerCore, sender: Any, envelope: Envelope) -> None:
        graph = self.graphs.living.get(envelope.task_id)
        if graph is not None:
            graph.client_id = _Anybody(graph.client_id)
        before(self, sender, envelope)

    before = core._HANDLERS[Kind.TASK_CANCEL]
    p.entry(core._HANDLERS, Kind.TASK_CANCEL, on_cancel)


@mutant("MON-08", "the nodes of a graph are not published")
def graph_nodes_not_published(p: Patcher) -> None:
    p.set(Graphs, "_publish", lambda self, graph, node: None)


_FORCED = (Action.WANT_FORCE, Action.SEND_CANCEL)


class _Anybody(bytes):
    """A client's identity that equals every other one."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = bytes.__hash__


def _silent_about_the_graph(p: Patcher, name: str) -> None:
    """What the method sends last about the graph itself is not sent."""

    def method(self: Graphs, graph: Graph, *arguments: Any) -> None:
        before(self, graph, *arguments)
        out = self._turn.out
        self._turn.out = [i for i in out if not (isinstance(i, Send) and i.envelope.task_id == graph.graph_id)]

    before = getattr(Graphs, name)
    p.set(Graphs, name, method)
