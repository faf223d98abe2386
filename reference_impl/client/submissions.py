"""How tasks and graphs begin: what they need is named, announced and stored, then the scheduler gets them (SPEC
sections 5.1, 5.6 and 7.1)."""

from __future__ import annotations

from collections.abc import Iterable

from protocol.identifiers import ClientId, TaskId
from protocol.messages import Argument, ArgumentType, Task
from reference_impl.client.graphs import PendingGraph, graph_message
from reference_impl.client.instructions import Instruction, NewGraph, NewTask, ResultOf
from reference_impl.client.lives import Life, Lives
from reference_impl.client.objects import Blob, Stored
from reference_impl.client.uploads import New, Uploads


class Submissions:
    """One call is one ObjectInstruction for what has to be stored first; then goes what waits for nothing."""

    def __init__(self, identity: ClientId, lives: Lives, uploads: Uploads) -> None:
        self._identity = identity
        self._lives = lives
        self._uploads = uploads
        self._objects = uploads.objects

    def submit(self, tasks: Iterable[NewTask], out: list[Instruction]) -> None:
        """New tasks; those that need results of others wait for these."""
        new: New = []
        ready: list[Life] = []
        self._uploads.serializer_again(new)
        for task in tasks:
            objects: list[Stored] = []
            arguments: list[Argument] = []
            needs: list[TaskId] = []
            for content in (task.function, *task.arguments):
                if isinstance(content, ResultOf):
                    arguments.append(Argument(ArgumentType.TASK, content.task_id))
                    needs.append(content.task_id)
                else:
                    obj = self._take(content, new, objects)
                    arguments.append(Argument(ArgumentType.OBJECT_ID, obj.id))
            message = Task(
                task.task_id,
                self._identity,
                task.metadata,
                objects[0].id,
                tuple(arguments[1:]),
                task.capabilities,
            )
            life = Life(message, objects)
            self._lives.begin(life, needs)
            if not life.missing:
                ready.append(life)
        if new:
            self._uploads.create(new, out)
        for life in ready:
            self._lives.send(life, out)

    def submit_graph(self, graph: NewGraph, out: list[Instruction]) -> None:
        """A new graph; nothing can be told about its nodes but the targets."""
        new: New = []
        objects: list[Stored] = []
        self._uploads.serializer_again(new)
        message = graph_message(graph, self._identity, lambda content: self._take(content, new, objects))
        pending = PendingGraph(message, objects)
        self._lives.begin_graph(pending)
        if new:
            self._uploads.create(new, out)
        if not pending.missing:
            self._lives.send(pending, out)

    def _take(self, content: Blob, new: New, objects: list[Stored]) -> Stored:
        """The object with this content, one of ``new`` if it is not stored or on its way there."""
        obj, is_new = self._objects.take(content)
        if is_new:
            new.append((obj, content))
        objects.append(obj)
        return obj
