"""Linear extensions of strands."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from conformance_tests.engine import orders


@given(st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_every_order_is_there_once_and_keeps_each_strand(lengths: list[int]) -> None:
    found = list(orders.orders(lengths))
    assert len(found) == len(set(found)) == orders.count(lengths)
    strands = [[(s, i) for i in range(length)] for s, length in enumerate(lengths)]
    for order in found:
        steps = orders.interleave(strands, order)
        assert [step for step in steps if step[0] == 0] == strands[0]
        assert sorted(steps) == sorted(step for strand in strands for step in strand)


def test_counts() -> None:
    assert orders.count([1, 1]) == 2
    assert orders.count([2, 2]) == 6
    assert orders.count([3, 2, 2]) == 210
    assert orders.count_all([[1, 1], [2, 2]]) == len(list(orders.combinations([[1, 1], [2, 2]]))) == 12
    assert list(orders.combinations([])) == [()]
