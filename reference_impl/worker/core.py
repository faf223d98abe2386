"""What one slot of a worker does, without sockets, processes or clocks (SPEC sections 5 to 8).

Theory of operation. A slot holds tasks. Each held task is in one ``Held`` state: ``fetching`` its objects, ``ready``,
``running`` on the slot's one processor, ``finishing`` (its result is being stored), or ``canceling`` (its processor is
being killed). It leaves by exactly one answer: a TaskResult, or a TaskCancelConfirm of type canceled (TSK-01).

Each method is one event; it returns what is to be done, in order. ``now`` is in seconds on a clock that never goes
back. The processor starts the next ready task as soon as it is free, while earlier results are still being stored.
"""

from __future__ import annotations

import logging
import signal
from collections import Counter, deque
from enum import Enum

from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.identifiers import OBJECT_ID_BYTES, ClientId, ObjectId, TaskId, serializer_object_id
from protocol.messages import (
    ArgumentType,
    ClientDisconnect,
    DisconnectType,
    Kind,
    LogType,
    Message,
    ObjectContentType,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectMetadata,
    ProcessorStatus,
    Task,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskLog,
    TaskResult,
    TaskResultType,
    WorkerDisconnectNotification,
    WorkerHeartbeat,
    WorkerHeartbeatEcho,
)
from protocol.payloads import ResultMetadata, TaskMetadata
from protocol.storage import Buffer
from reference_impl.worker.failures import Failure, describe_end, failure_payload
from reference_impl.worker.instructions import (
    End,
    Fetch,
    Forget,
    Instruction,
    Kill,
    Note,
    Release,
    Send,
    Show,
    Start,
    Store,
    UseStorage,
)
from reference_impl.worker.settings import Settings, Usage

_SILENCE_SECONDS = 5.0
"""A scheduler that is silent for longer is worth a line in the log."""


class Held(Enum):
    """Where a held task is."""

    FETCHING = "fetching its objects"
    READY = "ready"
    RUNNING = "running"
    FINISHING = "its result is being stored"
    CANCELING = "its processor is being killed"


class _Held:
    __slots__ = (
        "late_cancels",
        "metadata",
        "outcome",
        "refused",
        "result_metadata",
        "source",
        "started",
        "state",
        "stream",
        "task",
    )

    def __init__(self, source: ClientId, state: Held) -> None:
        self.source = source
        self.state = state
        self.task: Task | None = None
        self.metadata = TaskMetadata()
        self.stream = False
        self.started = 0.0
        self.outcome = TaskResultType.FAILED
        self.result_metadata = b""
        self.refused = False  # its result, by the object storage
        self.late_cancels = 0  # TaskCancels to be answered after the TaskResult


class WorkerCore:
    """One slot. ``counts`` has what was ignored, by reason."""

    def __init__(self, settings: Settings, now: float) -> None:
        self._settings = settings
        self._held: dict[TaskId, _Held] = {}
        self._ready: deque[TaskId] = deque()
        self._current: TaskId | None = None  # running or canceling
        self._processor: int | None = None  # its pid
        self._kill_at = 0.0  # end of the grace of a cancel; 0: none is running
        self._beat_at = now
        self._beat_sent = 0.0  # 0: the last heartbeat is answered
        self._latency = 0
        self.echoed = False
        """Whether the scheduler has answered a heartbeat."""
        self.counts: Counter[str] = Counter()

    # ---- what is known ----

    @property
    def held(self) -> dict[TaskId, Held]:
        return {task_id: held.state for task_id, held in self._held.items()}

    @property
    def current(self) -> TaskId | None:
        """The task on the processor."""
        return self._current

    @property
    def deadline(self) -> float:
        """When ``tick`` is due."""
        return min(self._beat_at, self._kill_at) if self._kill_at else self._beat_at

    # ---- messages from the scheduler ----

    def received(self, envelope: Envelope, now: float) -> list[Instruction]:
        """A message. MalformedMessage never comes out (SPEC section 10): a malformed Task fails, others are counted."""
        kind = envelope.kind
        try:
            if kind is Kind.TASK:
                return self._task(envelope, now)
            if kind is Kind.TASK_CANCEL:
                return self._cancel(envelope.task_id, bool(envelope.detail), now)
            if kind is Kind.WORKER_HEARTBEAT_ECHO:
                return self._echo(envelope.message, now)
            if kind is Kind.OBJECT_INSTRUCTION:
                return self._object_instruction(envelope.message)
            if kind is Kind.CLIENT_DISCONNECT:
                return self._disconnect(envelope.message)
        except MalformedMessage as error:
            return self.malformed(str(error))
        return self._ignore(f"{kind.name} is not for a worker")

    def malformed(self, why: str) -> list[Instruction]:
        """A frame that is no message, or no single frame (SPEC section 10)."""
        return self._ignore(f"malformed message: {why}", "malformed")

    def _ignore(self, text: str, count: str = "ignored") -> list[Instruction]:
        self.counts[count] += 1
        return [Note(logging.WARNING, f"{text}; ignored")]

    def _task(self, envelope: Envelope, now: float) -> list[Instruction]:
        task_id = envelope.task_id
        if task_id in self._held:
            self.counts["duplicate"] += 1
            return [Note(logging.WARNING, f"task {task_id.hex()} is held already; the second one is ignored")]  # TSK-03
        held = _Held(envelope.source, Held.FETCHING)
        self._held[task_id] = held
        try:
            task = envelope.message
            assert isinstance(task, Task)
            held.metadata = TaskMetadata.from_bytes(task.metadata)
        except MalformedMessage as error:
            return self._fail(task_id, held, Failure("malformed", f"the worker can't read the task: {error}"))
        held.stream = held.metadata.stream_output
        held.task = task
        names = [serializer_object_id(task.source), ObjectId(task.func_object_id)]
        for argument in task.function_args:
            if argument.type is ArgumentType.TASK:
                text = "an argument is a task of a graph; a worker gets tasks whose arguments are objects"
                return self._fail(task_id, held, Failure("graph", text))
            if len(argument.data) != OBJECT_ID_BYTES:
                text = f"an argument's object id has {OBJECT_ID_BYTES} bytes, not {len(argument.data)}"
                return self._fail(task_id, held, Failure("malformed", text))
            names.append(ObjectId(argument.data))
        return [Fetch(task_id, tuple(names))]

    def _cancel(self, task_id: TaskId, force: bool, now: float) -> list[Instruction]:
        held = self._held.get(task_id)
        if held is None:
            # It may just have finished: normal traffic (CAN-03).
            return [_confirm(task_id, TaskCancelConfirmType.CANCEL_NOT_FOUND)]
        if held.state is Held.FINISHING:
            held.late_cancels += 1
            return []
        if held.state is Held.CANCELING:
            return []  # the confirm of the first one is on its way
        if held.state is Held.RUNNING:
            if not force:
                return [_confirm(task_id, TaskCancelConfirmType.CANCEL_FAILED)]
            held.state = Held.CANCELING
            if self._settings.cancel_grace_seconds > 0:
                self._kill_at = now + self._settings.cancel_grace_seconds
                return [Kill(signal.SIGTERM)]
            return [Kill(signal.SIGKILL)]
        if held.state is Held.READY:
            self._ready.remove(task_id)
        del self._held[task_id]
        return [Release(task_id), _confirm(task_id, TaskCancelConfirmType.CANCELED)]

    def _echo(self, echo: Message, now: float) -> list[Instruction]:
        assert isinstance(echo, WorkerHeartbeatEcho)
        self.echoed = True
        if self._beat_sent:
            self._latency = min(int((now - self._beat_sent) * 1e6), 2**32 - 1)
            self._beat_sent = 0.0
        return [UseStorage(echo.object_storage_address)]

    def _object_instruction(self, instruction: Message) -> list[Instruction]:
        assert isinstance(instruction, ObjectInstruction)
        if instruction.instruction_type is not ObjectInstructionType.DELETE:
            return self._ignore(f"ObjectInstruction({instruction.instruction_type.name}) is not for a worker")
        return [Forget(instruction.object_metadata.object_ids)]

    def _disconnect(self, message: Message) -> list[Instruction]:
        assert isinstance(message, ClientDisconnect)
        if message.disconnect_type is not DisconnectType.SHUTDOWN:
            return self._ignore("ClientDisconnect(disconnect) is not for a worker")
        return [End("")]

    # ---- objects and the processor ----

    def objects_arrived(self, task_id: TaskId, now: float) -> list[Instruction]:
        """Everything that a Fetch named is here."""
        held = self._held.get(task_id)
        if held is None or held.state is not Held.FETCHING:
            return []
        held.state = Held.READY
        self._ready.append(task_id)
        return self._start_next(now)

    def processor_ready(self, pid: int, now: float) -> list[Instruction]:
        """The slot has an idle processor."""
        self._processor = pid
        return self._start_next(now)

    def _start_next(self, now: float) -> list[Instruction]:
        if self._current is not None or self._processor is None or not self._ready:
            return []
        task_id = self._ready.popleft()
        held = self._held[task_id]
        held.state = Held.RUNNING
        held.started = now
        self._current = task_id
        assert held.task is not None
        return [Start(held.task, serializer_object_id(held.task.source))]

    def output(self, log_type: LogType, text: str) -> list[Instruction]:
        """The processor's stdout or stderr, whole characters."""
        if self._current is not None and self._held[self._current].stream:
            return [Send(TaskLog(self._current, log_type, text))]
        return [Show(text)]

    def finished(
        self, task_id: TaskId, success: bool, payload: Buffer, metadata: ResultMetadata, now: float
    ) -> list[Instruction]:
        """The processor returned a pickled result, or a pickled exception. All output came before."""
        if task_id != self._current:
            return self._ignore(f"the processor answered for task {task_id.hex()}, which it does not run")
        held = self._held[task_id]
        if held.state is Held.CANCELING:
            # The cancel came first and stands. A task that used its grace to end has had it now.
            if not self._kill_at:
                return []
            self._kill_at = 0.0
            return [Kill(signal.SIGKILL)]
        self._current = None
        held.state = Held.FINISHING
        held.outcome = TaskResultType.SUCCESS if success else TaskResultType.FAILED
        if held.metadata.profiling:
            held.result_metadata = metadata.to_bytes()
        return [*self._start_next(now), Release(task_id), Store(task_id, held.source, payload)]

    def processor_gone(self, status: int | None, now: float) -> list[Instruction]:
        """The processor and everything its task started have ended. ``status`` as of waitpid; None: not known."""
        self._processor = None
        self._kill_at = 0.0
        task_id, self._current = self._current, None
        if task_id is None:
            return []
        held = self._held[task_id]
        if held.state is Held.CANCELING:
            del self._held[task_id]
            return [Release(task_id), _confirm(task_id, TaskCancelConfirmType.CANCELED)]
        return self._fail(task_id, held, Failure("died", f"the process that ran the task {describe_end(status)}"))

    def _fail(self, task_id: TaskId, held: _Held, failure: Failure) -> list[Instruction]:
        held.state = Held.FINISHING
        held.outcome = TaskResultType.FAILED
        return [Release(task_id), Store(task_id, held.source, failure_payload(failure))]

    def storing(self, task_id: TaskId, name: ObjectId, size: int) -> list[Instruction]:
        """The result is about to be stored. It is announced first: should this worker be lost before it answers, the
        scheduler knows of the object (OBJ-17)."""
        held = self._held[task_id]
        label = b"<result %s>" % task_id.hex()[:8].encode()
        about = ObjectMetadata((name,), (ObjectContentType.OBJECT,), (label,), (size,))
        return [Send(ObjectInstruction(ObjectInstructionType.CREATE, held.source, about))]

    def stored(self, task_id: TaskId, name: ObjectId) -> list[Instruction]:
        """The result is in the object storage (SPEC sections 5.5 and 7.1)."""
        return self._answer(task_id, (name,))

    def not_stored(self, task_id: TaskId) -> list[Instruction]:
        """The object storage has no room for the result (STO-24)."""
        held = self._held.get(task_id)
        if held is None or held.state is not Held.FINISHING:
            return []
        if held.refused:  # nor for the exception that says so
            return self._answer(task_id, ())
        held.refused = True
        held.outcome = TaskResultType.FAILED
        text = "the object storage is full: it refused the result of the task"
        return [Store(task_id, held.source, failure_payload(Failure("full", text)))]

    def _answer(self, task_id: TaskId, results: tuple[ObjectId, ...]) -> list[Instruction]:
        held = self._held.get(task_id)
        if held is None or held.state is not Held.FINISHING:
            return []
        del self._held[task_id]
        out: list[Instruction] = [Send(TaskResult(task_id, held.outcome, held.result_metadata, results))]
        if held.late_cancels:
            # It was over when the cancel came: the result first, then the answer (CAN-03).
            out.extend(_confirm(task_id, TaskCancelConfirmType.CANCEL_NOT_FOUND) for _ in range(held.late_cancels))
        return out

    # ---- time ----

    def tick(self, now: float, usage: Usage) -> list[Instruction]:
        """The ``deadline`` has come."""
        out: list[Instruction] = []
        if self._kill_at and now >= self._kill_at:
            self._kill_at = 0.0
            out.append(Kill(signal.SIGKILL))
        if now < self._beat_at:
            return out
        # Counted from a heartbeat that it has not answered: a worker that was itself stopped for long asks first.
        if self._beat_sent and now - self._beat_sent >= self._settings.death_seconds:
            return [*out, End(f"the scheduler has been silent for {now - self._beat_sent:.0f} s")]
        if self._beat_sent and now - self._beat_sent >= _SILENCE_SECONDS:
            out.append(Note(logging.WARNING, f"the scheduler has not answered for {now - self._beat_sent:.0f} s"))
        self._beat_at = now + self._settings.heartbeat_seconds
        if not self._beat_sent:
            self._beat_sent = now
        return [*out, Send(self._heartbeat(now, usage))]

    def _heartbeat(self, now: float, usage: Usage) -> WorkerHeartbeat:
        settings = self._settings
        processors: tuple[ProcessorStatus, ...] = ()
        if self._processor is not None:
            age = int(now - self._held[self._current].started) if self._current else 0
            processors = (
                ProcessorStatus(
                    pid=self._processor,
                    initialized=True,
                    has_task=self._current is not None,
                    resource=usage.processor,
                    current_task_id=self._current or b"",
                    task_age_seconds=age,
                ),
            )
        return WorkerHeartbeat(
            agent=usage.agent,
            rss_free=usage.rss_free,
            queue_size=settings.queue_size,
            queued_tasks=sum(held.state in (Held.FETCHING, Held.READY) for held in self._held.values()),
            latency_microseconds=self._latency,
            processors=processors,
            capabilities=settings.capabilities,
            mem_limit=usage.mem_limit,
            hostname=settings.hostname,
            net_sent_bytes=usage.net_sent_bytes,
            net_recv_bytes=usage.net_received_bytes,
        )

    def leave(self) -> list[Instruction]:
        """The worker is told to end."""
        return [Send(WorkerDisconnectNotification())]


def _confirm(task_id: TaskId, answer: TaskCancelConfirmType) -> Send:
    return Send(TaskCancelConfirm(task_id, answer))
