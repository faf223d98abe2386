"""The orders that a ``concurrently`` block allows: each strand in its own order, every interleaving of the strands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import comb, prod
from typing import TypeVar

Order = tuple[int, ...]
"""Which strand takes the next step, step by step."""

T = TypeVar("T")


def count(lengths: Sequence[int]) -> int:
    """How many orders strands of these lengths allow."""
    total, orders = 0, 1
    for length in lengths:
        total += length
        orders *= comb(total, length)
    return orders


def orders(lengths: Sequence[int]) -> Iterator[Order]:
    """All of them; the first is strand after strand."""
    if not any(lengths):
        yield ()
        return
    for strand, length in enumerate(lengths):
        if length:
            rest = list(lengths)
            rest[strand] -= 1
            for order in orders(rest):
                yield (strand, *order)


def count_all(blocks: Sequence[Sequence[int]]) -> int:
    """How many combinations several blocks, one after the other, allow."""
    return prod(count(lengths) for lengths in blocks)


def combinations(blocks: Sequence[Sequence[int]]) -> Iterator[tuple[Order, ...]]:
    """All of them: one order per block."""
    if not blocks:
        yield ()
        return
    for first in orders(blocks[0]):
        for rest in combinations(blocks[1:]):
            yield (first, *rest)


def interleave(strands: Sequence[Sequence[T]], order: Order) -> list[T]:
    """The steps of the strands in this order."""
    positions = [0] * len(strands)
    steps: list[T] = []
    for strand in order:
        steps.append(strands[strand][positions[strand]])
        positions[strand] += 1
    return steps
