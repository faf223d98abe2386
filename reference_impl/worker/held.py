"""A task that a slot holds."""

from __future__ import annotations

from enum import Enum

from protocol.envelope import Envelope
from protocol.identifiers import OBJECT_ID_BYTES, ClientId, ObjectId, serializer_object_id
from protocol.messages import ArgumentType, Task, TaskResultType
from protocol.payloads import TaskMetadata
from reference_impl.worker.failures import Failure


class Held(Enum):
    """Where a held task is."""

    FETCHING = "fetching its objects"
    READY = "ready"
    HANDED = "handed to the processor behind the running one, and perhaps started"
    RUNNING = "running"
    SUSPENDED = "suspended"
    FINISHING = "its result is being stored"
    CANCELING = "its processor is being killed"


class HeldTask:
    """Its record, from its Task to its answer."""

    __slots__ = (
        "again",
        "ahead",
        "doomed",
        "kill_at",
        "late_cancels",
        "metadata",
        "number",
        "outcome",
        "pid",
        "refused",
        "result_metadata",
        "source",
        "started",
        "state",
        "stream",
        "task",
    )

    def __init__(self, source: ClientId, state: Held, number: int) -> None:
        self.source = source
        self.state = state
        self.number = number  # in the order of arrival
        self.pid = 0  # of its processor, once it has got to one
        self.ahead = False  # it may be handed over while another one runs
        self.doomed: Failure | None = None  # why its processor is being killed, when nobody cancelled it
        self.kill_at = 0.0  # end of the grace of its cancel; 0: none is running
        self.task: Task | None = None
        self.metadata = TaskMetadata()
        self.stream = False
        self.started = 0.0
        self.outcome = TaskResultType.FAILED
        self.result_metadata = b""
        self.refused = False  # its result, by the object storage
        self.late_cancels = 0  # TaskCancels to be answered after the TaskResult
        self.again: Envelope | None = None  # the same Task, which came after the cancel that is being carried out

    @property
    def priority(self) -> int:
        return self.metadata.priority

    @property
    def place(self) -> tuple[int, int]:
        """Among the ready ones: the highest priority first, then the order of arrival (PRI-02)."""
        return (-self.metadata.priority, self.number)


def needed(task: Task) -> tuple[ObjectId, ...] | Failure:
    """The objects without which a task can't run, or why a worker can't run it at all."""
    names = [serializer_object_id(task.source), ObjectId(task.func_object_id)]
    for argument in task.function_args:
        if argument.type is ArgumentType.TASK:
            return Failure("graph", "an argument is a task of a graph; a worker gets tasks whose arguments are objects")
        if len(argument.data) != OBJECT_ID_BYTES:
            text = f"an argument's object id has {OBJECT_ID_BYTES} bytes, not {len(argument.data)}"
            return Failure("malformed", text)
        names.append(ObjectId(argument.data))
    return tuple(names)
