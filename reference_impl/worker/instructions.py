"""What a slot's core tells the agent to do."""

from __future__ import annotations

import signal
from typing import NamedTuple, Union

from protocol.identifiers import ClientId, ObjectId, TaskId
from protocol.messages import Message, ObjectStorageAddress, Task
from protocol.storage import Buffer


class Send(NamedTuple):
    """Send this to the scheduler."""

    message: Message


class Fetch(NamedTuple):
    """Get these objects and keep them; then ``objects_arrived(task_id)``."""

    task_id: TaskId
    names: tuple[ObjectId, ...]


class Release(NamedTuple):
    """The objects of this task are not needed any more."""

    task_id: TaskId


class Start(NamedTuple):
    """Run this on the slot's processor, after what was handed to it before; then ``finished``, ``processor_gone``, or
    ``recalled``."""

    pid: int
    task: Task
    serializer: ObjectId
    priority: int


class Recall(NamedTuple):
    """Take back what this processor has not started; then tell what it has answered until then, and ``recalled``."""

    pid: int


class Kill(NamedTuple):
    """Send this signal to a processor and all that its task started; after SIGKILL, ``processor_gone``."""

    pid: int
    signal: signal.Signals


class Suspend(NamedTuple):
    """Stop this processor and all that its task started, and give the slot another one by ``processor_ready``."""

    pid: int


class Resume(NamedTuple):
    """Let a suspended processor go on."""

    pid: int


class Spare(NamedTuple):
    """The slot has no use for this processor any more; it is idle (and may be suspended)."""

    pid: int


class Store(NamedTuple):
    """Store this under a new object id of ``owner``; then ``stored`` with that id."""

    task_id: TaskId
    owner: ClientId
    payload: Buffer


class Forget(NamedTuple):
    """These objects were deleted: drop cached copies."""

    names: tuple[ObjectId, ...]


class UseStorage(NamedTuple):
    """The scheduler names the object storage; said with each echo."""

    address: ObjectStorageAddress


class ForgetAll(NamedTuple):
    """Any object that is kept may have been deleted."""


class ReadOutput(NamedTuple):
    """Read what the slot's processors write, or leave it in their pipes for now."""

    wanted: bool


class Show(NamedTuple):
    """Output of a task that did not ask for it to be sent."""

    text: str


class Note(NamedTuple):
    """For the log, at a bounded rate; ``level`` is that of ``logging``."""

    level: int
    text: str


class End(NamedTuple):
    """The worker ends: because the scheduler is lost (what is known of that, and what to do, if that is known, too), or
    (empty) because the cluster ends."""

    error: str
    hint: str = ""


Instruction = Union[
    Send,
    Fetch,
    Release,
    Start,
    Recall,
    Kill,
    Suspend,
    Resume,
    Spare,
    Store,
    Forget,
    ForgetAll,
    UseStorage,
    ReadOutput,
    Show,
    Note,
    End,
]
