"""What a run ends with."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from conformance_tests.engine.names import Names
from protocol.sequence.trace import Trace


class Verdict(Enum):
    """How a scenario ended."""

    PASS = "pass"
    FAIL = "fail"
    KNOWN = "known deviation"
    UNSUPPORTED = "unsupported"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Failure:
    """The first thing that was not as expected."""

    where: str
    requirements: tuple[str, ...]
    expected: str
    came: str
    step: Any = None

    @property
    def text(self) -> str:
        return f"{self.expected}; {self.came}"


@dataclass
class Outcome:
    """What one run found."""

    verdict: Verdict
    trace: Trace
    via: str
    failure: Failure | None = None
    cause: str = ""
    """Of an inconclusive run: setup, harness or dependency."""
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    clean: bool = True
    """Whether everything that the run left in the implementation is known to be gone."""
    names: Names = field(default_factory=Names)
    log: list[str] = field(default_factory=list)
    never_came: bool = False
    """Whether the implementation that was started never said a word."""


class Failed(Exception):
    """Something is not as expected: it ends the run."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure
