"""Why a task failed that could not be run, or whose process died."""

from __future__ import annotations

import signal
from typing import NamedTuple

_MEMORY_SIGNALS = (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)
"""How a process may end that can't get memory, of itself or by the kernel."""


class Failure(NamedTuple):
    """How a task fails for a reason of the worker's own."""

    kind: str  # died, malformed, graph or full
    text: str


def describe_end(status: int | None) -> str:
    """How a process ended, by its wait status: ``was killed by SIGKILL``, ``exited with code 3``."""
    if status is None:
        return "is gone"
    if number := status & 0x7F:
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        return f"was killed by {name}"
    return f"exited with code {status >> 8}"


def death(status: int | None, fault: str, memory_limit: int) -> Failure:
    """Of a task whose process has ended, by that one's wait status; ``fault`` is what it was ended for."""
    if fault:
        return Failure("died", f"the process that ran the task {fault}, and was ended for that")
    text = f"the process that ran the task {describe_end(status)}"
    if memory_limit and status is not None and status & 0x7F in _MEMORY_SIGNALS:
        text += f"; a task may use {memory_limit} bytes of memory on this worker"
    return Failure("died", text)


def failure_payload(failure: Failure) -> bytes:
    """The pickled exception of a failure of the worker's own."""
    from reference_impl.errors import ProcessorDiedError, StorageFull
    from reference_impl.serialization import serialize_exception  # not needed by a worker all of whose tasks succeed

    if failure.kind == "died":
        return serialize_exception(ProcessorDiedError(failure.text))
    if failure.kind == "full":
        return serialize_exception(StorageFull(failure.text))
    return serialize_exception(
        NotImplementedError(failure.text) if failure.kind == "graph" else ValueError(failure.text)
    )
