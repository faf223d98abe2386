"""What one slot of a worker does, without sockets, processes or clocks (SPEC sections 5 to 8).

Theory of operation. A slot holds tasks. Each held task is in one ``Held`` state: ``fetching`` its objects, ``ready``,
``running`` on the slot's processor, ``handed`` to it behind that one, ``suspended`` on a processor of its own that is
stopped, ``finishing`` (its result is being stored), or ``canceling`` (its processor is being killed). It leaves by
exactly one answer: a TaskResult, or a TaskCancelConfirm of type canceled (TSK-01).

``turns`` says which of them has the slot's processor, ``cancels`` what a cancel does to it, ``results`` how its end
becomes its answer; ``beats`` is what the scheduler is told of all this.

Each method is one event; it returns what is to be done, in order. ``now`` is in seconds on a clock that never goes
back. The processor starts the next ready task as soon as it is free, while earlier results are still being stored.
"""

from __future__ import annotations

import logging
import signal
from collections import Counter
from collections.abc import Collection

from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.identifiers import TaskId, WorkerId
from protocol.messages import (
    ClientDisconnect,
    DisconnectType,
    Kind,
    LogType,
    Message,
    ObjectInstruction,
    ObjectInstructionType,
    Task,
    WorkerDisconnectNotification,
    WorkerHeartbeatEcho,
)
from protocol.payloads import ResultMetadata, TaskMetadata
from protocol.storage import Buffer
from reference_impl.worker.beats import Beats
from reference_impl.worker.cancels import Cancels
from reference_impl.worker.doubts import Doubts
from reference_impl.worker.excess import end_excess
from reference_impl.worker.failures import Failure, death
from reference_impl.worker.held import Held, HeldTask, needed
from reference_impl.worker.instructions import (
    End,
    Fetch,
    Forget,
    ForgetAll,
    Instruction,
    Kill,
    Note,
    Send,
    Show,
    Spare,
    UseStorage,
)
from reference_impl.worker.output import Credit, Lines
from reference_impl.worker.results import Results
from reference_impl.worker.settings import Settings, Usage
from reference_impl.worker.turns import Turns

_SILENCE_SECONDS = 5.0
"""A scheduler that is silent for longer is worth a line in the log."""


class WorkerCore:
    """One slot. ``counts`` has what was ignored, by reason."""

    def __init__(self, settings: Settings, now: float) -> None:
        self._settings = settings
        self._held: dict[TaskId, HeldTask] = {}
        self._numbers = 0
        self._turns = Turns(self._held)
        self._cancels = Cancels(self._held, self._turns, settings.cancel_grace_seconds)
        self._beats = Beats(settings, now)
        self._lines = Lines()
        self._credit = Credit(self._beats)
        self._doubts = Doubts(self._cancels)
        self.results = Results(self._held, self._beats)
        """Is told what becomes of results in the object storage."""
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
        for other in (self._cancels.due, self._lines.due):
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
                return self._cancels.cancel(envelope.task_id, bool(envelope.detail), now)
            if kind is Kind.WORKER_HEARTBEAT_ECHO:
                return self._echo(envelope.message, now)
            if kind is Kind.OBJECT_INSTRUCTION:
                return self._object_instruction(envelope.message)
            if kind is Kind.CLIENT_DISCONNECT:
                return self._disconnect(envelope.message)
            if kind is Kind.INFORMATION_RESPONSE:
                return self._doubts.answered(envelope.message, self.identity, now)
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
            return self.results.fail(task_id, held, Failure("malformed", f"the worker can't read the task: {error}"))
        held.stream = held.metadata.stream_output
        held.task = task
        names = needed(task)
        return self.results.fail(task_id, held, names) if isinstance(names, Failure) else [Fetch(task_id, names)]

    def _echo(self, echo: Message, now: float) -> list[Instruction]:
        assert isinstance(echo, WorkerHeartbeatEcho)
        self.echoed = True
        out: list[Instruction] = [UseStorage(echo.object_storage_address)]
        if self._beats.answered(now):  # late: what was said before this heartbeat may have come from a stranger
            out += map(Send, self._beats.unheard)
            if self._held:
                out.append(Send(self._doubts.ask(self._held)))
        return [*out, *self._credit.echoed()]

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
            return self._credit.send(self._lines.write(task_id, log_type, text, now), now)
        return [Show(text)]

    def finished(
        self, pid: int, task_id: TaskId, success: bool, payload: Buffer, metadata: ResultMetadata, now: float
    ) -> list[Instruction]:
        """A processor returned a pickled result, or a pickled exception. All output came before."""
        if task_id != self._turns.on.get(pid):
            return self._ignore(f"a processor answered for task {task_id.hex()}, which it does not run")
        held = self._held[task_id]
        if held.state is Held.CANCELING:
            return self._cancels.outrun(held)
        if held.doomed is not None:
            return []
        out = self._credit.send(self._lines.end(task_id), now)
        self._turns.ended(pid, now)
        if held.state is Held.SUSPENDED:  # its answer was on its way
            self._turns.suspended.remove(task_id)
            out.append(Spare(pid))
        end = self.results.finish(task_id, held, success, payload, metadata)
        return [*out, *self._turns.start_next(now), *end]

    def recalled(self, pid: int, unstarted: Collection[TaskId], now: float) -> list[Instruction]:
        """A Recall has been carried out: these will not start, all others have. Their answers have been told."""
        out: list[Instruction] = []
        if not self._turns.recalled(unstarted, now):
            text = "the process that ran the task started others without an answer"
            self._held[self._turns.on[pid]].doomed = Failure("died", text)
            out.append(Kill(pid, signal.SIGKILL))
        return [*out, *self._cancels.recalled(now), *self._turns.start_next(now)]

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
        out = self._credit.send(self._lines.end(task_id), now)
        if held.state is Held.SUSPENDED:
            self._turns.suspended.remove(task_id)
        if held.state is Held.CANCELING:
            out += self._cancels.carried_out(task_id)
            if held.again is not None:
                out += self._task(held.again, now)
        else:
            out += self.results.fail(task_id, held, held.doomed or death(status, fault, self._settings.memory_limit))
        return out

    # ---- time ----

    def tick(self, now: float, usage: Usage) -> list[Instruction]:
        """The ``deadline`` has come."""
        out = [*self._cancels.kill(now), *self._credit.send(self._lines.flush(now), now)]
        if now < self._beats.due:
            return out
        silence = self._beats.silence(now)
        if silence >= self._settings.death_seconds:
            return [*out, End(f"the scheduler has been silent for {silence:.0f} s")]
        if silence >= _SILENCE_SECONDS:
            out.append(Note(logging.WARNING, f"the scheduler has not answered for {silence:.0f} s"))
        self._credit.beat()
        self._beats.sent(now)
        excess = end_excess(self._settings.memory_limit, usage, self._held, self._turns)
        return [*out, *excess, Send(self._beats.message(self._held, self._turns, usage, now))]

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
            out += self._cancels.drop(task_id, now)
        return [*out, ForgetAll()]

    def leave(self) -> list[Instruction]:
        """The worker is told to end."""
        return [Send(WorkerDisconnectNotification())]
