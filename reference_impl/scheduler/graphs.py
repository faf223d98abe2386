"""Graphs: tasks that feed each other (SPEC section 5.6).

Theory of operation. ``plan`` looks at a GraphTask as a whole and refuses it, or makes a ``Graph``: for each node who
waits for it, how many it still waits for, and who still reads its result. Each node is then a task like any other: its
state is that of the lifecycle table, ``waiting`` until its inputs are there. ``Graphs`` is told by the lifecycle when
a node has ended, and lets the table know what follows for others: ``inputsReady``, or ``nodeFailed`` for all. A cancel
of the graph, or of a node, is a TaskCancel for every node that has not ended. The graph's own answer is the last.

Every step costs what it changes: the end of a node looks at its inputs and at those who wait for it, nothing else.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from protocol import codec
from protocol.envelope import Envelope
from protocol.identifiers import Identity, ObjectId, TaskId, object_id
from protocol.lifecycle import Event, State
from protocol.messages import (
    Argument,
    ArgumentType,
    GraphTask,
    NodeTaskType,
    ObjectMetadata,
    StateGraphTask,
    Task,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskResult,
    TaskResultType,
)
from reference_impl.scheduler.instructions import DuplicateObject
from reference_impl.scheduler.limits import Refused
from reference_impl.scheduler.ownership import Ownership
from reference_impl.scheduler.records import TaskRecord
from reference_impl.scheduler.turn import Turn, shown

if TYPE_CHECKING:
    from reference_impl.scheduler.lifecycle import Lifecycle

FAILURE_NAME = b"failure of another node"


class GraphRefused(ValueError):
    """A graph that can't run; the text says why."""


class Node:
    """One task of a graph: whom it waits for, who waits for it. Nodes that hold each other would stay until Python
    looks for cycles, which a server has it do seldom: so only those who wait are held, the others are named."""

    __slots__ = ("dependents", "inputs", "missing", "readers", "result", "target", "task")

    def __init__(self, task: Task, target: bool) -> None:
        self.task = task
        self.target = target
        self.inputs: tuple[TaskId, ...] = ()  # the nodes that it names, each once
        self.dependents: list[Node] = []  # the nodes that name it
        self.missing = 0  # inputs that have not succeeded
        self.readers = 0  # dependents that have not ended
        self.result: ObjectId | None = None


class Graph:
    """A graph that has not ended."""

    def __init__(self, graph_id: TaskId, client_id: Identity, nodes: dict[TaskId, Node]) -> None:
        self.accepted_at = 0.0
        self.graph_id = graph_id
        self.client_id = client_id
        self.nodes = nodes
        self.living: dict[TaskId, TaskRecord] = {}
        """The nodes that have not ended."""
        self.canceling = False
        self.failure_copied = False
        """Whether the failure that ends it has a copy for each other target."""
        self.over = False

    def succeeded(self, node: Node, result: ObjectId | None) -> list[Node]:
        """The nodes that can run now that this one has ended with a result."""
        node.result = result
        ready: list[Node] = []
        for dependent in node.dependents:
            dependent.missing -= 1
            if not dependent.missing and dependent.task.task_id in self.living:
                ready.append(dependent)
        return ready

    def with_inputs(self, node: Node) -> Task:
        """The task as a worker gets it: each node that it names is replaced by that node's result."""
        results: dict[bytes, bytes] = {task_id: self.nodes[task_id].result or b"" for task_id in node.inputs}
        arguments = [
            Argument(ArgumentType.OBJECT_ID, results[a.data]) if a.type is ArgumentType.TASK else a
            for a in node.task.function_args
        ]
        return replace(node.task, function_args=tuple(arguments))

    def unread(self, node: Node) -> list[ObjectId]:
        """The results that nobody needs any more now that this node has ended: its inputs', and its own."""
        dropped: list[ObjectId] = []
        for task_id in node.inputs:
            source = self.nodes[task_id]
            source.readers -= 1
            self._drop(source, dropped)
        self._drop(node, dropped)
        return dropped

    def all_unread(self) -> list[ObjectId]:
        """The results that nobody needs any more once no node will run: all but those of the targets."""
        return [node.result for node in self.nodes.values() if node.result is not None and not node.target]

    @staticmethod
    def _drop(node: Node, dropped: list[ObjectId]) -> None:
        if node.result is not None and not node.readers and not node.target:
            dropped.append(node.result)
            node.result = None


def plan(message: GraphTask, client_id: Identity, is_alive: Callable[[TaskId], bool]) -> Graph:
    """The graph of a message; raises GraphRefused for one that can't run (GRA-06)."""
    targets = frozenset(message.targets)
    nodes: dict[TaskId, Node] = {}
    for task in message.graph:
        if task.source != client_id:
            raise GraphRefused(f"its node {task.task_id.hex()} is in the name of {shown(task.source)}")
        if task.task_id == message.task_id or task.task_id in nodes:
            raise GraphRefused(f"the id {task.task_id.hex()} is in it twice")
        if is_alive(task.task_id):
            raise GraphRefused(f"the id of its node {task.task_id.hex()} is that of a living task")
        nodes[task.task_id] = Node(task, task.task_id in targets)
    for target in targets:
        if target not in nodes:
            raise GraphRefused(f"its target {target.hex()} is none of its nodes")
    for node in nodes.values():
        named = dict.fromkeys(TaskId(a.data) for a in node.task.function_args if a.type is ArgumentType.TASK)
        node.inputs = tuple(named)
        for task_id in named:
            source = nodes.get(task_id)
            if source is None:
                raise GraphRefused(f"its node {node.task.task_id.hex()} names {task_id.hex()}, which is none of them")
            source.dependents.append(node)
            source.readers += 1
        node.missing = len(named)
    _refuse_cycles(nodes)
    return Graph(message.task_id, client_id, nodes)


def _refuse_cycles(nodes: dict[TaskId, Node]) -> None:
    waits = {task_id: node.missing for task_id, node in nodes.items()}
    ready = [node for node in nodes.values() if not node.missing]
    reached = 0
    while ready:
        reached += 1
        for dependent in ready.pop().dependents:
            waits[dependent.task.task_id] -= 1
            if not waits[dependent.task.task_id]:
                ready.append(dependent)
    if reached < len(nodes):
        stuck = next(task_id for task_id, left in waits.items() if left)
        raise GraphRefused(f"its node {stuck.hex()} is in a cycle, or behind one")


class Graphs:
    """All graphs that have not ended. Their nodes are tasks of ``lifecycle``, which tells ``ended`` of each."""

    def __init__(self, lifecycle: Lifecycle, ownership: Ownership, turn: Turn) -> None:
        self._lifecycle = lifecycle
        self._ownership = ownership
        self._turn = turn
        self.living: dict[TaskId, Graph] = {}
        """By id, the oldest first."""
        self._of_client: dict[Identity, dict[TaskId, Graph]] = {}

    def accept(self, sender: Identity, envelope: Envelope) -> None:
        """A GraphTask of a client for itself, with an id that is not alive."""
        tasks = self._lifecycle.tasks
        message = envelope.message
        assert isinstance(message, GraphTask)
        try:
            graph = plan(message, sender, lambda task_id: task_id in tasks or task_id in self.living)
        except GraphRefused as refusal:
            self._turn.note(sender, f"the graph {message.task_id.hex()} can't run: {refusal}", logging.WARNING)
            self._turn.answer(sender, TaskResult(message.task_id, TaskResultType.FAILED))
            return
        try:
            self._lifecycle.admission.check(sender, len(graph.nodes), len(envelope.frame))
        except Refused as refusal:
            self._lifecycle.admission.refuse(sender, graph.graph_id, str(refusal))
            return
        graph.accepted_at = self._turn.now
        self.living[graph.graph_id] = graph
        self._of_client.setdefault(sender, {})[graph.graph_id] = graph
        for node in graph.nodes.values():
            record = self._lifecycle.accept(sender, Envelope.of(node.task), checked=True)
            record.graph = graph
            graph.living[record.task_id] = record
            if self._turn.monitored:
                self._publish(graph, node)
            self._lifecycle.happen(record, Event.GRAPH if node.missing else Event.TASK, sender)
        self._end_if_empty(graph)

    def _publish(self, graph: Graph, node: Node) -> None:
        kind = NodeTaskType.TARGET if node.target else NodeTaskType.NORMAL
        self._turn.publish(StateGraphTask(graph.graph_id, node.task.task_id, kind, node.inputs))

    def cancel(self, graph: Graph, sender: Identity, envelope: Envelope) -> None:
        """Its client cancels it, or one of its nodes: a TaskCancel for each that has not ended (GRA-05)."""
        graph.canceling = True
        for record in list(graph.living.values()):
            self._lifecycle.happen(record, Event.CANCEL, sender, envelope)

    def about_to_end(self, graph: Graph, record: TaskRecord, message: TaskResult) -> None:
        """If a node ends with a failure, and its client does not know yet: now is the time to copy the failure, since
        the client may delete the original as soon as it knows of it (GRA-04)."""
        if graph.canceling or message.result_type is not TaskResultType.FAILED:
            return
        source = next(iter(self._ownership.owned_by(graph.client_id, message.results[:1])), None)
        others = [t for t in graph.living if graph.nodes[t].target and t != record.task_id]
        if source is not None:
            graph.failure_copied = True
            copies = tuple([_copy_id(graph.client_id, task_id) for task_id in others])
            self._ownership.track(graph.client_id, ObjectMetadata(copies, (), (FAILURE_NAME,) * len(copies)))
            if copies:
                self._turn.out.append(DuplicateObject(source, copies))

    def ended(self, record: TaskRecord, sender: Identity, envelope: Envelope | None) -> None:
        """A node has ended, and its client has the answer."""
        graph = record.graph
        if graph is None or graph.over:
            return
        record.graph = None
        del graph.living[record.task_id]
        node = graph.nodes[record.task_id]
        message = envelope.check() if envelope is not None else None
        results = message.results if isinstance(message, TaskResult) else ()
        if not graph.canceling and (record.state is not State.SUCCESS or (node.dependents and not results)):
            self._fail(graph, node, sender, message if isinstance(message, TaskResult) else None)
            return
        if record.state is State.SUCCESS:
            for ready in graph.succeeded(node, results[0] if results else None):
                waiting = graph.living[ready.task.task_id]
                self._lifecycle.rewrite(waiting, codec.encode(graph.with_inputs(ready)))
                self._lifecycle.stand_behind(waiting)
                self._lifecycle.happen(waiting, Event.INPUTS_READY, sender)
        elif not node.target:  # it failed in a graph that is being canceled
            self._drop(graph, results)
        self._drop(graph, graph.unread(node))
        self._end_if_empty(graph)

    def _fail(self, graph: Graph, node: Node, sender: Identity, message: TaskResult | None) -> None:
        """One node has failed: everything else has failed with it."""
        failure = message
        if message is None:  # too many workers were lost with it
            failure = TaskResult(node.task.task_id, TaskResultType.FAILED_WORKER_DIED)
        elif message.result_type is TaskResultType.SUCCESS:
            text = f"the node {node.task.task_id.hex()} succeeded without the result that others need"
            self._turn.note(sender, text, logging.WARNING)
            failure = TaskResult(node.task.task_id, TaskResultType.FAILED)
        assert failure is not None
        graph.over = True
        self._remove(graph)
        envelope = Envelope.of(failure)
        for record in graph.living.values():
            self._lifecycle.happen(record, Event.NODE_FAILED, sender, envelope)
            record.graph = None
        self._turn.answer(graph.client_id, TaskResult(graph.graph_id, failure.result_type))
        dropped = graph.all_unread()
        if not node.target:
            dropped += failure.results
        self._drop(graph, dropped)

    def answer_failed(self, record: TaskRecord, failure: Envelope) -> None:
        """The answer for a node that can't run because of another's failure."""
        graph, message = record.graph, failure.message
        assert graph is not None and isinstance(message, TaskResult)
        wanted = graph.failure_copied and graph.nodes[record.task_id].target
        copies = (_copy_id(graph.client_id, record.task_id),) if wanted else ()
        self._turn.answer(graph.client_id, TaskResult(record.task_id, message.result_type, b"", copies))

    def client_lost(self, client_id: Identity) -> None:
        """Its graphs are over without answers; what becomes of its tasks is the table's business."""
        for graph in self._of_client.pop(client_id, {}).values():
            graph.over = True
            del self.living[graph.graph_id]
            for record in graph.living.values():
                record.graph = None
            self._drop(graph, [node.result for node in graph.nodes.values() if node.result is not None])

    def _end_if_empty(self, graph: Graph) -> None:
        """The last answer is that for the graph itself."""
        if graph.living or graph.over:
            return
        graph.over = True
        self._remove(graph)
        if graph.canceling:
            answer: TaskCancelConfirm | TaskResult = TaskCancelConfirm(graph.graph_id, TaskCancelConfirmType.CANCELED)
        else:
            answer = TaskResult(graph.graph_id, TaskResultType.SUCCESS)
        self._turn.answer(graph.client_id, answer)

    def _remove(self, graph: Graph) -> None:
        del self.living[graph.graph_id]
        mine = self._of_client[graph.client_id]
        del mine[graph.graph_id]
        if not mine:
            del self._of_client[graph.client_id]

    def _drop(self, graph: Graph, object_ids: Iterable[ObjectId]) -> None:
        self._ownership.drop(graph.client_id, self._ownership.owned_by(graph.client_id, object_ids))


def _copy_id(client_id: Identity, task_id: TaskId) -> ObjectId:
    """The id of the copy that is made for one task; a task gets at most one, so it is unique as long as its id is."""
    return object_id(client_id, hashlib.blake2b(task_id, digest_size=16, key=b"failure").digest())
