"""A client core with the sides that it talks to, for tests: everything is stored and connected at once."""

from __future__ import annotations

from typing import Any, TypeVar

from protocol.identifiers import ClientId, ObjectId, TaskId, new_object_id, new_task_id
from protocol.messages import (
    ClientHeartbeatEcho,
    Message,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectStorageAddress,
    TaskCancelConfirm,
    TaskCancelConfirmType,
    TaskResult,
    TaskResultType,
)
from reference_impl.client.core import ClientCore, serializer_blob
from reference_impl.client.instructions import ConnectStorage, Fetch, Finish, Instruction, NewTask, Send, Store
from reference_impl.client.objects import blob

CLIENT = ClientId(b"Client|00")
I = TypeVar("I")  # noqa: E741


class World:
    """``log`` has every instruction since ``clear``."""

    def __init__(self, *, connect: bool = True, auto_store: bool = True, **options: Any) -> None:
        self.core = ClientCore(CLIENT, serializer_blob(blob(b"the serializer")), b"seed", **options)
        self.now = 100.0
        self.auto_store = auto_store
        self.log: list[Instruction] = []
        self.note(self.core.tick(self.now))
        if connect:
            self.receive(ClientHeartbeatEcho(ObjectStorageAddress("127.0.0.1", 1)))
            assert self.of(ConnectStorage)
            self.note(self.core.storage_connected())
            self.clear()

    def note(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            self.log.append(instruction)
            if self.auto_store and isinstance(instruction, Store):
                self.note(self.core.stored(instruction.object_id))

    def of(self, kind: type[I]) -> list[I]:
        return [i for i in self.log if isinstance(i, kind)]

    def sent(self, kind: type[I]) -> list[I]:
        return [i.message for i in self.of(Send) if isinstance(i.message, kind)]

    def clear(self) -> None:
        self.log.clear()

    def receive(self, message: Message) -> None:
        self.note(self.core.message(message, self.now))

    def pass_time(self, seconds: float) -> None:
        """Ticks as often as the core wants."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, max(self.core.deadline(), self.now + 1e-3))
            self.note(self.core.tick(self.now))

    def submit(self, *arguments: bytes, function: bytes = b"f") -> TaskId:
        task_id = new_task_id()
        self.note(self.core.submit([NewTask(task_id, blob(function, b"f"), tuple(map(blob, arguments)))]))
        return task_id

    def cancel(self, task_id: TaskId, token: object = None, *, force: bool = True, own: bool = True) -> None:
        self.note(self.core.cancel(task_id, force, token, own=own))

    def confirm(self, task_id: TaskId, kind: TaskCancelConfirmType) -> None:
        self.receive(TaskCancelConfirm(task_id, kind))

    def result(self, task_id: TaskId, kind: TaskResultType = TaskResultType.SUCCESS) -> ObjectId:
        object_id = new_object_id(CLIENT)
        self.receive(TaskResult(task_id, kind, b"", (object_id,)))
        return object_id

    def complete(self, task_id: TaskId) -> ObjectId:
        """The TaskResult, and its object if that is asked for."""
        object_id = self.result(task_id)
        if self.of(Fetch) and self.of(Fetch)[-1].object_id == object_id:
            self.note(self.core.fetched(object_id, b"value"))
        return object_id

    def deleted(self) -> list[ObjectId]:
        return [
            object_id
            for message in self.sent(ObjectInstruction)
            if message.instruction_type is ObjectInstructionType.DELETE
            for object_id in message.object_metadata.object_ids
        ]

    def ends(self, task_id: TaskId) -> list[Finish]:
        return [finish for finish in self.of(Finish) if finish.task_id == task_id]
