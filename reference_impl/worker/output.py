"""The output of tasks on its way to the scheduler: whole lines where possible, and never too much of it (SPEC 4.6).

Pure: text and time come in, messages and instructions come out.
"""

from __future__ import annotations

from collections import deque

from protocol.identifiers import TaskId
from protocol.messages import LogType, TaskLog
from reference_impl.worker.beats import Beats
from reference_impl.worker.instructions import Instruction, ReadOutput, Send

PARTIAL_SECONDS = 0.1
"""A line that is not finished by then is sent as it is."""
_PARTIAL_CHARACTERS = 1 << 13
_LIMIT_CHARACTERS = 8 << 20
"""So much may be on its way to the scheduler."""


class Lines:
    """Holds back what is not a whole line: for a short time, until it gets long, or until the task writes to its other
    stream, since what it wrote before has to come before."""

    def __init__(self) -> None:
        self._held: dict[TaskId, tuple[float, LogType, str]] = {}  # (until when, stream, text)

    @property
    def due(self) -> float:
        """When ``flush`` is wanted; 0: not at all."""
        return min([until for until, _, _ in self._held.values()]) if self._held else 0.0

    def write(self, task_id: TaskId, log_type: LogType, text: str, now: float) -> list[TaskLog]:
        """What a task wrote; returns what is to be sent."""
        out: list[TaskLog] = []
        until = now + PARTIAL_SECONDS
        before = self._held.get(task_id)
        if before is not None:
            del self._held[task_id]
            if before[1] is log_type:
                until, text = before[0], before[2] + text
            else:
                out.append(TaskLog(task_id, before[1], before[2]))
        end = text.rfind("\n") + 1
        if len(text) - end > _PARTIAL_CHARACTERS or now >= until:
            end = len(text)
        if end:
            out.append(TaskLog(task_id, log_type, text[:end]))
            until = now + PARTIAL_SECONDS
        if end < len(text):
            self._held[task_id] = until, log_type, text[end:]
        return out

    def flush(self, now: float) -> list[TaskLog]:
        """What has been held back for long enough."""
        ripe = [task_id for task_id, (until, _, _) in self._held.items() if until <= now]
        return [log for task_id in ripe for log in self.end(task_id)]

    def end(self, task_id: TaskId) -> list[TaskLog]:
        """All of it: the task writes no more."""
        held = self._held.pop(task_id, None)
        return [] if held is None else [TaskLog(task_id, held[1], held[2])]


class Credit:
    """How much output may be sent before the scheduler has shown that it handles it: by its echo of a heartbeat that
    was sent after it, on the same connection."""

    def __init__(self, beats: Beats) -> None:
        self._beats = beats
        self._unechoed: deque[int] = deque()  # for each heartbeat without an echo, the characters sent before it
        self._since = 0  # the characters sent since the last heartbeat
        self._underway = 0
        self.paused = False
        """Whether output is to be left in the pipes for now; the tasks then wait when the pipes are full."""

    def send(self, logs: list[TaskLog], now: float) -> list[Instruction]:
        """At the limit output has to pause, and a heartbeat to ask for an echo."""
        out: list[Instruction] = []
        for log in logs:
            out.append(Send(log))
            self._since += len(log.content)
            self._underway += len(log.content)
            if not self.paused and self._underway >= _LIMIT_CHARACTERS:
                self.paused = True
                out.append(ReadOutput(False))
                self._beats.due = now
        return out

    def beat(self) -> None:
        """A heartbeat is sent."""
        self._unechoed.append(self._since)
        self._since = 0

    def echoed(self) -> list[Instruction]:
        """An echo came: output may go on, perhaps."""
        if self._unechoed:
            self._underway -= self._unechoed.popleft()
        if not self.paused or self._underway >= _LIMIT_CHARACTERS // 2:
            return []
        self.paused = False
        return [ReadOutput(True)]
