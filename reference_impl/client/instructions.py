"""What goes into a client's core and what comes out: new tasks, instructions, the ends of tasks."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple, Union

from protocol.identifiers import ObjectId, TaskId
from protocol.messages import InformationAnswer, LogType, Message, ObjectStorageAddress, TaskCapability, TaskResultType
from protocol.payloads import ResultMetadata
from reference_impl.client.objects import Blob


class CancelAnswer(Enum):
    """How a cancel was answered."""

    CANCELED = "canceled"
    NOT_FOUND = "cancelNotFound"
    FAILED = "cancelFailed"
    RESULT = "result"
    """A TaskResult came instead of a TaskCancelConfirm, or had come already."""


class ResultOf(NamedTuple):
    """An argument that is the result of another task: of one that is pending here, or of a node of the same graph."""

    task_id: TaskId


class NewTask(NamedTuple):
    """A task to submit."""

    task_id: TaskId
    function: Blob
    arguments: tuple[Blob | ResultOf, ...]
    metadata: bytes = b""
    capabilities: tuple[TaskCapability, ...] = ()


class NewGraph(NamedTuple):
    """A graph to submit. There is nothing wrong with it (GRA-06)."""

    graph_id: TaskId
    nodes: tuple[NewTask, ...]
    targets: tuple[TaskId, ...]


# ---- how a task ends ----


class Completed(NamedTuple):
    """By a TaskResult; ``payload`` is empty for failedWorkerDied."""

    type: TaskResultType
    payload: Any
    metadata: ResultMetadata | None


class Canceled(NamedTuple):
    """It was canceled, or counts as such."""


class Broken(NamedTuple):
    """It can't be known any more, because of this."""

    error: Callable[[str], Exception]
    text: str


class Starved(NamedTuple):
    """It never ran: this task, whose result it needs, has failed."""

    task_id: TaskId


End = Union[Completed, Canceled, Broken, Starved]

# ---- instructions ----


class Send(NamedTuple):
    """Send this to the scheduler."""

    message: Message


class Beat(NamedTuple):
    """Send a ClientHeartbeat with this latency and the process's figures to the scheduler."""

    latency_microseconds: int


class ConnectStorage(NamedTuple):
    """The scheduler named its storage: connect, then call ``storage_connected``."""

    address: ObjectStorageAddress


class Store(NamedTuple):
    """Store this; call ``stored`` when it is."""

    object_id: ObjectId
    payload: bytes


class Unstore(NamedTuple):
    """Delete these, which are on their way to the storage, behind them on the same connection."""

    object_ids: tuple[ObjectId, ...]


class Fetch(NamedTuple):
    """Fetch this; call ``fetched`` when it is here."""

    object_id: ObjectId


class Abandon(NamedTuple):
    """Nothing that the storage was asked for is wanted any more. Delete that there, and these: no scheduler knows."""

    object_ids: tuple[ObjectId, ...]


class Finish(NamedTuple):
    """The task is over. ``answer`` is how its cancel was answered by that, if there was one; ``tokens`` are those of
    the calls of ``cancel`` that this answers."""

    task_id: TaskId
    end: End
    answer: CancelAnswer | None = None
    tokens: tuple[object, ...] = ()


class Answered(NamedTuple):
    """A cancel was answered, and no task of ours ended by that. ``tokens`` as in Finish. ``answer`` None: there will be
    no answer, because of ``broken``."""

    task_id: TaskId
    answer: CancelAnswer | None
    tokens: tuple[object, ...]
    broken: Broken | None = None


class Log(NamedTuple):
    """A task wrote this."""

    task_id: TaskId
    type: LogType
    content: str


class Informed(NamedTuple):
    """A query was answered."""

    answer: InformationAnswer


class ShutdownAnswered(NamedTuple):
    """The scheduler answered whether it ends."""

    accepted: bool


class Complain(NamedTuple):
    """The scheduler sent something that it should not have; it was dropped."""

    text: str


Instruction = Union[
    Send,
    Beat,
    ConnectStorage,
    Store,
    Unstore,
    Fetch,
    Abandon,
    Finish,
    Answered,
    Log,
    Informed,
    ShutdownAnswered,
    Complain,
]
