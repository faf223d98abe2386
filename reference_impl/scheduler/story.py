"""The story of a task: what has happened to it and when, for who asks (SPEC section 13).

Plain lists and tuples, because every task has one and hardly anybody asks. A queued task has none yet: that it was
accepted is all there is to tell. The events of a story are bounded; those of ended tasks are kept per client, the last
ones, and are gone with their client (LIV-07).
"""

from __future__ import annotations

from collections import deque
from typing import Union

from protocol.identifiers import Identity, TaskId
from protocol.lifecycle import Event, State
from protocol.messages import TaskEvent, TaskStory

MAX_EVENTS = 64
"""Of one story, the first one apart; of more, the first ones and the last ones are kept."""
_FIRST = 8

Happened = tuple[Event, State, bytes, float, str]
"""The event, the state after it, the worker that held the task then or until then, when, and more for people."""
Story = list[Union[Happened, int]]
"""What came after the first event, which is that the task was accepted. A number stands for as many left out."""
Ended = deque[tuple[TaskId, float, Story]]
"""Tasks that have ended, with the time when they were accepted."""


def add(story: Story, happened: Happened) -> None:
    """One more event."""
    if len(story) > MAX_EVENTS:
        left_out = story[_FIRST]
        story[_FIRST] = left_out + 1 if isinstance(left_out, int) else 2
        del story[_FIRST + 1]
    story.append(happened)


def find(ended: Ended, task_id: TaskId) -> tuple[float, Story] | None:
    """The story of the last task that had this id."""
    return next(((accepted_at, story) for one, accepted_at, story in reversed(ended) if one == task_id), None)


def told(task_id: TaskId, client: Identity, accepted_at: float, story: Story, now: float) -> TaskStory:
    """As the answer to a question."""
    events = [TaskEvent(Event.TASK.value[0], State.INACTIVE.wire, b"", _ago(now, accepted_at))]
    left_out = 0
    for what in story:
        if isinstance(what, int):
            left_out = what
        else:
            event, state, worker, at, detail = what
            events.append(TaskEvent(event.value[0], state.wire, worker, _ago(now, at), detail))
    return TaskStory(task_id, client, tuple(events), left_out)


def _ago(now: float, then: float) -> int:
    return max(0, int((now - then) * 1000))
