"""What one slot of a worker does, without sockets, processes or clocks (SPEC sections 5 to 8).

Theory of operation. A slot holds tasks. Each held task is in one ``Held`` state: ``fetching`` its objects, ``ready``,
``running`` on the slot's processor, ``handed`` to it behind that one, ``suspended`` on a processor of its own that is
stopped, ``finishing`` (its result is being stored), or ``canceling`` (its processor is being killed). It leaves by
exactly one answer: a TaskResult, or a TaskCancelConfirm of type canceled (TSK-01).

``turns`` says which of them has the slot's processor; ``beats`` is what the scheduler is told of all this.

Each method is one event; it returns what is to be done, in order. ``now`` is in seconds on a clock that never goes
back. The processor starts the next ready task as soon as it is free, while earlier results are still being stored.
"""

from __future__ import annotations

import logging
import signal
from collections import Counter
from collections.abc import Collection, Iterable

from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.identifiers import OBJECT_ID_BYTES, ClientId, ObjectId, TaskId, WorkerId, serializer_object_id
from protocol.messages import (
    ArgumentType,
    ClientDisconnect,
    DisconnectType,
    InformationResponse,
    Kind,
    LogType,
    Message,
    ObjectContentType,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectMetadata,
    Task,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskLog,
    TaskResult,
    TaskResultType,
    WorkerDisconnectNotification,
    WorkerHeartbeatEcho,
)
from protocol.payloads import ResultMetadata, TaskMetadata
from protocol.storage import Buffer
from reference_impl.worker.beats import Beats
from reference_impl.worker.doubts import Doubts
from reference_impl.worker.failures import Failure, describe_end, failure_payload
from reference_impl.worker.held import Held, HeldTask
from reference_impl.worker.instructions import (
    End,
    Fetch,
    Forget,
    ForgetAll,
    Instruction,
    Kill,
    Note,
    ReadOutput,
    Recall,
    Release,
    Resume,
    Send,
    Show,
    Spare,
    Store,
    UseStorage,
)
from reference_impl.worker.output import Credit, Lines
from reference_impl.worker.settings import Settings, Usage
from reference_impl.worker.turns import Turns

_SILENCE_SECONDS = 5.0
"""A scheduler that is silent for longer is worth a line in the log."""
_MEMORY_SIGNALS = (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)
"""How a process may end that can't get memory, of itself or by the kernel."""
_ANNOUNCED = 8
"""So many results in one message: larger ones take longer to encode and decode (``protocol.shapes``)."""
_OWN_BYTES = 32 << 20
"""What the process in which a task runs may use for itself."""


class WorkerCore:
    """One slot. ``counts`` has what was ignored, by reason."""

    def __init__(self, settings: Settings, now: float) -> None:
        self._settings = settings
        self._held: dict[TaskId, HeldTask] = {}
        self._numbers = 0
        self._turns = Turns(self._held)
        self._next_kill = 0.0  # the earliest end of a grace; 0: none is running
        self._cancels: list[tuple[TaskId, bool]] = []  # wait for a recall: (task, by force)
        self._beats = Beats(settings, now)
        self._lines = Lines()
        self._credit = Credit()
        self._doubts = Doubts()
        self.identity = WorkerId(b"")
        """Under which it is registered; set by who connects it."""
        self.echoed = False
        """Whether the scheduler has answered a heartbeat."""
        self.counts: Counter[str] = Counter()

    # ---- what is known ----

    @property
    def held(self) -> dict[TaskId, Held]:
        return {task_id: held.state for task_id, held in self._held.items()}

    def drain(self, now: float) -> list[Instruction]:
        """From now on no task starts: those that wait here go to other workers when this one leaves. The scheduler is
        told to send nothing more."""
        self._beats.leave(now)
        return self._turns.drain()

    @property
    def may_leave(self) -> bool:
        """Whether the scheduler knows that this worker is leaving."""
        return self._beats.told

    @property
    def drained(self) -> bool:
        """Whether it was told to drain, and no task that has started is left."""
        waiting = (Held.FETCHING, Held.READY)
        return self._turns.draining and all(held.state in waiting for held in self._held.values())

    @property
    def reads_output(self) -> bool:
        """Whether what tasks write is to be read now."""
        return not self._credit.paused

    @property
    def current(self) -> TaskId | None:
        """The task on the processor."""
        return self._turns.current

    @property
    def processor(self) -> int | None:
        """The pid of the slot's processor."""
        return self._turns.processor

    @property
    def deadline(self) -> float:
        """When ``tick`` is due."""
        due = self._beats.due
        for other in (self._next_kill, self._lines.due):
            if other and other < due:
                due = other
        return due

    @property
    def at_ease(self) -> bool:
        """Whether nothing waits for the agent: the processor has more to do, or there is nothing to do."""
        return bool(self._turns.behind) or not self._held

    def wants_usage(self, now: float) -> bool:
        """Whether ``tick`` will send a heartbeat, which needs the usage."""
        return now >= self._beats.due

    def beat_later(self, at: float) -> None:
        """A heartbeat was due that reaches nobody just now."""
        self._beats.due = at

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
            if kind is Kind.INFORMATION_RESPONSE:
                return self._taken_away(envelope.message, now)
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
        held = HeldTask(envelope.source, Held.FETCHING, self._numbers)
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
        if held.state in (Held.RUNNING, Held.HANDED) and self._turns.unknown:
            self._cancels.append((task_id, force))
            self._turns.recalling = True
            return [Recall(held.pid)]
        if held.state in (Held.RUNNING, Held.HANDED, Held.SUSPENDED):
            if not force:
                return [_confirm(task_id, TaskCancelConfirmType.CANCEL_FAILED)]
            return self._stop(task_id, held, now)
        if held.state is Held.READY:
            self._turns.leave(task_id)
        del self._held[task_id]
        out: list[Instruction] = [Release(task_id), _confirm(task_id, TaskCancelConfirmType.CANCELED)]
        return [*out, *self._turns.start_next(now)]  # a task that was suspended for it goes on

    def _stop(self, task_id: TaskId, held: HeldTask, now: float) -> list[Instruction]:
        """A task that has started is to be killed; one that is suspended has to go on to use its grace."""
        was_suspended = held.state is Held.SUSPENDED
        held.state = Held.CANCELING
        if was_suspended:
            self._turns.suspended.remove(task_id)
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
        out: list[Instruction] = [UseStorage(echo.object_storage_address)]
        if self._beats.answered(now):  # late: what was said before this heartbeat may have come from a stranger
            out += map(Send, self._beats.unheard)
            if self._held:
                out.append(Send(self._doubts.ask(self._held)))
        return [*out, ReadOutput(True)] if self._credit.echoed() else out

    def _taken_away(self, response: Message, now: float) -> list[Instruction]:
        """The scheduler has given this worker up meanwhile, and these tasks to others (LIV-19)."""
        assert isinstance(response, InformationResponse)
        out: list[Instruction] = []
        for task_id in self._doubts.answered(response, self.identity):
            out += self._drop(task_id, now)
        return [*out, ForgetAll()] if out else out

    def _drop(self, task_id: TaskId, now: float) -> list[Instruction]:
        """Nobody waits for this task here any more. That it is canceled is said to the scheduler, which ignores it."""
        held = self._held.get(task_id)
        return [] if held is None or held.state is Held.FINISHING else self._cancel(task_id, True, now)

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

    def objects_arrived(self, task_id: TaskId, now: float, small: bool = False) -> list[Instruction]:
        """Everything that a Fetch named is here. ``small``: it may be handed over while another task runs, for it does
        not matter if that was for nothing."""
        held = self._held.get(task_id)
        if held is None or held.state is not Held.FETCHING:
            return []
        # The memory that a processor uses is that of the task which runs as far as is known here.
        held.ahead = small and not held.stream and not self._settings.memory_limit
        self._turns.join(task_id)
        return self._turns.start_next(now)

    def processor_ready(self, pid: int, now: float) -> list[Instruction]:
        """The slot has an idle processor."""
        self._turns.processor = pid
        return self._turns.start_next(now)

    def output(self, pid: int, log_type: LogType, text: str, now: float) -> list[Instruction]:
        """A processor's stdout or stderr, whole characters."""
        task_id = self._turns.on.get(pid)
        if task_id is not None and self._held[task_id].stream:
            return self._send_logs(self._lines.write(task_id, log_type, text, now), now)
        return [Show(text)]

    def _send_logs(self, logs: list[TaskLog], now: float) -> list[Instruction]:
        out: list[Instruction] = []
        for log in logs:
            out.append(Send(log))
            if self._credit.sent(log):
                out.append(ReadOutput(False))
                self._beats.due = now
        return out

    def finished(
        self, pid: int, task_id: TaskId, success: bool, payload: Buffer, metadata: ResultMetadata, now: float
    ) -> list[Instruction]:
        """A processor returned a pickled result, or a pickled exception. All output came before."""
        if task_id != self._turns.on.get(pid):
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
        self._turns.ended(pid, now)
        if held.state is Held.SUSPENDED:  # its answer was on its way
            self._turns.suspended.remove(task_id)
            out.append(Spare(pid))
        held.state = Held.FINISHING
        held.outcome = TaskResultType.SUCCESS if success else TaskResultType.FAILED
        if held.metadata.profiling:
            held.result_metadata = metadata.to_bytes()
        return [*out, *self._turns.start_next(now), Release(task_id), Store(task_id, held.source, payload)]

    def recalled(self, pid: int, unstarted: Collection[TaskId], now: float) -> list[Instruction]:
        """A Recall has been carried out: these will not start, all others have. Their answers have been told."""
        out: list[Instruction] = []
        if not self._turns.recalled(unstarted, now):
            text = "the process that ran the task started others without an answer"
            self._held[self._turns.on[pid]].doomed = Failure("died", text)
            out.append(Kill(pid, signal.SIGKILL))
        cancels, self._cancels = self._cancels, []
        for task_id, force in cancels:
            out += self._cancel(task_id, force, now)
        return [*out, *self._turns.start_next(now)]

    def processor_gone(
        self, pid: int, status: int | None, now: float, unstarted: Collection[TaskId] = (), fault: str = ""
    ) -> list[Instruction]:
        """A processor and everything its task started have ended. ``status`` as of waitpid; None: not known.
        ``unstarted`` had been handed to it, and will run elsewhere. ``fault`` is what it did that it had to end, as
        ``closed its channel``."""
        out: list[Instruction] = []
        for task_id in self._turns.gone(pid, unstarted, now):
            out += self._lost(task_id, status, fault, now)
        return [*out, *self._turns.start_next(now)]  # a suspended task needs no new processor

    def _lost(self, task_id: TaskId, status: int | None, fault: str, now: float) -> list[Instruction]:
        """Its processor has ended."""
        held = self._held[task_id]
        out = self._send_logs(self._lines.end(task_id), now)
        if held.state is Held.SUSPENDED:
            self._turns.suspended.remove(task_id)
        if held.state is Held.CANCELING:
            del self._held[task_id]
            self._plan_kills()
            out += [Release(task_id), _confirm(task_id, TaskCancelConfirmType.CANCELED)]
            if held.again is not None:
                out += self._task(held.again, now)
        else:
            out += self._fail(task_id, held, held.doomed or self._death(status, fault))
        return out

    def _death(self, status: int | None, fault: str) -> Failure:
        if fault:
            return Failure("died", f"the process that ran the task {fault}, and was ended for that")
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
            task_id = self._turns.on.get(pid)
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

    def _fail(self, task_id: TaskId, held: HeldTask, failure: Failure) -> list[Instruction]:
        held.state = Held.FINISHING
        held.outcome = TaskResultType.FAILED
        return [Release(task_id), Store(task_id, held.source, failure_payload(failure))]

    def storing(self, results: Iterable[tuple[TaskId, ObjectId, int]]) -> list[Instruction]:
        """These results (task, name, bytes) are about to be stored. They are announced first: should this worker be
        lost before it answers, the scheduler knows of the objects (OBJ-17)."""
        by_owner: dict[ClientId, list[tuple[TaskId, ObjectId, int]]] = {}
        for result in results:
            by_owner.setdefault(self._held[result[0]].source, []).append(result)
        out: list[Instruction] = []
        for owner, all_of_it in by_owner.items():
            for i in range(0, len(all_of_it), _ANNOUNCED):
                some = all_of_it[i : i + _ANNOUNCED]
                about = ObjectMetadata(
                    tuple([name for _, name, _ in some]),
                    (ObjectContentType.OBJECT,) * len(some),
                    tuple([b"<result %s>" % task_id.hex()[:8].encode() for task_id, _, _ in some]),
                    tuple([size for _, _, size in some]),
                )
                out.append(Send(ObjectInstruction(ObjectInstructionType.CREATE, owner, about)))
        return out

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
        result = TaskResult(task_id, held.outcome, held.result_metadata, results)
        self._beats.result(result)
        out: list[Instruction] = [Send(result)]
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
        if now < self._beats.due:
            return out
        silence = self._beats.silence(now)
        if silence >= self._settings.death_seconds:
            return [*out, End(f"the scheduler has been silent for {silence:.0f} s")]
        if silence >= _SILENCE_SECONDS:
            out.append(Note(logging.WARNING, f"the scheduler has not answered for {silence:.0f} s"))
        self._credit.beat()
        self._beats.sent(now)
        return [*out, *self._check_memory(usage), Send(self._beats.message(self._held, self._turns, usage, now))]

    def part(self) -> list[Instruction]:
        """The connection to the scheduler was cut: tasks and cancels may be lost, and answers. What it may not have
        heard is said again; then this worker leaves, so that what it holds goes elsewhere (LIV-18)."""
        return [*map(Send, self._beats.unheard), *self.leave()]

    def come_back(self, now: float, usage: Usage) -> list[Instruction]:
        """It comes back, with another identity and with nothing. To a scheduler that did not know the old one what
        that has stored is said by this one, too."""
        unheard = list(self._beats.unheard)
        self._beats.sent(now)
        out: list[Instruction] = [Send(self._beats.message(self._held, self._turns, usage, now)), *map(Send, unheard)]
        for task_id in list(self._held):
            out += self._drop(task_id, now)
        return [*out, ForgetAll()]

    def leave(self) -> list[Instruction]:
        """The worker is told to end."""
        return [Send(WorkerDisconnectNotification())]


def _confirm(task_id: TaskId, answer: TaskCancelConfirmType) -> Send:
    return Send(TaskCancelConfirm(task_id, answer))
