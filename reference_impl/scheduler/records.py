"""What the scheduler remembers: one record per living task, per client, per worker."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, ClassVar

from protocol.envelope import Envelope
from protocol.identifiers import Identity, ObjectId, TaskId, WorkerId
from protocol.lifecycle import State
from protocol.messages import ClientHeartbeat, Kind, TaskCapability, WorkerHeartbeat
from reference_impl.scheduler.limits import MOST_HELD, Budget
from reference_impl.scheduler.story import Ended, Story

Names = frozenset[str]
"""Of capabilities: what a task requires, or a worker offers."""
NOTHING: Names = frozenset()
_TASK = Kind.TASK  # faster to look up


def names_of(capabilities: tuple[TaskCapability, ...]) -> Names:
    """Values are not compared (TSK-12)."""
    return frozenset([capability.name for capability in capabilities]) if capabilities else NOTHING


if TYPE_CHECKING:
    from reference_impl.scheduler.graphs import Graph


class TaskRecord:
    """A task that is alive. ``state`` changes only through the lifecycle table."""

    needs: ClassVar[Names] = NOTHING
    priority: ClassVar[int] = 0

    __slots__ = (
        "accepted_at",
        "client_id",
        "force",
        "frame",
        "graph",
        "lost_workers",
        "state",
        "story",
        "task_id",
        "worker",
    )

    def __init__(self, task_id: TaskId, client_id: Identity, frame: bytes | memoryview, now: float) -> None:
        self.task_id = task_id
        self.client_id = client_id
        self.frame = frame  # the Task as it came, to be passed on as it came
        self.state = State.UNKNOWN
        self.worker: WorkerRecord | None = None  # who holds it
        self.lost_workers = 0
        self.force = 0  # the next two, in one slot: a record has 16 bytes less
        self.accepted_at = now
        self.story: Story | None = None  # what happened since, once something has
        self.graph: Graph | None = None  # whose node it is, until it or the graph ends

    @property
    def force_wanted(self) -> bool:
        """Somebody who may wants it stopped even if it runs."""
        return self.force & 1 != 0

    @force_wanted.setter
    def force_wanted(self, wanted: bool) -> None:
        self.force = self.force & 2 | wanted

    @property
    def force_sent(self) -> bool:
        """The TaskCancel in flight is a forced one."""
        return self.force & 2 != 0

    @force_sent.setter
    def force_sent(self, sent: bool) -> None:
        self.force = self.force & 1 | sent << 1

    @property
    def envelope(self) -> Envelope:
        """The Task. (Its frame is all that is kept: an envelope takes as much memory again.)"""
        return Envelope(_TASK, self.task_id, self.client_id, 0, self.frame, None)  # type: ignore[arg-type]


class DemandingTask(TaskRecord):
    """A task that requires capabilities, or has a priority. (Other tasks have no room for that: there may be a million
    of them.)"""

    __slots__ = ("needs", "priority")

    def __init__(
        self,
        task_id: TaskId,
        client_id: Identity,
        frame: bytes | memoryview,
        now: float,
        needs: Names,
        priority: int = 0,
    ) -> None:
        super().__init__(task_id, client_id, frame, now)
        self.needs: Names = needs  # type: ignore[misc]
        self.priority: int = priority  # type: ignore[misc]


class ClientRecord:
    """A client that has not left or timed out."""

    __slots__ = (
        "client_id",
        "connected_at",
        "doubtful",
        "ended",
        "heartbeat",
        "last_seen",
        "objects",
        "questions",
        "room",
        "task_bytes",
        "tasks",
    )

    def __init__(self, client_id: Identity, now: float, ended_stories: int, room: int) -> None:
        self.client_id = client_id
        self.connected_at = now
        self.last_seen = now
        self.heartbeat: ClientHeartbeat | None = None
        self.tasks: dict[TaskId, TaskRecord] = {}
        self.room = room  # for so many tasks; 0: there is no room for its objects
        self.task_bytes = 0  # of their messages, of the long ones
        self.objects: set[ObjectId] = set()
        self.doubtful = False  # a worker was lost with a task of it: objects of it may lie where nobody knows of them
        self.questions: Budget | None = None  # once it has asked something
        self.ended: Ended = deque(maxlen=ended_stories)


class WorkerRecord:
    """A worker that has registered and has not left or timed out."""

    __slots__ = (
        "announced",
        "connected_at",
        "heartbeat",
        "held",
        "last_seen",
        "manager_id",
        "offers",
        "queue_size",
        "refused",
        "worker_id",
    )

    def __init__(self, worker_id: WorkerId, heartbeat: WorkerHeartbeat, now: float) -> None:
        self.worker_id = worker_id
        self.queue_size = min(heartbeat.queue_size, MOST_HELD)  # read once, when it registers
        self.offers = names_of(heartbeat.capabilities)  # likewise
        self.manager_id = heartbeat.worker_manager_id  # likewise
        self.heartbeat = heartbeat
        self.connected_at = now
        self.last_seen = now
        self.held: dict[TaskId, TaskRecord] = {}  # oldest first
        self.refused: set[TaskId] = set()  # of those, what it did not give back for balancing
        self.announced: set[ObjectId] = set()  # results that it stores; no TaskResult has named them yet
