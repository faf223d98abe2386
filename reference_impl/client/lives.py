"""The lives of this client's tasks and graphs, from the submission to the one ``Finish`` (SPEC section 9).

A task is *uploading* (it waits for its objects to be stored), *sent* (the scheduler has it), *fetching* (its
TaskResult came, the result object is on its way here), then over. A task that needs the result of another one is
*uploading* until that one has succeeded, and then names its result object, which is kept until both are over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

from protocol.identifiers import ObjectId, TaskId
from protocol.messages import Argument, ArgumentType, Task, TaskCancel, TaskCancelFlags, TaskResultType
from protocol.payloads import ResultMetadata
from reference_impl.client.graphs import PendingGraph
from reference_impl.client.instructions import (
    Broken,
    CancelAnswer,
    Canceled,
    Completed,
    End,
    Fetch,
    Finish,
    Instruction,
    Send,
    Starved,
)
from reference_impl.client.objects import Stored
from reference_impl.client.uploads import Uploads

_ASKED = 1000
"""So many tasks in one question."""


class Phase(Enum):
    UPLOADING = 0
    SENT = 1
    FETCHING = 2


Result = tuple[TaskResultType, ResultMetadata | None, ObjectId]
"""What a TaskResult says: how the task ended, the measurements if they can be read, the result object."""


class Life:
    """One task that is not over."""

    __slots__ = ("dependents", "force", "graph", "inputs", "missing", "objects", "phase", "result", "task", "tokens")

    def __init__(self, task: Task, objects: list[Stored], graph: PendingGraph | None = None) -> None:
        self.task = task
        self.objects = objects
        self.graph = graph  # of which it is a target
        self.dependents: list[Life] = []  # tasks that wait for its result
        self.inputs: dict[bytes, ObjectId] = {}  # the results that it needs, by task, as far as they are there
        self.phase = Phase.UPLOADING
        self.missing = 0  # of its objects, not stored yet
        self.force: bool | None = None  # of the cancel in flight; None: none is
        self.tokens: list[object] = []
        self.result: Result | None = None  # once it is known


class Lives:
    """All tasks and graphs that are not over. Instructions are added to ``out``."""

    def __init__(self, uploads: Uploads) -> None:
        self.tasks: dict[TaskId, Life] = {}
        self.graphs: dict[TaskId, PendingGraph] = {}
        """By the graph's id, and by those of its nodes."""
        self.fetches: dict[ObjectId, list[Life]] = {}
        self.kept: dict[ObjectId, Stored] = {}
        """Results that are fetched, and needed by tasks."""
        self._uploads = uploads
        self._objects = uploads.objects

    # ---- the beginning ----

    def begin(self, life: Life, needs: Sequence[TaskId]) -> None:
        """A new task, which needs its objects and the results of these tasks."""
        self.tasks[life.task.task_id] = life
        if needs or not self._uploads.need_not_wait(life, life.objects):
            self._uploads.wait_for(life, life.objects)
        if needs:
            for needed in dict.fromkeys(needs):
                self._need(life, self.tasks[needed])

    def begin_graph(self, graph: PendingGraph) -> None:
        """A new graph; its targets have lives as tasks have."""
        message = graph.graph
        targets = set(message.targets)
        self.graphs[message.task_id] = graph
        for node in message.graph:
            self.graphs[node.task_id] = graph
            if node.task_id in targets:
                self.tasks[node.task_id] = Life(node, [], graph)
        self._uploads.wait_for(graph, graph.objects)

    def _need(self, life: Life, needed: Life) -> None:
        """It can't go before the other one has succeeded."""
        if needed.result is not None and needed.result[0] is TaskResultType.SUCCESS:
            self._give(life, needed)
        else:
            life.missing += 1
            needed.dependents.append(life)

    def _give(self, life: Life, needed: Life) -> None:
        """The other one has succeeded: its result stays until both are over."""
        assert needed.result is not None
        result = needed.result[2]
        life.inputs[needed.task.task_id] = result
        life.objects.append(self._objects.adopt(result))
        if result not in self.kept:
            self.kept[result] = self._objects.adopt(result)  # until it is here

    def is_pending(self, waiter: Life | PendingGraph) -> bool:
        """Whether it is not over."""
        if isinstance(waiter, PendingGraph):
            return not waiter.over
        return self.tasks.get(waiter.task.task_id) is waiter

    def one_less(self, waiter: Life | PendingGraph, out: list[Instruction]) -> None:
        """One thing less is missing."""
        if not waiter.missing:  # it did not wait for it
            return
        waiter.missing -= 1
        if not waiter.missing and self.is_pending(waiter):
            self.send(waiter, out)

    def send(self, waiter: Life | PendingGraph, out: list[Instruction]) -> None:
        """Nothing is missing: the scheduler gets it."""
        if isinstance(waiter, PendingGraph):
            waiter.sent = True
            for task_id in waiter.graph.targets:
                self.tasks[task_id].phase = Phase.SENT
            out.append(Send(waiter.graph))
            return
        waiter.phase = Phase.SENT
        if waiter.inputs:
            arguments = [
                Argument(ArgumentType.OBJECT_ID, waiter.inputs[a.data]) if a.type is ArgumentType.TASK else a
                for a in waiter.task.function_args
            ]
            waiter.task = replace(waiter.task, function_args=tuple(arguments))
        out.append(Send(waiter.task))

    def in_doubt(self, out: list[Instruction]) -> list[tuple[TaskId, ...]]:
        """The connection was cut: what was sent may be lost, or the answer to it. Cancels are sent again; of the tasks
        in each of the tuples, and of graphs by their nodes, it has to be asked which ones the scheduler has."""
        doubtful: list[TaskId] = []
        for life in self.tasks.values():
            if life.phase is not Phase.SENT:
                continue
            if life.force is not None:
                out.append(Send(TaskCancel(life.task.task_id, TaskCancelFlags(life.force))))
            elif life.graph is None:
                doubtful.append(life.task.task_id)
        asked = [tuple(doubtful[i : i + _ASKED]) for i in range(0, len(doubtful), _ASKED)]
        for graph in dict.fromkeys(self.graphs.values()):
            if graph.sent:
                asked.append(tuple([node.task_id for node in graph.graph.graph]))
        return asked

    def send_again(self, asked: tuple[TaskId, ...], living: set[TaskId], out: list[Instruction]) -> None:
        """Of the tasks that were asked for, the scheduler has only these: the others did not reach it, or their
        answers did not get here."""
        graph = self.graphs.get(asked[0])
        if graph is not None:
            if not living:
                out.append(Send(graph.graph))
            return
        for task_id in asked:
            life = self.tasks.get(task_id)
            if life is not None and life.phase is Phase.SENT and life.force is None and task_id not in living:
                out.append(Send(life.task))

    # ---- the result ----

    def fetch(self, life: Life, result: Result, out: list[Instruction]) -> None:
        """Its result is stored; whoever needs it can have it."""
        life.phase = Phase.FETCHING
        life.result = result
        result_type, _, result_id = result
        self._release(life)
        if self._objects.doomed:
            self._uploads.doom(out)
        if life.graph is not None and not life.graph.over:
            life.graph.objects.append(self._objects.adopt(result_id))
            self.kept[result_id] = self._objects.adopt(result_id)
        if result_type is TaskResultType.SUCCESS:
            dependents, life.dependents = life.dependents, []
            for dependent in dependents:
                if self.is_pending(dependent):
                    self._give(dependent, life)
                    self.one_less(dependent, out)
        waiting = self.fetches.setdefault(result_id, [])
        waiting.append(life)
        if len(waiting) == 1:
            out.append(Fetch(result_id))

    def fetched(self, object_id: ObjectId, payload: Any, out: list[Instruction]) -> None:
        """A result is here."""
        for life in self.fetches.pop(object_id, ()):
            if life.result is not None:
                result_type, metadata, _ = life.result
                self.finish(life, Completed(result_type, payload, metadata), None, out)
        kept = self.kept.pop(object_id, None)
        if kept is not None:
            self._objects.release(kept)
            self._uploads.doom(out)
        else:
            self._uploads.discard((object_id,), out)

    def not_wanted(self, life: Life, results: tuple[ObjectId, ...], out: list[Instruction]) -> None:
        """Results that are not needed here; those of a node may be needed by other nodes (GRA-10)."""
        if life.graph is not None and not life.graph.over:
            life.graph.objects += [self._objects.adopt(result) for result in results]
        else:
            self._uploads.discard(results, out)

    # ---- the end ----

    def finish(self, life: Life, end: End, answer: CancelAnswer | None, out: list[Instruction]) -> None:
        """It is over, if it is not already, and with it whatever needs its result and will not get it."""
        left: list[tuple[Life, End, CancelAnswer | None]] = [(life, end, answer)]
        while left:
            life, end, answer = left.pop()
            if not self.is_pending(life):
                continue
            task_id = life.task.task_id
            del self.tasks[task_id]
            self._release(life)
            out.append(Finish(task_id, end, answer, tuple(life.tokens)))
            passed_on = end if isinstance(end, (Canceled, Broken)) else Starved(task_id)
            left += [(dependent, passed_on, None) for dependent in reversed(life.dependents)]
            life.dependents = []
        if self._objects.doomed:
            self._uploads.doom(out)

    def end_graph(self, graph: PendingGraph, end: End, answer: CancelAnswer | None, out: list[Instruction]) -> None:
        """Nothing more will be heard of it."""
        if graph.over:
            return
        graph.over = True
        del self.graphs[graph.graph.task_id]
        for node in graph.graph.graph:
            del self.graphs[node.task_id]
            life = self.tasks.get(node.task_id)
            if life is None or life.phase is Phase.FETCHING:
                continue
            if life.force is not None and answer is None:  # this answers its cancel (FUT-02)
                self.finish(life, Canceled(), CancelAnswer.RESULT, out)
            else:
                self.finish(life, end, answer, out)
        for obj in graph.objects:
            self._objects.release(obj)
        self._uploads.doom(out)

    def end_all(self, broken: Broken, out: list[Instruction]) -> None:
        """Nothing more will be heard of anything."""
        for life in list(self.tasks.values()):
            self.finish(life, broken, None, out)
        self.fetches.clear()
        self.kept.clear()
        self.graphs.clear()

    def _release(self, life: Life) -> None:
        for obj in life.objects:
            self._objects.release(obj)
        life.objects = []
