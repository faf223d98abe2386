"""Target: a worker's slot, under any messages, and with processors that do anything that processes do."""

from __future__ import annotations

import signal
from collections import Counter

from protocol import codec
from protocol.envelope import Envelope
from protocol.errors import MalformedMessage
from protocol.identifiers import TaskId, new_object_id
from protocol.messages import (
    LogType,
    Task,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskResult,
    WorkerHeartbeatEcho,
)
from reference_impl.worker.instructions import Fetch, Instruction, Kill, Recall, Send, Spare, Start, Store, Suspend
from reference_impl.worker.settings import Usage
from tests.fuzz.choices import Choices
from tests.fuzz.growth import holdings, kept
from tests.fuzz.scheduler import MOST_STEPS, TASKS, message
from tests.worker.slot import CLIENT, PROFILE, Slot

_MEMORY = 1 << 30


class _Agent:
    """Carries out what the core wants, as late as the choices say, with processes that are numbers."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        memory = choices.pick((0, _MEMORY))
        self.slot = Slot(processor=False, cancel_grace_seconds=choices.pick((0.0, 5.0)), memory_limit=memory)
        self.fetching: list[TaskId] = []
        self.storing: list[TaskId] = []
        self.work: dict[int, list[TaskId]] = {}  # by pid: what was handed over and is not answered
        self.dying: list[int] = []
        self.idle: list[int] = []
        self.asked: Counter[TaskId] = Counter()
        self.results: list[TaskResult] = []
        self.processor()

    def processor(self) -> None:
        """The slot gets one, if it has none."""
        if self.slot.core.processor is not None:
            return
        pid = self.idle.pop() if self.idle else self.slot.pids
        self.slot.pids = max(self.slot.pids, pid + 1)
        self.work[pid] = []
        self.do(self.slot.core.processor_ready(pid, self.slot.now))

    def do(self, instructions: list[Instruction]) -> None:
        recalls: list[int] = []
        needs_processor = False
        for what in instructions:
            if isinstance(what, Fetch):
                self.fetching.append(what.task_id)
            elif isinstance(what, Store):
                self.storing.append(what.task_id)
            elif isinstance(what, Start):
                assert what.pid in self.work, "a task is started on a processor that is no more"
                self.work[what.pid].append(TaskId(what.task.task_id))
            elif isinstance(what, Kill) and what.signal is signal.SIGKILL:
                self.dying.append(what.pid)
            elif isinstance(what, Suspend):
                needs_processor = True
            elif isinstance(what, Spare):
                self.idle.append(what.pid)
            elif isinstance(what, Recall):
                recalls.append(what.pid)
            elif isinstance(what, Send):
                self.answered(what)
        for pid in recalls:
            self.recalled(pid)
        if needs_processor:
            self.processor()

    def recalled(self, pid: int) -> None:
        tasks = self.work[pid]
        started = min(len(tasks), 1 + self.choices.below(2)) if tasks else 0
        for task in tasks[: max(0, started - 1)]:
            self.finish(pid, task)
        unstarted = self.work[pid][1:]
        self.work[pid] = self.work[pid][:1]
        self.do(self.slot.core.recalled(pid, unstarted, self.slot.now))

    def answered(self, sent: Send) -> None:
        said = sent.message
        if isinstance(said, TaskResult):
            if said in self.results:
                return  # said again, as the scheduler may not have it (LIV-18)
            self.results.append(said)
        over = isinstance(said, TaskResult) or (
            isinstance(said, TaskCancelConfirm) and said.cancel_confirm_type is not TaskCancelConfirmType.CANCEL_FAILED
        )
        if over and isinstance(said, (TaskResult, TaskCancelConfirm)):
            self.asked[TaskId(said.task_id)] -= 1
            assert self.asked[TaskId(said.task_id)] >= 0, f"an answer that nobody asked for: {said}"

    def receive(self, frame: bytes) -> None:
        try:
            envelope = Envelope.parse(frame)
        except MalformedMessage as error:
            self.do(self.slot.core.malformed(str(error)))
            return
        try:
            said = envelope.message
        except MalformedMessage:
            said = None
        if isinstance(said, (Task, TaskCancel)) or said is None:
            self.asked[TaskId(envelope.task_id)] += 1
        self.do(self.slot.core.received(envelope, self.slot.now))

    def finish(self, pid: int, task: TaskId) -> None:
        self.work[pid].remove(task)
        success = self.choices.flag()
        self.do(self.slot.core.finished(pid, task, success, b"payload", PROFILE, self.slot.now))

    def end(self, pid: int) -> None:
        """A processor's process ends."""
        tasks = self.work.pop(pid)
        self.dying = [other for other in self.dying if other != pid]
        if pid in self.idle:
            self.idle.remove(pid)
            return
        status = self.choices.pick((0, 9, 15, 256))
        self.do(self.slot.core.processor_gone(pid, status, self.slot.now, tasks[1 + self.choices.below(2) :]))
        self.processor()

    def tick(self, seconds: float) -> None:
        self.slot.now += seconds
        families = {pid: self.choices.pick((0, 2 * _MEMORY)) for pid in self.work}
        self.do(self.slot.core.tick(self.slot.now, Usage(families=families)))

    def step(self) -> None:
        choices, core = self.choices, self.slot.core
        how = choices.below(12)
        busy = [pid for pid, tasks in self.work.items() if tasks]
        if how in (0, 1, 2):
            self.receive(codec.encode(message(choices)))
        elif how == 3:
            self.receive(choices.damage(codec.encode(message(choices))))
        elif how in (4, 5) and self.fetching:
            task = self.fetching.pop(choices.below(len(self.fetching)))
            self.do(core.objects_arrived(task, self.slot.now, choices.flag()))
        elif how in (6, 7) and busy:
            pid = choices.pick(busy)
            self.finish(pid, self.work[pid][0])
        elif how == 8 and self.storing:
            task = self.storing.pop(0)
            name = new_object_id(CLIENT)
            if task in core.held:
                self.do(core.results.storing([(task, name, 7)]))
            self.do(core.results.not_stored(task) if choices.flag() else core.results.stored(task, name))
        elif how == 9:
            self.end(choices.pick(self.dying or list(self.work)))
        elif how == 10 and self.work:
            self.do(core.output(choices.pick(list(self.work)), choices.pick(list(LogType)), "x\ny", self.slot.now))
        else:
            self.tick(choices.pick((0.0, 0.1, 1.0, 6.0)))

    def wind_up(self) -> None:
        """Everything that can end ends: what is held is answered."""
        for _ in range(2000):
            busy = [pid for pid, tasks in self.work.items() if tasks]
            if self.fetching:
                self.do(self.slot.core.objects_arrived(self.fetching.pop(), self.slot.now))
            elif self.dying:
                self.end(self.dying[0])
            elif self.storing:
                self.do(self.slot.core.results.stored(self.storing.pop(), new_object_id(CLIENT)))
            elif self.slot.core.processor in busy:
                pid = self.slot.core.processor
                assert pid is not None
                self.finish(pid, self.work[pid][0])
            elif busy:
                self.finish(busy[0], self.work[busy[0]][0])
            elif self.slot.core.held:
                self.receive(codec.encode(WorkerHeartbeatEcho()))
                self.tick(1.0)
            else:
                return
        raise AssertionError(f"these are never answered: {self.slot.core.held}")


def core(data: bytes) -> None:
    """Nothing is raised; each ``Task`` and ``TaskCancel`` has at most one terminal answer; when processors have ended
    what they run, nothing is held any more (D1, D16)."""
    agent = _Agent(Choices(data))
    for _ in range(MOST_STEPS):
        if not agent.choices.more:
            break
        agent.step()
        assert set(agent.slot.core.held) <= {*TASKS, *agent.asked}
    agent.wind_up()
    for _ in range(4):  # results are kept until the echo of a later heartbeat shows that the scheduler has them
        agent.tick(1.0)
        agent.receive(codec.encode(WorkerHeartbeatEcho()))
    # The last question of the worker is kept until it is answered, which nobody does here.
    left = kept(agent.slot.core, _EMPTY, "Credit._unechoed", "WorkerCore.counts", "Doubts._asked")
    assert not left, f"of tasks that are over there is {left}"


_EMPTY = holdings(_Agent(Choices(b"")).slot.core)
