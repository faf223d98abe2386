"""The order in which a scheduler handled what came, as far as its own messages tell.

Messages of different peers may be handled in another order than they passed the proxy. What the scheduler sends on one
connection stands in the order of the events that cause it (TRN-05): two results forwarded to a client show in which
order they were handled. A Task that goes to a worker although the client's TaskCancel had passed crossed with that.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence

from scalercli.tracing.decode import Seen


def handled(seen: Sequence[Seen]) -> list[Seen]:
    """The messages in that order; the recorded one where nothing speaks against it."""
    before = _edges(seen)
    after: dict[int, list[int]] = defaultdict(list)
    waiting = [0] * len(seen)
    for later, earlier in before.items():
        waiting[later] = len(earlier)
        for one in earlier:
            after[one].append(later)
    ready = [i for i, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    done = [False] * len(seen)
    ordered: list[Seen] = []
    oldest = 0
    while len(ordered) < len(seen):
        if not ready:  # they contradict each other: as recorded
            while done[oldest]:
                oldest += 1
            heapq.heappush(ready, oldest)
        one = heapq.heappop(ready)
        if done[one]:
            continue
        done[one] = True
        ordered.append(seen[one])
        for later in after[one]:
            waiting[later] -= 1
            if not waiting[later]:
                heapq.heappush(ready, later)
    return ordered


def _edges(seen: Sequence[Seen]) -> dict[int, set[int]]:
    """For each message (by its place) those that must stand before it."""
    before: dict[int, set[int]] = defaultdict(set)
    last: dict[tuple[str, bool], int] = {}
    came: dict[tuple[str, bytes], int] = {}
    last_cause: dict[str, int] = {}
    cancels: dict[bytes, int] = {}
    for place, one in enumerate(seen):
        inbound = one.recorded.from_peer
        chain = (one.peer, inbound)
        if chain in last:
            before[place].add(last[chain])
        last[chain] = place
        if inbound:
            came[one.kind, one.task_id] = place
            if one.kind == "task":
                cancels.pop(one.task_id, None)
            elif one.kind == "taskCancel":
                cancels.setdefault(one.task_id, place)
            continue
        if one.kind == "task" and one.task_id in cancels:
            cancel = cancels.pop(one.task_id)
            before[cancel].add(place)
        cause = came.get((one.kind, one.task_id)) if one.task_id else None
        if cause is None and one.kind == "taskCancelConfirm":
            cause = came.get(("taskCancel", one.task_id))
        if cause is None:
            continue
        before[place].add(cause)
        if one.kind != "task":
            previous = last_cause.get(one.peer)
            if previous is not None and previous != cause:
                before[cause].add(previous)
            last_cause[one.peer] = cause
    return before
