"""A trace as a sequence diagram: clients at the left, the scheduler, workers at the right, then the object storage."""

from __future__ import annotations

from typing import Any, TextIO

from protocol.sequence import diagram
from protocol.sequence.trace import CAME, NOTE, SENT, Trace
from scalercli.tracing.decode import SCHEDULER, STORAGE, Seen
from scalercli.tracing.record import Header
from scalercli.tracing.text import duration

MOST_MESSAGES = 400
"""In a diagram; of more than that it has the first, and says so."""
_LEFT = ("client", "manager", "peer")


class Diagram:
    """Collects what a diagram shows."""

    def __init__(self) -> None:
        self._seen: list[Seen] = []
        self._left_out = 0

    def message(self, seen: Seen) -> None:
        if len(self._seen) < MOST_MESSAGES or seen.findings:
            self._seen.append(seen)
        else:
            self._left_out += 1

    def trace(self) -> Trace:
        """All of it; to be drawn with ``protocol.sequence``."""
        trace = Trace(SCHEDULER, lanes=self._lanes())
        for seen in self._seen:
            task = seen.task_id.hex()[:8]
            latency = f"(+{duration(seen.latency)})" if seen.latency is not None else ""
            trace.add(
                SENT if seen.recorded.from_peer else CAME,
                seen.peer,
                seen.kind,
                " ".join(filter(None, (task, latency, seen.shown))),
                other=STORAGE if seen.recorded.storage else "",
                diverges=bool(seen.findings),
                mark="; ".join(map(str, seen.findings)),
            )
        if self._left_out:
            trace.add(NOTE, "", shown=f"{self._left_out} more messages are left out")
        return trace

    def _lanes(self) -> tuple[str, ...]:
        peers = dict.fromkeys(seen.peer for seen in self._seen)
        left = [peer for peer in peers if peer.startswith(_LEFT)]
        right = [peer for peer in peers if not peer.startswith(_LEFT)]
        storage = [STORAGE] if any(seen.recorded.storage for seen in self._seen) else []
        return (*left, SCHEDULER, *right, *storage)


class MermaidView:
    """Prints a Mermaid sequence diagram at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._diagram = Diagram()

    def begin(self, header: Header) -> None:
        pass

    def message(self, seen: Seen) -> None:
        self._diagram.message(seen)

    def end(self, summary: dict[str, Any]) -> None:
        self._stream.write(diagram.mermaid(self._diagram.trace()) + "\n")
