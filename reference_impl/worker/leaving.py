"""How a worker comes to its end: at a stop signal, when it is asked whether it can be spared, or because of the
scheduler (SPEC sections 8.2 and 8.4)."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Sequence

from reference_impl.processes import StopSignals
from reference_impl.worker.instructions import End
from reference_impl.worker.slots import CarryOut, Slot

_LOG = logging.getLogger("worker")
_TOLD_SECONDS = 0.1
"""For so long a worker that is leaving waits until the scheduler knows."""


class Leaving:
    """Of all slots together."""

    def __init__(
        self,
        slots: Sequence[Slot],
        drain_seconds: float,
        receive: Callable[[Slot], None],
        carry_out: CarryOut,
        busy: Callable[[], None],
    ) -> None:
        """``busy`` is called each time that it is asked to leave while it holds a task."""
        self._slots = slots
        self._drain_seconds = drain_seconds
        self._receive = receive
        self._carry_out = carry_out
        self._busy = busy
        self._drain_until = self._told_by = math.inf
        self.end: End | None = None
        """Why it has ended, once it has; the first reason counts."""

    @property
    def due(self) -> float:
        """When ``look`` is due."""
        return min(self._drain_until, self._told_by)

    def ends(self, end: End) -> None:
        """It ends now."""
        if self.end is None:
            self.end = end

    def signalled(self, stop: StopSignals) -> None:
        asked = stop.take()
        if stop.received is not None:
            if stop.times > 1:
                self.ends(End(""))
                return
            stop.once_more()
            if self._drain_until == math.inf:
                self._drain()
        elif signal.SIGUSR1 in asked:
            self._retire()

    def _retire(self) -> None:
        """Asked to leave if no task would suffer (SPEC 8.4). A task that is on its way just now goes to another worker:
        the scheduler hears that this one has left."""
        for slot in self._slots:
            self._receive(slot)  # what is here already counts
        if any(slot.core.held for slot in self._slots):
            self._busy()
        elif self._drain_until == math.inf:
            self._drain()

    def _drain(self) -> None:
        """Tasks that have started may end, for some time; others start elsewhere when this worker has left. It leaves
        when that is known of all slots: else what one leaves behind would go to the next one, which leaves, too."""
        now = time.monotonic()
        self._told_by = now + _TOLD_SECONDS
        self._drain_until = now + (self._drain_seconds or _TOLD_SECONDS)
        for slot in self._slots:
            self._carry_out(slot, slot.core.drain(now))
        left = sum(not slot.core.drained for slot in self._slots)
        if left and self._drain_seconds:
            _LOG.info("%d tasks may end within %g s; another signal ends them", left, self._drain_seconds)
        self.look()

    def look(self) -> None:
        """Ends the worker if it is leaving, and nothing keeps it any more."""
        if self._drain_until == math.inf:
            return
        now = time.monotonic()
        if now >= self._told_by or all(slot.core.may_leave for slot in self._slots):
            self._told_by = math.inf
        told = self._told_by == math.inf
        drained = not self._drain_seconds or all(slot.core.drained for slot in self._slots)
        if now >= self._drain_until or (told and drained):
            self.ends(End(""))
