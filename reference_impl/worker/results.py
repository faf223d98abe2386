"""From the end of a task to its answer: its result is announced, stored, and then named in the TaskResult (SPEC
sections 5.5, 5.7 and 7.1)."""

from __future__ import annotations

from collections.abc import Iterable

from protocol.identifiers import ClientId, ObjectId, TaskId
from protocol.messages import (
    ObjectContentType,
    ObjectInstruction,
    ObjectInstructionType,
    ObjectMetadata,
    TaskCancelConfirmType,
    TaskResult,
    TaskResultType,
)
from protocol.payloads import ResultMetadata
from protocol.storage import Buffer
from reference_impl.worker.beats import Beats
from reference_impl.worker.cancels import confirm
from reference_impl.worker.failures import Failure, failure_payload
from reference_impl.worker.held import Held, HeldTask
from reference_impl.worker.instructions import Instruction, Release, Send, Store

_ANNOUNCED = 8
"""So many results in one message: larger ones take longer to encode and decode (``protocol.shapes``)."""


class Results:
    """Those of the tasks in ``held``."""

    def __init__(self, held: dict[TaskId, HeldTask], beats: Beats) -> None:
        self._held = held
        self._beats = beats

    def finish(
        self, task_id: TaskId, held: HeldTask, success: bool, payload: Buffer, metadata: ResultMetadata
    ) -> list[Instruction]:
        """It has returned or raised."""
        held.state = Held.FINISHING
        held.outcome = TaskResultType.SUCCESS if success else TaskResultType.FAILED
        if held.metadata.profiling:
            held.result_metadata = metadata.to_bytes()
        return [Release(task_id), Store(task_id, held.source, payload)]

    def fail(self, task_id: TaskId, held: HeldTask, failure: Failure) -> list[Instruction]:
        """It can't be carried out, or its processor has ended."""
        held.state = Held.FINISHING
        held.outcome = TaskResultType.FAILED
        return [Release(task_id), Store(task_id, held.source, failure_payload(failure))]

    def storing(self, results: Iterable[tuple[TaskId, ObjectId, int]]) -> list[Instruction]:
        """These results (task, name, bytes) are about to be stored. They are announced first: should this worker be
        lost before it answers, the scheduler knows of the objects (WRK-03, OBJ-17)."""
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
        """The result is in the object storage."""
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
            out.extend(confirm(task_id, TaskCancelConfirmType.CANCEL_NOT_FOUND) for _ in range(held.late_cancels))
        return out
