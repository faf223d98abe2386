"""How many workers to want of each worker manager (SPEC section 8.4): a pure function of what there is to do.

Each task that runs or waits is worth a worker. A manager counts first for those of its own workers that hold tasks;
tasks that wait are shared out to the managers whose workers could run them, those that require the most first, and to
the manager that offers the least first, so that nobody starts an expensive worker for what a plain one can do.

A wish changes at most once in ``CHANGE_SECONDS``, so that workers that were wished for have time to come before more
are wished for. Patience before a worker is stopped is the manager's business (its cooldown)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from reference_impl.scheduler.records import Names

CHANGE_SECONDS = 1.0


class ManagerLoad(NamedTuple):
    """What there is to know about one manager."""

    offers: Names  # what each of its workers offers
    limit: int  # how many workers it can run
    busy: int  # its workers that hold tasks
    wanted: int | None  # how many workers were wished for; None: nothing was said yet
    since_change: float  # seconds since that was said first


def desired(managers: Sequence[ManagerLoad], waiting: Mapping[Names, int]) -> list[int]:
    """How many workers each manager should run; ``waiting`` counts the tasks that no worker is running now, by what
    they require."""
    demand = [min(manager.busy, manager.limit) for manager in managers]
    for needs, count in sorted(waiting.items(), key=lambda item: -len(item[0])):
        able = [i for i, manager in enumerate(managers) if needs <= manager.offers]
        for i in sorted(able, key=lambda i: len(managers[i].offers)):
            share = min(count, managers[i].limit - demand[i])
            demand[i] += share
            count -= share
    return [_step(manager, wish) for manager, wish in zip(managers, demand, strict=True)]


def _step(manager: ManagerLoad, wish: int) -> int:
    if manager.wanted is None or manager.since_change >= CHANGE_SECONDS:
        return wish
    return min(max(manager.wanted, min(manager.busy, manager.limit)), manager.limit)
