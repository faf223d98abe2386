"""What goes wrong, and when: a list of faults that follows from the seed alone.

A fault's time is a number of tasks that are over, so that it hits the same phase of the work on a slow machine as on a
fast one. What it hits is a number between 0 and 1, a place among those that are there at that moment.
"""

from __future__ import annotations

import enum
import random
from typing import NamedTuple


class Kind(str, enum.Enum):
    """A kind of fault. The text is its name in the report."""

    KILL_WORKER = "kill a worker"
    KILL_PROCESSOR = "kill a processor"
    KILL_ZYGOTE = "kill a zygote"
    KILL_CLIENT = "kill a client"
    KILL_AGENT = "kill a session agent"
    PAUSE_WORKER = "stop and continue a worker"
    PAUSE_PROCESSOR = "stop and continue a processor"
    PAUSE_CLIENT = "stop and continue a client"
    DROP_SCHEDULER = "scheduler connection: drop"
    DELAY_SCHEDULER = "scheduler connection: delay"
    HALVE_SCHEDULER = "scheduler connection: halve"
    REORDER_SCHEDULER = "scheduler connection: reorder"
    DROP_STORAGE = "storage connection: drop"
    DELAY_STORAGE = "storage connection: delay"
    HALVE_STORAGE = "storage connection: halve"
    REORDER_STORAGE = "storage connection: reorder"
    RESTART_SCHEDULER = "restart the scheduler"
    RESTART_STORAGE = "restart the storage"


class Fault(NamedTuple):
    """``seconds`` is how long it lasts, where it lasts."""

    at: int  # so many tasks are over
    kind: Kind
    where: float  # 0 <= where < 1
    seconds: float


RESTARTS = frozenset({Kind.RESTART_SCHEDULER, Kind.RESTART_STORAGE})
_WEIGHTS = {Kind.KILL_PROCESSOR: 3.0, Kind.KILL_WORKER: 1.0, Kind.KILL_CLIENT: 1.0}
_SHORT_SECONDS = (0.02, 1.5)
_LONG_SECONDS = (4.0, 5.0)
"""Longer than the timeouts of all (see ``arena``): who was stopped so long has been given up."""
_LONG_SHARE = 0.2


def plan(seed: int, tasks: int, per_fault: int, kinds: frozenset[Kind]) -> list[Fault]:
    """A fault per ``per_fault`` tasks, in order, between the first tenth of the tasks and the last."""
    source = random.Random(f"plan {seed}")
    order = [kind for kind in Kind if kind in kinds]
    weights = [_WEIGHTS.get(kind, 1.0) for kind in order]
    count = max(1, tasks // per_fault)
    chosen = source.choices(order, weights, k=count)
    # With few faults, each kind comes once before any comes twice.
    head = order[:]
    source.shuffle(head)
    chosen[: len(head)] = head[:count]
    source.shuffle(chosen)
    times = sorted(source.randrange(tasks // 10, max(tasks // 10 + 1, tasks * 9 // 10)) for _ in chosen)
    return [Fault(at, kind, source.random(), _seconds(source)) for at, kind in zip(times, chosen, strict=True)]


def _seconds(source: random.Random) -> float:
    return round(source.uniform(*(_LONG_SECONDS if source.random() < _LONG_SHARE else _SHORT_SECONDS)), 3)
