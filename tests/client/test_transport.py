"""The context of a role: its I/O thread waits for who sends, where that can be had."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from reference_impl import transport

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has batch threads")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    transport._can_be_batch.cache_clear()
    yield
    transport._can_be_batch.cache_clear()


SECONDS = 30.0


def new_threads(wanted: int) -> list[int]:
    """The scheduling policies of the threads that a context with one socket has, once each has the one that is wanted:
    a thread gives it to itself when it starts."""
    before = {int(path.name) for path in Path("/proc/self/task").iterdir()}
    context = transport.new_context()
    try:
        with context.socket(zmq.PAIR):
            after = {int(path.name) for path in Path("/proc/self/task").iterdir()}
            deadline = time.monotonic() + SECONDS
            while True:
                policies = [os.sched_getscheduler(thread) for thread in after - before]
                if set(policies) == {wanted} or time.monotonic() > deadline:
                    return policies
                os.sched_yield()
    finally:
        context.destroy()


def test_the_threads_of_a_context_are_batch_and_this_one_is_what_it_was() -> None:
    before = os.sched_getscheduler(0)
    assert set(new_threads(os.SCHED_BATCH)) == {os.SCHED_BATCH}
    assert os.sched_getscheduler(0) == before


def test_where_that_is_forbidden_they_are_ordinary_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    assert set(new_threads(os.SCHED_OTHER)) == {os.SCHED_OTHER}
