"""Graphs and tasks that need other tasks' results, as the client's core holds them (SPEC sections 5.6 and 9). Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from graphlib import TopologicalSorter
from typing import Any

from protocol.identifiers import ClientId, TaskId
from protocol.messages import Argument, ArgumentType, GraphTask, Task
from reference_impl.client.instructions import NewGraph, ResultOf
from reference_impl.client.objects import Blob, Stored


class PendingGraph:
    """A graph that has no answer for itself yet. Its objects, and the results of its targets, live as long as it
    (GRA-10)."""

    __slots__ = ("_dependents", "graph", "missing", "objects", "over", "sent")

    def __init__(self, graph: GraphTask, objects: list[Stored]) -> None:
        self.graph = graph
        self.objects = objects
        self.missing = 0  # of its objects, not stored yet
        self.sent = False
        self.over = False
        self._dependents: dict[bytes, list[TaskId]] | None = None

    def behind(self, task_id: TaskId) -> list[TaskId]:
        """The nodes that need this one's result, directly or not, and have not been asked for before."""
        if self._dependents is None:
            self._dependents = {}
            for node in self.graph.graph:
                for argument in node.function_args:
                    if argument.type is ArgumentType.TASK:
                        self._dependents.setdefault(argument.data, []).append(node.task_id)
        found: list[TaskId] = []
        left = [task_id]
        while left:
            more = self._dependents.pop(left.pop(), [])
            found += more
            left += more
        return found


def graph_message(graph: NewGraph, identity: ClientId, stored: Callable[[Blob], Stored]) -> GraphTask:
    """The message; ``stored`` gives the object of a blob."""
    nodes: list[Task] = []
    for node in graph.nodes:
        function = stored(node.function)
        arguments = [
            Argument(ArgumentType.TASK, argument.task_id)
            if isinstance(argument, ResultOf)
            else Argument(ArgumentType.OBJECT_ID, stored(argument).id)
            for argument in node.arguments
        ]
        nodes.append(Task(node.task_id, identity, node.metadata, function.id, tuple(arguments), node.capabilities))
    return GraphTask(graph.graph_id, identity, graph.targets, tuple(nodes))


def is_call(value: Any) -> bool:
    """Whether an entry of a dictionary graph is a call, ``(function, *keys)``, and no constant."""
    return type(value) is tuple and bool(value) and callable(value[0])


def needed(graph: Mapping[Hashable, Any], keys: Iterable[Hashable]) -> list[Hashable]:
    """The keys that are needed for ``keys``, inputs first. Raises KeyError for a key that the graph does not have,
    TypeError for an argument that can be no key, graphlib.CycleError."""
    inputs: dict[Hashable, tuple[Hashable, ...]] = {}
    left = list(keys)
    while left:
        key = left.pop()
        if key in inputs:
            continue
        if key not in graph:
            raise KeyError(f"{key!r} is no key of the graph; a constant argument needs an entry of its own")
        value = graph[key]
        inputs[key] = value[1:] if is_call(value) else ()
        left += inputs[key]
    return list(TopologicalSorter(inputs).static_order())
