"""The tasks of a campaign: what the n-th one is follows from the seed, and so does its right answer."""

from __future__ import annotations

import enum
import hashlib
import random
import time
from typing import Any, NamedTuple

PAYLOAD_BYTES = 256 << 10


class Sort(str, enum.Enum):
    """What a task does."""

    QUICK = "quick"
    NAP = "nap"
    PAYLOAD = "payload"  # 256 KiB in and out
    RAISES = "raises"
    NEEDS = "needs"  # the result of another one
    CANCELED = "canceled"  # a long nap, cancelled while it runs
    CANCELED_QUICK = "canceled quick"  # a quick one, cancelled at once


_SORTS = {
    Sort.QUICK: 50.0,
    Sort.NAP: 10.0,
    Sort.PAYLOAD: 6.0,
    Sort.RAISES: 8.0,
    Sort.NEEDS: 8.0,
    Sort.CANCELED: 8.0,
    Sort.CANCELED_QUICK: 10.0,
}


class Job(NamedTuple):
    """The n-th task of the campaign with this seed."""

    seed: int
    number: int
    sort: Sort
    seconds: float


def job(seed: int, number: int) -> Job:
    source = random.Random(f"job {seed} {number}")
    sort = source.choices(list(_SORTS), list(_SORTS.values()))[0]
    seconds = 60.0 if sort is Sort.CANCELED else source.uniform(0.001, 0.05)
    return Job(seed, number, sort, seconds)


def payload(seed: int, number: int) -> bytes:
    return random.Random(f"payload {seed} {number}").randbytes(PAYLOAD_BYTES)


# ---- what runs on the workers ----


def quick(number: int) -> int:
    return number * number


def nap(number: int, seconds: float) -> int:
    time.sleep(seconds)
    return number * number


def turn(data: bytes) -> bytes:
    return data[::-1]


def fail(number: int) -> None:
    raise ValueError(number)


def plus(square: int, number: int) -> int:
    return square + number


# ---- and what must come of it ----


def right(job: Job, value: Any) -> bool:
    """Whether a result, or the ValueError that a task raised, is the right one."""
    number = job.number
    if job.sort is Sort.RAISES:
        return isinstance(value, ValueError) and value.args == (number,)
    if job.sort is Sort.PAYLOAD:
        return isinstance(value, bytes) and _digest(value) == _digest(payload(job.seed, number)[::-1])
    if job.sort is Sort.NEEDS:
        return bool(value == number * number + number)
    return bool(value == number * number)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data).digest()
