"""Cancels of tasks that are not this client's, or not any more: the scheduler is asked whatever the id is (CAN-10)."""

from __future__ import annotations

from protocol.identifiers import TaskId
from protocol.messages import TaskCancel, TaskCancelFlags
from reference_impl.client.instructions import Answered, Broken, CancelAnswer, Instruction, Send


class ForeignCancels:
    """Those that have no answer."""

    def __init__(self) -> None:
        self._waiting: dict[TaskId, tuple[bool, list[object]]] = {}  # whether with force, and for whom

    def __len__(self) -> int:
        return len(self._waiting)

    def cancel(self, task_id: TaskId, force: bool, tokens: tuple[object, ...], out: list[Instruction]) -> None:
        """Asks, unless the same has been asked already."""
        forced, waiting = self._waiting.get(task_id, (None, []))
        waiting += tokens
        self._waiting[task_id] = (bool(forced) or force, waiting)
        if forced is None or (force and not forced):
            out.append(Send(TaskCancel(task_id, TaskCancelFlags(force))))

    def answered(self, task_id: TaskId, answer: CancelAnswer, out: list[Instruction]) -> None:
        """The scheduler says something about a task, which may be one of these."""
        if asked := self._waiting.pop(task_id, None):
            out.append(Answered(task_id, answer, tuple(asked[1])))

    def again(self, out: list[Instruction]) -> None:
        """What was asked may be lost, or the answer."""
        out += [Send(TaskCancel(task_id, TaskCancelFlags(force))) for task_id, (force, _) in self._waiting.items()]

    def give_up(self, broken: Broken, out: list[Instruction]) -> None:
        """There will be no answers."""
        out += [Answered(task_id, None, tuple(tokens), broken) for task_id, (_, tokens) in self._waiting.items()]
        self._waiting.clear()
