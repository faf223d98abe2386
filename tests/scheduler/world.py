"""A scheduler core with hand-made peers: say what comes in, see what goes out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from protocol.codec import decode
from protocol.envelope import Envelope
from protocol.identifiers import ClientId, Identity, ObjectId, TaskId, WorkerId, content_object_id
from protocol.lifecycle import State
from protocol.messages import (
    ClientDisconnect,
    ClientHeartbeat,
    ClientHeartbeatEcho,
    Message,
    ObjectInstruction,
    ObjectStorageAddress,
    Task,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskCancelFlags,
    TaskCapability,
    TaskResult,
    TaskResultType,
    WorkerDisconnectNotification,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
)
from reference_impl.scheduler.core import SchedulerCore
from reference_impl.scheduler.instructions import (
    DeleteObjects,
    DuplicateObject,
    Instruction,
    Note,
    Publish,
    Send,
    Stop,
    StoreThenSend,
)
from reference_impl.scheduler.settings import Settings

CANCELED = TaskCancelConfirmType.CANCELED
FAILED = TaskCancelConfirmType.CANCEL_FAILED
NOT_FOUND = TaskCancelConfirmType.CANCEL_NOT_FOUND

C1 = ClientId(b"Client|" + b"1" * 32)
C2 = ClientId(b"Client|" + b"2" * 32)
W1 = WorkerId(b"Worker|one|01")
W2 = WorkerId(b"Worker|two|02")


class World:
    """Collects what the core sends, by receiver. Every message makes the way over the wire and back."""

    def __init__(self, **settings: object) -> None:
        self.now = 0.0
        address = ObjectStorageAddress("127.0.0.1", 1234, "tcp")
        self.core = SchedulerCore(Settings(address, **settings), self.now)  # type: ignore[arg-type]
        self.sent: dict[Identity, list[Message]] = {}
        self.published: list[Message] = []
        self.notes: list[Note] = []
        self.deleted: list[ObjectId] = []
        self.copied: dict[ObjectId, ObjectId] = {}
        """The copies that were asked for, and of what."""
        self.stored: dict[ObjectId, bytes] = {}
        self.stopped = False
        self._numbers = itertools.count(1)

    # ---- what peers do ----

    def send(self, sender: Identity, message: Message) -> None:
        frame = Envelope.of(message).frame
        self._collect(self.core.receive(sender, Envelope.parse(frame), self.now))

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self._collect(self.core.tick(self.now))

    def client(self, client: ClientId = C1) -> ClientId:
        self.send(client, ClientHeartbeat())
        echo = self.sent[client].pop()
        assert isinstance(echo, ClientHeartbeatEcho)
        if not self.sent[client]:
            del self.sent[client]
        return client

    def worker(
        self, worker: WorkerId = W1, queue_size: int = 1, offers: Iterable[str] = (), manager: bytes = b""
    ) -> WorkerId:
        capabilities = tuple(TaskCapability(name, -1) for name in offers)
        self.send(worker, WorkerHeartbeat(queue_size=queue_size, capabilities=capabilities, worker_manager_id=manager))
        echoes = [m for m in self.sent[worker] if isinstance(m, WorkerHeartbeatEcho)]
        assert len(echoes) == 1
        self.sent[worker].remove(echoes[0])
        if not self.sent[worker]:
            del self.sent[worker]
        return worker

    def task(self, client: ClientId = C1, task_id: TaskId | None = None, needs: Iterable[str] = ()) -> TaskId:
        task_id = task_id or TaskId(next(self._numbers).to_bytes(16, "big"))
        capabilities = tuple(TaskCapability(name, 1) for name in needs)
        self.send(client, Task(task_id, client, b"", content_object_id(client, b"f"), (), capabilities))
        return task_id

    def cancel(self, task: TaskId, client: Identity = C1, force: bool = True) -> None:
        self.send(client, TaskCancel(task, TaskCancelFlags(force)))

    def confirm(self, task: TaskId, kind: TaskCancelConfirmType, worker: Identity = W1) -> None:
        self.send(worker, TaskCancelConfirm(task, kind))

    def result(
        self, task: TaskId, worker: Identity = W1, kind: TaskResultType = TaskResultType.SUCCESS, owner: Identity = C1
    ) -> None:
        results = (content_object_id(owner, task),)
        self.send(worker, TaskResult(task, kind, b"", results))

    def proceed(self) -> None:
        """The shell has nothing more urgent to do."""
        self._collect(self.core.proceed(self.now))

    def overflow(self, peer: Identity) -> None:
        """The shell can't send to it: it does not read."""
        self._collect(self.core.overflowed(peer))

    def worker_leaves(self, worker: WorkerId = W1) -> None:
        self.send(worker, WorkerDisconnectNotification())

    def client_leaves(self, client: ClientId = C1) -> None:
        self.send(client, ClientDisconnect())

    # ---- what is seen ----

    def take(self, peer: Identity) -> list[Message]:
        """What was sent to a peer since it was last asked for."""
        return self.sent.pop(peer, [])

    def state(self, task: TaskId) -> State:
        record = self.core.tasks.get(task)
        return record.state if record is not None else State.UNKNOWN

    def assert_silent(self) -> None:
        """No message is left unexplained."""
        assert self.sent == {}

    def assert_silent_but_deletions(self) -> None:
        """The same, but for what workers are told to forget."""
        for peer, messages in list(self.sent.items()):
            assert all(isinstance(m, ObjectInstruction) for m in messages), (peer, messages)
        self.sent.clear()

    def instructions_of_result(self, task: TaskId, kind: TaskResultType) -> list[Instruction]:
        """What the core wants done at the result of a task, in its order."""
        message = TaskResult(task, kind, b"", (content_object_id(C1, task),))
        return self.core.receive(W1, Envelope.of(message), self.now)

    def assert_empty(self) -> None:
        """Nothing of any client or task is left (LIV-07)."""
        core = self.core
        assert (core.tasks, core.clients, core.graphs.living) == ({}, {}, {})
        assert (len(core.queue), len(core.objects)) == (0, 0)
        assert all(worker.held == {} for worker in core.workers.values())

    def _collect(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Send):
                self.sent.setdefault(instruction.to, []).append(decode(instruction.envelope.frame))
            elif isinstance(instruction, Publish):
                self.published.append(instruction.message)
            elif isinstance(instruction, Note):
                self.notes.append(instruction)
            elif isinstance(instruction, DeleteObjects):
                self.deleted.extend(instruction.object_ids)
            elif isinstance(instruction, DuplicateObject):
                self.copied.update(dict.fromkeys(instruction.copies, instruction.source))
            elif isinstance(instruction, StoreThenSend):
                self.stored[instruction.object_id] = instruction.payload
                self.sent.setdefault(instruction.to, []).append(decode(instruction.named.frame))
            elif isinstance(instruction, Stop):
                self.stopped = True


def confirm(task: TaskId, kind: TaskCancelConfirmType) -> TaskCancelConfirm:
    return TaskCancelConfirm(task, kind)


def cancel(task: TaskId, force: bool = True) -> TaskCancel:
    return TaskCancel(task, TaskCancelFlags(force))
