"""What heartbeats report of the agent, its machine and its processors: processor time and memory."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import psutil

from protocol.messages import Resource
from reference_impl.resources import ResourceMeter, free_memory
from reference_impl.worker.memory import family_bytes
from reference_impl.worker.settings import Usage

_OWN_BYTES = 32 << 20
"""What the process in which a task runs may use for itself; more, if it used more before it had a task."""
_SHARED_SECONDS = 0.25
"""For so long the agent's own figures are good for all slots."""


class Meters:
    """``families``: also what tasks use with all that they started."""

    def __init__(self, families: bool) -> None:
        self._families = families
        self._agent = ResourceMeter()
        self._memory = psutil.virtual_memory().total
        self._usage = Usage()
        self._sampled_at = 0.0
        self._processors: dict[int, dict[int, ResourceMeter]] = {}  # by slot and pid

    def sample(self, slot: int, processors: Mapping[int, int], now: float) -> Usage:
        """For a heartbeat of a slot that has these processors; each with the bytes that it used before any task."""
        if now - self._sampled_at > _SHARED_SECONDS or not self._sampled_at:
            self._sampled_at = now
            self._usage = Usage(self._agent.sample(), {}, free_memory(), self._memory)
        before = self._processors.get(slot, {})
        meters = self._processors[slot] = {}
        samples: dict[int, Resource] = {}
        for pid in processors:
            with contextlib.suppress(psutil.Error):
                meter = meters[pid] = before.get(pid) or ResourceMeter(pid)
                samples[pid] = meter.sample()
        families: dict[int, int] = {}
        if self._families:
            families = {pid: max(0, family_bytes(pid) - max(own, _OWN_BYTES)) for pid, own in processors.items()}
        return self._usage._replace(processors=samples, families=families)
