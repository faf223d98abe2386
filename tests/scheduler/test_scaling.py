"""How many workers the scheduler wants of its worker managers (SPEC section 8.4, MAN-08 and MAN-09)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_impl.scheduler.records import NOTHING, Names
from reference_impl.scheduler.scaling import CHANGE_SECONDS, ManagerLoad, desired

GPU, LINUX = frozenset(["gpu"]), frozenset(["linux"])
LONG = 1000.0


def manager(
    limit: int = 4, *, offers: Names = NOTHING, busy: int = 0, wanted: int | None = None, since: float = LONG
) -> ManagerLoad:
    return ManagerLoad(offers, limit, busy, wanted, since)


@pytest.mark.parametrize(
    ("busy", "waiting", "wish"),
    [(0, 0, 0), (0, 1, 1), (0, 3, 3), (0, 100, 4), (2, 0, 2), (2, 1, 3), (4, 9, 4), (9, 0, 4)],
)
def test_each_task_that_runs_or_waits_is_worth_a_worker_up_to_the_limit(busy: int, waiting: int, wish: int) -> None:
    assert desired([manager(busy=busy)], {NOTHING: waiting}) == [wish]


def test_tasks_count_only_for_managers_whose_workers_could_run_them() -> None:
    managers = [manager(), manager(offers=GPU)]
    assert desired(managers, {LINUX: 5}) == [0, 0]
    assert desired(managers, {GPU: 2}) == [0, 2]
    assert desired(managers, {GPU | LINUX: 2}) == [0, 0]


def test_who_offers_the_least_comes_first_and_who_requires_the_most() -> None:
    managers = [manager(offers=GPU), manager()]
    assert desired(managers, {NOTHING: 3}) == [0, 3]
    assert desired(managers, {NOTHING: 6}) == [2, 4]
    assert desired(managers, {NOTHING: 9, GPU: 3}) == [4, 4]
    assert desired([manager(offers=GPU, limit=1)], {NOTHING: 9, GPU: 1}) == [1]


def test_the_overflow_of_one_manager_goes_to_the_next() -> None:
    assert desired([manager(2, busy=2), manager(3)], {NOTHING: 2}) == [2, 2]


def test_a_wish_stays_for_a_while_but_never_below_those_that_are_busy_or_above_the_limit() -> None:
    soon = CHANGE_SECONDS / 2
    assert desired([manager(wanted=1, since=soon)], {NOTHING: 4}) == [1]
    assert desired([manager(wanted=3, since=soon)], {}) == [3]
    assert desired([manager(wanted=1, since=soon, busy=2)], {}) == [2]
    assert desired([manager(2, wanted=4, since=soon)], {}) == [2]
    assert desired([manager(wanted=1, since=CHANGE_SECONDS)], {NOTHING: 4}) == [4]


NAMES = st.frozensets(st.sampled_from(["gpu", "linux", "tape"]))
MANAGERS = st.builds(
    ManagerLoad,
    NAMES,
    st.integers(0, 20),
    st.integers(0, 25),
    st.none() | st.integers(0, 20),
    st.sampled_from([0.0, 0.5, 1.0, LONG]),
)


@given(st.lists(MANAGERS, max_size=4), st.dictionaries(NAMES, st.integers(0, 30)))
def test_for_any_load(managers: list[ManagerLoad], waiting: dict[Names, int]) -> None:
    wishes = desired(managers, waiting)
    assert len(wishes) == len(managers)
    for load, wish in zip(managers, wishes, strict=True):
        assert min(load.busy, load.limit) <= wish <= load.limit
    fresh = [load._replace(wanted=None) for load in managers]
    extra = sum(desired(fresh, waiting)) - sum(min(load.busy, load.limit) for load in managers)
    could = sum(n for needs, n in waiting.items() if any(needs <= load.offers for load in managers))
    assert 0 <= extra <= could, "no more workers than tasks"
    if len(managers) == 1:
        (load,) = fresh
        assert desired(fresh, waiting) == [min(load.limit, min(load.busy, load.limit) + could)]
