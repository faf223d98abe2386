"""Which tasks a worker still holds in the eyes of the scheduler, after a silence in which it may have been given up
(SPEC section 8.2): the others run elsewhere, and wait here for objects that may have been deleted."""

from __future__ import annotations

from collections.abc import Iterable

from protocol import codec
from protocol.identifiers import TaskId, WorkerId
from protocol.messages import InformationQuery, InformationRequest, InformationResponse, Message, TaskFilter, TaskList
from reference_impl.worker.cancels import Cancels
from reference_impl.worker.instructions import ForgetAll, Instruction


class Doubts:
    """Of one slot. Only the answer to the last question counts."""

    def __init__(self, cancels: Cancels) -> None:
        self._cancels = cancels
        self._query = 0
        self._asked: tuple[TaskId, ...] = ()

    def ask(self, held: Iterable[TaskId]) -> InformationRequest:
        """Who has these?"""
        self._query += 1
        self._asked = tuple(held)
        query = InformationQuery(self._query, "tasks", TaskFilter(self._asked))
        return InformationRequest(codec.encode_query(query))

    def answered(self, response: Message, worker: WorkerId, now: float) -> list[Instruction]:
        """The scheduler has given this worker up meanwhile, and those tasks to others that this one is not said to
        hold any more (LIV-19). Raises MalformedMessage."""
        assert isinstance(response, InformationResponse)
        answer = codec.decode_answer(response.response)
        if answer.query_id != self._query or not isinstance(answer.value, TaskList):
            return []
        ours = {info.task_id for info in answer.value.tasks if info.worker == worker}
        asked, self._asked = self._asked, ()
        out: list[Instruction] = []
        for task_id in asked:
            if task_id not in ours:
                out += self._cancels.drop(task_id, now)
        return [*out, ForgetAll()] if out else out
