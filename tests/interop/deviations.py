"""What 2.9.0 is known to do otherwise, and where: the only excuses that a cell of the matrix has."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.interop.combinations import PEER, Combination


class Deviation(NamedTuple):
    """``applies`` says in which combinations ``check`` may see ``keyword``; ``always`` whether it must there."""

    check: str
    keyword: str
    applies: Callable[[Combination], bool]
    always: bool
    reason: str


DEVIATIONS = [
    Deviation(
        "cancel_of_done",
        "done-stays-done",
        lambda c: c.client == PEER,
        True,
        "2.9.0's cancel() of a completed future returns False and keeps the result (here: True, cancelled; FUT-03)",
    ),
    Deviation(
        "cancel_racing",
        "result-wins",
        lambda c: c.client == PEER,
        False,
        "2.9.0's client keeps a result that comes after cancel() was called (here: dropped; FUT-02)",
    ),
    Deviation(
        "failing_with_own_class",
        "other-class",
        lambda c: c.worker == PEER,
        True,
        "2.9.0's worker sends exceptions of a class of __main__ as a text (here: by value; OBJ-14)",
    ),
    Deviation(
        "killed_client_and_worker",
        "orphan",
        lambda c: c.worker == PEER,
        True,
        "2.9.0's processors outlive a worker that is killed, and finish their task, whose result is dropped",
    ),
    Deviation(
        "nothing_left",
        "stray-result",
        lambda c: c.worker == PEER,
        False,
        "2.9.0's worker, killing a processor that has just stored its result, announces that object to nobody",
    ),
]


def not_run(combination: Combination) -> list[str]:
    """Checks that the peer can't get through. 2.9.0's scheduler does not answer for nodes that wait when their graph is
    canceled, and its client waits for ever, also when it disconnects (here: one answer for every id; GRA-05)."""
    return ["graph_canceled"] if combination.client == combination.scheduler == PEER else []


def documented(combination: Combination, check: str, keyword: str) -> Deviation | None:
    """The entry that excuses what was seen, if any."""
    for deviation in DEVIATIONS:
        if (deviation.check, deviation.keyword) == (check, keyword) and deviation.applies(combination):
            return deviation
    return None


def stale(combination: Combination, check: str, seen: list[str]) -> list[Deviation]:
    """Entries that should have been seen in this cell and were not."""
    return [d for d in DEVIATIONS if d.check == check and d.always and d.applies(combination) and d.keyword not in seen]
