"""The monitor stream of a scheduler (SPEC section 12), ours or the peer's, read when somebody asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

import zmq

from protocol import codec
from protocol.errors import MalformedMessage
from protocol.messages import Message, StateObject, StateScheduler, TaskState

LIVING = frozenset((TaskState.INACTIVE, TaskState.RUNNING, TaskState.CANCELING, TaskState.BALANCE_CANCELING))


class MonitorSilent(Exception):
    """What was waited for did not come."""


class Monitor:
    """A subscription. A context manager."""

    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.subscribe(b"")
        self._socket.connect(address)

    def close(self) -> None:
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def next(self, timeout: float) -> Message | None:
        """The next message that can be read; None when none comes in time."""
        deadline = time.monotonic() + timeout
        while self._socket.poll(int(1000 * max(0.0, deadline - time.monotonic()))):
            try:
                return codec.decode(self._socket.recv())
            except MalformedMessage as error:
                raise AssertionError(f"the scheduler publishes what can't be read: {error}") from error
        return None

    def report_when(self, what: str, holds: Callable[[StateScheduler], bool], timeout: float) -> StateScheduler:
        """The first report from now on for which this holds; raises MonitorSilent."""
        while self.next(0) is not None:
            pass
        deadline = time.monotonic() + timeout
        last: StateScheduler | None = None
        while (message := self.next(max(0.0, deadline - time.monotonic()))) is not None:
            if isinstance(message, StateScheduler):
                last = message
                if holds(message):
                    return message
        shown = "no report at all" if last is None else f"the last report: {last.task_manager}, {workers(last)} workers"
        raise MonitorSilent(f"{what} did not come within {timeout:g} s; {shown}")

    def objects(self, timeout: float) -> StateObject:
        """The next report of objects; raises MonitorSilent."""
        deadline = time.monotonic() + timeout
        while (message := self.next(max(0.0, deadline - time.monotonic()))) is not None:
            if isinstance(message, StateObject):
                return message
        raise MonitorSilent("no report of objects")


def living(report: StateScheduler) -> int:
    """Tasks that the scheduler holds."""
    return sum(pair.count for pair in report.task_manager.state_to_count if pair.state in LIVING)


def workers(report: StateScheduler) -> int:
    """Workers that are registered."""
    return len(report.worker_manager.workers)
