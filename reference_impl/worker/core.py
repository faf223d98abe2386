"""What one slot of a worker does, without sockets, processes or clocks (SPEC sections 5 to 8).

Theory of operation. A slot holds tasks. Each held task is in one ``Held`` state: ``fetching`` its objects, ``ready``,
``running`` on the slot's processor, ``suspended`` on a processor of its own that is stopped, ``finishing`` (its result
is being stored), or ``canceling`` (its processor is being killed). It leaves by exactly one answer: a TaskResult, or a
TaskCancelConfirm of type canceled (TSK-01).

One task runs. A ready task of a higher priority suspends it, which takes the processor out of the slot; the agent gives
the slot another one. Since only a higher priority suspends, the suspended tasks form a stack of rising priorities, and
there are never more of them than the slot may hold tasks (PRI-01 to PRI-03).

Each method is one event; it returns what is to be done, in order. ``now`` is in seconds on a clock that never goes
back. The processor starts the next ready task as soon as it is free, while earlier results are still being stored.
"""

from __future__ import annotations

import heapq
import logging
import signal
from collections import Counter
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
    Resource,
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
    ReadOutput,
    Release,
    Resume,
    Send,
    Show,
    Spare,
    Start,
    Store,
    Suspend,
    UseStorage,
)
from reference_impl.worker.output import Credit, Lines
from reference_impl.worker.settings import Settings, Usage

_SILENCE_SECONDS = 5.0
"""A scheduler that is silent for longer is worth a line in the log."""


_MEMORY_SIGNALS = (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)
"""How a process may end that can't get memory, of itself or by the kernel."""


_OWN_BYTES = 32 << 20
"""What the process in which a task runs may use for itself."""


class Held(Enum):
    """Where a held task is."""

    FETCHING = "fetching its objects"
    READY = "ready"
    RUNNING = "running"
    SUSPENDED = "suspended"
    FINISHING = "its result is being stored"
    CANCELING = "its processor is being killed"


class _Held:
    __slots__ = (
        "again",
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
        self.pid = 0  # of its processor, once it has started
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


class WorkerCore:
    """One slot. ``counts`` has what was ignored, by reason."""

    def __init__(self, settings: Settings, now: float) -> None:
        self._settings = settings
        self._held: dict[TaskId, _Held] = {}
        self._numbers = 0
        self._ready: list[tuple[tuple[int, int], TaskId]] = []  # a heap by place
        self._suspended: list[TaskId] = []  # the last one has the highest priority, and is the next to go on
        self._current: TaskId | None = None  # what the slot's processor does: running or canceling
        self._processor: int | None = None  # the pid of the slot's processor
        self._on: dict[int, TaskId] = {}  # what each processor does, the suspended and canceled ones too
        self._next_kill = 0.0  # the earliest end of a grace; 0: none is running
        self._beat_at = now
        self._beat_sent = 0.0  # 0: the last heartbeat is answered
        self._latency = 0
        self._lines = Lines()
        self._credit = Credit()
        self.echoed = False
        """Whether the scheduler has answered a heartbeat."""
        self.counts: Counter[str] = Counter()

    # ---- what is known ----

    @property
    def held(self) -> dict[TaskId, Held]:
        return {task_id: held.state for task_id, held in self._held.items()}

    @property
    def reads_output(self) -> bool:
        """Whether what tasks write is to be read now."""
        return not self._credit.paused

    @property
    def current(self) -> TaskId | None:
        """The task on the processor."""
        return self._current

    @property
    def processor(self) -> int | None:
        """The pid of the slot's processor."""
        return self._processor

    @property
    def deadline(self) -> float:
        """When ``tick`` is due."""
        due = self._beat_at
        for other in (self._next_kill, self._lines.due):
            if other and other < due:
                due = other
        return due

    def wants_usage(self, now: float) -> bool:
        """Whether ``tick`` will send a heartbeat, which needs the usage."""
        return now >= self._beat_at

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
        known = self._held.get(task_id)
        if known is not None and known.state is Held.CANCELING and known.again is None:
            known.again = envelope  # new, once the cancel that came before it is answered (WRK-20)
            return []
        if known is not None:
            self.counts["duplicate"] += 1
            return [Note(logging.WARNING, f"task {task_id.hex()} is held already; the second one is ignored")]  # TSK-03
        self._numbers += 1
        held = _Held(envelope.source, Held.FETCHING, self._numbers)
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
            held.again = None
            return []  # the confirm of the first one is on its way, and answers this one, too (WRK-07)
        if held.state in (Held.RUNNING, Held.SUSPENDED):
            if not force:
                return [_confirm(task_id, TaskCancelConfirmType.CANCEL_FAILED)]
            return self._stop(task_id, held, now)
        if held.state is Held.READY:
            self._ready.remove((held.place, task_id))
            heapq.heapify(self._ready)
        del self._held[task_id]
        out: list[Instruction] = [Release(task_id), _confirm(task_id, TaskCancelConfirmType.CANCELED)]
        return [*out, *self._start_next(now)]  # a task that was suspended for it goes on

    def _stop(self, task_id: TaskId, held: _Held, now: float) -> list[Instruction]:
        """A task that has started is to be killed; one that is suspended has to go on to use its grace."""
        was_suspended = held.state is Held.SUSPENDED
        held.state = Held.CANCELING
        if was_suspended:
            self._suspended.remove(task_id)
        if self._settings.cancel_grace_seconds <= 0:
            return [Kill(held.pid, signal.SIGKILL)]
        held.kill_at = now + self._settings.cancel_grace_seconds
        self._plan_kills()
        out: list[Instruction] = [Kill(held.pid, signal.SIGTERM)]
        return [*out, Resume(held.pid)] if was_suspended else out

    def _plan_kills(self) -> None:
        self._next_kill = min((held.kill_at for held in self._held.values() if held.kill_at), default=0.0)

    def _echo(self, echo: Message, now: float) -> list[Instruction]:
        assert isinstance(echo, WorkerHeartbeatEcho)
        self.echoed = True
        if self._beat_sent:
            self._latency = min(int((now - self._beat_sent) * 1e6), 2**32 - 1)
            self._beat_sent = 0.0
        out: list[Instruction] = [UseStorage(echo.object_storage_address)]
        return [*out, ReadOutput(True)] if self._credit.echoed() else out

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
        heapq.heappush(self._ready, (held.place, task_id))
        return self._start_next(now)

    def processor_ready(self, pid: int, now: float) -> list[Instruction]:
        """The slot has an idle processor."""
        self._processor = pid
        return self._start_next(now)

    def _start_next(self, now: float) -> list[Instruction]:
        """The processor gets the best task: the highest priority, then one that has started, then the oldest."""
        out: list[Instruction] = []
        ready = self._held[self._ready[0][1]] if self._ready else None
        if self._current is not None:
            current = self._held[self._current]
            if ready is None or current.state is not Held.RUNNING or current.doomed:
                return out
            if ready.priority <= current.priority:
                return out
            current.state = Held.SUSPENDED
            self._suspended.append(self._current)
            self._current = self._processor = None
            return [Suspend(current.pid)]  # the agent has another processor
        if self._suspended:
            task_id = self._suspended[-1]
            suspended = self._held[task_id]
            if ready is None or suspended.priority >= ready.priority:
                self._suspended.pop()
                suspended.state = Held.RUNNING
                if self._processor is not None:
                    out.append(Spare(self._processor))
                self._current, self._processor = task_id, suspended.pid
                out.append(Resume(suspended.pid))
                return out
        if ready is None or self._processor is None:
            return out
        _, task_id = heapq.heappop(self._ready)
        ready.state = Held.RUNNING
        ready.started = now
        ready.pid = self._processor
        self._current = self._on[self._processor] = task_id
        assert ready.task is not None
        return [Start(self._processor, ready.task, serializer_object_id(ready.task.source), ready.priority)]

    def output(self, pid: int, log_type: LogType, text: str, now: float) -> list[Instruction]:
        """A processor's stdout or stderr, whole characters."""
        task_id = self._on.get(pid)
        if task_id is not None and self._held[task_id].stream:
            return self._send_logs(self._lines.write(task_id, log_type, text, now), now)
        return [Show(text)]

    def _send_logs(self, logs: list[TaskLog], now: float) -> list[Instruction]:
        out: list[Instruction] = []
        for log in logs:
            out.append(Send(log))
            if self._credit.sent(log):
                out.append(ReadOutput(False))
                self._beat_at = now
        return out

    def finished(
        self, pid: int, task_id: TaskId, success: bool, payload: Buffer, metadata: ResultMetadata, now: float
    ) -> list[Instruction]:
        """A processor returned a pickled result, or a pickled exception. All output came before."""
        if task_id != self._on.get(pid):
            return self._ignore(f"a processor answered for task {task_id.hex()}, which it does not run")
        held = self._held[task_id]
        if held.state is Held.CANCELING:
            # The cancel came first and stands. A task that used its grace to end has had it now.
            if not held.kill_at:
                return []
            held.kill_at = 0.0
            self._plan_kills()
            return [Kill(pid, signal.SIGKILL)]
        if held.doomed is not None:
            return []
        out = self._send_logs(self._lines.end(task_id), now)
        del self._on[pid]
        if held.state is Held.SUSPENDED:  # its answer was on its way
            self._suspended.remove(task_id)
            out.append(Spare(pid))
        else:
            self._current = None
        held.state = Held.FINISHING
        held.outcome = TaskResultType.SUCCESS if success else TaskResultType.FAILED
        if held.metadata.profiling:
            held.result_metadata = metadata.to_bytes()
        return [*out, *self._start_next(now), Release(task_id), Store(task_id, held.source, payload)]

    def processor_gone(self, pid: int, status: int | None, now: float) -> list[Instruction]:
        """A processor and everything its task started have ended. ``status`` as of waitpid; None: not known."""
        task_id = self._on.pop(pid, None)
        if pid == self._processor:
            self._processor = self._current = None
        if task_id is None:
            return []
        held = self._held[task_id]
        out = self._send_logs(self._lines.end(task_id), now)
        if held.state is Held.SUSPENDED:
            self._suspended.remove(task_id)
        if held.state is Held.CANCELING:
            del self._held[task_id]
            self._plan_kills()
            out += [Release(task_id), _confirm(task_id, TaskCancelConfirmType.CANCELED)]
            if held.again is not None:
                out += self._task(held.again, now)
        else:
            out += self._fail(task_id, held, held.doomed or self._death(status))
        return [*out, *self._start_next(now)]  # a suspended task needs no new processor

    def _death(self, status: int | None) -> Failure:
        text = f"the process that ran the task {describe_end(status)}"
        limit = self._settings.memory_limit
        if limit and status is not None and status & 0x7F in _MEMORY_SIGNALS:
            text += f"; a task may use {limit} bytes of memory on this worker"
        return Failure("died", text)

    def _check_memory(self, usage: Usage) -> list[Instruction]:
        """Ends tasks that use too much together with what they have started (WRK-21)."""
        out: list[Instruction] = []
        limit = self._settings.memory_limit
        for pid, used in usage.families.items():
            task_id = self._on.get(pid)
            held = self._held[task_id] if task_id is not None else None
            if (
                held is None
                or used <= limit + _OWN_BYTES
                or held.state not in (Held.RUNNING, Held.SUSPENDED)
                or held.doomed
            ):
                continue
            text = f"the task and what it started used {used} bytes of memory; it may use {limit} on this worker"
            held.doomed = Failure("died", text)
            out.append(Kill(pid, signal.SIGKILL))
        return out

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
        if self._next_kill and now >= self._next_kill:
            for held in self._held.values():
                if held.kill_at and now >= held.kill_at:
                    held.kill_at = 0.0
                    out.append(Kill(held.pid, signal.SIGKILL))
            self._plan_kills()
        out += self._send_logs(self._lines.flush(now), now)
        if now < self._beat_at:
            return out
        # Counted from a heartbeat that it has not answered: a worker that was itself stopped for long asks first.
        if self._beat_sent and now - self._beat_sent >= self._settings.death_seconds:
            return [*out, End(f"the scheduler has been silent for {now - self._beat_sent:.0f} s")]
        if self._beat_sent and now - self._beat_sent >= _SILENCE_SECONDS:
            out.append(Note(logging.WARNING, f"the scheduler has not answered for {now - self._beat_sent:.0f} s"))
        self._beat_at = now + self._settings.heartbeat_seconds
        self._credit.beat()
        if not self._beat_sent:
            self._beat_sent = now
        return [*out, *self._check_memory(usage), Send(self._heartbeat(now, usage))]

    def _heartbeat(self, now: float, usage: Usage) -> WorkerHeartbeat:
        settings = self._settings
        pids = ([] if self._processor is None else [self._processor]) + [
            pid for pid in self._on if pid != self._processor
        ]
        return WorkerHeartbeat(
            agent=usage.agent,
            rss_free=usage.rss_free,
            queue_size=settings.queue_size,
            queued_tasks=sum(held.state in (Held.FETCHING, Held.READY) for held in self._held.values()),
            latency_microseconds=self._latency,
            task_lock=self._processor is None,
            processors=tuple([self._status(pid, now, usage) for pid in pids]),
            capabilities=settings.capabilities,
            worker_manager_id=settings.manager_id,
            mem_limit=settings.memory_limit or usage.mem_limit,
            hostname=settings.hostname,
            net_sent_bytes=usage.net_sent_bytes,
            net_recv_bytes=usage.net_received_bytes,
        )

    def _status(self, pid: int, now: float, usage: Usage) -> ProcessorStatus:
        task_id = self._on.get(pid)
        held = self._held[task_id] if task_id is not None else None
        return ProcessorStatus(
            pid=pid,
            initialized=True,
            has_task=held is not None,
            suspended=held is not None and held.state is Held.SUSPENDED,
            resource=usage.processors.get(pid, Resource()),
            current_task_id=task_id or b"",
            task_age_seconds=int(now - held.started) if held is not None else 0,
        )

    def leave(self) -> list[Instruction]:
        """The worker is told to end."""
        return [Send(WorkerDisconnectNotification())]


def _confirm(task_id: TaskId, answer: TaskCancelConfirmType) -> Send:
    return Send(TaskCancelConfirm(task_id, answer))
