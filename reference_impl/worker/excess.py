"""Ends tasks that use too much memory together with what they have started: the second net of ``memory`` (WRK-21)."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from protocol.identifiers import TaskId
from reference_impl.worker.failures import Failure
from reference_impl.worker.held import Held, HeldTask
from reference_impl.worker.instructions import Instruction, Kill
from reference_impl.worker.settings import Usage
from reference_impl.worker.turns import Turns


def end_excess(limit: int, usage: Usage, held: Mapping[TaskId, HeldTask], turns: Turns) -> list[Instruction]:
    """Their processors are killed; they fail when those have ended."""
    out: list[Instruction] = []
    for pid, used in usage.families.items():
        task = held[turns.on[pid]] if pid in turns.on else None
        if task is None or used <= limit or task.state not in (Held.RUNNING, Held.SUSPENDED) or task.doomed:
            continue
        text = f"the task and what it started used {used} bytes of memory; it may use {limit} on this worker"
        task.doomed = Failure("died", text)
        out.append(Kill(pid, signal.SIGKILL))
    return out
