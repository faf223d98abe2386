"""A core under test, with everything around it played by the test."""

from __future__ import annotations

from typing import TypeVar

from protocol.envelope import Envelope
from protocol.identifiers import ClientId, ObjectId, TaskId, new_object_id
from protocol.messages import (
    Argument,
    ArgumentType,
    LogType,
    Message,
    Task,
    TaskCancel,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskCancelFlags,
    TaskResult,
)
from protocol.payloads import ResultMetadata, TaskMetadata
from reference_impl.serialization import deserialize_exception
from reference_impl.worker.core import WorkerCore
from reference_impl.worker.instructions import Fetch, Instruction, Kill, Send, Start, Store
from reference_impl.worker.settings import Settings, Usage

CLIENT = ClientId(b"Client|" + b"c" * 32)
FUNCTION = new_object_id(CLIENT)
PROFILE = ResultMetadata(1.5, 4096, 0.5)
I = TypeVar("I", bound=Instruction)  # noqa: E741


def task_id(number: int) -> TaskId:
    return TaskId(number.to_bytes(16, "big"))


class Slot:
    """Collects what the core wants in ``wants`` and answers the client-visible part with ``answers``."""

    def __init__(self, processor: bool = True, **settings: object) -> None:
        self.now = 100.0
        self.core = WorkerCore(Settings(**settings), self.now)  # type: ignore[arg-type]
        self.wants: list[Instruction] = []
        self.pids = 4711  # of the next processor
        if processor:
            self.new_processor()

    def do(self, instructions: list[Instruction]) -> list[Instruction]:
        self.wants += instructions
        return instructions

    # ---- events ----

    def message(self, message: Message) -> list[Instruction]:
        return self.do(self.core.received(Envelope.parse(Envelope.of(message).frame), self.now))

    def task(
        self, number: int, priority: int = 0, *, arrive: bool = True, stream: bool = False, profiling: bool = True
    ) -> TaskId:
        about = TaskMetadata(profiling, priority, stream).to_bytes()
        argument = Argument(ArgumentType.OBJECT_ID, new_object_id(CLIENT))
        self.message(Task(task_id(number), CLIENT, about, FUNCTION, (argument,)))
        if arrive:
            self.arrive(number)
        return task_id(number)

    def arrive(self, number: int) -> list[Instruction]:
        return self.do(self.core.objects_arrived(task_id(number), self.now))

    def cancel(self, number: int, *, force: bool = True) -> list[Instruction]:
        return self.message(TaskCancel(task_id(number), TaskCancelFlags(force)))

    def finish(self, number: int, *, success: bool = True) -> list[Instruction]:
        pid = self.pid(number)
        return self.do(self.core.finished(pid, task_id(number), success, b"payload", PROFILE, self.now))

    def gone(self, status: int | None = 9, pid: int | None = None) -> list[Instruction]:
        """A processor ends: this one, or that of the slot."""
        return self.do(self.core.processor_gone(pid or self.core.processor or 0, status, self.now))

    def new_processor(self) -> list[Instruction]:
        pid, self.pids = self.pids, self.pids + 1
        return self.do(self.core.processor_ready(pid, self.now))

    def pid(self, number: int) -> int:
        """On which processor a task was started last; 0: on none."""
        return next((start.pid for start in self.of(Start)[::-1] if start.task.task_id == task_id(number)), 0)

    def output(self, number: int, log_type: LogType, text: str) -> list[Instruction]:
        return self.do(self.core.output(self.pid(number), log_type, text, self.now))

    def stored(self, number: int) -> list[Instruction]:
        return self.do(self.core.results.stored(task_id(number), new_object_id(CLIENT)))

    def tick(self, seconds: float) -> list[Instruction]:
        self.now += seconds
        return self.do(self.core.tick(self.now, Usage()))

    # ---- what came of it ----

    def of(self, kind: type[I]) -> list[I]:
        return [i for i in self.wants if isinstance(i, kind)]

    @property
    def sent(self) -> list[Message]:
        return [i.message for i in self.of(Send)]

    def answers(self, number: int) -> list[str]:
        """What the scheduler heard about a task, in order: success, failed, canceled, cancelNotFound…"""
        found = []
        for message in self.sent:
            if isinstance(message, TaskResult) and message.task_id == task_id(number):
                found.append(message.result_type.name)
            elif isinstance(message, TaskCancelConfirm) and message.task_id == task_id(number):
                found.append(message.cancel_confirm_type.name)
        return found

    @property
    def started(self) -> list[int]:
        return [int.from_bytes(i.task.task_id, "big") for i in self.of(Start)]

    @property
    def kills(self) -> list[str]:
        return [i.signal.name for i in self.of(Kill)]

    def failure(self, number: int) -> BaseException:
        (payload,) = [i.payload for i in self.of(Store) if i.task_id == task_id(number)]
        return deserialize_exception(payload)

    def fetches(self) -> list[tuple[ObjectId, ...]]:
        return [i.names for i in self.of(Fetch)]


TERMINAL = ("SUCCESS", "FAILED", TaskCancelConfirmType.CANCELED.name)
