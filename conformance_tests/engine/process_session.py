"""Sessions with an implementation that the engine has started."""

from __future__ import annotations

from conformance_tests.engine.channels import Session
from conformance_tests.engine.processes import Process


class ProcessSession(Session):
    """A session whose implementation is a process that the engine has started, or (None) is attached to."""

    process: Process | None = None

    def signal(self, name: str) -> None:
        if self.process is None:
            super().signal(name)
        else:
            self.process.signal(name)

    def ended(self, seconds: float) -> int | None:
        return super().ended(seconds) if self.process is None else self.process.ended(seconds)
