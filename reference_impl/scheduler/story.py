"""The story of a task: what has happened to it and when, for who asks (SPEC section 13).

Plain tuples, because every task has a story and hardly anybody asks. A queued task has none yet: that it was accepted
is all there is to tell. The events of a story are bounded; the stories of tasks that have ended are kept per client,
the last ones, and are gone with their client (LIV-07).
"""

from __future__ import annotations

from collections import deque
from typing import Optional

from protocol.identifiers import Identity, TaskId
from protocol.lifecycle import Event, State
from protocol.messages import TaskEvent, TaskStory

MAX_EVENTS = 64
"""Of one story, the first one apart; of more, the first ones and the last ones are told."""
_FIRST = 8

Story = tuple[int, Optional["Story"], Event, State, bytes, float, str]
"""The last event: how many there were with it, what was before, the event, the state after it, the worker that held the
task then or until then, when, and more for people. The first event, that the task was accepted, is not among them."""
Ended = deque[tuple[TaskId, float, Story | None]]
"""Tasks that have ended, with the time when they were accepted."""


def add(story: Story | None, event: Event, state: State, worker: bytes, at: float, detail: str) -> Story:
    """The story with one more event."""
    if story is None:
        return 1, None, event, state, worker, at, detail
    count = story[0] + 1
    longer = count, story, event, state, worker, at, detail
    return longer if count % MAX_EVENTS else _shortened(longer)


def _shortened(story: Story) -> Story:
    """What is kept of a story: it is twice as long as it may be before anything is taken out."""
    kept: Story | None = None
    for count, _, event, state, worker, at, detail in _events(story):
        kept = count, kept, event, state, worker, at, detail
    assert kept is not None
    return kept


def _events(story: Story | None) -> list[Story]:
    """The oldest first, without those that are too many."""
    events: list[Story] = []
    while story is not None:
        events.append(story)
        story = story[1]
    events.reverse()
    if len(events) > MAX_EVENTS:
        del events[_FIRST : _FIRST - MAX_EVENTS]
    return events


def find(ended: Ended, task_id: TaskId) -> tuple[float, Story | None] | None:
    """The story of the last task that had this id."""
    return next(((accepted_at, story) for one, accepted_at, story in reversed(ended) if one == task_id), None)


def told(task_id: TaskId, client: Identity, accepted_at: float, story: Story | None, now: float) -> TaskStory:
    """As the answer to a question."""
    events = [TaskEvent(Event.TASK.value[0], State.INACTIVE.wire, b"", _ago(now, accepted_at))]
    happened = _events(story)
    for _, _, event, state, worker, at, detail in happened:
        events.append(TaskEvent(event.value[0], state.wire, worker, _ago(now, at), detail))
    return TaskStory(task_id, client, tuple(events), story[0] - len(happened) if story is not None else 0)


def _ago(now: float, then: float) -> int:
    return max(0, int((now - then) * 1000))
