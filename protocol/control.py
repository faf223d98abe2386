"""The messages of ``control.capnp`` as Python values, and their frames.

Loaded by every command, so it costs little: named tuples instead of data classes, and nothing of
``protocol.messages``. What a message means stands in the schema.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple, Union, cast

from protocol import layout
from protocol.errors import MalformedMessage
from protocol.wire import Codec

VERSION = 2
MAX_PAYLOAD_BYTES = 500_000_000
"""What one argument or result may have: a list of bytes on this wire ends at 2^29."""

_MAX_FRAME_BYTES = 2 * MAX_PAYLOAD_BYTES
_LENGTH = struct.Struct("<I")


class TaskKind(IntEnum):
    PYTHON = 0
    COMMAND = 1


class ShownState(IntEnum):
    PENDING = 0
    QUEUED = 1
    RUNNING = 2
    CANCELING = 3
    SUCCESS = 4
    FAILED = 5
    CANCELED = 6
    WORKER_DIED = 7
    LOST = 8
    NOT_FOUND = 9
    WAITING = 10
    TIMED_OUT = 11

    @property
    def label(self) -> str:
        """As people see it."""
        return self.name.lower().replace("_", "-")

    @property
    def over(self) -> bool:
        return self not in _LIVING


_LIVING = frozenset(
    (ShownState.PENDING, ShownState.QUEUED, ShownState.RUNNING, ShownState.CANCELING, ShownState.WAITING)
)


class CancelOutcome(IntEnum):
    CANCELED = 0
    ALREADY_DONE = 1
    REFUSED = 2
    NOT_FOUND = 3
    REQUESTED = 4

    @property
    def label(self) -> str:
        return self.name.lower().replace("_", "-")


# ---- requests ----


class Capability(NamedTuple):
    name: str
    value: int = 0


class TaskOptions(NamedTuple):
    name: str = ""
    retries: int = 0
    retry_on: tuple[ShownState, ...] = ()
    timeout_seconds: float = 0.0
    priority: int = 0
    capabilities: tuple[Capability, ...] = ()
    after: tuple[str, ...] = ()
    after_any: tuple[str, ...] = ()


NO_OPTIONS = TaskOptions()


class NewTask(NamedTuple):
    task_id: bytes
    arguments: tuple[bytes, ...] = ()
    text: str = ""
    key: str = ""


class Submit(NamedTuple):
    kind: TaskKind
    function: bytes
    name: str
    tasks: tuple[NewTask, ...]
    follow: bool = False
    output: bool = False
    result: bool = False
    options: TaskOptions = NO_OPTIONS


class Selection(NamedTuple):
    ids: tuple[str, ...] = ()
    all: bool = False
    states: tuple[ShownState, ...] = ()
    living: bool = False
    fresh: bool = False


class Follow(NamedTuple):
    selection: Selection
    output: bool = False
    result: bool = False
    wait: bool = True


class Cancel(NamedTuple):
    selection: Selection
    force: bool = True
    wait: bool = True


class Retry(NamedTuple):
    selection: Selection
    force: bool = False


RequestValue = Union[None, Submit, Follow, Selection, Cancel, Retry, str]


class ControlRequest(NamedTuple):
    version: int
    number: int
    variant: str
    value: RequestValue = None


# ---- replies ----


class ControlError(NamedTuple):
    exit_code: int
    message: str
    hint: str = ""


class OutputChunk(NamedTuple):
    stderr: bool
    text: str


class TaskRow(NamedTuple):
    task_id: bytes
    wanted: str = ""
    kind: TaskKind = TaskKind.PYTHON
    text: str = ""
    state: ShownState = ShownState.PENDING
    reason: str = ""
    submitted_at: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0
    has_exit_code: bool = False
    exit_code: int = 0
    worker: str = ""
    queue_position: int = 0
    peak_bytes: int = 0
    has_payload: bool = False
    payload: bytes = b""
    output: tuple[OutputChunk, ...] = ()
    options: TaskOptions = NO_OPTIONS
    key: str = ""
    attempt: int = 0
    retry_of: bytes = b""


class KnownTask(NamedTuple):
    task_id: bytes
    existing: bytes
    text: str = ""


class RetryResult(NamedTuple):
    row: TaskRow
    refused: bool = False
    reason: str = ""
    hint: str = ""
    exit_code: int = 0


class Event(NamedTuple):
    at: float
    text: str


class Explanation(NamedTuple):
    row: TaskRow
    source: str = ""
    history: tuple[Event, ...] = ()
    scheduler_state: str = ""
    worker: str = ""
    held_before: int = 0
    lost_workers: int = 0
    workers: int = 0
    workers_known: bool = False
    slots: int = 0
    held: int = 0
    lacking: tuple[str, ...] = ()
    fitting: int = 0
    waits_for: tuple[TaskRow, ...] = ()
    force: bool = False
    fault: str = ""
    with_room: int = 0
    managers: int = 0


class CancelResult(NamedTuple):
    task_id: bytes
    outcome: CancelOutcome
    state: ShownState = ShownState.PENDING
    reason: str = ""
    milliseconds: float = 0.0


class ProcessInfo(NamedTuple):
    role: str
    pid: int


class AgentInfo(NamedTuple):
    pid: int
    program: str = ""
    embedded: bool = False
    scheduler_address: str = ""
    object_storage_address: str = ""
    monitor_address: str = ""
    workers: int = 0
    started_at: float = 0.0
    living: int = 0
    processes: tuple[ProcessInfo, ...] = ()
    state_directory: str = ""
    idle_seconds: float = 0.0
    memory_limit: int = 0


class WorkerView(NamedTuple):
    worker_id: str
    hostname: str = ""
    slots: int = 0
    held: int = 0
    queued: int = 0
    rss: int = 0
    cpu: float = 0.0
    last_seen_seconds: float = 0.0
    capabilities: tuple[str, ...] = ()
    suspended: int = 0


class StateCount(NamedTuple):
    state: str
    number: int


class Overview(NamedTuple):
    agent: AgentInfo
    at: float = 0.0
    source: str = ""
    workers: tuple[WorkerView, ...] = ()
    states: tuple[StateCount, ...] = ()
    session_states: tuple[StateCount, ...] = ()
    finished: int = 0
    scheduler_cpu: float = 0.0
    scheduler_rss: int = 0
    clients: int = 0
    objects: int = 0
    object_bytes: int = 0
    recent: tuple[TaskRow, ...] = ()
    reported_at: float = 0.0


ReplyValue = Union[
    None,
    ControlError,
    tuple[TaskRow, ...],
    tuple[OutputChunk, ...],
    tuple[CancelResult, ...],
    AgentInfo,
    tuple[KnownTask, ...],
    tuple[RetryResult, ...],
    Explanation,
    Overview,
]


class ControlReply(NamedTuple):
    version: int
    number: int
    variant: str
    value: ReplyValue = None

    @property
    def rows(self) -> tuple[TaskRow, ...]:
        """The tasks, if it is a reply with tasks."""
        return cast("tuple[TaskRow, ...]", self.value) if self.variant == "tasks" else ()

    @property
    def chunks(self) -> tuple[OutputChunk, ...]:
        """The pieces of output, if it is a reply with output."""
        return cast("tuple[OutputChunk, ...]", self.value) if self.variant == "output" else ()

    @property
    def outcomes(self) -> tuple[CancelResult, ...]:
        """What became of cancels, if it is a reply with outcomes."""
        return cast("tuple[CancelResult, ...]", self.value) if self.variant == "outcomes" else ()

    @property
    def known(self) -> tuple[KnownTask, ...]:
        """The keys that were in use, if it is a reply with them."""
        return cast("tuple[KnownTask, ...]", self.value) if self.variant == "known" else ()

    @property
    def retried(self) -> tuple[RetryResult, ...]:
        """What became of retries, if it is a reply with them."""
        return cast("tuple[RetryResult, ...]", self.value) if self.variant == "retried" else ()


_CODEC = Codec(
    layout.load(),
    {
        "ControlRequest": ControlRequest,
        "ControlRequest.NewTask": NewTask,
        "ControlRequest.Submit": Submit,
        "ControlRequest.Selection": Selection,
        "ControlRequest.Follow": Follow,
        "ControlRequest.Cancel": Cancel,
        "ControlRequest.Retry": Retry,
        "TaskOptions": TaskOptions,
        "TaskOptions.Capability": Capability,
        "ControlReply": ControlReply,
        "ControlError": ControlError,
        "TaskRow": TaskRow,
        "OutputChunk": OutputChunk,
        "CancelResult": CancelResult,
        "KnownTask": KnownTask,
        "RetryResult": RetryResult,
        "Explanation": Explanation,
        "Explanation.Event": Event,
        "Overview": Overview,
        "Overview.WorkerView": WorkerView,
        "Overview.StateCount": StateCount,
        "AgentInfo": AgentInfo,
        "AgentInfo.ProcessInfo": ProcessInfo,
    },
    {"TaskKind": TaskKind, "ShownState": ShownState, "CancelOutcome": CancelOutcome},
    {("ControlRequest.NewTask", "taskId"): 16},
)


def frame(message: ControlRequest | ControlReply) -> bytes:
    """The message, encoded, behind its length."""
    body = _CODEC.encode(message)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Takes bytes as they come from a socket and gives the messages in them."""

    def __init__(self, cls: type[ControlRequest] | type[ControlReply]) -> None:
        self._cls = cls
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[ControlRequest | ControlReply]:
        """The messages that ``data`` completes; raises MalformedMessage."""
        buffer = self._buffer
        buffer += data
        messages: list[ControlRequest | ControlReply] = []
        start = 0
        while len(buffer) - start >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(buffer, start)
            if size > _MAX_FRAME_BYTES:
                raise MalformedMessage(f"a control message of {size} bytes")
            end = start + _LENGTH.size + size
            if len(buffer) < end:
                break
            messages.append(_CODEC.decode(self._cls, bytes(memoryview(buffer)[start + _LENGTH.size : end])))
            start = end
        del buffer[:start]
        return messages
