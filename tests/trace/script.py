"""Conversations written down by hand, as a recording has them."""

from __future__ import annotations

from protocol import codec
from protocol.identifiers import ClientId, ObjectId, TaskId, WorkerId, object_id
from protocol.messages import (
    ClientHeartbeat,
    ClientHeartbeatEcho,
    Message,
    Task,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskCancelFlags,
    TaskResult,
    TaskResultType,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
)
from scalercli.tracing.decode import Seen
from scalercli.tracing.record import Header, Recorded
from scalercli.tracing.session import Session

ALICE = ClientId(b"Client|" + b"a" * 32)
BOB = ClientId(b"Client|" + b"b" * 32)
WANDA = WorkerId(b"Worker|wanda|" + b"1" * 32)
WILLY = WorkerId(b"Worker|willy|" + b"2" * 32)
T1, T2 = TaskId(b"\1" * 16), TaskId(b"\2" * 16)
FUNCTION = object_id(ALICE, b"f" * 16)
RESULT = object_id(ALICE, b"r" * 16)
CANCELED = TaskCancelConfirmType.CANCELED
REFUSED = TaskCancelConfirmType.CANCEL_FAILED
NOT_FOUND = TaskCancelConfirmType.CANCEL_NOT_FOUND


def task(task_id: TaskId = T1, source: ClientId = ALICE, function: ObjectId = FUNCTION) -> Task:
    return Task(task_id, source, func_object_id=function)


def result(task_id: TaskId = T1, kind: TaskResultType = TaskResultType.SUCCESS) -> TaskResult:
    return TaskResult(task_id, kind, results=(RESULT,))


def cancel(task_id: TaskId = T1, force: bool = True) -> TaskCancel:
    return TaskCancel(task_id, TaskCancelFlags(force))


def confirm(kind: TaskCancelConfirmType, task_id: TaskId = T1) -> TaskCancelConfirm:
    return TaskCancelConfirm(task_id, kind)


class Keeper:
    """A view that keeps what it is shown."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def begin(self, header: Header) -> None:
        pass

    def message(self, seen: Seen) -> None:
        self.seen.append(seen)

    def end(self, summary: object) -> None:
        pass


class Script:
    """``says`` is a peer to the scheduler, ``gets`` the other way; each a millisecond after the one before."""

    def __init__(self) -> None:
        self.recorded: list[Recorded] = []
        self.now = 0.0

    def says(self, peer: bytes, message: Message | bytes) -> Script:
        return self._add(peer, message, True)

    def gets(self, peer: bytes, message: Message | bytes) -> Script:
        return self._add(peer, message, False)

    def beat(self, peer: bytes, queue_size: int = 1) -> Script:
        """A heartbeat and its echo: a barrier."""
        if peer.startswith(b"Client|"):
            return self.says(peer, ClientHeartbeat()).gets(peer, ClientHeartbeatEcho())
        return self.says(peer, WorkerHeartbeat(queue_size=queue_size)).gets(peer, WorkerHeartbeatEcho())

    def wait(self, seconds: float) -> Script:
        self.now += seconds
        return self

    def _add(self, peer: bytes, message: Message | bytes, says: bool) -> Script:
        self.now = round(self.now + 0.001, 6)
        frame = message if isinstance(message, bytes) else codec.encode(message)
        self.recorded.append(Recorded(self.now, peer, says, (frame,)))
        return self

    def session(self) -> tuple[Session, list[Seen]]:
        session, keeper = Session(everything=True), Keeper()
        session.views.append(keeper)
        session.begin(Header())
        for recorded in self.recorded:
            session.feed(recorded)
        return session, keeper.seen

    def rules(self) -> list[str]:
        """The requirements that were seen broken."""
        return [finding.rule for finding in self.session()[0].observer.findings]


def started(*peers: bytes) -> Script:
    """Alice and Wanda, or whom you say, have registered."""
    script = Script()
    for peer in peers or (ALICE, WANDA):
        script.beat(peer)
    return script


def running() -> Script:
    """Wanda holds Alice's task."""
    return started().says(ALICE, task()).gets(WANDA, task())
